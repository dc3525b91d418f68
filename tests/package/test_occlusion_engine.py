"""The incremental engine against the plainest loop, on one small network an operation.

In float64, so that what is left of a difference is a mistake and not rounding.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm
from torch.utils.flop_counter import FlopCounterMode
from torchvision.ops import SqueezeExcitation

from convatlas.device import fixed_threads
from convatlas.graph.tracing import evaluating, trace
from convatlas.occlusion import Sweeper, blurred, sweep
from convatlas.occlusion.incremental import Incremental
from convatlas.occlusion.plain import Plain
from convatlas.occlusion.positions import Positions
from convatlas.occlusion.spans import reaches

SIDES = (21, 26)
FILL = torch.tensor([0.5, -1.0, 2.0])
EXACT, SINGLE = 1e-12, 1e-5  # shares of the logits' spread: in float64, and in float32
CLASSES = 5

Body = Callable[[Any, Tensor], Tensor]


class Net(nn.Module):
    """A body, and a linear head that looks at every value of what the body makes."""

    def __init__(self, body: Body, sides: tuple[int, int], modules: dict[str, nn.Module]) -> None:
        super().__init__()
        for name, module in modules.items():
            setattr(self, name, module)
        self.body = body
        self.eval()
        with torch.no_grad():
            self.head = nn.Linear(body(self, torch.zeros(2, 3, *sides))[0].numel(), CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self, x).flatten(1))


@dataclass(frozen=True)
class Case:
    """A network and what is expected of it.

    Attributes
    ----------
    body : what it does before its head.
    modules : makes what the body uses.
    whole : the kinds of the first operations that can't run on tiles, the head's apart.
    sides : of the image.
    """

    body: Body
    modules: Callable[[], dict[str, nn.Module]] = dict
    whole: frozenset[str] = frozenset()
    sides: tuple[int, int] = SIDES


CASES: dict[str, Case] = {}


def case(
    name: str, body: Body, *whole: str, sides: tuple[int, int] = SIDES, **modules: Any
) -> None:
    """Add a case; modules are given as functions that make them."""
    assert name not in CASES, name
    CASES[name] = Case(body, lambda: {n: m() for n, m in modules.items()}, frozenset(whole), sides)


def conv(*args: Any, **kwargs: Any) -> Callable[[], nn.Module]:
    return lambda: nn.Conv2d(*args, **kwargs)


STEM, BEHIND = conv(3, 8, 3, padding=1), conv(8, 4, 3)


def between(name: str, operation: Body, *whole: str, after: Any = BEHIND, **modules: Any) -> None:
    """Add a case of an operation on 8 maps between two convolutions."""
    case(
        name,
        lambda m, x: m.after(operation(m, m.stem(x))),
        *whole,
        stem=STEM,
        after=after,
        **modules,
    )


def module(name: str, made: Callable[[], nn.Module], *whole: str, **modules: Any) -> None:
    """Add a case of a module on 8 maps."""
    between(name, lambda m, x: m.op(x), *whole, op=made, **modules)


# ---------------------------------------------------------------- convolutions

case(
    "plain stack",
    lambda m, x: m.c(F.relu(m.b(F.max_pool2d(F.relu(m.a(x)), 3, 2)))),
    a=conv(3, 8, 5, stride=2, padding=2),
    b=conv(8, 8, 3, padding=1),
    c=conv(8, 6, 2),
    sides=(43, 52),
)
for mode in ("zeros", "reflect", "replicate", "circular"):
    # Geometry says of circular padding that every cell sees everything.
    whole = ["conv"] if mode == "circular" else []
    for k in (3, (4, 2)):
        module(f"conv same {mode} {k}", conv(8, 8, k, padding="same", padding_mode=mode), *whole)
    module(f"conv {mode}", conv(8, 8, (5, 3), (2, 1), (2, 3), padding_mode=mode), *whole)
    module(
        f"conv same dilated {mode}",
        conv(8, 8, 2, padding="same", padding_mode=mode, dilation=3),
        *whole,
    )
module("conv valid", conv(8, 8, 3, padding="valid"))
module("conv dilated", conv(8, 8, 3, padding=(2, 0), dilation=(2, 3), stride=(1, 2)))
module("conv padded by more than it reaches", conv(8, 8, 3, padding=4))
module("conv grouped", conv(8, 12, 3, groups=4, stride=2), after=conv(12, 4, 3))
module("conv depthwise", conv(8, 16, 3, groups=8, padding=1, bias=False), after=conv(16, 4, 3))
module("conv 1x1", conv(8, 8, 1))
module("conv 1x1 that skips cells", conv(8, 8, 1, stride=2))
module("conv 1x1 that skips many cells", conv(8, 8, 1, stride=3, padding=1))
module("conv 1x1 padded", conv(8, 8, 1, padding=2))
case("conv 1x1 on the image", lambda m, x: m.b(m.a(x)), a=conv(3, 8, 1, stride=2), b=conv(8, 4, 3))
case("conv larger than the map", lambda m, x: m.b(m.a(x)), a=STEM, b=conv(8, 4, 19, padding=9))
between(
    "conv of computed weights",
    lambda m, x: F.conv2d(
        x,
        (m.op.weight - m.op.weight.mean((1, 2, 3), keepdim=True))
        / m.op.weight.std((1, 2, 3), keepdim=True),
        bias=m.op.bias,
        padding=1,
    ),
    op=conv(8, 8, 3),
)
between(
    "conv of computed weights with batchnorm",
    lambda m, x: m.bn(F.conv2d(x, m.op.weight * 2, None, 1, 1, 1, 1)),
    op=conv(8, 8, 3),
    bn=lambda: nn.BatchNorm2d(8),
)


def conditional(m: Any, x: Tensor) -> Tensor:
    """Convolve each image with weights of its own, as one image with groups."""
    n, c, h, w = x.shape
    weight = m.op(F.adaptive_avg_pool2d(x, 1).flatten(1)).reshape(n * c, c, 3, 3)
    return F.conv2d(x.reshape(1, n * c, h, w), weight, padding=1, groups=n).reshape(n, c, h, w)


between(
    "conv of weights that depend on the image",
    conditional,
    "adaptive_avgpool",
    "reshape",
    op=lambda: nn.Linear(8, 8 * 8 * 9),
)
module("conv of parametrized weights", lambda: weight_norm(nn.Conv2d(8, 8, 3)))
for k, s in ((2, 2), (3, 2), (4, 2), (1, 2), (2, 3), (5, 1), ((2, 3), (3, 1))):
    module(f"transposed {k} {s}", lambda k=k, s=s: nn.ConvTranspose2d(8, 8, k, s))
module("transposed padded", lambda: nn.ConvTranspose2d(8, 8, 4, 2, padding=1))
module(
    "transposed output_padding",
    lambda: nn.ConvTranspose2d(8, 8, 3, (2, 3), padding=1, output_padding=(1, 2), bias=False),
)
module(
    "transposed with cells of bias alone",
    lambda: nn.ConvTranspose2d(8, 8, (1, 2), 4, output_padding=(3, 1)),
)
module("transposed dilated", lambda: nn.ConvTranspose2d(8, 8, 3, 2, dilation=(2, 3), padding=2))
module("transposed grouped", lambda: nn.ConvTranspose2d(8, 8, 3, 2, groups=4))
module(
    "transposed with batchnorm",
    lambda: nn.Sequential(nn.ConvTranspose2d(8, 8, 2, 2), nn.BatchNorm2d(8)),
)
between(
    "transposed to a size",
    lambda m, x: m.op(x, [44, 54]),
    op=lambda: nn.ConvTranspose2d(8, 8, 3, 2),
)
between(
    "transposed functional",
    lambda m, x: F.conv_transpose2d(x, m.op.weight, m.op.bias, 2, 1, 1, 2),
    op=lambda: nn.ConvTranspose2d(8, 8, 3, 2, groups=2),
    after=conv(8, 4, 3),
)

# ---------------------------------------------------------------- BatchNorm

module(
    "batchnorm folded", lambda: nn.Sequential(nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU(True))
)
module(
    "batchnorm folded, no bias",
    lambda: nn.Sequential(nn.Conv2d(8, 8, 3, bias=False), nn.BatchNorm2d(8)),
)
module("batchnorm first", lambda: nn.Sequential(nn.ReLU(), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3)))
module(
    "batchnorm without parameters",
    lambda: nn.Sequential(nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8, affine=False)),
)
module(
    "batchnorm without statistics",
    lambda: nn.Sequential(nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8, track_running_stats=False)),
    "groupnorm",
)
between(
    "batchnorm of a concatenation",
    lambda m, x: m.bn(torch.cat([x, m.op(x)], 1)),
    op=conv(8, 8, 3, padding=1),
    bn=lambda: nn.BatchNorm2d(16),
    after=conv(16, 4, 3),
)
between(
    "batchnorm on one of two consumers",
    lambda m, x: (lambda y: m.bn(y) + F.relu(y))(m.op(x)),
    op=conv(8, 8, 3),
    bn=lambda: nn.BatchNorm2d(8),
)
between(
    "batchnorm functional",
    lambda m, x: F.batch_norm(m.op(x), m.bn.running_mean, m.bn.running_var, m.bn.weight, m.bn.bias),
    op=conv(8, 8, 3),
    bn=lambda: nn.BatchNorm2d(8),
)
between(
    "batchnorm of a conv used twice",
    lambda m, x: m.bn(m.op(x)) + m.op(F.relu(x)),
    op=conv(8, 8, 3),
    bn=lambda: nn.BatchNorm2d(8),
)
between(
    "batchnorm with a residual behind",
    lambda m, x: F.relu_(m.bn(m.op(F.relu(x))) + x),
    op=conv(8, 8, 3, padding=1, bias=False),
    bn=lambda: nn.BatchNorm2d(8),
)

# ---------------------------------------------------------------- pooling

MAX, AVG = nn.MaxPool2d, nn.AvgPool2d
for title, made in {
    "max": lambda: MAX(3, 2),
    "max overlapping": lambda: MAX((3, 5), 1),
    "max ceil": lambda: MAX(2, 3, ceil_mode=True),
    "max ceil padded": lambda: MAX(3, 2, 1, ceil_mode=True),
    "max dilated": lambda: MAX(3, 2, 1, dilation=(2, 3)),
    "max that leaves pixels out": lambda: MAX((2, 4), (3, 6)),
    "avg": lambda: AVG(2),
    "avg overlapping": lambda: AVG(3, (1, 2)),
    "avg padded": lambda: AVG(3, 2, 1),
    "avg padded, not counted": lambda: AVG(3, 2, 1, count_include_pad=False),
    "avg ceil": lambda: AVG((2, 4), 3, ceil_mode=True),
    "avg ceil padded": lambda: AVG(3, 2, 1, ceil_mode=True),
    "avg ceil padded, not counted": lambda: AVG(3, 2, 1, ceil_mode=True, count_include_pad=False),
    "avg divisor": lambda: AVG(3, 2, divisor_override=2),
    "avg divisor padded": lambda: AVG(3, 2, 1, divisor_override=2),
    "lp": lambda: nn.LPPool2d(2, 2),
    "lp overlapping": lambda: nn.LPPool2d(1, (3, 2), 1),
    "adaptive regular": lambda: nn.AdaptiveAvgPool2d((7, 13)),
    "adaptive irregular": lambda: nn.AdaptiveAvgPool2d((8, 9)),
    "adaptive larger": lambda: nn.AdaptiveAvgPool2d((30, 27)),
    "adaptive as large": lambda: nn.AdaptiveAvgPool2d(SIDES),
    "adaptive of columns": lambda: nn.AdaptiveAvgPool2d((None, 6)),
}.items():
    module(f"pool {title}", made)
module("pool lp ceil", lambda: nn.LPPool2d(2, 4, 3, ceil_mode=True), "lppool")
module("pool adaptive max", lambda: nn.AdaptiveMaxPool2d((7, 9)), "adaptive_maxpool")
module("pool adaptive to a column", lambda: nn.AdaptiveAvgPool2d((7, 1)), after=conv(8, 4, (3, 1)))
module("pool to one cell", lambda: nn.AdaptiveAvgPool2d(1), "adaptive_avgpool", after=conv(8, 4, 1))
between("pool functional avg", lambda m, x: F.avg_pool2d(x, 3, 2, 1, True, False))
between("pool functional avg divisor", lambda m, x: F.avg_pool2d(x, 3, 2, 1, False, True, 4))
between("pool functional lp", lambda m, x: F.lp_pool2d(x, 2, 2))
between("pool functional max", lambda m, x: F.max_pool2d(x, 2, 2, 1, 1, True))
between(
    "pool with places of the maxima",
    lambda m, x: F.max_pool2d(x, 2, return_indices=True)[0],
    "other",
)


def unpooled(m: Any, x: Tensor) -> Tensor:
    found, places = m.op(x)
    return m.undo(found, places, output_size=SIDES)


between(
    "pool module with places, undone",
    unpooled,
    "maxpool",
    op=lambda: MAX(2, return_indices=True),
    undo=lambda: nn.MaxUnpool2d(2),
)

# ---------------------------------------------------------------- sums and joins

OP = conv(8, 8, 3, padding=1)


def joined(name: str, join: Callable[..., Tensor], *whole: str, **modules: Any) -> None:
    """Add a case that joins maps with what a convolution makes of them."""
    between(name, lambda m, x: join(x, m.op(x)), *whole, op=OP, **modules)


def grow(x: Tensor, y: Tensor) -> Tensor:
    x += y
    return x


joined("add", lambda x, y: x + y)
joined("add functional, alpha", lambda x, y: torch.add(x, y, alpha=2))
joined("add in place", grow)
joined("add_", lambda x, y: x.add_(y))
joined("sub", lambda x, y: x - y)
joined("sub_ of what is used afterwards", lambda x, y: y.sub_(x) * y + x)
joined("mul", lambda x, y: x * y)
joined("mul in place", lambda x, y: y.mul_(x))
joined("div", lambda x, y: x / (y.abs() + 1))
joined("maximum", torch.maximum)
joined("minimum", torch.minimum)
joined("add and rectify in place", lambda x, y: F.relu_(x + y) + x)
joined("add itself", lambda x, y: y + y)
joined("where", lambda x, y: torch.where(x > 0, x, y), "other")
between("scalars", lambda m, x: (2 - (x + 0.5) * 3) / 2)
between("scalar in front of a division", lambda m, x: 1 / (x.abs() + 1))


class Parameter(nn.Module):
    """A parameter of a shape."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.randn(shape))

    def forward(self) -> Tensor:
        return self.value


