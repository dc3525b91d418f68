"""Figures of the units' health, and of what makes them fire."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from figure_artifacts import (
    LONG_LAYER,
    pixels_of,
    write_classes,
    write_firing,
    write_health,
    write_health_history,
    write_images,
    write_patches,
)
from test_figures_units import area
from test_health import planted

from convatlas.errors import LayerError
from convatlas.figures.firing import plot_firing
from convatlas.figures.health import plot_health, plot_worst
from convatlas.figures.snapshots import plot_snapshots
from convatlas.files import read_csv

pytestmark = pytest.mark.filterwarnings("error")


def assert_inside(path: Path) -> None:
    """Assert that nothing is cut at the page's edge."""
    pixels = pixels_of(path)
    for edge in (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]):
        assert (edge == 255).all()


def draw_health(folder: Path, answers: Sequence[np.ndarray], layers: Sequence[str]) -> Path:
    for i, (values, layer) in enumerate(zip(answers, layers, strict=True)):
        write_health(folder / f"{i}.h5", values, layer)
    plot_health(
        [folder / f"{i}.h5" for i in range(len(answers))],
        output=folder / "layers.png",
        summary=folder / "summary.csv",
        population=folder / "population.csv",
        formats=["svg"],
    )
    return folder / "layers.png"


def test_health_of_layers_and_its_numbers(tmp_path):
    dense = np.abs(np.random.default_rng(0).normal(size=(12, 9))) + 1
    output = draw_health(tmp_path, [planted(), dense], ["relu1", "relu2"])
    assert_inside(output)
    # Two of the first layer's seven units are dead: that share of its bar is black.
    assert area(output, (26, 26, 26)) >= 2 / 7 * 2.1 * 0.16
    units = read_csv(output.with_suffix(".csv"))
    assert units["layer"] == ["relu1"] * 7 + ["relu2"] * 9
    told = ["dead", "dead", "constant", "always on", "", "", "constant"]
    assert units["reason"] == told + ["always on"] * 9
    assert units["lifetime"][:2] == ["", ""]
    assert float(units["frequency"][4]) == 0.25
    summary = read_csv(tmp_path / "summary.csv")
    for name, counts in {
        "units": ["7", "9"],
        "dead": ["2", "0"],
        "rarely_active": ["0", "0"],
        "others": ["2", "0"],
        "always_on": ["3", "9"],
        "constant": ["3", "0"],
        "frequency_50": ["0.25", "1"],
    }.items():
        assert summary[name] == counts
    population = read_csv(tmp_path / "population.csv")
    assert sum(map(int, population["images"])) == 24
    assert population["from"][:2] == ["0", "0.05"]


@pytest.mark.parametrize(
    ("answers", "layers"),
    [
        ([np.zeros((5, 1))], ["x"]),
        ([np.ones((1, 1))], [LONG_LAYER]),
        ([np.eye(30)[:, :20] - 0.5] * 9, [f"{LONG_LAYER}.{i}" for i in range(9)]),
        ([np.random.default_rng(0).normal(size=(300, 2048))], ["fc"]),
    ],
)
def test_odd_layers_stay_on_the_page(tmp_path, answers, layers):
    assert_inside(draw_health(tmp_path, answers, layers))


# ------------------------------------------------------------------------- the worst


def draw_worst(folder: Path, answers: np.ndarray, layer: str = "conv2") -> Path:
    units = answers.shape[1]
    write_health(folder / "h.h5", answers, layer)
    patches = write_patches(
        folder / "p.h5",
        units=units, images=12, per_unit=4, box=(0, 0, 8, 8), size=(30, 30), layer=layer,
    )  # fmt: skip
    write_images(folder / "i.h5", (30, 30), [0] * 12)
    plot_worst(
        folder / "h.h5", folder / "p.h5", folder / "i.h5", output=folder / "w.png", formats=["svg"]
    )
    assert len(patches.unit) == units
    return folder / "w.png"


def test_the_worst_units_with_their_patches(tmp_path):
    answers = np.abs(np.random.default_rng(0).normal(size=(200, 20))).astype(np.float32)
    answers[:3, 2:] = 0  # so that these aren't always on
    answers[:, 5] = -1 - np.arange(200)  # dead, with patches
    answers[:, 6] = answers[:, 9] = 3  # constant, so without patches
    answers[:, 7] = 0
    answers[4, 7] = 1
    output = draw_worst(tmp_path, answers)
    assert_inside(output)
    table = read_csv(output.with_suffix(".csv"))
    assert table["unit"][:4] == ["5", "6", "9", "7"]
    assert table["reason"][:5] == ["dead", "constant", "constant", "rarely active", "always on"]
    assert table["rank"] == [str(i) for i in range(20)]
    assert float(table["frequency"][3]) == pytest.approx(1 / 200)
    colours = write_images(tmp_path / "again.h5", (30, 30), [0] * 12)
    # The images of unit 5 are 8 to 11, as write_patches deals them out; each stands there.
    for colour in colours[8:12]:
        assert area(output, colour) > 0.1


