"""What people write into networks of their own, and what they give to a projection."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from networks import ConvPool, seeded
from torch import Tensor, nn
from torch.nn import functional

from convatlas.errors import LayerError, MethodError, ModelError
from convatlas.graph import receptive_fields
from convatlas.graph.tracing import trace
from convatlas.projection import project
from convatlas.projection.engine import Projector

SIZE = (3, 31, 40)


def images(count: int = 3) -> Tensor:
    return torch.randn(count, *SIZE, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """A convolution, something behind it, and class scores."""

    def __init__(self, function: Callable[..., Tensor], **parts: nn.Module) -> None:
        super().__init__()
        self.conv, self.next = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3)
        self.relu = nn.ReLU(inplace=True)
        self.fc = nn.Linear(6, 4)
        for name, part in parts.items():
            self.add_module(name, part)
        self.function = function
        seeded(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.function(self, x).mean((2, 3)))


def expected(model: nn.Module, given: Tensor, unit: int) -> np.ndarray:
    leaf = given.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(leaf)[:, unit].sum(), leaf)
    return gradient.numpy()


def shortcut(net: Net, x: Tensor) -> Tensor:
    """What the shortcut holds is changed, too."""
    x = net.conv(x)
    aside = net.aside(x)
    return net.next(net.relu(x)) + aside[:, :, 1:-1, 1:-1]


@pytest.mark.parametrize("aside", [nn.Identity(), nn.Dropout(), nn.Sequential(nn.Identity())])
def test_what_is_changed_in_place_past_an_identity(aside: nn.Module) -> None:
    model = Net(shortcut, aside=aside)
    _, signal = project(model, images(), "fc", [2] * 3, [(0, 0)] * 3, "gradient")
    found = expected(model, images(), 2)
    np.testing.assert_allclose(signal, found, atol=1e-5 * np.abs(found).max())


def test_what_is_changed_in_place_through_a_view_is_refused() -> None:
    def function(net: Net, x: Tensor) -> Tensor:
        x = net.conv(x)
        x[:, :2].relu_()
        return net.next(x)

    for rule in ("deconvnet", "guided", "gradient"):
        with pytest.raises(MethodError, match=r"relu_? changes in place what next sees"):
            project(Net(function), images(), "fc", [2] * 3, [(0, 0)] * 3, rule)


def test_images_that_want_a_gradient_stay_as_they_are() -> None:
    model = seeded(ConvPool())
    given = images().requires_grad_()
    units, places = [1, 2, 3], [(0, 0), (1, 1), (2, 3)]
    _, found = project(model, given, "6", units, places)
    _, same = project(model, images(), "6", units, places)
    np.testing.assert_array_equal(found, same)
    assert given.grad is None


def test_a_network_need_not_be_a_classifier() -> None:
    class Features(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 4, 3, 2), nn.Conv2d(4, 5, 3)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            x = self.first(x).relu()
            return x, self.second(x)

    model = seeded(Features())
    found = receptive_fields(model, SIZE)
    assert {name: layer.size for name, layer in found.items()} == {
        "first": (3, 3),
        "relu": (3, 3),
        "second": (7, 7),
    }
    boxes, signal = project(model, images(), "second", [1] * 3, [(0, 0)] * 3, "gradient")
    leaf = images().requires_grad_()
    (gradient,) = torch.autograd.grad(model(leaf)[1][:, 1, 0, 0].sum(), leaf)
    np.testing.assert_allclose(signal, gradient[:, :, :7, :7], atol=1e-6)
    assert boxes.tolist() == [[0, 0, 7, 7]] * 3


def test_a_norm_of_the_batch_sees_all_of_a_map() -> None:
    def function(net: Net, x: Tensor) -> Tensor:
        return net.next(functional.batch_norm(net.conv(x), None, None, training=True))

    layer = receptive_fields(Net(function), SIZE)["batch_norm"]
    assert layer.size == SIZE[1:]


@pytest.mark.parametrize(
    "function",
    [
        lambda n, x: torch.maximum(n.conv(x), torch.zeros(6, 1, 1)),
        lambda n, x: torch.where(n.conv(x) > 0, x[:, :1], torch.zeros(())),
        lambda n, x: n.conv(x).clamp(0, 1),
        lambda n, x: n.conv(x).abs(),
        lambda n, x: n.conv(x).exp(),
    ],
)
def test_guided_refuses_what_it_would_take_for_plain(function: Callable) -> None:
    with pytest.raises(MethodError, match="guided backpropagation isn't defined for"):
        project(Net(function), images(), "fc", [2] * 3, [(0, 0)] * 3, "guided")


def test_a_layer_that_is_cut_off_sends_nothing_back() -> None:
    model = Net(lambda n, x: n.next(n.conv(x).detach()))
    _, signal = project(model, images(), "next", [2] * 3, [(3, 3)] * 3, "gradient")
    assert not signal.any()
    with pytest.raises(MethodError, match="isn't defined for detach"):
        project(model, images(), "next", [2] * 3, [(3, 3)] * 3)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_any_precision(dtype: torch.dtype) -> None:
    model = seeded(ConvPool())
    units, places = [1, 2, 3], [(0, 0), (1, 1), (2, 3)]
    _, same = project(model, images(), "6", units, places)
    _, found = project(model, images().to(dtype), "6", units, places)
    _, whole = project(model.to(dtype), images().to(dtype), "6", units, places)
    if dtype == torch.float64:
        for signal in (found, whole):
            np.testing.assert_allclose(signal, same, atol=1e-5 * np.abs(same).max())
    for signal in (found, whole):  # where a max-pool's switch flips, a pixel differs
        assert np.corrcoef(signal.ravel(), same.ravel())[0, 1] > 0.9


def test_a_pool_with_a_divisor_of_its_own_goes_on_alike() -> None:
    model = nn.Sequential(nn.AvgPool2d(3, 2, 1, divisor_override=2), nn.Flatten(), nn.LazyLinear(2))
    model(torch.zeros(1, 3, 9, 9))
    given = torch.randn(1, 3, 9, 9)
    graph = trace(model.eval(), (3, 9, 9))
    found = Projector(graph, "0").continued(given, np.array([1]), np.array([(2, 2)]))
    assert found[0] == pytest.approx(float(model[0](given)[0, 1, 2, 2]), rel=1e-6)
    bare = nn.AvgPool2d(3, 2, 1, count_include_pad=False)
    graph = trace(nn.Sequential(bare, nn.Flatten(), nn.Linear(75, 2)).eval(), (3, 9, 9))
    found = Projector(graph, "0").continued(given, np.array([1]), np.array([(0, 0)]))
    assert found[0] == pytest.approx(float(bare(given)[0, 1, 0, 0]), rel=1e-6)


def test_strides_of_maps_that_grow() -> None:
    class Growing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.down, self.up = nn.Conv2d(3, 4, 3, 2, 1), nn.ConvTranspose2d(4, 4, 2, 2)
            self.last = nn.Conv2d(7, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(torch.cat([self.up(self.down(x)), x], axis=1))

    found = receptive_fields(Growing(), (3, 32, 32))
    assert found["down"].stride == (2, 2)
    assert found["up"].stride == (1, 1)
    assert found["last"].stride == (1, 1)
    assert found["cat"].size < (8, 8)  # `axis` is understood
    assert found["last"].exact


MODEL = seeded(ConvPool())


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda x: project(MODEL, x.numpy(), "3", [0], [(0, 0)]), MethodError, "a ndarray"),
        (lambda x: project(MODEL, x[0], "3", [0], [(0, 0)]), MethodError, r"takes a\s+tensor"),
        (lambda x: project(MODEL, x.byte(), "3", [0], [(0, 0)]), MethodError, "torch.uint8"),
        (lambda x: project(None, x, "3", [0], [(0, 0)]), MethodError, "a NoneType, not a torch"),
        (lambda x: project(MODEL, x, "3", [0.5], [(0, 0)]), MethodError, "units are of float64"),
        (lambda x: project(MODEL, x, "3", [0], [0, 0]), MethodError, r"locations .* \(B, 2\)"),
        (lambda x: project(MODEL, x, "3", [0], [[0], [0]]), MethodError, r"locations .* \(B, 2\)"),
        (lambda x: project(MODEL, x, "3", [True], [(0, 0)]), MethodError, "units are of bool"),
        (
            lambda x: project(MODEL, x, "3", [0], [(0, 0)], batch_size=0),
            MethodError,
            "batch size is 0",
        ),
        (
            lambda x: project(trace(MODEL, (3, 33, 33)), x, "3", [0], [(0, 0)]),
            MethodError,
            r"graph is that of the network for \(3, 33, 33\)",
        ),
        (lambda x: project(MODEL, x, "33", [0], [(0, 0)]), LayerError, "`receptive_fields`"),
        (lambda x: receptive_fields(MODEL, (3, 31)), ModelError, "must be channels, height"),
        (lambda x: receptive_fields(print, SIZE), ModelError, "torch.nn.Module"),
    ],
)
def test_what_isnt_what_it_should_be(call: Callable, error: type, words: str) -> None:
    with pytest.raises(error, match=words):
        call(images(1))