between("parameter a channel", lambda m, x: x * m.p.value + m.p.value, p=lambda: Parameter(8, 1, 1))
between(
    "parameter of positions", lambda m, x: x + m.p.value, "add", p=lambda: Parameter(1, 8, *SIDES)
)
between("parameter of rows", lambda m, x: x * m.p.value, "mul", p=lambda: Parameter(1, SIDES[0], 1))
between("parameter of columns", lambda m, x: x * m.p.value, "mul", p=lambda: Parameter(SIDES[1]))
between(
    "parameter of positions, expanded",
    lambda m, x: x + m.p.value.expand(x.shape[0], -1, -1, -1),
    "add",
    p=lambda: Parameter(1, 8, *SIDES),
)
between(
    "coordinates as channels",
    lambda m, x: torch.cat(
        [x, torch.linspace(-1, 1, x.shape[3], dtype=x.dtype).expand(x.shape[0], 1, x.shape[2], -1)],
        1,
    ),
    "cat",
    after=conv(9, 4, 3),
)
between(
    "parameter of positions in a concatenation",
    lambda m, x: torch.cat([x, m.p.value.expand(x.shape[0], -1, -1, -1)], 1),
    "cat",
    p=lambda: Parameter(1, 2, *SIDES),
    after=conv(10, 4, 3),
)
between(
    "parameter a channel in a concatenation",
    lambda m, x: torch.cat([x, m.p.value.expand(x.shape[0], 2, x.shape[2], x.shape[3])], 1),
    "cat",
    p=lambda: Parameter(1, 2, 1, 1),
    after=conv(10, 4, 3),
)
between("norm of rows", lambda m, x: x / (1 + x.mean(3, keepdim=True).abs()), "mean")
between("gate of positions", lambda m, x: x * torch.sigmoid(m.op(x)), op=conv(8, 1, 3, padding=1))
between(
    "gate of the mean over channels",
    lambda m, x: x * torch.sigmoid(x.mean(1, keepdim=True)),
    "mean",
)
between(
    "gates of rows and columns",
    lambda m, x: x * torch.sigmoid(m.op(x.mean(3, keepdim=True))) * x.amax(2, keepdim=True),
    "mean",
    "amax",
    op=conv(8, 8, 1),
)