@pytest.mark.parametrize(
    "answers",
    [
        np.zeros((9, 1)),  # no block at all
        np.zeros((9, 3000)),
        np.random.default_rng(0).normal(size=(9, 1)),
        np.arange(18.0).reshape(9, 2),
        np.tile(np.eye(9)[:, :3], 700) * (np.arange(2100) % 4 > 0),  # more dead ones than fit
    ],
)
def test_odd_worst_units(tmp_path, answers):
    assert_inside(draw_worst(tmp_path, answers, LONG_LAYER))


# --------------------------------------------------------------------- over training


def test_curves_over_the_snapshots(tmp_path):
    write_health_history(tmp_path / "h.h5", [0, 1, 4], ["conv1", LONG_LAYER])
    plot_snapshots(tmp_path / "h.h5", output=tmp_path / "s.png", formats=["svg"])
    assert_inside(tmp_path / "s.png")
    table = read_csv(tmp_path / "s.csv")
    assert table["epoch"] == ["0", "0", "1", "1", "4", "4"]
    assert table["layer"] == ["conv1", LONG_LAYER] * 3
    assert table["dead"][2::2] == ["1", "1"]
    assert table["lifetime_50"] == ["0.5", "0.5", "", "0.5", "", "0.5"]
    assert table["population_mean"][2] == ""


@pytest.mark.parametrize(("epochs", "layers"), [([3], 1), ([0, 2], 30), (range(40), 8)])
def test_odd_histories(tmp_path, epochs, layers):
    write_health_history(tmp_path / "h.h5", epochs, [f"{LONG_LAYER}.{i}" for i in range(layers)])
    plot_snapshots(tmp_path / "h.h5", output=tmp_path / "s.png")
    assert_inside(tmp_path / "s.png")


# ---------------------------------------------------------------------------- firing


def draw_firing(folder: Path, drawn, /, size=(30, 30), labels=None, **given) -> Path:
    given = {"units": 9, "images": 12, "parts": 4} | given
    labels = list(range(12)) if labels is None else labels
    write_firing(folder / "f.h5", **given)
    write_images(folder / "i.h5", size, labels)
    write_classes(folder / "c.txt", 12)
    plot_firing(
        folder / "f.h5",
        folder / "i.h5",
        output=folder / "f.png",
        sampled=folder / "images.csv",
        counted=folder / "classes.csv",
        units=drawn,
        classes=folder / "c.txt",
        formats=["svg"],
    )
    return folder / "f.png"


def test_firing_shows_whole_images_and_ranks_all_units(tmp_path):
    output = draw_firing(tmp_path, 2)
    assert_inside(output)
    # Of nine units the last is dead, so units 7 and 6 have the largest indices.
    ranking = read_csv(output.with_suffix(".csv"))
    assert ranking["unit"] == ["7", "6", "5", "4", "3", "2", "1", "0", "8"]
    assert ranking["rank"] == [str(i) for i in range(1, 10)]
    assert (ranking["selectivity"][-1], ranking["class"][-1]) == ("", "-1")
    assert float(ranking["threshold"][0]) == 4.5
    assert ranking["firing_share"][0] == "2.5"
    images = read_csv(tmp_path / "images.csv")
    of = [i for i, unit in enumerate(images["unit"]) if unit == "7"]
    assert [images["part"][i] for i in of] == ["0", "2", "3"]
    assert [images["image"][i] for i in of] == ["4", "6", "7"]
    assert "8" not in images["unit"]
    classes = read_csv(tmp_path / "classes.csv")
    of = [i for i, unit in enumerate(classes["unit"]) if unit == "7"]
    assert [classes["images"][i] for i in of] == list("654321")
    assert float(classes["share"][of[0]]) == pytest.approx(6 / 21)
    colours = write_images(tmp_path / "again.h5", (30, 30), range(12))
    areas = [area(output, colour) for colour in colours]
    assert {i for i, found in enumerate(areas) if found > 0.1} == {0, 2, 3, 4, 6, 7}


def test_units_that_are_named_are_drawn(tmp_path):
    output = draw_firing(tmp_path, [0])
    colours = write_images(tmp_path / "again.h5", (30, 30), range(12))
    assert {i for i in range(12) if area(output, colours[i]) > 0.1} == {0, 2, 3}
    with pytest.raises(LayerError, match="no unit 99"):
        draw_firing(tmp_path, [99])


@pytest.mark.parametrize(
    "case",
    [
        {"units": 1, "parts": 1},
        {"units": 1, "parts": 2, "labels": [-1] * 12, "classes": 0},
        {"units": 40, "parts": 20, "classes": 12, "exact": False, "layer": LONG_LAYER},
        {"box": (-200, -200, 235, 235), "size": (20, 60)},
        {"box": (3, 3, 4, 4), "size": (60, 20), "parts": 3},
        {"units": 2048, "classes": 1},
    ],
)
def test_odd_firing(tmp_path, case):
    assert_inside(draw_firing(tmp_path, 6, **case))


def test_the_same_bytes_twice(tmp_path):
    found = []
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        draw_firing(tmp_path / folder, 3)
        draw_health(tmp_path / folder, [planted()], ["relu1"])
        drawn = sorted(p for p in (tmp_path / folder).iterdir() if p.suffix != ".h5")
        found.append({path.name: path.read_bytes() for path in drawn})
    assert found[0] == found[1]
