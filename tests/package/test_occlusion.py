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

from convatlas.errors import LayerError, MethodError, ModelError
from convatlas.exhibits import pick_exhibits
from convatlas.models.load import load_model
from convatlas.occlusion import Sweeper, blurred, sweep
from convatlas.occlusion.positions import Positions
from convatlas.occlusion.sweeps import sweep_occlusion
from convatlas.store import Images, Occlusion, Recipe, read


@pytest.fixture(autouse=True)
def _same_images() -> None:
    """Draw the same images whatever ran before: on one in sixty an occluder changes too little."""
    torch.manual_seed(0)


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


def occluded(image: Tensor, other: Tensor, box: tuple[int, int, int, int]) -> Tensor:
    """Return an image (C,H,W) with a part of another one in it."""
    result = image.clone()
    top, left, bottom, right = box
    result[:, top:bottom, left:right] = other[:, top:bottom, left:right]
    return result


def test_another_image_may_be_seen_through_the_window() -> None:
    model = network()
    image = torch.randn(3, 24, 30)
    other = blurred(image, 2.0)
    assert float((other - image).abs().mean()) > 0.3
    found = sweep(model, image, (8, 10), (8, 10), other)
    boxes = [(t, x, t + 8, x + 10) for t in (0, 8, 16) for x in (0, 10, 20)]
    batch = torch.stack([occluded(image, other, box) for box in boxes])
    with torch.no_grad():
        expected = model(batch).softmax(1).reshape(3, 3, -1)
    np.testing.assert_allclose(found.probability, expected, atol=1e-6)
    assert expected.std((0, 1)).max() > 1e-4


def test_blurring_is_a_gaussian() -> None:
    spot = torch.zeros(3, 65, 65)
    spot[:, 32, 32] = 1
    found = blurred(spot, 2.0)
    distance = torch.arange(-6, 7).double()
    bell = torch.exp(-(distance**2) / 8)
    bell /= bell.sum()
    np.testing.assert_allclose(found[0, 26:39, 26:39], torch.outer(bell, bell), atol=1e-6)
    assert float(found.sum()) == pytest.approx(3, rel=1e-5)
    np.testing.assert_allclose(blurred(torch.ones(3, 9, 12)), 1, rtol=1e-5)  # a side's 16th


def test_sizes_may_be_shares_of_the_sides() -> None:
    model, image = network(), torch.randn(3, 20, 40)
    found = sweep(model, image, 0.25, (0.1, 5))
    assert (found.size, found.stride) == ((5, 10), (2, 5))
    same = sweep(model, image, (5, 10), (2, 5))
    np.testing.assert_array_equal(found.probability, same.probability)
    for wrong in (0, -1, 2.5, 1.5, float("nan"), (3,), (0.0, 3)):
        with pytest.raises(MethodError, match="the occluder's size is"):
            sweep(model, image, wrong)


def test_several_sizes_and_images_share_what_is_made_ready() -> None:
    model = network()
    sweeper = Sweeper(model, (3, 24, 30), layer="block")
    calls: list[Tensor] = []
    look = sweeper._engine.look
    sweeper._engine.look = lambda image: calls.append(image) or look(image)  # type: ignore[method-assign]
    for image in torch.randn(2, 3, 24, 30):
        found = sweeper.sweeps(image, [6, (9, 5), 40], 6, fill=0.5)
        for swept, size in zip(found, [6, (9, 5), 40], strict=True):
            alone = sweep(model, image, size, 6, fill=0.5, layer="block")
            np.testing.assert_array_equal(swept.probability, alone.probability)
            np.testing.assert_array_equal(swept.map_sum, alone.map_sum)
            assert swept.unit == alone.unit
    assert len(calls) == 2  # the clean pass: once an image


def test_what_is_said_of_a_sweep() -> None:
    model, image = network(), torch.randn(3, 20, 26)
    found = sweep(model, image, 8, 6)
    np.testing.assert_array_equal(found.predicted, found.probability.argmax(2))
    np.testing.assert_array_equal(found.drop, found.clean_probability - found.probability)
    assert found.predicted.shape == (len(found.row), len(found.column))


def test_wrong_arguments_are_named() -> None:
    model, image = network(), torch.randn(3, 20, 20)
    with pytest.raises(MethodError, match="one image"):
        sweep(model, image[None])
    with pytest.raises(MethodError, match="fill has the shape"):
        sweep(model, image, fill=[1, 2])
    with pytest.raises(MethodError, match="fill is 'red'"):
        sweep(model, image, fill="red")
    with pytest.raises(MethodError, match="no engine 'fast'"):
        sweep(model, image, engine="fast")
    with pytest.raises(MethodError, match="batch size is 0"):
        sweep(model, image, batch_size=0)
    with pytest.raises(MethodError, match="this sweeper takes"):
        Sweeper(model, (3, 24, 24)).sweep(image)
    broken = network()
    with torch.no_grad():
        broken.fc.bias[0] = torch.nan
    with pytest.raises(ModelError, match="aren't finite"):
        sweep(broken, image)


@pytest.mark.parametrize("fill", ["mean", "training_mean", "zero", "grey", "blur", [10, 20, 250]])
def test_sweeps_of_exhibits(fill: str | list[int], make_study: Callable[..., Study]) -> None:
    study = make_study("branching", count=3)
    exhibits = [study.folder / f"{i}.h5" for i in range(2)]
    outputs = [study.folder / f"occlusion-{i}.h5" for i in range(2)]
    recipes = [Recipe()] * 2
    pick_exhibits(images=study.images, outputs=exhibits, recipes=recipes, indices=[1, 2], seed=0)
    sweep_occlusion(
        exhibits=exhibits,
        images=study.images,
        card=study.card,
        weights=study.weights,
        outputs=outputs,
        recipes=recipes,
        size=[12, 9],
        stride=8,
        fill=fill,
        layer="block",
    )
    with Images(study.images) as images:
        named = {
            "mean": images.mean,
            "training_mean": np.full(3, 127.5),
            "zero": np.zeros(3),
            "grey": np.full(3, 128),
            "blur": np.full(3, np.nan),
        }
    np.testing.assert_allclose(named["mean"], study.pixels.mean((0, 1, 2)))
    colour = np.asarray(named[fill] if isinstance(fill, str) else fill)
    model = load_model(study.card, study.weights)
    for i, output in enumerate(outputs):
        found = read(Occlusion, output)
        np.testing.assert_allclose(found.fill, colour)
        image = model.prepare(study.pixels[i + 1 : i + 2])[0]
        inside = torch.as_tensor((colour / 255 - 0.5) / 0.25, dtype=torch.float32)
        if fill == "blur":
            assert found.probability.std((0, 1)).max() > 0
        else:
            expected = naive(model.module, image, (12, 9), (8, 8), inside)
            np.testing.assert_allclose(found.probability, expected, atol=1e-6)
        assert found.row.tolist() == [0, 8, 16]
        assert found.column.tolist() == [0, 8, 16, 24]
        assert (tuple(found.size), tuple(found.stride), found.label) == ((12, 9), (8, 8), i + 1)
