"""Layer names, tracing and the choice of layers."""

from __future__ import annotations

import re
import warnings
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from networks import Inplace, inplace, seeded
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

from convatlas.activations import run_layers
from convatlas.errors import LayerError, ModelError
from convatlas.graph.describe import layer_nodes, layers_of
from convatlas.graph.operations import TRANSPARENT
from convatlas.graph.tracing import trace
from convatlas.layers import Layer, pick_units, select_layers


def layer_names(model: nn.Module, size: tuple[int, int, int] = (3, 16, 16)) -> list[str]:
    return list(layer_nodes(trace(model, size)))


class Head(nn.Module):
    """A convolution, something to be tested, and class scores."""

    def __init__(self, middle: nn.Module) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.middle = middle
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.middle(self.conv(x)).mean((2, 3)))


@pytest.mark.parametrize(
    "name",
    ["resnet18", "squeezenet1_1", "googlenet", "mobilenet_v2", "densenet121", "shufflenet_v2_x0_5"],
)
def test_names_and_values_are_torchvisions(name: str) -> None:
    options = {"init_weights": False} if name == "googlenet" else {}
    torch.manual_seed(0)
    model = getattr(torchvision.models, name)(**options).eval()
    batch = torch.randn(1, 3, 64, 64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = get_graph_node_names(model)[1]
    graph = trace(model, (3, 64, 64))
    ours = layer_nodes(graph)
    values = {n: v.clone() for n, v in run_layers(graph, set(ours), batch)}
    assert list(values) == list(ours)

    kinds = {graph.names[n]: graph.operations[n].kind for n in graph.nodes if n in graph.names}
    left_out = [n for n in theirs if n not in ours]
    # What we don't list passes values on, or isn't a value: sizes, halves, reshapes.
    assert {kinds.get(n, "other") for n in left_out} <= TRANSPARENT | {"other"}
    for missing in left_out:
        assert kinds.get(missing) != "other" or re.search(r"size|getattr|floordiv|chunk", missing)

    shared = [n for n in theirs if n in ours]
    assert len(shared) > 0.7 * len(ours) or name == "mobilenet_v2"  # whose blocks are closed to it
    extractor = create_feature_extractor(model, shared)
    with torch.no_grad():
        expected = extractor(batch)
    overwritten = {
        graph.names[n.all_input_nodes[0]]: n for n in graph.nodes if graph.operations[n].in_place
    }
    for layer in shared:
        value = values[layer]
        if layer in overwritten:  # torchvision's is the rectified one by now
            assert "relu" in graph.operations[overwritten[layer]].kind
            value = values[graph.names[overwritten[layer]]]
        torch.testing.assert_close(value, expected[layer], rtol=1e-5, atol=1e-5)


def test_values_are_read_before_an_in_place_operation_overwrites_them() -> None:
    model = inplace()
    batch = torch.randn(2, 3, 16, 16)
    graph = trace(model, (3, 16, 16))
    values = {n: v.clone() for n, v in run_layers(graph, set(layer_nodes(graph)), batch)}
    conv1 = model.conv1(batch)
    torch.testing.assert_close(values["conv1"], conv1)
    assert (values["conv1"] < 0).any()
    torch.testing.assert_close(values["relu"], conv1.relu())
    torch.testing.assert_close(values["relu_1"], model.conv2(conv1.relu()).relu())
    torch.testing.assert_close(values["relu_"], values["conv3"].relu())
    assert (values["conv3"] < 0).any()
    torch.testing.assert_close(values["fc"], model(batch))


def test_each_call_of_a_reused_module_has_a_name() -> None:
    names = layer_names(Inplace())
    assert names == ["conv1", "relu", "conv2", "relu_1", "pool", "conv3", "relu_", "mean", "fc"]


def test_a_module_called_conv_2_keeps_its_name_even_beside_a_reused_conv() -> None:
    class Numbered(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)
            self.conv_2 = nn.Conv2d(3, 5, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(self.conv(self.conv(x)))
            return self.conv_2(x).mean((2, 3))

    assert layer_names(Numbered()) == ["conv", "conv_1", "conv_3", "conv_2", "mean"]


def test_paths_that_depend_on_shapes_are_traced() -> None:
    class Shapes(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            n, _, h, w = x.shape
            if h % 2 or w > 1000:
                x = functional.pad(x, (0, 1, 0, 1))
            for _ in range(x.shape[1] // 2):
                x = torch.relu(x)
            for _ in x.shape[2:]:
                x = x * 2
            assert x.shape[0] == n
            return functional.avg_pool2d(x, int(x.shape[2]))

    names = layer_names(Head(Shapes()), (3, 17, 17))
    assert names == [
        "conv",
        "middle.pad",
        "middle.relu",
        "middle.relu_1",
        "middle.mul",
        "middle.mul_1",
        "middle.avg_pool2d",
        "mean",
        "fc",
    ]
    assert "middle.pad" not in layer_names(Head(Shapes()), (3, 16, 16))


def test_a_module_whose_path_depends_on_values_is_kept_closed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Values(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    model = seeded(Head(nn.Sequential(nn.ReLU(), Values())))
    with caplog.at_level("WARNING", "convatlas"):
        graph = trace(model, (3, 16, 16))
    assert "middle.1" in caplog.text
    assert list(layer_nodes(graph)) == ["conv", "middle.0", "middle.1", "mean", "fc"]
    found = {layer.name: layer for layer in layers_of(graph)}
    assert not found["middle.1"].exact
    assert "Values" in str(found["fc"].deconvnet)
    batch = torch.randn(1, 3, 16, 16)
    ((_, value),) = run_layers(graph, {"fc"}, batch)
    torch.testing.assert_close(value, model(batch))


def test_a_network_whose_own_path_depends_on_values_is_refused() -> None:
    class Root(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x if x.sum() > 0 else -x).mean((2, 3))

    with pytest.raises(ModelError, match="module of its own"):
        trace(Root(), (3, 8, 8))


def test_a_closed_convolution_of_the_users_own_isnt_taken_for_a_plain_one() -> None:
    class Flipping(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x if x.sum() > 0 else x.flip(3))

    layer = layers_of(trace(Head(Flipping(4, 4, 1)), (3, 9, 9)))[1]
    assert (layer.name, layer.kind, layer.exact, layer.size) == ("middle", "other", False, (9, 9))


def test_an_optional_argument_stays_none() -> None:
    class Optional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3, 2)

        def forward(self, x: Tensor, mask: Tensor | None = None, deep: bool = False) -> Tensor:
            if mask is not None:
                x = x * mask
            if deep:
                x = x.relu()
            return self.fc(x.mean((2, 3)))

    assert layer_names(Optional()) == ["mean", "fc"]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Conv2d(3, 4, 3), "not \\(N, classes\\)"),
        (nn.Sequential(nn.Flatten(), nn.Linear(7, 2)), "16 x 16 pixels"),
        (nn.Sequential(nn.Conv2d(1, 4, 3)), "3 channels"),
    ],
)
def test_networks_that_dont_fit(model: nn.Module, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        layers_of(trace(model, (3, 16, 16)))


def test_a_network_that_returns_several_tensors_is_refused() -> None:
    class Two(nn.Module):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"out": x.mean((2, 3))}

    with pytest.raises(ModelError, match="one tensor of class scores"):
        layers_of(trace(Two(), (3, 8, 8)))


def test_choice_of_layers() -> None:
    layers = layers_of(trace(torchvision.models.resnet18(), (3, 64, 64)))
    auto = select_layers(layers, "auto")
    assert auto == ["relu", *(f"layer{i}.1.relu_1" for i in (1, 2, 3, 4))]
    assert select_layers(layers, ["layer2.*.conv?", "conv1"]) == [
        "conv1",
        *(f"layer2.{b}.conv{c}" for b in (0, 1) for c in (1, 2)),
    ]
    with pytest.raises(LayerError, match=r"did you mean 'layer2\.0\.conv1'|Did you mean .*layer2"):
        select_layers(layers, ["layer2.0.convl"])
    with pytest.raises(LayerError, match=r"nothing\.\*"):
        select_layers(layers, ["conv1", "nothing.*"])
    assert [x.name for x in layers if x.output] == ["fc"]
    assert [x.name for x in layers if x.code] == ["avgpool"]


def test_picked_units_are_a_prefix_of_more() -> None:
    layer = layers_of(trace(Inplace(), (3, 16, 16)))[2]
    picks = [set(pick_units(layer, k, seed=3).tolist()) for k in range(10)]
    assert all(a < b for a, b in pairwise(picks[:9]))
    assert picks[8] == picks[9] == set(range(8))
    assert pick_units(layer, [5, 2], seed=3).tolist() == [5, 2]
    with pytest.raises(LayerError, match="no unit 8"):
        pick_units(layer, [8], seed=0)


def test_boxes_of_cells() -> None:
    layer = {x.name: x for x in layers_of(trace(Inplace(), (3, 16, 16)))}["conv2"]
    assert np.array_equal(layer.boxes(np.array([[0, 0], [2, 3]])), [[-2, -2, 3, 3], [2, 4, 7, 9]])


def layer_of(shape: tuple[int, ...], **field: Any) -> Layer:
    return Layer("x", "conv", shape[0], shape, exact=True, **field)


def test_edges_of_cells_by_hand() -> None:
    # AlexNet's first layer: cell 0 sees -2 to 8, so its middle is at 3.5, and the next 4 on.
    alexnet = layer_of((64, 55, 55), size=(11, 11), stride=(4, 4), start=(-2, -2))
    y, x = alexnet.edges()
    assert y[:3].tolist() == [1.5, 5.5, 9.5]
    assert y[-1] == 3.5 + 54 * 4 + 2
    assert len(x) == 56
    oblong = layer_of((3, 4, 2), size=(4, 1), stride=(2, 5), start=(-1, 3))
    y, x = oblong.edges()
    assert y.tolist() == [0, 2, 4, 6, 8]
    assert x.tolist() == [1, 6, 11]


def test_edges_of_cells_whose_fields_are_not_alike() -> None:
    # Middles at 1.5, 2.5, 2.5 and 7: the two that see the same share the place of one.
    y = ((0, 2), (2, 2), (1, 3), (6, 7))
    field = {"size": (3, 9), "stride": (2, 0), "start": (0, 0)}
    layer = layer_of((2, 4, 3), **field, intervals=(y, ((0, 8),) * 3))
    rows, columns = layer.edges()
    assert rows.tolist() == [1, 2, 3.375, 4.75, 9.25]
    assert columns.tolist() == [0, 3, 6, 9]  # all see everything: all of it, in even parts


def test_edges_of_a_single_cell() -> None:
    one = layer_of((8, 1, 3), size=(21, 5), stride=(16, 1), start=(-2, 0))
    assert one.edges()[0].tolist() == [0.5, 16.5]
    assert one.edges()[1].tolist() == [2, 3, 4, 5]
    vector = layer_of((8,), size=(32, 20), stride=(0, 0), start=(0, 0))
    assert [axis.tolist() for axis in vector.edges()] == [[0, 32], [0, 20]]
    assert vector.centre == (0, 0)
    assert one.centre == (0, 1)


def test_edges_of_a_network() -> None:
    layers = {x.name: x for x in layers_of(trace(Inplace(), (3, 16, 16)))}
    assert layers["conv1"].edges()[0].tolist() == list(range(17))
    for layer in layers.values():
        if layer.is_map:
            cells = np.stack(np.indices(layer.shape[1:]), -1)
            middles = [(edges[1:] + edges[:-1]) / 2 for edges in layer.edges()]
            box = layer.boxes(cells)
            if layer.intervals is None:
                np.testing.assert_array_equal((box[:, 0, 0] + box[:, 0, 2]) / 2, middles[0])
                np.testing.assert_array_equal((box[0, :, 1] + box[0, :, 3]) / 2, middles[1])


def test_scores_that_are_cells_laid_side_by_side_are_a_layer():
    network = nn.Sequential(
        nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Conv2d(5, 4, 3, stride=2), nn.Flatten()
    )
    layers = layers_of(trace(network, (3, 7, 7)))
    assert (layers[-1].name, layers[-1].units, layers[-1].output) == ("3", 16, True)
    assert sum(layer.output for layer in layers) == 1
