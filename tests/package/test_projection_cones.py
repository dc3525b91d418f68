"""Projections through cones equal those through whole images, on any network."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from networks import Branching, ConvPool, Inplace, Only, SecondConsumer, seeded
from torch import Tensor, nn
from torch.nn import functional
from torchvisions import NAMES, SIZES, built

from convatlas.errors import LayerError, MethodError
from convatlas.graph.backward import RULES, why_not
from convatlas.graph.describe import layers_of
from convatlas.graph.geometry import fields
from convatlas.graph.tracing import Graph, trace
from convatlas.projection import project
from convatlas.projection.cones import cone, why_no_cone
from convatlas.projection.engine import Projector


def shuffled(x: Tensor, first: nn.Module, second: nn.Module) -> Tensor:
    x = first(x).relu()
    n, c, h, w = x.shape
    x = x.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, c, h, w)
    left, right = x.chunk(2, dim=1)
    return second(torch.cat([left, functional.max_pool2d(right, 3, 1, 1)], 1)).relu()


def stack(*parts: nn.Module) -> nn.Module:
    return nn.Sequential(*parts, nn.ReLU(), nn.Conv2d(6, 6, 3), nn.Flatten(), nn.LazyLinear(4))


CASES = {
    "plain": ConvPool(),
    "ceil": ConvPool(ceil_mode=True),
    "in place": Inplace(),
    "branches": Branching(),
    "second consumer": SecondConsumer(),
    "shuffle": Only(shuffled, nn.Conv2d(3, 6, 3, 2, 1), nn.Conv2d(6, 6, 3)),
    "dilated": stack(nn.Conv2d(3, 6, 3, dilation=2, padding=2), nn.MaxPool2d(3, 2, 1, dilation=2)),
    "even": stack(nn.Conv2d(3, 6, 4, padding="same"), nn.ReLU(), nn.MaxPool2d(2, 3)),
    "oblong": stack(nn.Conv2d(3, 6, (1, 5), (2, 1), (0, 2)), nn.MaxPool2d((3, 1), (1, 2), (1, 0))),
    "grouped": stack(nn.Conv2d(3, 6, 3, groups=3), nn.Conv2d(6, 6, 3, 2, groups=6)),
    "average": stack(
        nn.Conv2d(3, 6, 3, 2),
        nn.AvgPool2d(3, 2, 1, ceil_mode=True),
        nn.AvgPool2d(2, 2, 1, count_include_pad=False),
        nn.AvgPool2d(2, 1, divisor_override=3),
    ),
    "padded": stack(nn.ZeroPad2d((1, 0, 2, 3)), nn.Conv2d(3, 6, 3, 2), nn.ConstantPad2d(1, 0.5)),
    "stems": stack(nn.Conv2d(3, 4, 3, (1, 3), 1), nn.ReLU(), nn.Conv2d(4, 6, (4, 2), 2, (2, 0))),
    "skipping": stack(nn.Conv2d(3, 6, 1, 3), nn.LocalResponseNorm(3, alpha=0.1), nn.LeakyReLU(0.1)),
    "scaled": Only(lambda x, conv: conv(x * 2).sub(x[:, :1] / 3).relu(), nn.Conv2d(3, 6, 3, 1, 1)),
}  # fmt: skip


def every_place(graph: Graph, layer: str, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Return units, and the corners and some other places of a layer's maps."""
    shape = next(one.shape for one in layers_of(graph) if one.name == layer)
    sides = np.array(shape[1:] or (1, 1))
    corners = [(0, 0), (0, -1), (-1, 0), (-1, -1)]
    places = np.concatenate([np.array(corners) % sides, rng.integers(0, sides, (8, 2))])
    return rng.integers(0, shape[0], len(places)), places


