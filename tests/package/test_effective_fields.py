"""Effective receptive fields: gradients known by construction, and that they agree with theory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from networks import Branching, Inplace, seeded
from studies import Study
from torch import Tensor, nn
from torch.nn import functional

from convatlas.effective_fields import effective_size, gradient_mass, measure_fields
from convatlas.errors import LayerError
from convatlas.graph.describe import layers_of
from convatlas.graph.tracing import trace
from convatlas.layers import Layer, find_layer, read_layers
from convatlas.models.load import load_model
from convatlas.store import EffectiveFields, Recipe, read

SEEDS = [(0, i) for i in range(4)]


def box_filter(inputs: int, units: int, **options: int) -> nn.Conv2d:
    """Return a convolution of 3x3 equal weights without a bias."""
    conv = nn.Conv2d(inputs, units, 3, bias=False, **options)
    with torch.no_grad():
        conv.weight.fill_(0.25)
    return conv


def measured(
    *parts: nn.Module, size: tuple[int, int] = (15, 17), layer: int = -1
) -> tuple[np.ndarray, Layer]:
    """Return the mass of the last of some parts, scaled to one, and its layer."""
    network = nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    graph = trace(network.eval().requires_grad_(False), (3, *size))
    name = str(len(parts) + layer)
    found = find_layer(layers_of(graph), name)
    mass = gradient_mass(graph, {graph.node(name): found.centre}, torch.rand(4, 3, *size), SEEDS)[0]
    return mass / max(mass.sum(), 1e-300), found


def sized(mass: np.ndarray, layer: Layer, share: float = 0.95) -> tuple[int, int]:
    return effective_size(mass, layer.boxes(np.array(layer.centre)), share)


def test_a_box_filter_uses_all_of_its_field_alike() -> None:
    mass, layer = measured(box_filter(3, 4, padding=1))
    assert layer.centre == (7, 8)
    expected = np.zeros((15, 17))
    expected[6:9, 7:10] = 1 / 9
    np.testing.assert_allclose(mass, expected, atol=1e-7)
    assert sized(mass, layer) == (3, 3)
    assert sized(mass, layer, 1 / 3) == (1, 1)
    assert sized(mass, layer, 1 / 3 + 1e-6) == (3, 3)


def test_a_single_weight_uses_a_pixel() -> None:
    conv = nn.Conv2d(3, 4, 5, padding=2, bias=False)
    with torch.no_grad():
        conv.weight.zero_()
        conv.weight[:, :, 2, 2] = 1
    mass, layer = measured(conv)
    assert layer.size == (5, 5)
    assert mass[7, 8] == pytest.approx(1)
    assert sized(mass, layer) == (1, 1)


def test_two_box_filters_make_a_triangle() -> None:
    mass, layer = measured(box_filter(3, 4, padding=1), box_filter(4, 2, padding=1))
    triangle = np.array([1, 2, 3, 2, 1]) / 9
    np.testing.assert_allclose(mass.sum(1)[5:10], triangle, atol=1e-7)
    np.testing.assert_allclose(mass[5:10, 6:11], np.outer(triangle, triangle), atol=1e-7)
    assert layer.size == (5, 5)
    # The three in the middle hold 7 of 9, the one 3 of 9.
    assert [sized(mass, layer, share)[0] for share in (0.3, 0.75, 0.78, 1.0)] == [1, 3, 5, 5]


def test_dilation_leaves_holes_and_the_box_spans_them() -> None:
    mass, layer = measured(box_filter(3, 4, dilation=3))
    assert layer.size == (7, 7)
    y, x = (
        start + stride * i
        for start, stride, i in zip(layer.start, layer.stride, layer.centre, strict=True)
    )
    assert sorted(np.flatnonzero(mass.sum(1))) == [y, y + 3, y + 6]
    assert mass[y, x] == pytest.approx(1 / 9)
    assert sized(mass, layer) == (7, 7)
    assert sized(mass, layer, 0.3) == (1, 1)


def test_an_even_field_has_an_even_size() -> None:
    """A pool of 2 after a box filter: rows 1 2 2 1 of 6."""
    pool = nn.AvgPool2d(2)
    mass, layer = measured(box_filter(3, 2, padding=1), pool, size=(16, 12))
    assert layer.size == (4, 4)
    np.testing.assert_allclose(mass.sum(1)[7:11], np.array([1, 2, 2, 1]) / 6, atol=1e-7)
    assert [sized(mass, layer, share)[1] for share in (0.01, 0.66, 0.67)] == [2, 2, 4]


def test_strides_and_padding_keep_the_centre() -> None:
    mass, layer = measured(box_filter(3, 4, padding=1, stride=2), box_filter(4, 4, stride=2))
    assert layer.size == (7, 7)
    top, left, bottom, right = layer.boxes(np.array(layer.centre))
    inside = mass[max(top, 0) : bottom, max(left, 0) : right]
    assert inside.sum() == pytest.approx(1)
    np.testing.assert_allclose(inside.sum(1), np.array([1, 1, 2, 1, 2, 1, 1]) / 9, atol=1e-6)
    assert sized(mass, layer) == (7, 7)
    assert sized(mass, layer, 0.55) == (3, 3)  # 5 of 9 in the middle three
    assert sized(mass, layer, 0.56) == (5, 5)


def test_a_field_that_reaches_outside_of_the_image() -> None:
    mass = np.zeros((4, 6))
    mass[0, 2] = 1
    assert effective_size(mass, np.array([-3, 0, 4, 5]), 0.95) == (1, 1)  # middles 0.5, 2.5
    assert effective_size(mass, np.array([-10, 0, 9, 4]), 0.95) == (3, 2)  # middles -0.5, 2
    assert effective_size(np.zeros((4, 6)), np.array([0, 0, 4, 4]), 0.95) == (0, 0)


def test_the_mean_over_draws_is_the_root_of_the_summed_squares() -> None:
    """By the single units' gradients, from autograd alone."""
    torch.manual_seed(0)
    conv = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Tanh())
    network = nn.Sequential(*conv, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    image = torch.rand(1, 3, 5, 5)
    leaf = image.clone().requires_grad_()
    answer = conv(leaf)[0, :, 1, 1]
    single = torch.stack([torch.autograd.grad(a, leaf, retain_graph=True)[0][0] for a in answer])
    expected = single.square().sum(0).sqrt().sum(0) * np.sqrt(2 / np.pi)
    graph = trace(network, (3, 5, 5))
    draws = [(7, i) for i in range(4000)]
    found = gradient_mass(graph, {graph.node("1"): (1, 1)}, image.expand(4000, -1, -1, -1), draws)
    np.testing.assert_allclose(found[0] / 4000, expected.detach(), rtol=0.05, atol=1e-9)


class Inception(nn.Module):
    """Branches of different reach, joined side by side, and a gate that sees everything."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.one = nn.Conv2d(8, 4, 1)
        self.three = nn.Conv2d(8, 4, 3, padding=1)
        self.long = nn.Conv2d(8, 4, (1, 7), padding=(0, 3))
        self.gate = nn.Conv2d(16, 16, 1)
        self.fc = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu_(self.stem(x))
        pooled = functional.max_pool2d(x, 3, 1, 1)[:, :4]
        x = torch.cat([self.one(x), self.three(x), self.long(x), pooled], 1)
        x = x * torch.sigmoid(self.gate(x.mean((2, 3), keepdim=True)))
        return self.fc(x.mean((2, 3)))


@pytest.mark.parametrize("network", [Inplace, Branching, Inception])
def test_no_gradient_arrives_outside_of_the_field(network: type[nn.Module]) -> None:
    graph = trace(seeded(network()).requires_grad_(False), (3, 37, 41))
    layers = layers_of(graph)
    cells = {graph.node(layer.name): layer.centre for layer in layers}
    found = gradient_mass(graph, cells, torch.randn(4, 3, 37, 41), SEEDS)
    smaller = 0
    for layer, mass in zip(layers, found, strict=True):
        top, left, bottom, right = layer.boxes(np.array(layer.centre)).clip(0)
        assert mass.sum() > 0
        mass[top:bottom, left:right] = 0
        assert mass.sum() == 0, layer.name
        smaller += bool(bottom - top < 37)
    assert smaller > 3


def measure(study: Study, output: Path, **changed: object) -> EffectiveFields:
    layers = [layer.name for layer in read_layers(study.layers)]
    job = {"wanted": layers, "number": 6, "share": 0.9, "seed": 3, "batch_size": 4}
    measure_fields(**study.inputs, output=output, recipe=Recipe(), **(job | changed))
    return read(EffectiveFields, output)


def test_the_artifact(make_study: Callable[..., Study]) -> None:
    study = make_study("branching")
    described = read_layers(study.layers)
    output = study.folder / "f.h5"
    found = measure(study, output)
    assert list(found.name) == [layer.name for layer in described]
    assert (found.share, found.images) == (0.9, 6)
    np.testing.assert_allclose(found.mass.sum((1, 2)), 1, rtol=1e-5)
    np.testing.assert_array_equal(found.outside, 0)
    for i, layer in enumerate(described):
        assert found.theory[i].tolist() == layer.boxes(np.array(layer.centre)).tolist()
        middle = found.theory[i, :2] + found.theory[i, 2:]
        np.testing.assert_array_equal(found.box[i, :2] + found.box[i, 2:], middle)
        np.testing.assert_array_equal(found.box[i, 2:] - found.box[i, :2], found.size[i])
        top, left, bottom, right = found.box[i].clip(0)
        assert found.mass[i, top:bottom].sum() > 0.9 - 1e-5
        assert found.mass[i, :, left:right].sum() > 0.9 - 1e-5
    measure(study, study.folder / "again.h5")
    assert (study.folder / "again.h5").read_bytes() == output.read_bytes()


def test_fewer_images_are_the_first_of_more(make_study: Callable[..., Study]) -> None:
    """The mass of more is that of the first and of the others; batches don't matter."""
    study = make_study("inplace", count=9)
    output = study.folder / "f.h5"
    picked = np.random.default_rng(3).permutation(9)
    model = load_model(study.card, study.weights)
    graph = trace(model.module, (3, 26, 31))
    layer = find_layer(read_layers(study.layers), "conv3")
    for number, batch_size in ((2, 1), (5, 2), (5, 32), (99, 4)):
        found = measure(study, output, wanted=["conv3"], number=number, batch_size=batch_size)
        own = picked[:number]
        assert found.images == len(own)
        images, seeds = model.prepare(study.pixels[own]), [(3, i) for i in range(len(own))]
        mass = gradient_mass(graph, {graph.node("conv3"): layer.centre}, images, seeds)[0]
        np.testing.assert_allclose(found.total, mass.sum() / len(own), rtol=1e-5)
        np.testing.assert_allclose(found.mass[0], mass / mass.sum(), atol=1e-6)


def test_layers_without_a_gradient_are_told(
    make_study: Callable[..., Study], caplog: pytest.LogCaptureFixture
) -> None:
    study = make_study("inplace")
    state = torch.load(study.weights)
    state["conv2.weight"].zero_()
    torch.save(state, study.weights)
    with caplog.at_level("WARNING", logger="convatlas"):
        found = measure(study, study.folder / "f.h5", wanted=["conv1", "conv2", "fc"])
    assert found.size[0].tolist() == [3, 3]
    assert found.size[1:].tolist() == [[0, 0], [0, 0]]
    assert not found.mass[1:].any()
    assert found.total[0] > 0
    assert "conv2: no gradient arrives" in caplog.text
    assert "conv1" not in caplog.text


def test_what_cant_be_followed_back_isnt_measured_and_says_so(
    make_study: Callable[..., Study], caplog: pytest.LogCaptureFixture
) -> None:
    study = make_study("through_view")
    with caplog.at_level("WARNING", logger="convatlas"):
        found = measure(study, study.folder / "f.h5", wanted=["conv", "next"])
    assert "changes in place what next sees" in found.why_not
    assert found.why_not in caplog.text
    assert found.images == 0
    assert not found.mass.any()
    assert not found.size.any()
    reasons = [layer.deconvnet for layer in read_layers(study.layers)]
    assert reasons == [found.why_not] * len(reasons)  # so no layer's patches are projected


def test_a_layer_that_isnt_there(make_study: Callable[..., Study]) -> None:
    study = make_study("inplace")
    with pytest.raises(LayerError, match="there is no layer 'conv9'"):
        measure(study, study.folder / "f.h5", wanted=["conv9"])
