"""Filters and their numbers, with answers known by construction."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from networks import Branching, seeded
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from convatlas import spectra
from convatlas.errors import LayerError
from convatlas.files import write_json
from convatlas.filters import cut_filters, dilated, order_by_similarity, rms, similarities
from convatlas.graph.describe import receptive_fields
from convatlas.layers import Layer, filter_layers, first_filters, has_spectrum, read_layers
from convatlas.spectra import NOISE, band_shares, noise_beyond, peaks, share_beyond
from convatlas.store import Filters, Recipe, read

RNG = np.random.default_rng(0)


def cut(folder: Path, model: nn.Module, layer: str, std: list[float] | None = None) -> Filters:
    torch.save(model.state_dict(), folder / "weights.pt")
    layers = receptive_fields(model.eval(), (3, 24, 24))
    write_json(folder / "layers.json", [x.as_json() for x in layers.values()])
    card = {"normalize": {"mean": [0.5] * 3, "std": std or [0.25] * 3}}
    write_json(folder / "model.json", card)
    cut_filters(
        weights=folder / "weights.pt",
        layers=folder / "layers.json",
        card=folder / "model.json",
        output=folder / "filters.h5",
        recipe=Recipe(),
        layer=layer,
    )
    return read(Filters, folder / "filters.h5")


def wave(cycles: float, side: int = 15, channels: int = 3, axis: int = 0) -> np.ndarray:
    """Return one filter (1,C,side,side) that is a wave of so many cycles a pixel."""
    along = np.cos(2 * np.pi * cycles * np.arange(side))
    one = np.broadcast_to(along[:, None] if axis == 0 else along, (side, side))
    return np.broadcast_to(one, (1, channels, side, side)).copy()


def power(weight: np.ndarray, size: int = 1024) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the power on a fine grid, normalised, and where each point lies (y, x)."""
    found = np.square(np.abs(np.fft.fft2(weight, (size, size)))).sum(1)
    f = np.fft.fftfreq(size)
    return found / found.sum((1, 2), keepdims=True), f[:, None], f[None]


# --------------------------------------------------------------------- frequencies


@pytest.mark.parametrize("shape", [(4, 3, 7, 7), (3, 1, 3, 5), (2, 3, 11, 11)])
def test_shares_are_those_of_a_fine_transform(shape: tuple[int, ...]) -> None:
    weight = RNG.normal(size=shape)
    found, y, x = power(weight)
    radius = np.hypot(y, x)
    reference = [
        found[:, (radius >= low) & (radius < high)].sum(1)
        for low, high in ((0, 1 / 8), (1 / 8, 1 / 4), (1 / 4, 1))
    ]
    shares = band_shares(weight)
    np.testing.assert_allclose(shares, np.stack(reference, 1), atol=2e-3)
    np.testing.assert_allclose(shares.sum(1), 1, rtol=1e-12)
    for stride in ((2, 2), (4, 4), (1, 3)):
        beyond = (np.abs(y) > 0.5 / stride[0]) | (np.abs(x) > 0.5 / stride[1])
        reference_beyond = found[:, beyond].sum(1)
        np.testing.assert_allclose(share_beyond(weight, stride), reference_beyond, atol=8e-3)
    grid = radius.ravel()[found.reshape(len(weight), -1).argmax(1)]
    np.testing.assert_allclose(peaks(weight), grid, atol=1.5 / 128)


def test_the_energy_is_that_of_the_weights() -> None:
    weight = RNG.normal(size=(5, 3, 4, 6))
    correlation, y, x = spectra.autocorrelation(weight)
    assert correlation.shape == (5, 7, 11)
    np.testing.assert_allclose(
        correlation[:, (y == 0)[:, 0]][:, :, (x == 0)[0]].ravel(), np.square(weight).sum((1, 2, 3))
    )
    # One cell away to the right, by hand.
    by_hand = (weight[..., :, 1:] * weight[..., :, :-1]).sum((1, 2, 3))
    np.testing.assert_allclose(correlation[:, 3, 6], by_hand)


def test_white_noise_has_the_bands_areas() -> None:
    assert sum(NOISE) == pytest.approx(1)
    np.testing.assert_allclose(NOISE, [0.049, 0.147, 0.804], atol=5e-4)
    noise = RNG.normal(size=(400, 3, 7, 7))
    np.testing.assert_allclose(band_shares(noise).mean(0), NOISE, atol=0.01)
    np.testing.assert_allclose(share_beyond(noise, (2, 2)).mean(), 0.75, atol=0.01)
    np.testing.assert_allclose(share_beyond(noise, (4, 2)).mean(), noise_beyond((4, 2)), atol=0.01)
    # A single weight is white by itself.
    one = np.zeros((1, 2, 3, 3))
    one[0, 1, 0, 2] = -3
    np.testing.assert_allclose(band_shares(one)[0], NOISE)
    assert share_beyond(one, (4, 4))[0] == pytest.approx(15 / 16)