WIDE = conv(16, 4, 3)
joined("cat", lambda x, y: torch.cat([x, y], 1), after=WIDE)
joined("cat dim=-3, concat", lambda x, y: torch.concat((y, x), dim=-3), after=WIDE)
joined("cat twice the same", lambda x, y: torch.cat([y, y], 1), after=WIDE)
joined("cat twice the same, rectified", lambda x, y: torch.cat([F.relu(y)] * 2, 1), after=WIDE)
joined("cat of rows", lambda x, y: torch.cat([x, y], 2), "cat")
joined("cat of columns", lambda x, y: torch.cat([x, y[..., 1:9]], -1), "item")
joined("cat, rectified before", lambda x, y: torch.cat([F.relu(x), F.relu_(y)], 1), after=WIDE)
joined("cat, rectified behind", lambda x, y: F.relu(torch.cat([x, y], 1), inplace=True), after=WIDE)
joined("cat axis", lambda x, y: torch.cat([x, y], axis=1), after=WIDE)
between(
    "cat of three reaches",
    lambda m, x: torch.cat([F.relu(m.a(x)), m.c(m.b(x)), x, F.relu6(m.b(F.relu(x)))], 1),
    a=conv(8, 4, 1),
    b=conv(8, 4, 5, padding=2),
    c=conv(4, 3, 3, padding=1),
    after=conv(19, 4, 3),
)
between(
    "Inception",
    lambda m, x: torch.cat(
        [
            m.a(x),
            m.c(F.relu(m.b(x))),
            m.d(F.max_pool2d(x, 3, 1, 1)),
            m.e(F.avg_pool2d(x, 3, 1, 1)),
        ],
        1,
    ),
    a=conv(8, 4, 1),
    b=conv(8, 4, 1),
    c=conv(4, 4, 5, padding=2),
    d=conv(8, 4, 1),
    e=conv(8, 4, 1),
    after=WIDE,
)


def dense(m: Any, x: Tensor) -> Tensor:
    features = [x]
    for norm, grow in zip(m.norms, m.grows, strict=True):
        features.append(grow(F.relu(norm(torch.cat(features, 1)))))
    return F.avg_pool2d(torch.cat(features, 1), 2)


between(
    "DenseNet",
    dense,
    norms=lambda: nn.ModuleList(nn.BatchNorm2d(8 + 4 * i) for i in range(3)),
    grows=lambda: nn.ModuleList(nn.Conv2d(8 + 4 * i, 4, 3, padding=1) for i in range(3)),
    after=conv(20, 4, 3),
)

# ---------------------------------------------------------------- channels


