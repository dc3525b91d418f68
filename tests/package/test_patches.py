"""Ranked patches against a full sort."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from studies import Study

from convatlas.layers import find_layer, read_layers
from convatlas.patches import TopK, rank_patches, share_outside
from convatlas.store import ActivationWriter, Patches, Recipe, read

# Few distinct values, so that ties are the rule.
VALUES = st.sampled_from([-3.0, -1.5, -1.0, 0.0, 0.5, 2.0])


def brute_force(value: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the top k of every unit, by value, then by image."""
    units = value.shape[1]
    values, images = np.full((units, k), -np.inf, np.float32), np.full((units, k), -1)
    for unit in range(units):
        order = sorted(range(len(value)), key=lambda i: (-value[i, unit], i))[:k]
        values[unit, : len(order)] = value[order, unit]
        images[unit, : len(order)] = order
    return values, images


@given(
    value=st.tuples(st.integers(1, 17), st.integers(1, 4)).flatmap(
        lambda shape: arrays(np.float32, shape, elements=VALUES)
    ),
    k=st.integers(1, 9),
    data=st.data(),
)
@settings(max_examples=120, deadline=None)
def test_any_blocks_give_what_a_full_sort_gives(
    value: np.ndarray, k: int, data: st.DataObject
) -> None:
    place = np.arange(value.size * 2).reshape(*value.shape, 2)
    top = TopK(value.shape[1], k)
    start = 0
    while start < len(value):
        stop = min(start + data.draw(st.integers(1, 8)), len(value))
        top.add(start, value[start:stop], place[start:stop])
        start = stop
    values, images = brute_force(value, k)
    np.testing.assert_array_equal(top.value, values)
    np.testing.assert_array_equal(top.image, images)
    there = images >= 0
    units = np.nonzero(there)[0]
    np.testing.assert_array_equal(top.location[there], place[images[there], units])
    assert (top.location[~there] == -1).all()
    alike = (value == value[0]).all(0) & (len(value) > 1)
    np.testing.assert_array_equal(top.dead, alike)


