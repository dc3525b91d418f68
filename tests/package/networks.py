"""Small networks with the habits of real ones, for tests; each is built from a seed."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

CLASSES = 5


def seeded(network: nn.Module, seed: int = 0) -> nn.Module:
    """Return the network with random weights, BatchNorm's statistics and signs included."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.2, generator=generator)
                module.running_var.uniform_(0.5, 2, generator=generator)
                module.weight.normal_(0, 1, generator=generator)  # half of them negative
                module.bias.normal_(0, 0.2, generator=generator)
            elif isinstance(module, nn.Conv2d | nn.Linear):
                fan = module.weight[0].numel()
                module.weight.normal_(0, (2 / fan) ** 0.5, generator=generator)
                if module.bias is not None:
                    module.bias.normal_(0, 0.3, generator=generator)
    return network.eval()


class Inplace(nn.Module):
    """In-place ReLUs, one module used twice, and a statement whose return is dropped."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(6, 8, 3, stride=2, padding=1)
        self.pool = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.conv3 = nn.Conv2d(8, 7, 3, padding=1)
        self.fc = nn.Linear(7, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.conv1(x))
        x = self.pool(self.relu(self.conv2(x)))
        x = self.conv3(x)
        functional.relu_(x)
        return self.fc(x.mean((2, 3)))


class Branching(nn.Module):
    """Functional ReLUs, branches joined by cat and add, negative BatchNorm, overlapping pools."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 5, stride=2, padding=2)
        self.bn = nn.BatchNorm2d(6)
        self.left = nn.Conv2d(6, 4, 1)
        self.right = nn.Conv2d(6, 4, 3, padding=1)
        self.block = nn.Conv2d(8, 8, 3, padding=1)
        self.fc = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.bn(self.stem(x)))
        x = functional.max_pool2d(x, 3, 2, ceil_mode=True)
        x = torch.cat([torch.relu(self.left(x)), self.right(x).relu()], 1)
        x = functional.relu(self.block(x) + x)
        x = functional.adaptive_avg_pool2d(x, 1)
        return self.fc(torch.flatten(x, 1))


class SecondConsumer(nn.Module):
    """A ReLU whose input is also used past it, and a ReLU6."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(6, 6, 3, padding=1)
        self.relu6 = nn.ReLU6()
        self.fc = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        x = self.conv2(self.relu(x)) + x
        return self.fc(self.relu6(x).mean((2, 3)))


class ConvPool(nn.Sequential):
    """A plain stack in the manner of AlexNet, with module ReLUs only."""

    def __init__(self, ceil_mode: bool = False) -> None:
        super().__init__(
            nn.Conv2d(3, 8, 5, stride=2, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(3, 2, ceil_mode=ceil_mode),
            nn.Conv2d(8, 10, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(3, 2, ceil_mode=ceil_mode),
            nn.Conv2d(10, 12, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(48, CLASSES),
        )


class Only(nn.Module):
    """One function of the image, then class scores."""

    def __init__(self, function: Callable[..., Tensor], *parts: nn.Module) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, *self.parts).mean((2, 3))


def inplace() -> nn.Module:
    return seeded(Inplace())


def branching() -> nn.Module:
    return seeded(Branching())


def broken() -> nn.Module:
    """A network whose second convolution overflows."""
    network = seeded(Inplace())
    with torch.no_grad():
        network.conv2.weight.fill_(3e38)
    return network


class Gated(nn.Module):
    """An activation function that isn't a rectifier."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.fc = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(functional.silu(self.conv(x)).mean((2, 3)))


def gated() -> nn.Module:
    return seeded(Gated())


def softmaxed() -> nn.Module:
    return seeded(nn.Sequential(Inplace(), nn.Softmax(dim=1)))


def log_softmaxed() -> nn.Module:
    return seeded(nn.Sequential(Inplace(), nn.LogSoftmax(dim=1)))


def bordered() -> nn.Module:
    """Unit 0 answers where its window holds padding, unit 1 to a pixel alone."""
    network = nn.Sequential(
        nn.Conv2d(3, 2, 1),
        nn.Conv2d(2, 2, 3, padding=1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(2, CLASSES),
    )
    first, second = network[0], network[1]
    with torch.no_grad():
        for parameter in (*first.parameters(), *second.parameters()):
            parameter.zero_()
        first.bias[0] = 1  # ones everywhere, and the red pixels
        first.weight[1, 0] = 1
        second.bias[0] = 9
        second.weight[0, 0] = -1  # nine less the ones in the window
        second.weight[1, 1, 1, 1] = 1
    return network.eval()


class ThroughView(nn.Module):
    """It changes half of a map in place through a view: nothing can be followed back."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.next = nn.Conv2d(6, 4, 3)
        self.fc = nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        x[:, :2].relu_()
        return self.fc(self.next(x).mean((2, 3)))


def through_view() -> nn.Module:
    return seeded(ThroughView())


def planted() -> nn.Module:
    """Of its first units 0 is dead, 1 always on, 3 the double of 2, 4 answers to red alone."""
    network = seeded(
        nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(6, CLASSES),
        )
    )
    conv = network[0]
    with torch.no_grad():
        conv.bias[0], conv.bias[1] = -1e3, 1e3
        conv.weight[3], conv.bias[3] = conv.weight[2], conv.bias[2]
        conv.weight[4] = 0  # red far beyond green and blue together
        conv.weight[4, :, 1, 1] = torch.tensor([1.0, -1.0, -1.0])
        conv.bias[4] = -3
    return network