def shuffled(x: Tensor, groups: int) -> Tensor:
    n, c, h, w = x.shape
    return x.view(n, groups, c // groups, h, w).transpose(1, 2).reshape(n, c, h, w)


def shuffle_unit(m: Any, x: Tensor) -> Tensor:
    left, right = x.chunk(2, dim=1)
    return shuffled(torch.cat((left, m.op(right)), dim=1), 2)


def split_unevenly(m: Any, x: Tensor) -> Tensor:
    first, second = torch.split(x, [3, 5], 1)
    return m.op(second) + first


def rows_halved(m: Any, x: Tensor) -> Tensor:
    above, below = x[:, :, 1:].chunk(2, 2)
    return above * below


def columns_halved(m: Any, x: Tensor) -> Tensor:
    left, right = x.chunk(2, 3)
    return left * right


def pieces_rectified(m: Any, x: Tensor) -> Tensor:
    left, right = x.chunk(2, 1)
    left.relu_()
    return torch.cat([x, right], 1)


between("shuffle", lambda m, x: shuffled(x, 4))
between(
    "shuffle by unflatten", lambda m, x: x.unflatten(1, (2, 4)).permute(0, 2, 1, 3, 4).flatten(1, 2)
)
between(
    "ShuffleNet",
    shuffle_unit,
    op=lambda: nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(True)),
)
between("split unevenly", split_unevenly, op=conv(5, 3, 3, padding=1), after=conv(3, 4, 3))
between(
    "split, a slice of the pieces",
    lambda m, x: torch.cat(x.chunk(4, 1)[1:3], 1),
    after=conv(4, 4, 3),
)
between("split, all pieces together", lambda m, x: torch.cat(x.chunk(4, 1), 1), "chunk")
between("chunk of rows", rows_halved, "item")
between("chunk of columns", columns_halved, "chunk")
between("chunk, one rectified in place", pieces_rectified, after=conv(12, 4, 3))
between("slice of channels", lambda m, x: x[:, 2:6] + x[:, ::2], after=conv(4, 4, 3))
between("slice of channels from the end", lambda m, x: x[:, -3:] * x[:, 1:-4], after=conv(3, 4, 3))
between("slice of rows", lambda m, x: x[:, :, 2:-3], "item")
between("slice of rows and columns", lambda m, x: x[:, 1:, ::2, 1::3], "item", after=conv(7, 4, 3))
between("slice by an ellipsis", lambda m, x: x[..., 3:20], "item")
between("one channel", lambda m, x: x[:, 3][:, None], "item", after=conv(1, 4, 3))
between("chosen channels", lambda m, x: x[:, [3, 1, 1]], "item", after=conv(3, 4, 3))
module("squeeze and excitation", lambda: SqueezeExcitation(8, 2), "adaptive_avgpool")
between("pixel shuffle", lambda m, x: F.pixel_shuffle(x, 2), "other", after=conv(2, 4, 3))
between(
    "batch and channels exchanged",
    lambda m, x: F.max_pool2d(x.transpose(0, 1), 2).transpose(0, 1),
    "transpose",
)
between(
    "each channel an image of its own",
    lambda m, x: m.op(x.reshape(-1, 1, x.shape[2], x.shape[3])).reshape(x.shape[0], 8, *SIDES),
    "reshape",
    op=conv(1, 1, 3, padding=1),
)
between(
    "rows and columns exchanged", lambda m, x: m.op(x.transpose(2, 3)), "conv", op=conv(8, 8, 3)
)
between(
    "rows and columns exchanged, cell by cell",
    lambda m, x: F.relu(x.transpose(2, 3)).transpose(2, 3),
)
between(
    "triplet attention",
    lambda m, x: x + m.op(x.transpose(2, 3)).transpose(2, 3),
    "conv",
    op=conv(8, 8, 3, padding=1),
)
between("flipped", lambda m, x: x + x.flip(3), "other")
between("rolled", lambda m, x: torch.roll(x, (2, 3), (2, 3)), "other")

# ---------------------------------------------------------------- resizing and padding

for mode in ("nearest", "nearest-exact", "bilinear", "bicubic", "area"):
    for title, options in {
        "x2": {"scale_factor": 2},
        "x1.3": {"scale_factor": 1.3},
        "x(0.6, 1.7)": {"scale_factor": (0.6, 1.7)},
        "x1.3 recomputed": {"scale_factor": 1.3, "recompute_scale_factor": True},
        "to 9x40": {"size": (9, 40)},
        "to 31x8": {"size": (31, 8)},
    }.items():
        between(
            f"{mode} {title}", lambda m, x, o=options, mode=mode: F.interpolate(x, **o, mode=mode)
        )
for mode in ("bilinear", "bicubic"):
    for title, options in {
        "aligned x2": {"scale_factor": 2.0, "align_corners": True},
        "aligned to 9x40": {"size": (9, 40), "align_corners": True},
        "antialias to 9x40": {"size": (9, 40), "antialias": True},
        "antialias x0.4": {"scale_factor": 0.4, "antialias": True},
        "antialias aligned to 31x8": {"size": (31, 8), "antialias": True, "align_corners": True},
    }.items():
        between(
            f"{mode} {title}", lambda m, x, o=options, mode=mode: F.interpolate(x, **o, mode=mode)
        )
module("upsample", lambda: nn.Upsample(scale_factor=2, mode="bilinear"))
module("upsample aligned", lambda: nn.UpsamplingBilinear2d(scale_factor=3))
between(
    "feature pyramid",
    lambda m, x: x + F.interpolate(m.op(x), size=x.shape[-2:], mode="nearest"),
    op=conv(8, 8, 3, stride=2, padding=1),
)
between(
    "U-Net",
    lambda m, x: torch.cat([x[:, :4], m.up(F.relu(m.op(x)))], 1),
    op=conv(8, 8, 3, stride=2, padding=1),
    up=lambda: nn.ConvTranspose2d(8, 4, (3, 2), 2, padding=(1, 0)),
)
for mode in ("constant", "reflect", "replicate", "circular"):
    whole = ["pad"] if mode == "circular" else []
    between(f"pad {mode}", lambda m, x, mode=mode: F.pad(x, (3, 1, 2, 4), mode=mode), *whole)
    between(
        f"pad {mode} columns", lambda m, x, mode=mode: F.pad(x, (3, 1, 0, 0), mode=mode), *whole
    )
between("pad columns alone", lambda m, x: F.pad(x, (3, 1)))
between("pad negative", lambda m, x: F.pad(x, (-3, 1, 2, -4)))
between("pad negative replicate", lambda m, x: F.pad(x, (-3, 1, 2, -4), mode="replicate"))
between("pad with a value", lambda m, x: F.pad(x, (3, 1, 2, 4), value=1.5))
between("pad with a negative value", lambda m, x: F.pad(x, (3, 1, 2, 4), value=-1.5))
between(
    "pad with minus infinity",
    lambda m, x: F.max_pool2d(F.pad(x, (1, 1, 1, 1), value=-torch.inf), 3),
)
between(
    "pad with two values",
    lambda m, x: F.pad(x, (1,) * 4, value=1.5) * F.pad(x, (1,) * 4, value=-2),
    "pad",
)
between("pad channels", lambda m, x: F.pad(x, (0, 0, 0, 0, 1, 2)), "pad", after=conv(11, 4, 3))
module("pad module", lambda: nn.ZeroPad2d((1, 2, 3, 4)))
module("pad module with a value", lambda: nn.ConstantPad2d((1, 2, 3, 4), 2.5))
module("pad module reflect", lambda: nn.ReflectionPad2d(3))
module("pad module replicate", lambda: nn.ReplicationPad2d((3, 0, 1, 0)))
module("pad module circular", lambda: nn.CircularPad2d(2), "pad")
case(
    "pad the image with a value",
    lambda m, x: m.op(F.pad(x, (2, 2, 2, 2), value=2.0)),
    op=conv(3, 4, 5),
)
case("pool the image", lambda m, x: m.op(F.max_pool2d(x, 3, 2, 1)), op=conv(3, 4, 3))
case("image twice", lambda m, x: m.op(torch.cat([x, F.relu(x)], 1)), op=conv(6, 4, 3))
case("image by itself", lambda m, x: m.op((x - 0.3) / 0.7) * x[:, :1], op=conv(3, 4, 3, padding=1))
case("no operation at all", lambda m, x: x)

