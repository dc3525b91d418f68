"""Projections against captum, an independent reference, and themselves."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from captum.attr import NeuronDeconvolution, NeuronGuidedBackprop
from networks import Branching, ConvPool, Inplace, SecondConsumer, seeded
from references import Rectifier
from studies import Study
from torch import Tensor, nn
from torch.nn import functional

from convatlas.errors import LayerError, MethodError
from convatlas.graph.tracing import trace
from convatlas.models.load import load_model
from convatlas.patches import rank_patches
from convatlas.projection import project
from convatlas.projection.patches import crop, project_patches
from convatlas.store import Patches, Projections, Recipe, read

SIZE = (33, 38)


def branching_reference(model: nn.Module, x: Tensor, rule: str) -> Tensor:
    """The forward pass of `Branching` up to its last ReLU, written anew."""

    def relu(value: Tensor) -> Tensor:
        return Rectifier.apply(value, rule, float("inf"))

    x = functional.max_pool2d(relu(model.bn(model.stem(x))), 3, 2, ceil_mode=True)
    x = torch.cat([relu(model.left(x)), relu(model.right(x))], 1)
    return relu(model.block(x) + x)


def consumer_reference(model: nn.Module, x: Tensor, rule: str) -> Tensor:
    x = model.conv1(x)
    x = model.conv2(Rectifier.apply(x, rule, float("inf"))) + x
    return Rectifier.apply(x, rule, 6.0)


def whole(model: nn.Module, images: Tensor, layer: str, unit: int, place: tuple, rule: str):
    """Return our projections put back into images."""
    count = len(images)
    boxes, signal = project(model, images, layer, [unit] * count, [place] * count, rule)
    result = np.zeros(images.shape, np.float32)
    for out, part, (top, left, bottom, right) in zip(result, signal, boxes, strict=True):
        y, x = max(top, 0), max(left, 0)
        part = part[:, y - top :, x - left :][:, : out.shape[1] - y, : out.shape[2] - x]
        out[:, y:bottom, x:right] = part[:, : bottom - y, : right - x]
    return result


@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize(
    ("layer", "unit", "place"), [("6", 3, (1, 2)), ("7", 5, (0, 0)), ("10", 2, None)]
)
def test_captum_agrees_on_plain_stacks(ceil_mode: bool, layer: str, unit: int, place) -> None:
    model = seeded(ConvPool(ceil_mode))
    images = torch.randn(3, 3, *SIZE)
    neuron = (unit, *place) if place else (unit,)
    module = model[int(layer)]
    for rule, method in (("deconvnet", NeuronDeconvolution), ("guided", NeuronGuidedBackprop)):
        theirs = method(model, module).attribute(images, neuron).detach().numpy()
        ours = whole(model, images, layer, unit, place or (0, 0), rule)
        assert np.abs(theirs).max() > 0
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize("rule", ["deconvnet", "guided"])
@pytest.mark.parametrize(
    ("network", "reference", "layer"),
    [(Branching, branching_reference, "relu_3"), (SecondConsumer, consumer_reference, "relu6")],
)
def test_an_independent_reference_agrees(
    network: type, reference: Callable[..., Tensor], layer: str, rule: str
) -> None:
    model = seeded(network())
    images = torch.randn(2, 3, *SIZE)
    leaf = images.clone().requires_grad_()
    value = reference(model, leaf, rule)
    unit = int(value[:, :, 3, 4].amin(0).argmax())
    (expected,) = torch.autograd.grad(value[:, unit, 3, 4].sum(), leaf)
    assert expected.abs().max() > 0
    ours = whole(model, images, layer, unit, (3, 4), rule)
    np.testing.assert_allclose(ours, expected.numpy(), atol=1e-6)


def test_the_plain_gradient_is_autograds() -> None:
    model = seeded(Inplace())
    images = torch.randn(2, 3, *SIZE)
    leaf = images.clone().requires_grad_()
    x = model.conv3(model.pool(model.conv2(model.conv1(leaf).relu()).relu()))
    (expected,) = torch.autograd.grad(x[:, 1, 2, 2].sum(), leaf)
    np.testing.assert_allclose(
        whole(model, images, "conv3", 1, (2, 2), "gradient"), expected, atol=1e-6
    )


def test_batches_dont_matter_and_rows_are_apart() -> None:
    model = seeded(Branching())
    images = torch.randn(5, 3, *SIZE)
    units, places = [0, 1, 2, 3, 4], [(0, 0), (1, 2), (3, 3), (2, 1), (7, 8)]
    boxes, at_once = project(model, images, "add", units, places)
    _, in_turn = project(model, images, "add", units, places, batch_size=2)
    np.testing.assert_allclose(at_once, in_turn, atol=1e-6)
    for i in range(5):
        _, alone = project(model, images[i : i + 1], "add", units[i : i + 1], places[i : i + 1])
        np.testing.assert_allclose(alone[0], at_once[i], atol=1e-6)
    assert (boxes[:, 2:] - boxes[:, :2] == boxes[0, 2:] - boxes[0, :2]).all()


def test_crop_at_borders() -> None:
    signal = np.arange(1, 21, dtype=np.float32).reshape(1, 1, 4, 5).repeat(3, 0)
    boxes = np.array([[-1, -2, 1, 1], [3, 4, 5, 7], [9, 9, 11, 12]])
    found = crop(signal, boxes)
    assert found[0, 0].tolist() == [[0, 0, 0], [0, 0, 1]]
    assert found[1, 0].tolist() == [[20, 0, 0], [0, 0, 0]]
    assert not found[2].any()


def test_the_network_is_clean_after_a_failure() -> None:
    model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.SiLU(), nn.Flatten(), nn.LazyLinear(2))
    model(torch.zeros(1, 3, 8, 8))
    model[0].eval()
    model[3].weight.requires_grad_(False)
    before = [(m.training, len(m._forward_hooks), len(m._backward_hooks)) for m in model.modules()]
    needs = [p.requires_grad for p in model.parameters()]
    images = torch.randn(1, 3, 8, 8)
    for layer, error in (("3", MethodError), ("2.0", LayerError)):
        with pytest.raises(error):
            project(model, images, layer, [0], [(0, 0)])
    after = [(m.training, len(m._forward_hooks), len(m._backward_hooks)) for m in model.modules()]
    assert after == before
    assert [p.requires_grad for p in model.parameters()] == needs
    assert all(p.grad is None for p in model.parameters())
    assert not images.requires_grad
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()


def projected(
    study: Study, layer: str, per_unit: int, units: list[int]
) -> tuple[Patches, Projections]:
    """Rank the patches of a study's layer and project those of some units."""
    from test_activations import store_activations

    patches, output = study.folder / "patches.h5", study.folder / "projections.h5"
    rank_patches(
        activations=store_activations(study),
        layers=study.layers,
        images=study.images,
        output=patches,
        recipe=Recipe(),
        layer=layer,
        per_unit=per_unit,
    )
    paths = {name: study.inputs[name] for name in ("images", "card", "weights")}
    project_patches(
        patches=patches, **paths, output=output, recipe=Recipe(), units=units, batch_size=3
    )
    return read(Patches, patches), read(Projections, output)