def compare(graph: Graph, layer: str, rule: str, images: Tensor, close: float = 1e-5) -> int:
    """Project by both ways; return how many of the activations ran through cones."""
    units, places = every_place(graph, layer, np.random.default_rng(0))
    images = images[np.arange(len(units)) % len(images)]
    boxes, found = project(graph, images, layer, units, places, rule)
    same, expected = project(graph, images, layer, units, places, rule, whole=True)
    np.testing.assert_array_equal(boxes, same)
    scale = np.abs(expected).max(axis=(1, 2, 3), keepdims=True)
    assert (np.abs(found - expected) <= close * scale).all(), (layer, rule)
    projector = Projector(graph, layer, rule)
    return sum(projector._both(y, x) is not None for y, x in places.tolist())


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("case", CASES)
def test_cones_equal_whole_images(case: str, rule: str) -> None:
    model = CASES[case]
    images = torch.randn(3, 3, 33, 38)
    model.eval()(images)  # for lazy layers
    graph = trace(seeded(model), (3, 33, 38))
    through_cones = 0
    for layer in layers_of(graph):
        if why_not(graph, graph.node(layer.name), rule) is None:
            through_cones += compare(graph, layer.name, rule, images)
    assert through_cones > 12


CONVOLUTIONAL = [name for name in NAMES if not name.startswith(("vit", "swin", "maxvit"))]


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_cones_equal_whole_images_on_torchvisions_networks(name: str) -> None:
    """In double precision, so that no rounding flips a max-pool's switch."""
    model = built(name)
    if model is None:
        pytest.skip("too large")
    size = (3, *SIZES.get(name, (72, 88)))
    graph = trace(model.double(), size)
    images = torch.randn(3, *size, dtype=torch.double)
    layers = [layer for layer in layers_of(graph) if layer.is_map]
    tried = 0
    for number, layer in enumerate(layers[2 :: max(len(layers) // 3, 1)]):
        defined = [rule for rule in RULES if not why_not(graph, graph.node(layer.name), rule)]
        rule = defined[number % len(defined)]  # each of them once
        tried += compare(graph, layer.name, rule, images, close=1e-6) > 0
    assert tried


def test_a_cone_holds_what_its_cell_sees() -> None:
    """By the fields, which are found forward and cell by cell."""
    for model in (Branching(), ConvPool(ceil_mode=True), Inplace()):
        graph = trace(seeded(model), (3, 33, 38))
        image = graph.nodes[0]
        for node, field in fields(graph).items():
            if field.places is None or why_no_cone(graph, node):
                continue
            for axis, seen in enumerate((field.y, field.x)):
                for cell in range(len(seen)):
                    found = cone(graph, node, axis, cell)
                    assert found is not None
                    ends = (found.low[image], found.high[image] - 1)
                    assert ends == (seen.near[cell], seen.far[cell])


def test_most_of_a_small_field_is_not_run() -> None:
    """Ranks of work: a cone's is what its cells cost, a whole image's what all cost."""
    graph = trace(seeded(ConvPool()), (3, 224, 224))
    projector = Projector(graph, "3")
    both = projector._both(20, 20)
    assert both is not None
    field = projector.layer.size
    assert [one.length(graph.nodes[0]) for one in both] == list(field)
    assert projector._work(both) < 0.02 * projector._work(None)
    corner = projector._both(0, 0)
    assert corner is not None
    assert projector._work(corner) < 0.6 * projector._work(both)  # cut at the border


@pytest.mark.parametrize(
    ("part", "reason"),
    [
        (nn.ConvTranspose2d(3, 6, 3, 2), "only whole maps are made for it"),
        (nn.Upsample(scale_factor=2.0), "only whole maps are made for it"),
        (nn.Conv2d(3, 6, 3, padding=1, padding_mode="reflect"), "the map's own values"),
        (nn.AdaptiveMaxPool2d(7), "what it looks at isn't known"),
        (nn.GroupNorm(1, 3), "what it looks at isn't known"),
    ],
)
def test_what_has_no_cone_is_run_whole_and_the_log_says_why(
    part: nn.Module, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="convatlas")
    model = nn.Sequential(part, nn.ReLU(), nn.Flatten(), nn.LazyLinear(3)).eval()
    model(torch.zeros(1, 3, 16, 16))
    graph = trace(model, (3, 16, 16))
    assert compare(graph, "1", "gradient", torch.randn(2, 3, 16, 16)) == 0
    assert any("whole images (0: " in text and reason in text for text in caplog.messages)


def test_what_is_made_to_the_images_measure_has_no_cone() -> None:
    def function(x: Tensor, conv: nn.Module) -> Tensor:
        return conv(x) * torch.full((x.shape[0], 1, 1, 1), 2.0)

    graph = trace(seeded(Only(function, nn.Conv2d(3, 6, 3))), (3, 16, 16))
    assert compare(graph, "mul", "gradient", torch.randn(3, 3, 16, 16)) == 0
    assert compare(graph, "parts.0", "gradient", torch.randn(3, 3, 16, 16)) > 0


def test_a_place_that_sees_padding_alone_is_run_whole() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1, padding=2), nn.Flatten(), nn.LazyLinear(3)).eval()
    model(torch.zeros(1, 3, 8, 8))
    graph = trace(model, (3, 8, 8))
    images = torch.randn(1, 3, 8, 8)
    _, signal = project(graph, images, "0", [1], [(0, 0)])
    assert not signal.any()
    assert Projector(graph, "0")._both(0, 0) is None
    assert Projector(graph, "0")._both(2, 2) is not None


def test_what_isnt_there_is_named() -> None:
    graph = trace(seeded(ConvPool()), (3, 33, 38))
    images = torch.randn(2, 3, 33, 38)
    for units, places, words in (
        ([0, 10], [(0, 0)] * 2, "no unit 10; there are 0 to 9"),
        ([0, 0], [(0, 0), (8, 0)], "no row 8; there are 0 to 7"),
        ([0, 0], [(0, 0), (0, -1)], "no column -1; there are 0 to 8"),
        ([0], [(0, 0)], "2 images, 1 units and 1 locations"),
    ):
        with pytest.raises(LayerError, match=words):
            project(graph, images, "3", units, places)
    with pytest.raises(LayerError, match="there is no layer '33'"):
        project(graph, images, "33", [0, 0], [(0, 0)] * 2)
    with pytest.raises(MethodError, match="deconvnet, guided, gradient"):
        project(graph, images, "3", [0, 0], [(0, 0)] * 2, "lrp")


def test_no_images_no_projections() -> None:
    graph = trace(seeded(ConvPool()), (3, 33, 38))
    boxes, signal = project(graph, torch.empty(0, 3, 33, 38), "3", [], [])
    assert boxes.shape == (0, 4)
    assert signal.shape[:2] == (0, 3)


# ---------------------------------------------------------------------- the padding


def test_maps_that_go_on_beyond_their_borders() -> None:
    """By hand: sums over 3x3 of an image of ones, twice."""
    first, second = (nn.Conv2d(n, 1, 3, padding=1, bias=False) for n in (3, 1))
    with torch.no_grad():
        first.weight.fill_(1 / 3)
        second.weight.fill_(1)
    model = nn.Sequential(first, second, nn.Flatten(), nn.Linear(36, 2))
    graph = trace(model, (3, 6, 6))
    projector = Projector(graph, "1")
    image = torch.ones(3, 3, 6, 6)
    places = np.array([(0, 0), (0, 3), (3, 3)])
    whole = model[:2](image)[0, 0].detach()
    assert [float(whole[y, x]) for y, x in places] == [4 + 6 + 6 + 9, 6 * 3 + 9 * 3, 81]
    np.testing.assert_allclose(projector.continued(image, np.zeros(3, int), places), [81] * 3)


def test_an_average_pool_goes_on_too() -> None:
    model = nn.Sequential(nn.AvgPool2d(3, 1, 1), nn.Conv2d(3, 2, 1), nn.Flatten(), nn.Linear(50, 2))
    graph = trace(model, (3, 5, 5))
    found = Projector(graph, "0").continued(
        torch.ones(1, 3, 5, 5), np.array([0]), np.array([(0, 0)])
    )
    assert float(model[0](torch.ones(1, 3, 5, 5))[0, 0, 0, 0]) == pytest.approx(4 / 9)
    assert found.tolist() == [1]


def test_what_has_no_cone_has_no_such_value() -> None:
    graph = trace(seeded(ConvPool()), (3, 33, 38))
    found = Projector(graph, "10").continued(
        torch.ones(1, 3, 33, 38), np.array([0]), np.array([(0, 0)])
    )
    assert np.isnan(found).all()