# ---------------------------------------------------------------- cell by cell

ACTIVATIONS = [
    nn.ReLU6,
    nn.LeakyReLU,
    nn.ELU,
    nn.SELU,
    nn.CELU,
    nn.SiLU,
    nn.Mish,
    nn.Hardtanh,
    nn.Hardswish,
    nn.Hardsigmoid,
    nn.ReLU,
]
for kind in ACTIVATIONS:
    module(f"{kind.__name__}", kind)
    between(
        f"{kind.__name__} in place on what others see",
        lambda m, x: m.op(x) * (x + 1),
        op=lambda kind=kind: kind(inplace=True),
    )
for kind in (nn.GELU, nn.Sigmoid, nn.Tanh, nn.Softplus, nn.LogSigmoid, nn.RReLU):
    module(kind.__name__, kind)
module("PReLU", lambda: nn.PReLU(8))
module("Threshold", lambda: nn.Threshold(0.1, 20.0))
module("GLU", lambda: nn.GLU(1), "other", after=conv(4, 4, 3))
between("clamp", lambda m, x: x.clamp(-0.3, 0.4) + torch.clamp(x, min=0.1))
between("clamp by maps", lambda m, x: torch.clamp(x, min=m.op(x)), "clamp", op=OP)
between("power", lambda m, x: x**2)
between("functions", lambda m, x: torch.exp(-x) + x.abs().sqrt() + torch.square(x))
between("powers", lambda m, x: (x**2 + 1).log() + (x.abs() + 1) ** -0.5 + 2 ** torch.sin(x))
between("shrinks", lambda m, x: F.hardshrink(x) + F.softsign(x).pow(3))
between("functional, a statement in place", lambda m, x: (F.relu_(x), x)[1])
between("functional, inplace by position", lambda m, x: F.leaky_relu(x, 0.2, True) * x)
between("functional, inplace by position, a statement", lambda m, x: (F.relu(x, True), x)[1])
between("an in-place method, a statement", lambda m, x: (x.clamp_min_(0.1), x)[1])
between("an in-place method on what others see", lambda m, x: x.clamp_min_(0.1) * x)
between("filled in place", lambda m, x: x.masked_fill_(x > 0.5, 0.0) + x, "other")
between("dropout", lambda m, x: m.op(x) + x, op=lambda: nn.Dropout(inplace=True))
module("dropout of channels", lambda: nn.Dropout2d())
module("LRN", lambda: nn.LocalResponseNorm(3, alpha=0.5))
module("GroupNorm", lambda: nn.GroupNorm(2, 8), "groupnorm")
module("InstanceNorm", lambda: nn.InstanceNorm2d(8, affine=True), "groupnorm")
module("LayerNorm of all", lambda: nn.LayerNorm((8, *SIDES)), "layernorm")
between(
    "LayerNorm of channels",
    lambda m, x: m.op(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2),
    op=lambda: nn.LayerNorm(8),
)
between(
    "ConvNeXt",
    lambda m, x: (
        x + m.p.value * m.c(F.gelu(m.b(m.n(m.op(x).permute(0, 2, 3, 1))))).permute(0, 3, 1, 2)
    ),
    op=conv(8, 8, 7, padding=3, groups=8),
    n=lambda: nn.LayerNorm(8),
    b=lambda: nn.Linear(8, 16),
    c=lambda: nn.Linear(16, 8),
    p=lambda: Parameter(8, 1, 1),
)
between("linear over columns", lambda m, x: m.op(x), "linear", op=lambda: nn.Linear(SIDES[1], 9))
between("softmax over channels", lambda m, x: x.softmax(1) + F.log_softmax(x, dim=-3))
between("softmax over columns", lambda m, x: x.softmax(3), "softmax")
module("softmax module", lambda: nn.Softmax2d())
for title, op in {
    "softmax": lambda m, x: x.softmax(1),
    "softmax of channels": lambda m, x: x.softmax(-1),
    "LRN": lambda m, x: F.local_response_norm(x, 3, 0.5),
    "slice": lambda m, x: x[:, 1:9],
}.items():
    between(
        f"channels last, {title}",
        lambda m, x, op=op: op(m, x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2),
        *(
            {
                "softmax": ["softmax"],
                "softmax of channels": [],
                "LRN": ["localnorm"],
                "slice": ["item"],
            }[title]
        ),
    )
between(
    "channels last, batchnorm",
    lambda m, x: m.op(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2),
    "batchnorm",
    op=lambda: nn.BatchNorm2d(SIDES[0]),
)
between(
    "channels last, cat of rows",
    lambda m, x: torch.cat([x.permute(0, 2, 3, 1), m.op(x).permute(0, 2, 3, 1)], 1).permute(
        0, 3, 1, 2
    ),
    "cat",
    op=conv(8, 8, (3, 1)),
)
case(
    "channels last, taken for maps",
    lambda m, x: m.after(m.stem(x).permute(0, 2, 3, 1).reshape(-1, 8, 8, 8)),
    "reshape",
    sides=(16, 16),
    stem=conv(3, 8, 3, stride=2, padding=1),
    after=BEHIND,
)
between("norm of all values", lambda m, x: x / x.abs().mean((1, 2, 3)).view(-1, 1, 1, 1), "mean")
case(
    "dilated as in DeepLab",
    lambda m, x: m.c(F.relu(m.b(F.relu(m.a(x))))),
    a=conv(3, 8, 3, padding=4, dilation=4),
    b=conv(8, 8, 3, padding=1),
    c=conv(8, 4, 3, padding=2, dilation=2),
)
between("PReLU functional", lambda m, x: F.prelu(x, m.p.value), p=lambda: Parameter(8))


def attention(m: Any, x: Tensor) -> Tensor:
    q, k = m.q(x).flatten(2), m.k(x).flatten(2)
    weights = torch.softmax(q.transpose(1, 2) @ k, dim=-1)
    return (x.flatten(2) @ weights.transpose(1, 2)).view_as(x) + x