def test_a_checkerboard_is_as_high_as_can_be() -> None:
    board = np.indices((16, 16)).sum(0) % 2 * 2.0 - 1
    weight = np.broadcast_to(board, (1, 3, 16, 16))
    assert band_shares(weight)[0, 2] > 0.97
    assert peaks(weight)[0] == pytest.approx(np.sqrt(0.5))
    assert share_beyond(weight, (2, 2))[0] > 0.97


def test_a_constant_is_low() -> None:
    weight = np.full((1, 3, 31, 31), 0.3)
    assert band_shares(weight)[0, 0] > 0.93
    assert peaks(weight)[0] == 0
    assert share_beyond(weight, (2, 2))[0] < 0.04


@pytest.mark.parametrize("axis", [0, 1])
def test_a_wave_lies_in_its_band_and_is_aliased_by_a_large_stride(axis: int) -> None:
    middle, low = wave(3 / 16, axis=axis), wave(1 / 16, side=31, axis=axis)
    assert band_shares(middle)[0, 1] > 0.8
    assert peaks(middle)[0] == pytest.approx(3 / 16, abs=0.02)
    assert share_beyond(middle, (4, 4))[0] > 0.85  # beyond 1/8
    assert share_beyond(middle, (2, 2))[0] < 0.1  # within 1/4
    assert share_beyond(low, (4, 4))[0] < 0.1
    # A stride on the other axis alone doesn't touch it.
    strides = ((4, 1), (1, 4)) if axis == 0 else ((1, 4), (4, 1))
    assert share_beyond(middle, strides[0])[0] > 0.85
    assert share_beyond(middle, strides[1])[0] < 0.15
    assert share_beyond(middle, (1, 1))[0] == pytest.approx(0, abs=1e-12)


def test_a_filter_of_nothing_has_no_frequencies() -> None:
    weight = np.zeros((2, 3, 5, 5))
    weight[1] = 1
    for found in (band_shares(weight), share_beyond(weight, (2, 2)), peaks(weight)):
        assert np.isnan(found[0]).all()
        assert np.isfinite(found[1]).all()


def test_dilated_filters_lie_on_every_second_pixel() -> None:
    weight = RNG.normal(size=(2, 3, 3, 2))
    found = dilated(weight, (5, 4))
    np.testing.assert_array_equal(found[:, :, ::2, ::3], weight)
    assert np.count_nonzero(found) == weight.size
    np.testing.assert_array_equal(dilated(weight, (3, 2)), weight)


# ---------------------------------------------------------------------- likeness


def test_a_duplicate_is_alike_and_an_opposite_is_not() -> None:
    weight = RNG.normal(size=(5, 3, 7, 7))
    weight[3], weight[4] = 2.5 * weight[1], -weight[1]
    found = similarities(weight)
    assert found[1, 3] == pytest.approx(1, abs=1e-12)
    assert found[1, 4] == pytest.approx(-1, abs=1e-12)
    by_hand = (weight[0] * weight[2]).sum() / np.sqrt(
        np.square(weight[0]).sum() * np.square(weight[2]).sum()
    )
    assert found[0, 2] == pytest.approx(by_hand)
    np.testing.assert_array_equal(found, found.T)


def test_a_filter_of_nothing_is_like_no_other() -> None:
    weight = RNG.normal(size=(4, 2, 3, 3))
    weight[[1, 2]] = 0
    found = similarities(weight)
    np.testing.assert_array_equal(found[1], [0, 1, 0, 0])
    assert np.isfinite(found).all()
    assert sorted(order_by_similarity(found)) == [0, 1, 2, 3]


def test_filters_of_different_groups_are_not_alike() -> None:
    weight = np.ones((6, 2, 3, 3))
    found = similarities(weight, groups=3)
    np.testing.assert_allclose(found, np.kron(np.eye(3), np.ones((2, 2))))
    each = similarities(weight, groups=6)
    np.testing.assert_array_equal(each, np.eye(6))
    assert order_by_similarity(each).tolist() == [0, 1, 2, 3, 4, 5]
    assert order_by_similarity(np.ones((1, 1))).tolist() == [0]


