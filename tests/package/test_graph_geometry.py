"""Receptive fields: known numbers, hand-computed intervals, and where gradients really reach."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from networks import Branching, Inplace, SecondConsumer
from torch import Tensor, fx, nn
from torch.nn import functional
from torchvision import models
from torchvisions import MOST_PARAMETERS, NAMES, OPTIONS, SIZES

from convatlas.graph import receptive_fields
from convatlas.graph.describe import layer_nodes, layers_of
from convatlas.graph.execution import Execution
from convatlas.graph.geometry import Axis, fields
from convatlas.graph.tracing import Graph, trace
from convatlas.layers import Layer


class Net(nn.Module):
    """A network whose forward is a function of its parts and the image."""

    def __init__(self, forward: Callable[[nn.Module, Tensor], Tensor], **parts: nn.Module) -> None:
        super().__init__()
        self._function = forward
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self._function(self, x)


def ending(x: Tensor) -> Tensor:
    """Turn maps into class scores."""
    return x.mean((2, 3))


def axes_of(model: nn.Module, name: str, size: tuple[int, int, int]) -> tuple[Axis, Axis]:
    graph = trace(model, size)
    field = fields(graph)[graph.node(name)]
    return field.y, field.x


def intervals(axis: Axis) -> list[tuple[int, int]]:
    return list(zip(axis.first.tolist(), axis.last.tolist(), strict=True))


# ------------------------------------------------------------------- known numbers


def test_alexnet_conv5_sees_163_pixels_at_stride_16() -> None:
    layer = receptive_fields(models.alexnet(), (3, 224, 224))["features.10"]
    assert (layer.size, layer.stride, layer.exact) == ((163, 163), (16, 16), True)


def test_resnet18_last_add_sees_435_pixels_at_stride_32() -> None:
    layer = receptive_fields(models.resnet18(), (3, 224, 224))["layer4.1.add"]
    assert (layer.size, layer.stride, layer.exact) == ((435, 435), (32, 32), True)


def test_vgg16_numbers_of_the_literature() -> None:
    found = receptive_fields(models.vgg16(), (3, 64, 64))
    assert found["features.28"].size == (196, 196)  # conv5_3
    assert found["features.30"].size == (212, 212)  # pool5
    assert found["classifier.0"].size == (64, 64)  # the whole input


def test_the_network_keeps_its_mode() -> None:
    model = models.squeezenet1_1()
    model.features[3].eval()
    receptive_fields(model, (3, 64, 64))
    assert model.training
    assert not model.features[3].training


# ------------------------------------------------------------------- by hand


def test_dilated_convolution() -> None:
    model = Net(lambda m, x: ending(m.conv(x)), conv=nn.Conv2d(1, 2, 3, stride=2, dilation=3))
    y, _ = axes_of(model, "conv", (1, 15, 15))
    assert intervals(y) == [(0, 6), (2, 8), (4, 10), (6, 12), (8, 14)]
    assert y.exact


def test_same_padding_puts_the_odd_cell_behind() -> None:
    conv = nn.Conv2d(1, 1, (4, 2), padding="same", dilation=(1, 3))
    y, x = axes_of(Net(lambda m, x: ending(m.conv(x)), conv=conv), "conv", (1, 6, 6))
    assert intervals(y)[0] == (-1, 2)
    assert intervals(y)[-1] == (4, 7)
    assert intervals(x)[0] == (-1, 2)


def test_height_and_width_apart() -> None:
    conv = nn.Conv2d(1, 1, (3, 1), stride=(2, 1), padding=(1, 0))
    layer = receptive_fields(Net(lambda m, x: ending(m.conv(x)), conv=conv), (1, 8, 9))["conv"]
    assert (layer.size, layer.stride, layer.start) == ((3, 1), (2, 1), (-1, 0))


def test_last_window_of_ceil_mode_reaches_outside() -> None:
    model = Net(lambda m, x: ending(m.pool(x)), pool=nn.MaxPool2d(3, 2, ceil_mode=True))
    y, _ = axes_of(model, "pool", (1, 8, 8))
    assert intervals(y) == [(0, 2), (2, 4), (4, 6), (6, 8)]


def test_adaptive_bins_are_irregular() -> None:
    model = Net(lambda m, x: ending(m.pool(x)), pool=nn.AdaptiveAvgPool2d(4))
    y, _ = axes_of(model, "pool", (1, 10, 10))
    assert intervals(y) == [(0, 2), (2, 4), (5, 7), (7, 9)]  # floor(10i/4), ceil(10(i+1)/4)
    layer = receptive_fields(model, (1, 10, 10))["pool"]
    assert layer.intervals is not None
    assert layer.boxes(np.array([2, 1])).tolist() == [5, 2, 8, 5]


@pytest.mark.parametrize("join", [lambda a, b: a + b, lambda a, b: torch.cat([a, b], 1), torch.mul])
def test_joins_take_the_union(join: Callable[[Tensor, Tensor], Tensor]) -> None:
    model = Net(
        lambda m, x: ending(join(m.small(x), m.large(x))),
        small=nn.Conv2d(1, 2, 1),
        large=nn.Conv2d(1, 2, (1, 5), padding=(0, 2)),
    )
    graph = trace(model, (1, 6, 6))
    last = list(layer_nodes(graph).values())[-2]
    field = fields(graph)[last]
    assert intervals(field.y)[2] == (2, 2)
    assert intervals(field.x)[2] == (0, 4)


def test_transposed_convolution() -> None:
    deconv = nn.ConvTranspose2d(1, 1, 3, stride=2, padding=1)
    y, _ = axes_of(Net(lambda m, x: ending(m.deconv(x)), deconv=deconv), "deconv", (1, 4, 4))
    # Output t gets input c where t = 2c - 1 + tap for a tap of 0, 1, 2.
    assert intervals(y) == [(0, 0), (0, 1), (1, 1), (1, 2), (2, 2), (2, 3), (3, 3)]


def test_nearest_and_bilinear_interpolation() -> None:
    near = Net(lambda m, x: ending(functional.interpolate(x, scale_factor=2)))
    y, _ = axes_of(near, "interpolate", (1, 3, 3))
    assert intervals(y) == [(0, 0), (0, 0), (1, 1), (1, 1), (2, 2), (2, 2)]
    smooth = Net(lambda m, x: ending(functional.interpolate(x, scale_factor=2, mode="bilinear")))
    y, _ = axes_of(smooth, "interpolate", (1, 3, 3))
    assert intervals(y) == [(0, 0), (0, 1), (0, 1), (1, 2), (1, 2), (2, 2)]


def test_slices_shift_and_thin_out() -> None:
    model = Net(lambda m, x: ending(m.conv(x[:, :, 1::2, :-2])), conv=nn.Conv2d(1, 1, 3))
    y, x = axes_of(model, "conv", (1, 9, 9))
    assert intervals(y) == [(1, 5), (3, 7)]
    assert intervals(x)[0] == (0, 2)
    assert len(x) == 5


def test_padding_by_itself() -> None:
    model = Net(
        lambda m, x: ending(m.conv(functional.pad(x, (2, 0, 1, 0)))), conv=nn.Conv2d(1, 1, 3)
    )
    y, x = axes_of(model, "conv", (1, 5, 5))
    assert intervals(y)[0] == (-1, 1)
    assert intervals(x)[0] == (-2, 0)


def test_padding_over_channels_leaves_the_field() -> None:
    shortcut = Net(lambda m, x: ending(functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 1, 1))))
    y, _ = axes_of(shortcut, "pad", (1, 5, 5))
    assert intervals(y) == [(0, 0), (2, 2), (4, 4)]


def test_global_pool_and_linear_see_the_whole_input() -> None:
    found = receptive_fields(Inplace(), (3, 30, 34))
    for name in ("mean", "fc"):
        assert (found[name].size, found[name].start, found[name].exact) == ((30, 34), (0, 0), True)


def test_valid_windows_that_miss_the_border_dont_see_it() -> None:
    model = Net(lambda m, x: ending(m.conv(x)), conv=nn.Conv2d(1, 1, 2, stride=3))
    found = receptive_fields(model, (1, 9, 9))["mean"]
    assert (found.start, found.size) == ((0, 0), (8, 8))


def test_a_gate_makes_every_cell_see_everything() -> None:
    def gated(m: nn.Module, x: Tensor) -> Tensor:
        x = m.conv(x)
        gate = m.fc(x.mean((2, 3))).sigmoid()
        return ending(x * gate[:, :, None, None])

    model = Net(gated, conv=nn.Conv2d(1, 2, 3, padding=1), fc=nn.Linear(2, 2))
    layer = receptive_fields(model, (1, 7, 9))["mul"]
    assert (layer.size, layer.start, layer.exact) == ((7, 9), (0, 0), True)


def test_vectors_of_two_halves_join() -> None:
    def halves(m: nn.Module, x: Tensor) -> Tensor:
        return torch.cat([ending(x[..., :4]), ending(x[..., 6:])], 1)

    found = receptive_fields(Net(halves), (2, 5, 9))
    assert found["mean"].size == (5, 4)
    assert (found["cat"].start, found["cat"].size) == ((0, 0), (5, 9))


def test_an_unknown_operation_gives_an_upper_bound() -> None:
    model = Net(lambda m, x: ending(torch.flip(m.conv(x), (2,))), conv=nn.Conv2d(1, 1, 3))
    layer = receptive_fields(model, (1, 8, 8))["flip"]
    assert (layer.size, layer.exact) == ((8, 8), False)


def test_a_scalar_of_the_image_counts() -> None:
    model = Net(lambda m, x: ending(m.conv(x) / x.abs().amax()), conv=nn.Conv2d(1, 1, 3))
    assert receptive_fields(model, (1, 8, 8))["truediv"].size == (8, 8)


# ------------------------------------------------- against where gradients really reach


def positive(model: nn.Module) -> nn.Module:
    """Return a double precision copy in which every path carries something.

    All weights are positive and no rectifier or normalisation closes a path.
    """
    model = copy.deepcopy(model).double().eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module in model.modules():
            for name, parameter in module.named_parameters(recurse=False):
                fan = max(parameter[0].numel(), 1) if parameter.ndim > 1 else 1
                low = 0.5 / fan if name == "weight" else 0.0
                parameter.uniform_(low, 2 * low + 1e-3, generator=generator)
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.zero_()
                module.running_var.fill_(1)
                module.weight.fill_(1)
    return model


class _Averaging(Execution):
    """Run a graph with max-pooling replaced by a mean over the same windows.

    A maximum passes a gradient to one cell of its window only.
    """

    def __init__(self, graph: Graph, node: fx.Node) -> None:
        super().__init__(graph, [node], keep=True)
        self._graph = graph

    def run_node(self, n: fx.Node) -> Tensor:
        operation = self._graph.operations[n]
        source = self.env[n.all_input_nodes[0]] if n.all_input_nodes else None
        if operation.kind == "maxpool":
            o = operation.options
            kernel = o["kernel_size"]
            area = kernel**2 if isinstance(kernel, int) else kernel[0] * kernel[1]
            return area * functional.avg_pool2d(
                source, kernel, o["stride"], o["padding"], o["ceil_mode"], divisor_override=area
            )
        if operation.kind in ("relu", "relu6"):
            return source * 1.0  # positive as all is, and never closed
        return super().run_node(n)


def reached(graph: Graph, node: fx.Node, cell: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Return the rows and columns of the image that have a gradient from a cell."""
    image = torch.rand(1, *graph.size, dtype=torch.double).add_(0.5).requires_grad_()
    ((_, value),) = _Averaging(graph, node).values(image)
    (gradient,) = torch.autograd.grad(value[(0, slice(None), *cell)].sum(), image)
    support = gradient[0].abs().sum(0) > 0
    return support.any(1).nonzero()[:, 0], support.any(0).nonzero()[:, 0]