between("attention", attention, "reshape", q=conv(8, 4, 1), k=conv(8, 4, 1))
between(
    "attention module",
    lambda m, x: m.op(*[x.flatten(2).transpose(1, 2)] * 3)[0].transpose(1, 2).reshape(x.shape),
    "reshape",
    op=lambda: nn.MultiheadAttention(8, 2, batch_first=True),
)

# ---------------------------------------------------------------- ends

for title, pool in {
    "mean": lambda x: x.mean((2, 3)),
    "mean from the end, keepdim": lambda x: x.mean((-1, -2), keepdim=True),
    "mean of everything": lambda x: x.mean(dim=(1, 2, 3), keepdim=True),
    "means one by one": lambda x: x.mean(3).mean(2),
    "sum": lambda x: torch.sum(x, dim=[2, 3]),
    "amax": lambda x: x.amax((2, 3)),
    "adaptive": lambda x: F.adaptive_avg_pool2d(x, 1).flatten(1),
    "flatten and mean": lambda x: x.flatten(2).mean(-1),
    "squeezed": lambda x: F.adaptive_avg_pool2d(x, (1, 1)).squeeze(-1).squeeze(-1),
    "of a view": lambda x: x.view(x.size(0), -1, *SIDES).mean((2, 3)),
    "and attention of vectors": lambda x: (lambda v: v * torch.sigmoid(v))(x.mean((2, 3))),
}.items():
    kind = {
        "sum": "sum",
        "amax": "amax",
        "adaptive": "adaptive_avgpool",
        "squeezed": "adaptive_avgpool",
    }
    first = "reshape" if title == "flatten and mean" else kind.get(title, "mean")
    case(f"end: {title}", lambda m, x, pool=pool: pool(F.relu(m.stem(x))), first, stem=STEM)
case(
    "end: two of them",
    lambda m, x: (lambda y: torch.cat([y.mean((2, 3)), F.relu(y).amax((2, 3))], 1))(m.stem(x)),
    "mean",
    "amax",
    stem=STEM,
)
case(
    "end: mean over channels last",
    lambda m, x: m.n(m.stem(x).permute(0, 2, 3, 1)).mean((1, 2)),
    "mean",
    stem=STEM,
    n=lambda: nn.LayerNorm(8),
)


# ---------------------------------------------------------------- modules with habits