def test_patches_are_seeded_with_their_activations(make_study: Callable[..., Study]) -> None:
    study = make_study("inplace", count=6)
    ranked, found = projected(study, "conv3", per_unit=8, units=[4, 1])  # fewer images than 8
    assert found.unit.tolist() == [4, 1]
    assert not found.projection[:, 6:].any()
    np.testing.assert_array_equal(found.box, ranked.box[[4, 1]])
    model = load_model(study.card, study.weights)
    graph = trace(model.module, (3, *study.pixels.shape[1:3]))
    for i, unit in enumerate(found.unit):
        images = model.prepare(study.pixels[ranked.image[unit, :6]])
        _, signal = project(graph, images, "conv3", [unit] * 6, ranked.location[unit, :6])
        expected = signal * ranked.value[unit, :6, None, None, None]
        np.testing.assert_allclose(found.projection[i, :6], expected, atol=1e-6)


def test_patches_that_win_by_the_padding_alone_are_told(make_study: Callable[..., Study]) -> None:
    """A unit planted to answer where the maps end, and one that doesn't care."""
    ranked, found = projected(make_study("bordered", count=9), "1", per_unit=4, units=[0, 1])
    assert ranked.value[0].tolist() == [5] * 4  # in a corner
    assert found.continued[0].tolist() == [0] * 4
    assert (ranked.outside[0] > 0).all()
    assert found.border[0].all()
    # Unit 1 is the pixel itself, wherever it lies.
    assert not found.border[1].any()
    np.testing.assert_allclose(found.continued[1], found.value[1], rtol=1e-6)
    assert (ranked.runner_up <= ranked.value[:, -1]).all()