def full_sort(value: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the top k of every unit by a stable sort of all; what isn't a number never wins."""
    found = np.where(np.isnan(value), -np.inf, value)
    order = np.argsort(-found, axis=0, kind="stable")[:k].T
    values = np.take_along_axis(found.T, order, 1)
    return values, np.where(values > -np.inf, order, -1)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", ["rectified", "ascending", "steps", "constant", "gaps"])
@pytest.mark.parametrize("k", [1, 9, 100])
def test_many_rows_give_what_a_full_sort_gives(k: int, kind: str, dtype: type) -> None:
    generator = np.random.default_rng(k)
    value = np.maximum(generator.normal(size=(2000, 7)).round(1) - 1, 0).astype(dtype)
    if kind == "ascending":  # every row is among the best when it comes
        value = np.cumsum(value + 1, 0).astype(dtype)
    elif kind == "steps":  # and many at once
        value = np.repeat(np.arange(20), 100)[:, None] + np.zeros((1, 7), dtype)
    elif kind == "constant":
        value[:, ::2] = -1
    elif kind == "gaps":
        value[generator.random(value.shape) < 0.3] = np.nan
        value[generator.random(value.shape) < 0.3] = -np.inf
    place = generator.integers(0, 99, (*value.shape, 2)).astype(np.int16)
    values, images = full_sort(value, k)
    for size in (1, 63, 700, 2000):
        top = TopK(7, k, dtype)
        for start in range(0, len(value), size):
            part = slice(start, start + size)
            top.add(start, value[part], place[part])
        np.testing.assert_array_equal(top.value, values)
        np.testing.assert_array_equal(top.image, images)
        assert top.value.dtype == dtype
        unit, rank = np.nonzero(images >= 0)
        np.testing.assert_array_equal(top.location[unit, rank], place[images[unit, rank], unit])


def test_memory_doesnt_grow_with_the_images(
    make_study: Callable[..., Study], tmp_path: Path
) -> None:
    study = make_study("inplace", count=1)
    value = np.random.default_rng(0).random((20_000, 100), np.float32)
    place = np.zeros((*value.shape, 2), np.int16)
    peaks = []
    for times in (2, 5):  # 32 MB, and 80
        path, count = tmp_path / f"{times}.h5", times * len(value)
        with ActivationWriter(path, Recipe(), {"conv1": 100}, 0, count, "fc") as writer:
            for start in range(0, count, len(value)):
                writer.write("conv1", start, {"max": value + start, "argmax": place})
        tracemalloc.start()
        rank_patches(
            activations=path,
            layers=study.layers,
            images=study.images,
            output=tmp_path / "patches.h5",
            recipe=Recipe(),
            layer="conv1",
            per_unit=9,
        )
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert max(peaks) < 60 << 20
    assert peaks[1] < 1.1 * peaks[0]  # and not 2.5 times as much


def test_units_that_are_always_negative_have_patches() -> None:
    top = TopK(1, 2)
    top.add(0, np.float32([[-3], [-1], [-2]]), np.zeros((3, 1, 2), int))
    assert top.image.tolist() == [[1, 2]]
    assert top.value.tolist() == [[-1, -2]]
    assert not top.dead[0]


def test_share_outside() -> None:
    boxes = np.array([[0, 0, 4, 4], [-2, 0, 2, 4], [-2, -1, 2, 3], [8, 8, 12, 12], [20, 0, 24, 4]])
    expected = [0, 1 / 2, 1 - 2 / 4 * 3 / 4, 1 - 2 / 4 * 2 / 4, 1]
    np.testing.assert_allclose(share_outside(boxes, (10, 10)), expected, atol=1e-7)


def test_patches_of_a_study(make_study: Callable[..., Study]) -> None:
    from test_activations import store_activations, stored

    study = make_study("inplace", count=13)
    activations = store_activations(study, 3)
    layers = read_layers(study.layers)
    for name, k in (("conv1", 3), ("relu_", 4), ("fc", 15)):
        output = study.folder / f"{name}.h5"
        rank_patches(
            activations=activations,
            layers=study.layers,
            images=study.images,
            output=output,
            recipe=Recipe(),
            layer=name,
            per_unit=k,
        )
        found, everything = read(Patches, output), stored(activations)[name]
        values, images = brute_force(everything["max"], k)
        np.testing.assert_array_equal(found.value, values)
        np.testing.assert_array_equal(found.image, images)
        np.testing.assert_array_equal(found.unit, np.arange(len(values)))
        layer = find_layer(layers, name)
        for unit, rank in np.ndindex(images.shape):
            if images[unit, rank] < 0:
                assert not found.box[unit, rank].any()
                continue
            place = everything["argmax"][images[unit, rank], unit]
            np.testing.assert_array_equal(found.location[unit, rank], place)
            box = found.box[unit, rank]
            assert (box == layer.boxes(place)).all()
            outside = box[:2].min() < 0 or box[2] > 26 or box[3] > 31
            assert (found.outside[unit, rank] > 0) == outside


def test_boxes_at_borders_reach_outside_and_arent_shifted(make_study: Callable[..., Study]) -> None:
    layer = find_layer(read_layers(make_study("inplace", count=2).layers), "conv1")
    assert layer.boxes(np.array([0, 0])).tolist() == [-1, -1, 2, 2]
    assert layer.boxes(np.array([25, 30])).tolist() == [24, 29, 27, 32]


@pytest.mark.parametrize("count", [1, 2])
def test_a_dead_unit_needs_two_images(count: int) -> None:
    top = TopK(1, 1)
    top.add(0, np.zeros((count, 1), np.float32), np.zeros((count, 1, 2), int))
    assert bool(top.dead[0]) is (count > 1)
