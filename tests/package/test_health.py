"""The health of units, with answers known by construction."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from studies import Study, write_noise

from convatlas.errors import StoreError
from convatlas.health import (
    BINS,
    Activity,
    histogram_quantiles,
    measure_health,
    reasons,
    sparsity,
    worst_first,
)
from convatlas.models.load import load_model
from convatlas.snapshots import LEVELS, track_health
from convatlas.store import (
    Activations,
    ActivationWriter,
    Health,
    HealthHistory,
    Recipe,
    read,
)

DEAD, NEVER, CONSTANT, ALWAYS, THREE, SINGLE, UNIFORM = range(7)


def planted() -> np.ndarray:
    """Return the answers of seven units to twelve images, (12,7)."""
    answers = np.zeros((12, 7), np.float32)
    answers[:, NEVER] = -1 - np.arange(12)  # dead, but not always the same
    answers[:, CONSTANT] = 2.5
    answers[:, ALWAYS] = 1 + np.arange(12)
    answers[:, THREE] = -1
    answers[[2, 5, 11], THREE] = [1, 2, 3]
    answers[7, SINGLE] = 4
    answers[:, UNIFORM] = 0.3
    return answers


def write_answers(path: Path, answers: np.ndarray, places: np.ndarray | None = None) -> Path:
    """Write answers (N,U) as the maxima of a layer."""
    count, units = answers.shape
    if places is None:
        places = np.zeros((count, units, 2), int)
    with ActivationWriter(path, Recipe(), {"layer": units}, 0, count, "layer") as writer:
        writer.write("layer", 0, {"max": answers, "mean": answers, "argmax": places})
    return path


def measured(folder: Path, answers: np.ndarray) -> Health:
    output = folder / "health.h5"
    activations = write_answers(folder / "activations.h5", answers)
    measure_health(activations=activations, output=output, recipe=Recipe(), layer="layer")
    return read(Health, output)


def test_planted_units_are_found(tmp_path: Path) -> None:
    found = measured(tmp_path, planted())
    assert found.dead.tolist() == [1, 1, 0, 0, 0, 0, 0]
    assert found.constant.tolist() == [1, 0, 1, 0, 0, 0, 1]
    assert found.always_on.tolist() == [0, 0, 1, 1, 0, 0, 1]
    np.testing.assert_array_equal(found.frequency, [0, 0, 1, 1, 3 / 12, 1 / 12, 1])
    np.testing.assert_allclose(found.mean[[NEVER, ALWAYS, THREE]], [-6.5, 6.5, -3 / 12])
    np.testing.assert_allclose(found.std, planted().astype(float).std(0), atol=1e-12)
    np.testing.assert_array_equal(found.minimum, planted().min(0))
    np.testing.assert_array_equal(found.maximum, planted().max(0))
    # Of the rates 1, 2, 3 and nine zeros: 1 - 6^2 / (12 * 14) = 11/14, over 11/12.
    assert found.lifetime[THREE] == pytest.approx((11 / 14) / (11 / 12), abs=1e-12)
    assert found.lifetime[SINGLE] == pytest.approx(1, abs=1e-12)
    np.testing.assert_allclose(found.lifetime[[CONSTANT, UNIFORM]], 0, atol=1e-12)
    assert np.isnan(found.lifetime[[DEAD, NEVER]]).all()
    assert found.std[UNIFORM] == 0
    assert (found.images, found.silent, found.layer) == (12, 0, "layer")


def test_population_sparsity_by_hand(tmp_path: Path) -> None:
    answers = np.float32([[3, 0, 0, -9], [1, 1, 1, 1], [1, 2, 0, 3], [0, 0, -1, 0]])
    found = measured(tmp_path, answers)
    third = (1 - 36 / (4 * 14)) / (3 / 4)
    assert found.population.sum() == 3
    assert found.population[-1] == found.population[0] == 1
    assert found.population[int(third * BINS)] == 1
    assert found.population_mean == pytest.approx((1 + 0 + third) / 3, abs=1e-12)
    assert found.silent == 1


def test_what_is_wrong_the_worst_first(tmp_path: Path) -> None:
    answers = np.zeros((200, 8), np.float32)
    answers[:, 0] = 1 + np.arange(200)
    answers[:, 1] = 9 + np.arange(200) % 2  # varies less
    answers[:100, 2] = 1
    answers[0, 3] = 1
    answers[:, 4] = 7
    answers[:, 5] = -1 - np.arange(200)
    answers[:2, 6] = 1  # one per cent: rare means less
    found = measured(tmp_path, answers)
    why = reasons(found)
    told = ["always on", "always on", "", "rarely active", "constant", "dead", "", "dead"]
    assert why == told
    assert worst_first(found).tolist() == [5, 7, 4, 3, 1, 0, 6, 2]


@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=12),
    units=st.integers(1, 5),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_blocks_of_any_size_give_the_same(sizes: list[int], units: int, seed: int) -> None:
    answers = np.random.default_rng(seed).normal(1000, 0.5, (sum(sizes), units)).astype("f4")
    answers[::3] *= -1
    whole, parts = Activity(units), Activity(units)
    whole.add(answers)
    start = 0
    for size in sizes:
        parts.add(answers[start : start + size])
        start += size
    for name in ("frequency", "mean", "std", "minimum", "maximum", "lifetime", "population_mean"):
        np.testing.assert_allclose(
            getattr(parts, name), getattr(whole, name), rtol=1e-10, atol=1e-12, err_msg=name
        )
    np.testing.assert_allclose(whole.std, answers.astype(float).std(0), rtol=1e-9, atol=1e-9)
    assert parts.images == whole.images
    assert parts.silent == whole.silent
    assert parts.population.sum() == whole.population.sum()


def test_small_blocks_of_a_file_give_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32)
    whole = measured(tmp_path, answers)
    blocks = Activations.blocks
    sizes = []

    def small(self: Activations, layer: str, names: list[str]):
        for start, block in blocks(self, layer, names, 7 * 6 * 4):
            sizes.append(len(block["max"]))
            yield start, block

    monkeypatch.setattr(Activations, "blocks", small)
    found = measured(tmp_path, answers)
    assert sizes == [7] * 7 + [1]
    for name in ("frequency", "mean", "std", "lifetime", "population", "population_mean"):
        np.testing.assert_allclose(getattr(found, name), getattr(whole, name), rtol=1e-12)


@given(
    rates=st.lists(st.floats(0, 1e6), min_size=2, max_size=9),
    factor=st.floats(1e-3, 1e3),
)
@settings(max_examples=100, deadline=None)
def test_sparsity_lies_between_0_and_1_and_has_no_scale(rates: list[float], factor: float) -> None:
    def of(values: np.ndarray) -> float:
        return float(sparsity(values.sum(), np.square(values).sum(), len(values)))

    values = np.array(rates)
    if not np.square(values).sum() > 1e-200:
        return
    assert 0 <= of(values) <= 1
    assert of(values * factor) == pytest.approx(of(values), abs=1e-9)


@pytest.mark.parametrize(("shape", "lifetime"), [((1, 3), np.nan), ((4, 1), 0.0)])
def test_one_image_or_one_unit(tmp_path: Path, shape: tuple[int, int], lifetime: float) -> None:
    found = measured(tmp_path, np.ones(shape, np.float32))
    np.testing.assert_array_equal(found.lifetime, [lifetime] * shape[1])
    assert found.constant.tolist() == [int(shape[0] > 1)] * shape[1]
    assert found.always_on.all()
    if shape[1] == 1:
        assert np.isnan(found.population_mean)
        assert not found.population.any()


def test_quantiles_of_a_histogram_are_right_to_a_bin() -> None:
    values = np.random.default_rng(0).beta(2, 5, 5000)
    counts = np.histogram(values, bins=BINS, range=(0, 1))[0]
    found = histogram_quantiles(counts, LEVELS)
    np.testing.assert_allclose(found, np.quantile(values, LEVELS), atol=1 / BINS)
    assert np.isnan(histogram_quantiles(np.zeros(BINS, int), LEVELS)).all()
    # Empty bins between two heaps hold no quantile.
    assert histogram_quantiles(np.array([1, 0, 0, 1]), [0.5, 1]).tolist() == [0.25, 1]


# --------------------------------------------------------------- of a real network


def plant(weights: Path, output: Path, unit: int, bias: float) -> None:
    """Copy weights with the bias of one unit of the first convolution set."""
    state = torch.load(weights, weights_only=True)
    state["conv1.bias"][unit] = bias
    torch.save(state, output)


def test_planted_units_of_a_network(make_study: Callable[..., Study]) -> None:
    from test_activations import store_activations

    study = make_study("inplace", count=9)
    plant(study.weights, study.weights, 2, -1e3)
    plant(study.weights, study.weights, 4, 1e3)
    activations = store_activations(study)
    for layer, answer in (("conv1", -1e3), ("relu", 0)):
        output = study.folder / f"{layer}.h5"
        measure_health(activations=activations, output=output, recipe=Recipe(), layer=layer)
        found = read(Health, output)
        assert found.dead.tolist() == [0, 0, 1, 0, 0, 0]
        assert found.always_on[4] == 1
        assert found.lifetime[4] < 1e-3
        np.testing.assert_allclose(found.maximum[2], answer, atol=20)
    assert reasons(found)[2] == "dead"  # after the rectifier it is constant, too


def test_a_unit_dies_in_the_second_snapshot(make_study: Callable[..., Study]) -> None:
    study = make_study("inplace", count=9)
    dies = study.folder / "3.pt"
    plant(study.weights, dies, 2, -1e3)
    output = study.folder / "history.h5"
    track_health(
        images=study.images,
        card=study.card,
        layers=study.layers,
        weights={3: dies, 0: study.weights},
        output=output,
        recipe=Recipe(),
        wanted=["relu", "fc"],
        batch_size=4,
    )
    found = read(HealthHistory, output)
    assert found.epoch.tolist() == [0, 3]
    assert (found.layers.tolist(), found.units.tolist()) == (["relu", "fc"], [6, 5])
    assert found.images == 9
    np.testing.assert_allclose(found.dead[1, 0] - found.dead[0, 0], 1 / 6)
    model = load_model(study.card, study.weights)
    with torch.no_grad():
        maps = model.module.conv1(model.prepare(study.pixels)).clamp(min=0)
    answers = maps.amax((2, 3)).double().numpy()
    activity = Activity(6)
    activity.add(answers)
    np.testing.assert_allclose(found.dead[0, 0], (answers == 0).all(0).mean())
    np.testing.assert_allclose(found.always_on[0, 0], (answers > 0).all(0).mean())
    frequency = np.quantile((answers > 0).mean(0), LEVELS)
    np.testing.assert_allclose(found.frequency[0, 0], frequency, rtol=1e-6)
    known = activity.lifetime[np.isfinite(activity.lifetime)]
    np.testing.assert_allclose(found.lifetime[0, 0], np.quantile(known, LEVELS), rtol=1e-4)
    np.testing.assert_allclose(found.population[0, 0], activity.population_mean, rtol=1e-4)


def test_a_snapshot_that_is_missing_is_named(make_study: Callable[..., Study]) -> None:
    study = make_study("inplace", count=2)
    write_noise(study.images, 2, (26, 31))
    with pytest.raises(StoreError, match=r"7\.pt doesn't exist"):
        track_health(
            images=study.images,
            card=study.card,
            layers=study.layers,
            weights={0: study.weights, 7: study.folder / "7.pt"},
            output=study.folder / "history.h5",
            recipe=Recipe(),
            wanted=["relu"],
            batch_size=4,
        )
