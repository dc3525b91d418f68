"""A network in which units were planted, from its weights and images to the tables."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from studies import Study
from test_activations import store_activations

from convatlas.figures.firing import plot_firing
from convatlas.figures.health import plot_worst
from convatlas.figures.redundancy import plot_redundancy
from convatlas.files import read_csv
from convatlas.filters import cut_filters
from convatlas.firing import sample_firing
from convatlas.health import measure_health
from convatlas.patches import rank_patches
from convatlas.store import ImageWriter, Recipe

RED = 0  # the class of the red images


def write_colours(path: Path, count: int = 20) -> None:
    """Write a red square on grey noise for every fourth image, and one of other colours."""
    rng = np.random.default_rng(0)
    with ImageWriter(path, Recipe(), (26, 31)) as writer:
        for i in range(count):
            image = rng.integers(100, 156, (26, 31, 3)).astype(np.uint8)
            image[5:15, 5:15] = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)][i % 4]
            writer.append(image, i % 4, f"{i}.png")


@pytest.fixture
def study(make_study: Callable[..., Study]) -> Study:
    study = make_study("planted")
    write_colours(study.images)
    return study


def test_planted_units_are_in_the_tables(study: Study) -> None:
    folder, recipe = study.folder, Recipe()
    activations = store_activations(study, 1)
    health, patches, firing = (folder / f"{name}.h5" for name in ("health", "patches", "firing"))
    measure_health(activations=activations, output=health, recipe=recipe, layer="1")
    rank_patches(
        activations=activations,
        layers=study.layers,
        images=study.images,
        output=patches,
        recipe=recipe,
        layer="1",
        per_unit=3,
    )
    plot_worst(health, patches, study.images, output=folder / "worst.png", dpi=40)
    table = read_csv(folder / "worst.csv")
    reason = dict(zip(table["unit"], table["reason"], strict=True))
    assert table["unit"][0] == "0"
    assert (reason["0"], reason["1"]) == ("dead", "always on")
    frequency = dict(zip(table["unit"], map(float, table["frequency"]), strict=True))
    assert (frequency["0"], frequency["1"], frequency["4"]) == (0, 1, 5 / 20)

    sample_firing(
        activations=activations,
        health=health,
        layers=study.layers,
        images=study.images,
        output=firing,
        recipe=recipe,
        threshold=0.5,
        parts=4,
    )
    plot_firing(
        firing,
        study.images,
        output=folder / "firing.png",
        sampled=folder / "sampled.csv",
        counted=folder / "counted.csv",
        units=2,
        dpi=40,
    )
    table = read_csv(folder / "firing.csv")
    assert table["unit"][0] == "4"
    assert (float(table["selectivity"][0]), int(table["class"][0])) == (1, RED)
    assert int(table["firing"][0]) == 5


def test_a_doubled_filter_is_in_the_table(study: Study) -> None:
    cut_filters(
        weights=study.weights,
        layers=study.layers,
        card=study.card,
        output=study.folder / "filters.h5",
        recipe=Recipe(),
        layer="0",
    )
    output = study.folder / "redundancy.png"
    plot_redundancy(study.folder / "filters.h5", similar=0.95, output=output, dpi=40)
    table = read_csv(study.folder / "redundancy.csv")
    pairs = [
        (int(table["unit"][i]), int(table["other"][i]), float(table["similarity"][i]))
        for i, group in enumerate(table["group"])
        if group == "pair"
    ]
    assert pairs == [(2, 3, pytest.approx(1))]