def hooked(made: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        result = made()
        result.register_forward_hook(lambda module, args, output: output * 2 + 1)
        return result

    return make


class Deciding(nn.Module):
    """Goes one way or the other by the values that it sees."""

    def __init__(self, in_place: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.in_place = in_place

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 1e9:
            return x
        return self.conv(x.clamp_min_(0.2) if self.in_place else x)


module("hooked conv", hooked(OP), "conv")
module(
    "hooked batchnorm",
    lambda: nn.Sequential(OP(), hooked(lambda: nn.BatchNorm2d(8))()),
    "batchnorm",
)
module("hooked activation", hooked(nn.ReLU), "relu")
module("hooked container", hooked(lambda: nn.Sequential(OP(), nn.ReLU())))
module("opaque", Deciding, "other")
between(
    "opaque, changing in place what others see",
    lambda m, x: m.op(x) + m.c(x),
    "other",
    op=lambda: Deciding(True),
    c=OP,
)
case(
    "module used twice",
    lambda m, x: m.op(F.relu(m.op(m.stem(x)))),
    stem=STEM,
    op=OP,
)


# ---------------------------------------------------------------- the tests


def built(name: str) -> Net:
    """Return a case's network with random weights, negative gammas included."""
    chosen = CASES[name]
    torch.manual_seed(0)
    net = Net(chosen.body, chosen.sides, chosen.modules())
    with torch.no_grad():
        for part in net.modules():
            if isinstance(part, nn.BatchNorm2d | nn.GroupNorm | nn.LayerNorm | nn.InstanceNorm2d):
                for parameter in part.parameters():
                    parameter.normal_(0, 1)
            if isinstance(part, nn.BatchNorm2d) and part.running_mean is not None:
                part.running_mean.normal_(0, 0.3)
                part.running_var.uniform_(0.3, 2)
            if isinstance(part, nn.PReLU):
                part.weight.normal_()
        net.head.weight.normal_(0, 1)
    return net.eval()


@pytest.fixture(autouse=True)
def _any_algorithm() -> Iterator[None]:
    """Undo what a training before may have set: not every operation here is deterministic."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(False)
    yield
    torch.use_deterministic_algorithms(before)


def by_hand(model: nn.Module, image: Tensor, size: tuple, stride: tuple, fill: Tensor) -> Tensor:
    """Return the scores (P,K) by the plainest loop, one image at a time."""
    tops, lefts = (
        [t for t in range(0, length, s) if t == 0 or t - s + w < length]
        for length, w, s in zip(image.shape[1:], size, stride, strict=True)
    )
    found = []
    for top in tops:
        for left in lefts:
            occluded = image.clone()
            part = (slice(None), slice(top, top + size[0]), slice(left, left + size[1]))
            occluded[part] = (fill if fill.dim() == 3 else fill[:, None, None].expand_as(image))[
                part
            ]
            with torch.no_grad(), fixed_threads(1):
                found.append(model(occluded[None])[0].clone())
    return torch.stack(found)


def by_engine(
    model: nn.Module, image: Tensor, size: tuple, stride: tuple, fill: Tensor, **options: Any
) -> Tensor:
    """Return the scores (P,K) by the engine."""
    engine = Sweeper(model, image.shape, **options)._engine
    with evaluating(model):
        engine.look(image)
        grid = Positions.covering(tuple(image.shape[1:]), size, stride)
        return engine.occlude(grid, fill, -1, lambda share: None)[0]


def image_of(sides: tuple[int, int], seed: int = 3) -> Tensor:
    return torch.randn(3, *sides, generator=torch.Generator().manual_seed(seed))


def differs(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference as a share of the spread over positions."""
    spread = expected.std(0).max()
    assert spread > 1e-3 * expected.abs().max()  # there is something to be seen
    return float((found - expected).abs().max() / spread)


# They leave out some of the image, or look at its extremes.
PARTLY_BLIND = [
    "pool max that leaves pixels out",
    "slice of rows",
    "slice by an ellipsis",
    "pad negative",
    "pad negative replicate",
    "cat of columns",
    "end: amax",
    "channels last, slice",
]


@pytest.mark.parametrize("name", CASES)
def test_an_operation_gives_what_a_loop_gives(name: str) -> None:
    model, image = built(name).double(), image_of(CASES[name].sides).double()
    size, stride, fill = (5, 4), (6, 7), FILL.double()
    expected = by_hand(model, image, size, stride, fill)
    with torch.no_grad():
        clean = model(image[None])
    seen = (expected - clean).abs().amax(1) > 1e-2 * expected.std(0).max()
    assert seen.double().mean() > (0.25 if name in PARTLY_BLIND else 0.99)
    assert differs(by_engine(model, image, size, stride, fill), expected) < EXACT
    # Of one pixel, showing another image, with steps larger than itself.
    size, stride, fill = (1, 1), (8, 11), image_of(CASES[name].sides, 4).double()
    expected = by_hand(model, image, size, stride, fill)
    found = by_engine(model, image, size, stride, fill, batch_size=3)
    assert float((found - expected).abs().max()) < EXACT * (
        expected.std(0).max() + 1e-3 * expected.std()
    )


@pytest.mark.parametrize("name", CASES)
def test_nothing_is_run_on_whole_maps_that_can_be_run_on_tiles(name: str) -> None:
    graph = trace(built(name), (3, *CASES[name].sides))
    network = Incremental(graph)._network
    height, width = CASES[name].sides
    middle = Positions(np.array([height // 2]), np.array([width // 2]), (1, 1), (height, width))
    reached = reaches(graph, middle)

    def is_everything(node: Any) -> bool:
        """Whether a pixel in the middle is thought to change a map everywhere."""
        return all(int(r.lengths[0]) == r.size for r in reached[node]) if node in reached else True

    end = {n for n in (network.cut, *network.head) if network.kind(n) in ("reshape", "linear")}
    tiled, found = {network.image}, set()
    for node in network.body:
        if not set(network.sources(node)) <= tiled or node in end:
            continue
        if network.why_whole(node) or is_everything(node):
            found.add(network.kind(node))
        else:
            tiled.add(node)
    assert found == CASES[name].whole


SINGLES = [
    "plain stack",
    "transposed 3 2",
    "batchnorm folded",
    "batchnorm of a concatenation",
    "pool avg padded",
    "pool max ceil padded",
    "Inception",
    "DenseNet",
    "ShuffleNet",
    "ConvNeXt",
    "bilinear x1.3",
    "squeeze and excitation",
    "end: mean",
    "GroupNorm",
]


@pytest.mark.parametrize("name", SINGLES)
def test_in_float32_too(name: str) -> None:
    model, image = built(name), image_of(CASES[name].sides)
    expected = by_hand(model, image, (5, 4), (6, 7), FILL)
    found = by_engine(model, image, (5, 4), (6, 7), FILL)
    assert (found - expected).abs().max() < SINGLE * expected.std()


SOME = ["plain stack", "Inception", "squeeze and excitation", "U-Net", "conv 1x1 that skips cells"]


@pytest.mark.parametrize("name", SOME)
@pytest.mark.parametrize(
    ("size", "stride"),
    [((7, 3), (8, 9)), ((99, 5), (1, 4)), ((60, 70), (3, 3)), ((1, 2), (9, 13)), ((4, 30), (7, 2))],
)
def test_occluders_of_all_sizes(name: str, size: tuple[int, int], stride: tuple[int, int]) -> None:
    model, image = built(name).double(), image_of(CASES[name].sides).double()
    scale = by_hand(model, image, (7, 3), (8, 9), FILL.double()).std(0).max()
    for fill in (FILL.double(), torch.zeros(3).double(), blurred(image, 2)):
        expected = by_hand(model, image, size, stride, fill)
        for batch_size in (1, 3, 30, None):
            found = by_engine(model, image, size, stride, fill, batch_size=batch_size)
            assert found.shape == expected.shape
            assert float((found - expected).abs().max() / scale) < EXACT


@pytest.mark.parametrize("sides", [(13, 40), (40, 13), (17, 17), (9, 64)])
@pytest.mark.parametrize("name", ["Inception", "DenseNet", "batchnorm folded"])
def test_images_of_all_sizes(name: str, sides: tuple[int, int]) -> None:
    torch.manual_seed(0)
    model = Net(CASES[name].body, sides, CASES[name].modules()).double().eval()
    image = image_of(sides).double()
    expected = by_hand(model, image, (4, 6), (3, 5), FILL.double())
    assert differs(by_engine(model, image, (4, 6), (3, 5), FILL.double()), expected) < EXACT


@pytest.mark.parametrize("name", SOME)
def test_one_sweeper_serves_many_sweeps(name: str) -> None:
    """Whatever is kept from one sweep for the next must not depend on image or occluder."""
    model = built(name).double()
    sides = CASES[name].sides
    sweeper = Sweeper(model, (3, *sides))
    for seed in (3, 5):
        image = image_of(sides, seed).double()
        for fill in (0.0, FILL, image_of(sides, 8), -1.5):
            found = sweeper.sweeps(image, [(5, 4), 9], (6, 7), fill, progress=False)
            for result, size in zip(found, [(5, 4), (9, 9)], strict=True):
                shown = torch.as_tensor(fill).double()
                shown = shown.expand(3) if shown.dim() == 0 else shown
                expected = by_hand(model, image, size, (6, 7), shown).softmax(1).numpy()
                shape = result.probability.shape
                np.testing.assert_allclose(result.probability, expected.reshape(shape), atol=1e-6)


# ---------------------------------------------------------------- sums of maps


class Layered(nn.Module):
    """What is behind its layers changes them in place, or is folded into them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(8)
        self.act = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.gate = SqueezeExcitation(8, 2)
        self.conv3 = nn.Conv2d(8, 6, 3)
        self.fc = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.bn1(self.conv1(x)))
        y = self.conv2(x)
        y += x
        y = self.gate(self.pool(self.act(y)))
        return self.fc(self.act(self.conv3(y)).mean((2, 3)))


@pytest.mark.parametrize("engine", ["incremental", "plain"])
@pytest.mark.parametrize("layer", ["conv1", "bn1", "conv2", "pool", "gate", "conv3"])
def test_sums_are_those_of_the_hooked_maps(layer: str, engine: str) -> None:
    torch.manual_seed(0)
    model = Layered().double().eval()
    nn.init.normal_(model.bn1.weight)
    image, caught = image_of(SIDES).double(), []
    expected = by_hand(model, image, (5, 4), (6, 7), FILL.double())
    handle = model.get_submodule(layer).register_forward_hook(
        lambda module, args, output: caught.append(output[0].clone())
    )
    with torch.no_grad():
        model(image[None])
    unit = int(caught[0].amax((1, 2)).argmax())
    by_hand(model, image, (5, 4), (6, 7), FILL.double())
    handle.remove()
    sums = np.array([float(maps[unit].sum()) for maps in caught[1:]])
    assert sums.std() > 1e-2
    found = sweep(model, image, (5, 4), (6, 7), FILL, layer=layer, engine=engine, progress=False)
    assert (found.unit, found.value) == (unit, pytest.approx(float(caught[0][unit].max())))
    assert found.clean_map_sum == pytest.approx(float(caught[0][unit].sum()), rel=1e-6)
    np.testing.assert_allclose(found.map_sum.ravel(), sums, rtol=1e-6, atol=1e-6)
    shape = found.probability.shape
    np.testing.assert_allclose(found.probability, expected.softmax(1).reshape(shape), atol=1e-6)


def test_asking_for_a_layer_changes_no_score() -> None:
    torch.manual_seed(0)
    model, image = Layered().double().eval(), image_of(SIDES).double()
    expected = by_hand(model, image, (5, 4), (6, 7), FILL.double())
    for layer in ("conv1", "bn1", "conv2", "pool", "gate", "conv3"):
        found = by_engine(model, image, (5, 4), (6, 7), FILL.double(), layer=layer)
        assert differs(found, expected) < EXACT


# ---------------------------------------------------------------- how much is computed


def work(call: Callable[[], Any]) -> int:
    """Return the floating-point operations of a call, in this thread alone."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


@pytest.mark.parametrize(
    ("name", "share"),
    [
        ("plain stack", 0.5),
        ("Inception", 0.45),
        ("DenseNet", 0.6),
        ("ShuffleNet", 0.45),
        ("ConvNeXt", 0.7),
        ("transposed 3 2", 0.5),
        ("batchnorm folded", 0.45),
        ("conv reflect", 0.5),
    ],
)
def test_only_a_share_is_computed(name: str, share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)  # so all is done where it's counted
    sides = (64, 64)
    model = Net(CASES[name].body, sides, CASES[name].modules()).eval()
    image, grid = image_of(sides), Positions.covering(sides, (6, 6), (8, 8))
    done = []
    for engine in ("incremental", "plain"):
        sweeper = Sweeper(model, image.shape, engine=engine)._engine
        sweeper.look(image)
        done.append(work(lambda e=sweeper: e.occlude(grid, FILL, -1, lambda share: None)))
    assert 0 < done[0] < share * done[1]


# ---------------------------------------------------------------- falling back


class Undecided(nn.Module):
    """Can't be traced as a whole."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.fc = nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        if x.sum() > 1e9:
            x = x * 2
        return self.fc(x.amax((2, 3)))


def test_what_cant_be_traced_is_run_by_the_plain_loop(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    torch.manual_seed(0)
    model, image = Undecided().double(), image_of(SIDES).double()
    expected = by_hand(model, image, (5, 4), (6, 7), FILL.double())
    for batch_size in (1, None):
        found = by_engine(model, image, (5, 4), (6, 7), FILL.double(), batch_size=batch_size)
        assert differs(found, expected) < EXACT
    said = [text for text in caplog.messages if "whole network at each position" in text]
    assert len(said) == 2
    assert "can't be traced" in said[0]
    result = sweep(model, image, (5, 4), (6, 7), layer="conv", progress=False)
    assert result.map_sum.std() > 1e-3
    assert not model.conv._forward_hooks


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("pixel shuffle", "pixel_shuffle"),
        ("opaque", "Deciding"),
        ("GroupNorm", "groupnorm"),
        ("attention", "reshape"),
        ("flipped", "flip"),
        ("hooked conv", "conv"),
        ("pool adaptive max", "adaptive_maxpool"),
    ],
)
def test_the_log_says_once_what_runs_on_whole_maps(
    name: str, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    by_engine(built(name), image_of(SIDES), (5, 4), (6, 7), FILL)
    found = [text for text in caplog.messages if "on whole maps" in text]
    assert len([text for text in found if f"runs {said} " in text]) == 1
    assert len(found) == 1


def test_nothing_is_said_where_all_runs_on_tiles(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    by_engine(built("DenseNet"), image_of(SIDES), (5, 4), (6, 7), FILL)
    assert not [text for text in caplog.messages if "whole" in text]


def test_in_place_on_a_view_falls_back(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    model, image = built("chunk, one rectified in place").double(), image_of(SIDES).double()
    assert isinstance(Sweeper(model, image.shape)._engine, Plain)
    assert any("changes in place" in text for text in caplog.messages)


# ---------------------------------------------------------------- nothing is left behind


class Failing(nn.Module):
    """Fails on an image that is occluded, if it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.broken = False

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 1e9:
            return x
        if self.broken:
            raise RuntimeError("broken on purpose")
        return x


@pytest.mark.parametrize("engine", ["incremental", "plain"])
def test_after_a_failure_all_is_as_it_was(engine: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        STEM(), nn.BatchNorm2d(8), Failing(), nn.Flatten(), nn.LazyLinear(CLASSES)
    )
    image = image_of(SIDES)
    model(image[None])
    model.train()
    model[1].eval()
    modes = [part.training for part in model.modules()]
    threads = torch.get_num_threads()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    sweeper = Sweeper(model, image.shape, engine=engine)
    before = sweeper.sweep(image, 8, 8, progress=False)
    look = sweeper._engine.look

    def fails_afterwards(image: Tensor) -> Any:
        found = look(image)
        model[2].broken = True
        return found

    sweeper._engine.look = fails_afterwards
    with pytest.raises(RuntimeError, match="broken on purpose"):
        sweeper.sweep(image, 8, 8, progress=False)
    assert [part.training for part in model.modules()] == modes
    assert torch.get_num_threads() == threads
    assert not torch.is_inference_mode_enabled()
    assert torch.is_grad_enabled()
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    model[2].broken, sweeper._engine.look = False, look
    after = sweeper.sweep(image, 8, 8, progress=False)
    np.testing.assert_array_equal(after.probability, before.probability)
    model[4](model[3](model[0](image[None]))).sum().backward()  # its weights can still be trained


def test_a_network_that_gives_its_maps_as_scores() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(STEM(), nn.ReLU(), nn.Conv2d(8, 1, 3), nn.Flatten()).double().eval()
    image = image_of((9, 11)).double()
    expected = by_hand(model, image, (3, 2), (2, 3), FILL.double())
    assert differs(by_engine(model, image, (3, 2), (2, 3), FILL.double()), expected) < EXACT


def test_a_network_that_squeezes_its_batch_is_refused_or_right() -> None:
    class Squeezing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = STEM(), nn.Linear(8, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(F.adaptive_avg_pool2d(self.conv(x), 1).squeeze())

    torch.manual_seed(0)
    model, image = Squeezing().double().eval(), image_of(SIDES).double()
    with torch.no_grad():
        occluded = image.clone()
        occluded[:, :5, :4] = 0
        expected = model(torch.stack([image, occluded])).softmax(1).numpy()
    found = sweep(model, image, (5, 4), (6, 7), progress=False)
    np.testing.assert_allclose(found.clean_probability, expected[0], atol=1e-6)
    np.testing.assert_allclose(found.probability[0, 0], expected[1], atol=1e-6)
