"""Occlusion sweeps against a loop, captum, and positions by hand."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from captum.attr import Occlusion as CaptumOcclusion
from networks import CLASSES, Branching, ConvPool, seeded
from studies import Study
from torch import Tensor, nn

from convatlas.errors import LayerError, MethodError
from convatlas.exhibits import pick_exhibit
from convatlas.models.load import load_model
from convatlas.occlusion import sweep
from convatlas.occlusion.positions import Positions
from convatlas.occlusion.sweeps import sweep_occlusion
from convatlas.store import Images, Occlusion, Recipe, read


def network() -> nn.Module:
    """A network whose answers differ much from class to class and place to place."""
    model = seeded(Branching(), seed=1)
    with torch.no_grad():
        model.fc.weight.mul_(6)
        generator = torch.Generator().manual_seed(2)
        model.fc.bias.sub_(model(torch.randn(1, 3, 24, 30, generator=generator))[0])
    return model


def naive(model: nn.Module, image: Tensor, size: tuple, stride: tuple, fill: Tensor) -> np.ndarray:
    """Return probabilities by the plainest loop."""
    height, width = image.shape[1:]
    tops, lefts = (
        [t for t in range(0, length, s) if t == 0 or t - s + w < length]
        for length, w, s in zip((height, width), size, stride, strict=True)
    )
    grid = np.zeros((len(tops), len(lefts), CLASSES), np.float32)
    for i, top in enumerate(tops):
        for j, left in enumerate(lefts):
            occluded = image.clone()
            for channel in range(3):
                occluded[channel, top : top + size[0], left : left + size[1]] = fill[channel]
            with torch.no_grad():
                grid[i, j] = model(occluded[None]).softmax(1)[0].numpy()
    return grid


@pytest.mark.parametrize(
    ("length", "window", "step", "expected"),
    [
        (10, 4, 3, [0, 3, 6]),
        (10, 4, 4, [0, 4, 8]),  # the last one is cut
        (11, 4, 3, [0, 3, 6, 9]),
        (10, 10, 3, [0]),
        (10, 16, 4, [0]),
        (9, 4, 5, [0, 5]),
        (10, 2, 5, [0, 5]),  # none reaches the border; the next would lie outside
        (3, 1, 1, [0, 1, 2]),
    ],
)
def test_positions_by_hand(length: int, window: int, step: int, expected: list[int]) -> None:
    found = Positions.covering((length, 7), (window, 7), (step, 7))
    assert found.row.tolist() == expected
    assert found.column.tolist() == [0]
    assert len(found) == len(expected)
    assert (found.boxes()[:, 2] <= length).all()


def test_windows_cover_the_image_row_by_row() -> None:
    positions = Positions.covering((7, 10), (3, 4), (2, 3))
    assert positions.boxes()[:4].tolist() == [
        [0, 0, 3, 4],
        [0, 3, 3, 7],
        [0, 6, 3, 10],
        [2, 0, 5, 4],
    ]
    covered = np.zeros((7, 10), int)
    for top, left, bottom, right in positions.boxes():
        covered[top:bottom, left:right] += 1
    assert covered.min() >= 1


@pytest.mark.parametrize(
    ("size", "stride"), [((5, 9), (4, 6)), ((40, 6), (3, 7)), ((8, 8), (8, 8))]
)
def test_a_loop_gives_the_same(size: tuple[int, int], stride: tuple[int, int]) -> None:
    model = network()
    image, fill = torch.randn(3, 25, 34), torch.tensor([0.5, -1.0, 2.0])
    found = sweep(model, image, size, stride, fill, batch_size=5)
    expected = naive(model, image, size, stride, fill)
    assert expected.std((0, 1)).max() > 0.01
    assert found.probability.shape == expected.shape
    np.testing.assert_allclose(found.probability, expected, atol=1e-6)
    with torch.no_grad():
        clean = model(image[None]).softmax(1)[0]
    np.testing.assert_allclose(found.clean_probability, clean, atol=1e-6)


def test_captum_gives_the_same_after_spreading() -> None:
    model = network()
    image, window, stride, target = torch.randn(3, 24, 31), 9, 5, 2
    probabilities = nn.Sequential(model, nn.Softmax(dim=1))
    theirs = CaptumOcclusion(probabilities).attribute(
        image[None], (3, window, window), (3, stride, stride), baselines=0.3, target=target
    )[0, 0]
    found = sweep(model, image, window, stride, 0.3)
    spread, count = np.zeros((24, 31)), np.zeros((24, 31))
    for i, top in enumerate(found.row):
        for j, left in enumerate(found.column):
            part = np.s_[top : top + window, left : left + window]
            spread[part] += found.clean_probability[target] - found.probability[i, j, target]
            count[part] += 1
    assert np.abs(theirs).max() > 0.01
    np.testing.assert_allclose(spread / count, theirs, atol=2e-6)


def test_networks_that_end_with_softmax_arent_softmaxed_twice() -> None:
    model, image = network(), torch.randn(3, 20, 20)
    expected = sweep(model, image, 8, 6).probability
    for head in (nn.Softmax(dim=1), nn.LogSoftmax(dim=1)):
        found = sweep(nn.Sequential(model, head), image, 8, 6)
        np.testing.assert_allclose(found.probability, expected, atol=1e-6)


def test_the_sum_is_that_of_the_hooked_map() -> None:
    model, image = seeded(ConvPool()), torch.randn(3, 30, 34)
    caught: list[Tensor] = []
    handle = model[3].register_forward_hook(lambda m, i, o: caught.append(o.detach().clone()))
    model(image[None])
    unit = int(caught[0][0].amax((1, 2)).argmax())
    place = divmod(int(caught[0][0, unit].argmax()), caught[0].shape[3])
    expected = []
    for top in range(0, 30, 7):
        for left in range(0, 34, 7):
            occluded = image.clone()
            occluded[:, top : top + 7, left : left + 7] = 0
            model(occluded[None])
            expected.append(float(caught[-1][0, unit].sum()))
    handle.remove()
    found = sweep(model, image, 7, 7, layer="3")
    assert (found.unit, found.location) == (unit, place)
    assert found.value == pytest.approx(float(caught[0][0, unit].max()), rel=1e-5)
    assert found.clean_map_sum == pytest.approx(float(caught[0][0, unit].sum()), rel=1e-4)
    np.testing.assert_allclose(found.map_sum.ravel(), expected, rtol=1e-4, atol=1e-4)


def test_in_place_operations_behind_a_view_dont_change_the_sum() -> None:
    torch.manual_seed(0)
    parts = [nn.Conv2d(3, 4, 3), nn.Dropout(), nn.ReLU(inplace=True), nn.Flatten()]
    model = nn.Sequential(*parts, nn.Linear(4 * 36, 3)).eval()
    image = torch.randn(3, 8, 8)
    found = sweep(model, image, 8, 8, layer="0")
    maps = model[0](torch.zeros(1, 3, 8, 8))[0, found.unit]
    assert float(found.map_sum[0, 0]) == pytest.approx(float(maps.sum()), rel=1e-5)


def test_the_network_keeps_its_mode_and_errors_are_clear() -> None:
    model, image = network().train(), torch.randn(3, 20, 20)
    sweep(model, image, 10, 10)
    assert model.training
    with pytest.raises(LayerError, match="Did you mean 'block'"):
        sweep(model, image, 10, 10, layer="blok")
    with pytest.raises(LayerError, match="no feature maps"):
        sweep(model, image, 10, 10, layer="fc")
    with pytest.raises(MethodError, match="stride is 0"):
        sweep(model, image, 10, 0)
    assert model.training
    assert not torch.is_inference_mode_enabled()


@pytest.mark.parametrize("fill", ["mean", "zero", "grey", [10, 20, 250]])
def test_a_sweep_of_an_exhibit(fill: str | list[int], make_study: Callable[..., Study]) -> None:
    study = make_study("branching", count=3)
    exhibit, output = study.folder / "exhibit.h5", study.folder / "occlusion.h5"
    pick_exhibit(images=study.images, output=exhibit, recipe=Recipe(), number=0, index=1, seed=0)
    sweep_occlusion(
        exhibit=exhibit,
        images=study.images,
        card=study.card,
        weights=study.weights,
        output=output,
        recipe=Recipe(),
        size=[12, 9],
        stride=8,
        fill=fill,
        layer="block",
        batch_size=4,
    )
    found = read(Occlusion, output)
    with Images(study.images) as images:
        named = {"mean": images.mean, "zero": np.zeros(3), "grey": np.full(3, 128)}
    colour = np.asarray(named[fill] if isinstance(fill, str) else fill)
    np.testing.assert_allclose(found.fill, colour)
    np.testing.assert_allclose(named["mean"], study.pixels.mean((0, 1, 2)))
    model = load_model(study.card, study.weights)
    image = model.prepare(study.pixels[1:2])[0]
    inside = torch.as_tensor((colour / 255 - 0.5) / 0.25, dtype=torch.float32)
    expected = naive(model.module, image, (12, 9), (8, 8), inside)
    np.testing.assert_allclose(found.probability, expected, atol=1e-6)
    assert found.row.tolist() == [0, 8, 16]
    assert found.column.tolist() == [0, 8, 16, 24]
    assert (tuple(found.size), tuple(found.stride), found.label) == ((12, 9), (8, 8), 1)