def check_against_gradient(model: nn.Module, size: tuple[int, int, int], every: int = 1) -> int:
    """Compare the fields of every few layers with gradients; return how many were exact."""
    graph = trace(positive(model), size)
    described = {layer.name: layer for layer in layers_of(graph)}
    nodes = list(layer_nodes(graph).items())
    exact = 0
    for name, node in nodes[every - 1 :: every]:
        layer = described[name]
        field = fields_of(graph)[node]
        height, width = layer.shape[1:] if len(layer.shape) == 3 else (1, 1)
        cells = {(0, 0), (height // 2, width // 2), (height - 1, width - 1)}
        for row, column in cells:
            cell = (row, column) if len(layer.shape) == 3 else ()
            rows, columns = reached(graph, node, cell)
            for seen, axis, i, limit in (
                (rows, field.y, row, size[1]),
                (columns, field.x, column, size[2]),
            ):
                if len(seen) == 0:  # a cell of padding alone
                    continue
                first, last = max(int(axis.first[i]), 0), min(int(axis.last[i]), limit - 1)
                ends = (int(seen.min()), int(seen.max()))
                assert first <= ends[0], f"{name} {cell}"
                assert ends[1] <= last, f"{name} {cell}"
                if layer.exact and (row, column) == (height // 2, width // 2):
                    assert ends == (first, last), f"{name} {cell}"
        exact += layer.exact
        check_box(layer, field.y, field.x)
    return exact


def check_box(layer: Layer, y: Axis, x: Axis) -> None:
    """The boxes hold what the cells see."""
    if len(layer.shape) != 3:
        return
    rows, columns = np.arange(len(y)), np.arange(len(x))
    cells = np.stack(np.meshgrid(rows, columns, indexing="ij"), -1)
    box = layer.boxes(cells)
    assert (box[..., 0] == y.first[:, None]).all()
    assert (box[..., 2] > y.last[:, None]).all()
    assert (box[..., 1] == x.first[None, :]).all()
    assert (box[..., 3] > x.last[None, :]).all()


_FIELDS: dict[int, dict] = {}


def fields_of(graph: Graph) -> dict:
    if id(graph) not in _FIELDS:
        _FIELDS.clear()
        _FIELDS[id(graph)] = fields(graph)
    return _FIELDS[id(graph)]


def gated(m: nn.Module, x: Tensor) -> Tensor:
    x = m.conv(x)
    return ending(m.after(x * m.gate(functional.adaptive_avg_pool2d(x, 1))))


def shuffled(m: nn.Module, x: Tensor) -> Tensor:
    x = m.conv(x)
    n, c, h, w = x.shape
    x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
    left, right = x.chunk(2, 1)
    return ending(torch.cat([m.one(left), right], 1))


def channels_last(m: nn.Module, x: Tensor) -> Tensor:
    x = m.conv(x).permute(0, 2, 3, 1)
    x = m.mix(m.norm(x)).permute(0, 3, 1, 2)
    return ending(m.after(x))


CASES: dict[str, tuple[nn.Module, tuple[int, int, int]]] = {
    "plain": (Inplace(), (3, 17, 22)),
    "branches": (Branching(), (3, 25, 30)),
    "residual": (SecondConsumer(), (3, 9, 11)),
    "dilated": (
        Net(
            lambda m, x: ending(m.two(m.one(x))),
            one=nn.Conv2d(2, 2, 3, dilation=2, stride=2, padding=1),
            two=nn.Conv2d(2, 2, (2, 4), padding="same"),
        ),
        (2, 19, 16),
    ),
    "transposed": (
        Net(
            lambda m, x: ending(m.up(m.down(x))),
            down=nn.Conv2d(2, 3, 3, 2, 1),
            up=nn.ConvTranspose2d(3, 2, 4, 2, 1, output_padding=1),
        ),
        (2, 13, 14),
    ),
    "interpolated": (
        Net(
            lambda m, x: ending(m.two(functional.interpolate(m.one(x), scale_factor=1.5))),
            one=nn.Conv2d(2, 2, 3, 2, 1),
            two=nn.Conv2d(2, 2, 3, padding=1),
        ),
        (2, 13, 17),
    ),
    "bilinear": (
        Net(
            lambda m, x: ending(m.up(m.one(x))),
            one=nn.Conv2d(2, 2, 3, 2, 1),
            up=nn.Upsample((10, 5), mode="bilinear"),
        ),
        (2, 13, 17),
    ),
    "adaptive": (
        Net(
            lambda m, x: ending(m.two(m.pool(m.one(x)))),
            one=nn.Conv2d(2, 2, 3, padding=1),
            pool=nn.AdaptiveAvgPool2d((5, 3)),
            two=nn.Conv2d(2, 2, 3, padding=1),
        ),
        (2, 13, 11),
    ),
    "gate": (
        Net(
            gated,
            conv=nn.Conv2d(2, 3, 3, 2),
            gate=nn.Conv2d(3, 3, 1),
            after=nn.Conv2d(3, 2, 3, padding=1),
        ),
        (2, 12, 13),
    ),
    "shuffle": (
        Net(shuffled, conv=nn.Conv2d(2, 4, 3, padding=1), one=nn.Conv2d(2, 2, 3, padding=1)),
        (2, 8, 9),
    ),
    "channels last": (
        Net(
            channels_last,
            conv=nn.Conv2d(2, 4, 2, 2),
            norm=nn.LayerNorm(4),
            mix=nn.Linear(4, 6),
            after=nn.Conv2d(6, 2, 3, padding=1),
        ),
        (2, 12, 14),
    ),
    "mirror": (
        Net(
            lambda m, x: ending(m.two(m.one(m.pad(x)))),
            pad=nn.ReflectionPad2d(3),
            one=nn.Conv2d(2, 2, 3, 2, padding=1, padding_mode="replicate"),
            two=nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect"),
        ),
        (2, 12, 13),
    ),
    "circular": (
        Net(
            lambda m, x: ending(m.one(x)),
            one=nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular"),
        ),
        (2, 7, 8),
    ),
    "antialiased": (
        Net(
            lambda m, x: ending(
                functional.interpolate(m.one(x), (4, 5), mode="bilinear", antialias=True)
            ),
            one=nn.Conv2d(2, 2, 3, padding=1),
        ),
        (2, 13, 17),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_fields_are_where_gradients_reach(case: str) -> None:
    model, size = CASES[case]
    exact = check_against_gradient(model, size)
    assert exact > 0 or case in ("mirror", "circular")


@pytest.mark.parametrize("name", ["inception_v3", *NAMES])
def test_fields_of_torchvisions_networks(name: str) -> None:
    if models.get_model_weights(name).DEFAULT.meta["num_params"] > MOST_PARAMETERS:
        pytest.skip("too large")
    model = models.get_model(name, weights=None, **OPTIONS.get(name, {}))
    size = (3, *SIZES.get(name, (72, 88)))
    every = max(len(layer_nodes(trace(model, size))) // 6, 1)
    exact = check_against_gradient(model, size, every)
    assert exact > 0 or name.startswith(("swin", "vit", "maxvit"))  # attention is an upper bound
