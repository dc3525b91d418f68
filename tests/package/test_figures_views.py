"""Figures of nearest images, of votes, and of maps in many colourings or beside each other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from figure_artifacts import (
    LONG_LAYER,
    RECIPE,
    pixels_of,
    write_classes,
    write_images,
    write_predictions,
)

from convatlas import store
from convatlas.errors import DataError
from convatlas.figures import style
from convatlas.figures.neighbours import plot_accuracy, plot_nearest
from convatlas.figures.views import plot_perplexities, plot_quality, plot_views
from convatlas.files import read_csv

pytestmark = pytest.mark.filterwarnings("error")

LABELS = {
    "few": [0, 1, 2, 3, 4, -1] * 2,
    "none": [-1] * 12,
    "one class": [3] * 12,
    "many": [*range(60), -1],
}


def has_colour(path: Path, text: str) -> bool:
    wanted = [int(text[i : i + 2], 16) for i in (1, 3, 5)]
    return bool((pixels_of(path) == wanted).all(-1).any())


# -------------------------------------------------------------------- nearest images


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
@pytest.mark.parametrize("count", [1, 7, 11])
def test_nearest(labels: list[int], count: int, tmp_path: Path) -> None:
    write_images(tmp_path / "i.h5", (12, 20), labels)
    write_classes(tmp_path / "c.txt", 60)
    compared = np.array(["pixels", LONG_LAYER, "$fc"], object)
    image = np.array([np.roll(np.arange(1, len(labels)), shift)[:count] for shift in range(3)])
    distance = np.linspace(0, 1e6, 3 * count).reshape(3, count)
    store.write(tmp_path / "n.h5", store.Nearest(compared, image, distance, 0), RECIPE)
    plot_nearest(
        tmp_path / "n.h5",
        tmp_path / "i.h5",
        output=tmp_path / "n.png",
        classes=tmp_path / "c.txt",
        formats=["svg"],
        dpi=60,
    )
    table = read_csv(tmp_path / "n.csv")
    assert table["layer"] == [name for name in compared for _ in range(count)]
    assert [int(i) for i in table["image"]] == image.ravel().tolist()
    same = [
        "" if min(labels[0], labels[i]) < 0 else str(int(labels[0] == labels[i]))
        for i in image.ravel()
    ]
    assert table["same_class"] == same
    assert has_colour(tmp_path / "n.png", style.COLOURS[2]) == (
        labels.count(labels[0]) > 1 and labels[0] >= 0
    )


def write_votes(path: Path, layer: str, right: int, of: int) -> None:
    label = np.arange(of) % 3
    vote = np.where(np.arange(of) < right, label, (label + 1) % 3)
    store.write(
        path,
        store.Votes(
            image=np.arange(of),
            label=label,
            vote=vote,
            twin=np.ones(of, int),
            neighbour=np.zeros((of, 5), int),
            distance=np.ones((of, 5)),
            labelled=of,
            most=0.34,
            counted=of,
            right=right,
            low=right / of - 0.05 if of else np.nan,
            high=right / of + 0.05 if of else np.nan,
            layer=layer,
        ),
        RECIPE,
    )


@pytest.mark.parametrize("layers", [1, 3, 12])
def test_accuracy(layers: int, tmp_path: Path) -> None:
    names = ["pixels", *(f"{LONG_LAYER}.{i}" for i in range(layers))]
    for i, name in enumerate(names):
        write_votes(tmp_path / f"{i}.h5", name, 5 + i, 20)
    labels = [i % 3 for i in range(20)]
    write_predictions(tmp_path / "p.csv", labels, [*labels[:16], 9, 9, 9, 9])
    plot_accuracy(
        [tmp_path / f"{i}.h5" for i in range(len(names))],
        tmp_path / "p.csv",
        output=tmp_path / "a.png",
        formats=["pdf"],
        dpi=60,
    )
    table = read_csv(tmp_path / "a.csv")
    assert table["layer"] == [*names, "the network", "the commonest class"]
    shares = [(5 + i) / 20 for i in range(len(names))]
    assert [float(x) for x in table["accuracy"]] == pytest.approx([*shares, 0.8, 0.34])
    assert table["right"][-2:] == ["16", ""]


def test_accuracy_without_labels_says_so(tmp_path: Path) -> None:
    write_votes(tmp_path / "v.h5", "pixels", 0, 0)
    write_predictions(tmp_path / "p.csv", [-1, -1], [0, 1])
    plot_accuracy([tmp_path / "v.h5"], tmp_path / "p.csv", output=tmp_path / "a.png", dpi=60)
    assert read_csv(tmp_path / "a.csv")["images"] == ["0", "0", "0"]


# -------------------------------------------------------------------------- views

ATTRIBUTES = {
    "corners": np.arange(12.0 * 8).reshape(12, 4, 2),
    "flag": np.arange(12) % 2,
    "kind $x": np.array([*("a", "", "<b>") * 4], object),
    "name": np.array([f"unique {i}" for i in range(12)], object),
    "place": np.arange(24.0).reshape(12, 2),
    "size": np.where(np.arange(12) == 4, np.nan, np.arange(12)),
    "unknown": np.full(12, np.nan),
}


def write_attributed(path: Path, labels: Sequence[int]) -> None:
    with store.ImageWriter(path, RECIPE, (4, 4)) as writer:
        for i, label in enumerate(labels):
            image = np.zeros((4, 4, 3), np.uint8)
            writer.append(image, label, f"{i}", {k: v[i % 12] for k, v in ATTRIBUTES.items()})


def write_map(path: Path, count: int, layer: str = "fc", perplexity: float = 30.0) -> None:
    position = np.random.default_rng(0).normal(size=(count, 2)).astype(np.float32)
    store.write(path, store.Embedding(position, layer, perplexity, 0.5), RECIPE)


def draw_views(folder: Path, labels: Sequence[int], attributes: str | list[str]) -> Path:
    write_attributed(folder / "i.h5", labels)
    write_map(folder / "m.h5", len(labels))
    write_classes(folder / "c.txt", 60)
    write_predictions(folder / "p.csv", labels, [0] * len(labels))
    plot_views(
        folder / "m.h5",
        folder / "i.h5",
        folder / "p.csv",
        output=folder / "v.png",
        attributes=attributes,
        classes=folder / "c.txt",
        formats=["svg"],
        dpi=60,
    )
    return folder / "v.csv"


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
def test_views(labels: list[int], tmp_path: Path) -> None:
    table = read_csv(draw_views(tmp_path, labels, "all"))
    assert [int(x) for x in table["label"]] == labels
    assert table["flag"] == [str(i % 12 % 2) for i in range(len(labels))]
    assert table["kind $x"][:3] == ["a", "", "<b>"]
    assert table["place[1]"][0] == "1"
    assert table["size"][4] == "nan"
    assert len([key for key in table if key.startswith("corners[")]) == 8


def test_views_are_as_many_as_there_is_to_colour(tmp_path: Path) -> None:
    """Three, and flag, kind, both places, size, unknown: corners and unique names are too much."""
    heights = []
    for attributes in ([], ["flag"], ["corners"], "all"):
        folder = tmp_path / str(len(heights))
        folder.mkdir()
        draw_views(folder, LABELS["few"], attributes)
        heights.append(pixels_of(folder / "v.png").shape[0])
    none, flag, corners, everything = heights
    assert none == corners
    assert none < flag < everything


def test_an_attribute_that_isnt_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no attribute 'sise'.*'size'"):
        draw_views(tmp_path, LABELS["few"], ["sise"])


# ------------------------------------------------------------ maps beside each other


def write_quality(path: Path, layers: Sequence[str], perplexities: Sequence[float]) -> None:
    count = len(layers)
    some = np.linspace(0.5, 0.9, count)
    accuracy = np.full(count, np.nan) if count == 2 else some
    store.write(
        path,
        store.Quality(
            np.array(layers, object),
            np.array(perplexities, float),
            *(some, some, some, accuracy, accuracy),
            near=10,
            images=12,
            trusted=12,
        ),
        RECIPE,
    )


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
@pytest.mark.parametrize("count", [2, 5])
def test_quality(labels: list[int], count: int, tmp_path: Path) -> None:
    layers = ["pixels", LONG_LAYER, "relu4", "relu5", "fc"][:count]
    for i, layer in enumerate(layers):
        write_map(tmp_path / f"{i}.h5", len(labels), layer)
    write_images(tmp_path / "i.h5", (4, 4), labels)
    write_quality(tmp_path / "q.h5", layers, [30.0] * count)
    plot_quality(
        [tmp_path / f"{i}.h5" for i in range(count)],
        tmp_path / "q.h5",
        tmp_path / "i.h5",
        output=tmp_path / "q.png",
        formats=["svg"],
        dpi=60,
    )
    table = read_csv(tmp_path / "q.csv")
    assert table["layer"] == layers
    assert [float(x) for x in table["recall"]] == pytest.approx(np.linspace(0.5, 0.9, count))


def test_maps_of_a_sample_say_so(tmp_path: Path) -> None:
    """In the second line of each sheet, and in the tables image by image."""
    embedded = (np.arange(12) % 2).astype(np.uint8)
    position = np.random.default_rng(0).normal(size=(12, 2)).astype(np.float32)
    maps = {"a": ("fc", 5.0), "b": ("fc", 30.0), "c": ("pixels", 30.0)}
    for name, (layer, perplexity) in maps.items():
        artifact = store.Embedding(position, layer, perplexity, 0.5, embedded, 6)
        store.write(tmp_path / f"{name}.h5", artifact, RECIPE)
    write_images(tmp_path / "i.h5", (4, 4), [0, 1] * 6)
    write_predictions(tmp_path / "p.csv", [0, 1] * 6, [0] * 12)
    write_quality(tmp_path / "q.h5", ["fc", "fc", "pixels"], [5.0, 30.0, 30.0])
    paths = {name: tmp_path / f"{name}.h5" for name in "abciq"}
    draw = {
        "views": (plot_views, paths["b"], paths["i"], tmp_path / "p.csv"),
        "perplexities": (plot_perplexities, [paths["a"], paths["b"]], paths["q"], paths["i"]),
        "quality": (plot_quality, [paths["c"], paths["b"]], paths["q"], paths["i"]),
    }
    for name, (plot, *inputs) in draw.items():
        plot(*inputs, output=tmp_path / f"{name}.png", formats=["svg"], dpi=60)
        text = (tmp_path / f"{name}.svg").read_text(encoding="utf-8")
        assert "6 of 12 images embedded, the others placed among them" in text
    assert read_csv(tmp_path / "views.csv")["embedded"] == ["0", "1"] * 6
    assert read_csv(tmp_path / "perplexities.csv")["embedded"] == ["0", "1"] * 12


def test_perplexities_stand_in_order_and_once(tmp_path: Path) -> None:
    """The third was lowered to that of the first, as with few images."""
    for name, perplexity in (("a", 30.0), ("b", 5.0), ("c", 30.0)):
        write_map(tmp_path / f"{name}.h5", 6, "fc", perplexity)
    write_images(tmp_path / "i.h5", (4, 4), [0, 1] * 3)
    write_quality(tmp_path / "q.h5", ["fc"] * 3, [30.0, 5.0, 30.0])
    plot_perplexities(
        [tmp_path / f"{name}.h5" for name in "abc"],
        tmp_path / "q.h5",
        tmp_path / "i.h5",
        output=tmp_path / "p.png",
    )
    table = read_csv(tmp_path / "p.csv")
    assert table["perplexity"] == ["5"] * 6 + ["30"] * 6
    assert table["image"] == [str(i) for i in range(6)] * 2
