"""What makes units fire, with answers known by construction."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from figure_artifacts import write_images, write_layers
from hypothesis import given, settings
from hypothesis import strategies as st
from test_health import write_answers

from convatlas.files import read_json, write_json
from convatlas.firing import (
    ClassSums,
    RangeSample,
    most_selective,
    sample_firing,
    well_founded,
)
from convatlas.health import measure_health
from convatlas.store import Activations, Firing, Recipe, read


def sampled(
    folder: Path,
    answers: np.ndarray,
    labels: list[int],
    threshold: float = 0.5,
    parts: int = 4,
    places: np.ndarray | None = None,
) -> Firing:
    """Return what makes the units of a layer of 16 x 16 cells fire."""
    answers = np.asarray(answers, np.float32)
    activations = write_answers(folder / "activations.h5", answers, places)
    measure_health(activations=activations, output=folder / "h.h5", recipe=Recipe(), layer="layer")
    write_layers(folder / "layers.json")
    layers = read_json(folder / "layers.json")
    layers[0] |= {"name": "layer", "units": answers.shape[1]}
    write_json(folder / "layers.json", layers)
    write_images(folder / "images.h5", (8, 8), labels)
    sample_firing(
        activations=activations,
        health=folder / "h.h5",
        layers=folder / "layers.json",
        images=folder / "images.h5",
        output=folder / "f.h5",
        recipe=Recipe(),
        threshold=threshold,
        parts=parts,
    )
    return read(Firing, folder / "f.h5")


# ----------------------------------------------------------------------- selectivity


def test_planted_selective_and_indifferent_units(tmp_path: Path) -> None:
    labels = [0, 0, 1, 1, 2, 2, -1]
    answers = np.zeros((7, 5))
    answers[2:4, 0] = [3, 1]  # class 1 alone
    answers[:, 1] = 2  # all alike
    answers[:6, 2] = [6, 2, 1, -9, 1, 2]  # means 4, 1/2, 3/2, so 4 against 1
    answers[:, 3] = -1  # dead
    answers[6, 4] = 8  # only an image without a label
    found = sampled(tmp_path, answers, labels)
    np.testing.assert_allclose(found.selectivity[:3], [1, 0, 3 / 5], atol=1e-12)
    assert found.best_images.tolist() == [2, 2, 2, 0, 0]
    assert np.isnan(found.selectivity[3:]).all()
    assert found.best.tolist() == [1, 0, 0, -1, -1]
    np.testing.assert_allclose(found.best_mean[:3], [2, 2, 4])
    np.testing.assert_allclose(found.rest_mean[:3], [0, 2, 1])
    assert most_selective(found).tolist() == [0, 2, 1, 4, 3]  # the dead last
    assert (found.images, found.labelled_images) == (7, 6)


def test_classes_of_different_size_count_alike(tmp_path: Path) -> None:
    answers = np.array([[6.0], [3], [3], [0]])
    found = sampled(tmp_path, answers, [0, 1, 1, 4])
    assert found.rest_mean[0] == pytest.approx(1.5)  # (3 + 0) / 2, not (3 + 3 + 0) / 3
    assert found.selectivity[0] == pytest.approx(4.5 / 7.5)


def test_an_index_needs_as_many_images_as_a_class_has(tmp_path: Path) -> None:
    """Three images of class 0, three of class 1, one of class 2."""
    answers = np.zeros((7, 5))
    answers[:3, 0] = 1  # all of a class
    answers[0, 1] = 1  # one of it
    answers[6, 2] = 1  # all of the class of one image
    answers[:6, 3] = 1  # more than any has
    found = sampled(tmp_path, answers, [0, 0, 0, 1, 1, 1, 2])
    assert well_founded(found, 5).tolist() == [True, False, False, True, False]
    assert well_founded(found, 1).tolist() == [True, True, True, True, False]


def test_equal_indices_go_to_who_fires_on_more(tmp_path: Path) -> None:
    answers = np.zeros((6, 3))
    answers[0, 0] = 1
    answers[:3, 1] = 1
    answers[:2, 2] = 1
    found = sampled(tmp_path, answers, [0, 0, 0, 1, 1, 1])
    assert found.selectivity.tolist() == [1, 1, 1]
    assert most_selective(found).tolist() == [1, 2, 0]


@pytest.mark.parametrize("labels", [[-1] * 4, [3] * 4])
def test_without_labels_or_with_one_class_there_is_no_index(
    tmp_path: Path, labels: list[int]
) -> None:
    found = sampled(tmp_path, np.arange(8.0).reshape(4, 2), labels)
    assert np.isnan(found.selectivity).all()
    assert found.best.tolist() == [-1, -1]
    assert found.firing.tolist() == [2, 2]  # 4 and 6 of 6; 5 and 7 of 7
    assert found.labelled.tolist() == ([2, 2] if labels[0] == 3 else [0, 0])
    assert found.frequent[:, 0].tolist() == ([3, 3] if labels[0] == 3 else [-1, -1])


def test_classes_of_the_firing_images(tmp_path: Path) -> None:
    answers = np.array([10.0, 9, 8, 5, 5, 4.9, 0, 7])[:, None]
    labels = [7, 2, 2, 5, 7, 5, 2, -1]
    found = sampled(tmp_path, answers, labels)
    assert found.firing[0] == 6  # at the threshold itself, too
    assert (found.labelled[0], found.distinct[0]) == (5, 3)
    assert found.frequent[0, :4].tolist() == [2, 7, 5, -1]
    assert found.times[0, :4].tolist() == [2, 2, 1, 0]


# ---------------------------------------------------------------------------- sample


def test_a_sample_over_the_range_by_hand(tmp_path: Path) -> None:
    # From 8 to 16 in four parts: centres 9, 11, 13; the topmost shows the largest.
    answers = np.array([[8.5, 16, 15, 9.5, 10.5, 11.5, 3, 16, 8]]).T
    places = np.arange(18).reshape(9, 1, 2) % 5
    found = sampled(tmp_path, answers, [0] * 9, places=places)
    assert found.image[0].tolist() == [1, -1, 4, 0]  # of equally near ones the first
    np.testing.assert_array_equal(found.value[0], np.float32([16, np.nan, 10.5, 8.5]))
    assert found.location[0].tolist() == [places[1, 0].tolist(), [-1, -1], [3, 4], [0, 1]]
    # Fields of 7 pixels at stride 2, the first from -3.
    assert found.box[0, 0].tolist() == [1, 3, 8, 10]
    assert found.box[0, 1].tolist() == [0, 0, 0, 0]
    assert found.firing[0] == 8
    assert found.exact == 1


def test_a_dead_unit_has_no_sample(tmp_path: Path) -> None:
    found = sampled(tmp_path, np.array([[0, -2.0], [0, -1]]), [0, 1])
    assert (found.image == -1).all()
    assert np.isnan(found.value).all()
    assert found.firing.tolist() == [0, 0]


def test_a_threshold_of_zero_fires_where_active(tmp_path: Path) -> None:
    found = sampled(tmp_path, np.array([[0.0], [1e-6], [8], [-3]]), [0] * 4, 0, 2)
    assert found.firing[0] == 2
    assert found.image[0].tolist() == [2, 1]


@given(
    values=st.lists(st.integers(-4, 40), min_size=1, max_size=30),
    sizes=st.lists(st.integers(1, 9), min_size=30, max_size=30),
    parts=st.integers(1, 7),
    threshold=st.sampled_from([0, 0.25, 0.5, 0.9]),
)
@settings(max_examples=150, deadline=None)
def test_any_blocks_give_what_a_search_gives(
    values: list[int], sizes: list[int], parts: int, threshold: float
) -> None:
    answers = np.array(values, np.float32)[:, None]
    maximum = answers.max(0).astype(float)
    sample = RangeSample(maximum, threshold, parts)
    start, places = 0, np.zeros((len(values), 1, 2), int)
    for size in sizes:
        stop = min(start + size, len(values))
        if stop > start:
            sample.add(start, answers[start:stop], places[start:stop])
        start = stop
    top, low = float(maximum[0]), float(maximum[0]) * threshold
    width = (top - low) / parts
    for part in range(parts):
        floor = low + (parts - 1 - part) * width
        target = top if part == 0 else low + (parts - 1 - part + 0.5) * width
        inside = [
            (abs(v - target), i)
            for i, v in enumerate(values)
            if v > 0 and v >= low and min(int((v - low) / width), parts - 1) == parts - 1 - part
        ]
        chosen = min(inside)[1] if inside else -1
        assert sample.image[0, part] == chosen
        if chosen >= 0:
            assert sample.value[0, part] == values[chosen]
            assert floor - 1e-9 <= values[chosen] <= floor + width + 1e-9
    if top > 0:
        assert sample.image[0, 0] == values.index(max(values))


def test_sums_dont_depend_on_blocks() -> None:
    rng = np.random.default_rng(0)
    answers = rng.normal(size=(60, 5)).astype(np.float32)
    labels = rng.integers(-1, 7, 60)
    fires = answers > 0.5
    whole, parts = ClassSums(labels, 5), ClassSums(labels, 5)
    whole.add(0, answers, fires)
    for start in range(0, 60, 7):
        parts.add(start, answers[start : start + 7], fires[start : start + 7])
    np.testing.assert_allclose(parts.total, whole.total, rtol=1e-12)
    np.testing.assert_array_equal(parts.firing, whole.firing)
    for row, label in enumerate(whole.classes):
        of = labels == label
        np.testing.assert_allclose(
            whole.total[row], answers[of].astype(float).clip(0).sum(0), rtol=1e-12
        )
        np.testing.assert_array_equal(whole.firing[row], fires[of].sum(0))


def test_small_blocks_of_a_file_give_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(1)
    answers, labels = rng.normal(size=(40, 6)), rng.integers(0, 4, 40).tolist()
    whole = sampled(tmp_path, answers, labels)
    blocks = Activations.blocks
    monkeypatch.setattr(
        Activations, "blocks", lambda self, layer, names: blocks(self, layer, names, 150)
    )
    found = sampled(tmp_path, answers, labels)
    for name in ("image", "value", "firing", "frequent", "times", "best"):
        np.testing.assert_array_equal(getattr(found, name), getattr(whole, name))
    np.testing.assert_allclose(found.selectivity, whole.selectivity, rtol=1e-12)