@pytest.mark.parametrize("each", [4, 180])  # 540 units are too many for the best order
def test_relatives_stand_together(each: int) -> None:
    parents = RNG.normal(size=(3, 3, 5, 5))
    family = RNG.permutation(np.repeat(np.arange(3), each))
    weight = parents[family] + 0.2 * RNG.normal(size=(3 * each, 3, 5, 5))
    order = order_by_similarity(similarities(weight))
    assert sorted(order) == list(range(3 * each))
    assert np.count_nonzero(np.diff(family[order])) == 2


def test_the_best_order_goes_along_a_chain() -> None:
    angle = np.linspace(0, np.pi / 2, 9)
    shuffled = RNG.permutation(9)
    weight = np.stack([np.cos(angle), np.sin(angle)], 1)[shuffled].reshape(9, 2, 1, 1)
    places = shuffled[order_by_similarity(similarities(weight))]
    assert places.tolist() in (list(range(9)), list(range(8, -1, -1)))


# ------------------------------------------------------------------- the artifact


def test_filters_are_those_of_the_layer_and_its_numbers(tmp_path: Path) -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 5, 7, stride=(4, 2), padding=3),
        nn.ReLU(),
        nn.Conv2d(5, 4, 3, padding=1),
    )
    with torch.no_grad():
        model[0].weight[4] = 3 * model[0].weight[2]
        model[0].weight[1] = 0
        model[0].weight[0] = torch.tensor([1.0, 2, 4])[:, None, None]
    found = cut(tmp_path, model, "0", std=[1 / 255, 2 / 255, 4 / 255])
    weight = model[0].weight.detach().numpy()
    np.testing.assert_array_equal(found.weight, weight)
    assert found.layer == "0"
    assert found.rms[0] == pytest.approx(np.sqrt(7))  # of 1, 4 and 16 the mean
    assert found.rms_pixels[0] == pytest.approx(1)  # each divided by its own std
    assert found.rms[1] == 0
    assert found.similarity[2, 4] == pytest.approx(1)
    order = found.order.tolist()
    assert abs(order.index(2) - order.index(4)) == 1
    assert list(found.stride) == [4, 2]
    exact = weight.astype(float)
    np.testing.assert_array_equal(found.aliased, share_beyond(exact, (4, 2)))
    np.testing.assert_array_equal([found.low, found.middle, found.high], band_shares(exact).T)
    known = found.peak[[0, 2, 3, 4]]
    assert np.isnan(found.peak[1])
    assert found.middle_peaks == np.mean((known >= 1 / 8) & (known < 1 / 4))
    assert found.mean_aliased == pytest.approx(found.aliased[[0, 2, 3, 4]].mean())
    deeper = cut(tmp_path, model, "2")
    np.testing.assert_array_equal(deeper.weight, model[2].weight.detach().numpy())
    assert np.isfinite(deeper.rms).all()
    for name in ("rms_pixels", "low", "middle", "high", "peak", "aliased"):
        assert np.isnan(getattr(deeper, name)).all()
    assert np.isnan(deeper.middle_peaks)


def test_weights_that_lie_on_no_pixels_have_no_frequencies(tmp_path: Path) -> None:
    def numbers(*layers: nn.Module) -> Filters:
        name = next(str(i) for i, x in enumerate(layers) if isinstance(x, nn.Conv2d))
        return cut(tmp_path, nn.Sequential(*layers), name)

    pooled = numbers(nn.MaxPool2d(2), nn.Conv2d(3, 2, 3))
    assert np.isnan(pooled.peak).all()
    assert np.isnan(pooled.rms_pixels).all()
    single = numbers(nn.Conv2d(3, 2, 1))
    assert np.isnan(single.peak).all()
    assert np.isfinite(single.rms_pixels).all()
    normed = numbers(nn.BatchNorm2d(3), nn.Conv2d(3, 2, 3))
    assert np.isfinite(normed.peak).all()
    assert np.isnan(normed.rms_pixels).all()  # what it reads is on no known scale
    spread = numbers(nn.Conv2d(3, 2, 3, dilation=2))
    exact = dilated(spread.weight.astype(float), (5, 5))
    np.testing.assert_array_equal(spread.peak, peaks(exact))
    assert (spread.aliased < 1e-12).all()
    alone = numbers(nn.Conv2d(3, 1, 3))
    assert alone.order.tolist() == [0]


def test_groups_are_known_from_the_layer(tmp_path: Path) -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3, groups=6), nn.Conv2d(6, 4, 1, groups=2)
    )
    found = cut(tmp_path, model, "2")
    layers = read_layers(tmp_path / "layers.json")
    assert [x.groups for x in layers[:3]] == [1, 6, 2]
    assert "groups" not in layers[0].as_json()
    assert found.groups == 2
    np.testing.assert_array_equal(found.similarity[:2, 2:], 0)
    assert abs(found.similarity[0, 1]) > 0
    np.testing.assert_array_equal(cut(tmp_path, model, "1").similarity, np.eye(6))


def test_layers_without_filters(tmp_path: Path) -> None:
    model = nn.Sequential(
        weight_norm(nn.Conv2d(3, 4, 3)), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten()
    )
    model = nn.Sequential(*model, nn.Linear(4 * 20 * 20, 2))
    layers = list(receptive_fields(model.eval(), (3, 24, 24)).values())
    by_name = {x.name: x for x in layers}
    assert first_filters(layers) == "2"  # the weights of the other are kept as factors
    assert by_name["2"].weight == "2.weight"
    with pytest.raises(LayerError, match="is no convolution"):
        cut(tmp_path, model, "4")
    with pytest.raises(LayerError, match="computed on the way"):
        cut(tmp_path, model, next(x.name for x in layers if x.kind == "conv" and not x.weight))


# --------------------------------------------------------------------- the choice


def layer(name: str, *inputs: str, kind: str = "relu", size: int = 9) -> Layer:
    weight = f"{name}.weight" if kind in ("conv", "linear") else None
    return Layer(name, kind, 4, (4, 8, 8), (size, size), (1, 1), (0, 0), True, None, inputs,
                 weight=weight)  # fmt: skip


PLAIN = [
    layer("conv1", kind="conv"),
    layer("relu1", "conv1"),
    layer("pool", "relu1", kind="maxpool"),
    layer("conv2", "pool", kind="conv"),
    layer("bn2", "conv2", kind="batchnorm"),
    layer("relu2", "bn2"),
    layer("fc", "relu2", kind="linear"),
    layer("relu3", "fc"),
]
FIRE = [
    layer("stem", kind="conv"),
    layer("squeeze", "stem", kind="conv"),
    layer("relu", "squeeze"),
    layer("one", "relu", kind="conv"),
    layer("relu_one", "one"),
    layer("three", "relu", kind="conv"),
    layer("relu_three", "three"),
    layer("cat", "relu_one", "relu_three", kind="cat"),
]
RESIDUAL = [
    layer("stem", kind="conv"),
    layer("a1", "stem", kind="conv"),
    layer("a2", "a1", kind="conv"),
    layer("add_a", "a2", "stem", kind="add"),
    layer("b1", "add_a", kind="conv"),
    layer("b2", "b1", kind="conv"),
    layer("short", "add_a", kind="conv"),
    layer("add_b", "b2", "short", kind="add"),
    layer("relu_b", "add_b"),
    layer("c1", "relu_b", kind="conv"),
    layer("c2", "c1", kind="conv"),
    layer("add_c", "c2", "relu_b", kind="add"),
]


@pytest.mark.parametrize(
    ("layers", "chosen", "expected"),
    [
        (PLAIN, [], ["conv1"]),
        (PLAIN, ["relu2", "pool", "conv2"], ["conv1", "conv2"]),
        (PLAIN, ["relu3", "fc"], ["conv1"]),  # their weights are no convolution's
        (FIRE, ["cat"], ["stem", "one", "three"]),
        (FIRE, ["relu_three", "relu"], ["stem", "squeeze", "three"]),
        (RESIDUAL, ["add_a"], ["stem", "a2"]),
        (RESIDUAL, ["relu_b"], ["stem", "b2", "short"]),
        (RESIDUAL, ["add_c"], ["stem", "c2"]),
        ([layer("fc", kind="linear"), layer("relu", "fc")], ["relu"], []),
    ],
)
def test_the_convolutions_behind_the_chosen_layers(
    layers: list[Layer], chosen: list[str], expected: list[str]
) -> None:
    assert filter_layers(layers, chosen) == expected


def test_of_a_network_with_branches() -> None:
    layers = list(receptive_fields(seeded(Branching()), (3, 24, 24)).values())
    cat, add = (next(x.name for x in layers if x.kind == kind) for kind in ("cat", "add"))
    assert filter_layers(layers, [cat]) == ["stem", "left", "right"]
    assert filter_layers(layers, [add]) == ["stem", "block"]
    assert has_spectrum(layers, "stem")
    assert not has_spectrum(layers, "block")


def test_rms_by_hand() -> None:
    weight = np.zeros((2, 1, 2, 2))
    weight[0] = [[3, -3], [3, 3]]
    weight[1, 0, 0, 0] = 2
    np.testing.assert_array_equal(rms(weight), [3, 1])
