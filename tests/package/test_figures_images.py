"""Figures of images: embedding, occlusion, receptive fields; and the training curve."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
from figure_artifacts import (
    LONG_LAYER,
    RECIPE,
    pixels_of,
    write_classes,
    write_exhibit,
    write_fields,
    write_images,
    write_layers,
    write_occlusion,
    write_predictions,
    write_strongest,
)

from convatlas import store
from convatlas.errors import LayerError, StoreError
from convatlas.figures import embedding, style
from convatlas.figures.embedding import plot_grid, plot_scatter
from convatlas.figures.occlusion import plot_occlusion
from convatlas.figures.receptive_fields import plot_growth
from convatlas.figures.training import plot_training
from convatlas.files import read_csv, write_csv

pytestmark = pytest.mark.filterwarnings("error")


def colours_of(path) -> set[tuple[int, ...]]:
    """Return every colour of a figure."""
    packed = np.unique(pixels_of(path).astype(np.int64) @ [65536, 256, 1])
    return {(int(i) >> 16, int(i) >> 8 & 255, int(i) & 255) for i in packed}


def rgb(text: str) -> tuple[int, ...]:
    return tuple(int(text[i : i + 2], 16) for i in (1, 3, 5))


# -------------------------------------------------------------------- embedding


def write_embedding(tmp_path, labels, position=None):
    write_images(tmp_path / "i.h5", (8, 8), labels)
    if position is None:
        position = np.random.default_rng(0).normal(size=(len(labels), 2))
    artifact = store.Embedding(np.asarray(position, np.float32), LONG_LAYER, 1.0)
    store.write(tmp_path / "e.h5", artifact, RECIPE)


@pytest.mark.parametrize(
    "labels",
    [
        [0],
        [-1] * 5,
        [0, 1, 2, 3, 4, -1],
        list(range(24)) * 2,
        list(range(25)) * 2,
        [*range(100), -1],
    ],
    ids=["one image", "no labels", "some labels", "24 classes", "25 classes", "many classes"],
)
@pytest.mark.parametrize("predicted", [True, False])
def test_scatter_of_any_labels(tmp_path, labels, predicted):
    write_embedding(tmp_path, labels)
    write_classes(tmp_path / "c.txt", 100)
    write_predictions(tmp_path / "p.csv", labels, [0] * len(labels))
    plot_scatter(
        tmp_path / "e.h5",
        tmp_path / "i.h5",
        output=tmp_path / "s.png",
        predictions=tmp_path / "p.csv" if predicted else None,
        classes=tmp_path / "c.txt",
        formats=["svg"],
    )
    table = read_csv(tmp_path / "s.csv")
    assert [int(label) for label in table["label"]] == labels
    assert ("predicted" in table) == predicted


def test_scatter_csv_holds_the_positions(tmp_path):
    write_embedding(tmp_path, [2, 0], [[1.5, -2.25], [0, 7]])
    plot_scatter(tmp_path / "e.h5", tmp_path / "i.h5", output=tmp_path / "s.png")
    table = read_csv(tmp_path / "s.csv")
    assert (table["x"], table["y"]) == (["1.5", "0"], ["-2.25", "7"])
    assert table["class"] == ["class 2", "class 0"]


@pytest.mark.parametrize("classes", [2, 12, 60])
def test_scatter_of_many_with_a_sample(classes, tmp_path, monkeypatch):
    monkeypatch.setattr(embedding, "_MANY", 50)
    labels = [i % classes - (i % 7 == 0) for i in range(120)]
    write_images(tmp_path / "i.h5", (2, 2), labels)
    write_predictions(tmp_path / "p.csv", labels, [0] * 120)
    position = np.random.default_rng(0).normal(size=(120, 2)).astype(np.float32)
    embedded = (np.arange(120) % 3 == 0).astype(np.uint8)
    artifact = store.Embedding(position, LONG_LAYER, 30.0, 0.5, embedded, 40)
    store.write(tmp_path / "e.h5", artifact, RECIPE)
    plot_scatter(
        tmp_path / "e.h5",
        tmp_path / "i.h5",
        output=tmp_path / "s.png",
        predictions=tmp_path / "p.csv",
        formats=["svg"],
    )
    table = read_csv(tmp_path / "s.csv")
    assert [int(x) for x in table["embedded"]] == embedded.tolist()
    assert [int(x) for x in table["label"]] == labels
    assert artifact.sampled is not None
    told = "40 of 120 images embedded, the others placed among them"
    assert embedding.mapped(artifact) == told
    assert told in (tmp_path / "s.svg").read_text(encoding="utf-8")


def test_many_points_of_a_group_dont_hide_those_of_another(monkeypatch):
    """Each is drawn once, and what is drawn first and last is of both groups."""
    drawn: list[tuple[str, float]] = []

    class Axes:
        def scatter(self, x, y, *, c, **rest):
            drawn.extend((c if isinstance(c, str) else tuple(c[i]), x[i]) for i in range(len(x)))

    position = np.stack([np.arange(400.0)] * 2, 1)
    member = np.arange(400) // 200
    looks = {0: ("red", "o"), 1: ("blue", "s")}
    embedding.draw_groups(Axes(), position, member, looks)
    assert [colour for colour, _ in drawn] == ["red"] * 200 + ["blue"] * 200
    monkeypatch.setattr(embedding, "_MANY", 100)
    drawn.clear()
    embedding.draw_groups(Axes(), position, member, looks)
    assert sorted(x for _, x in drawn) == list(range(400))
    assert all((colour == "blue") == (x >= 200) for colour, x in drawn)
    assert {colour for colour, _ in drawn[:50]} == {colour for colour, _ in drawn[-50:]}
    drawn.clear()
    embedding.dots(Axes(), position, colour=np.eye(2)[member])
    assert sorted(x for _, x in drawn) == list(range(400))
    assert all((colour == (0, 1)) == (x >= 200) for colour, x in drawn)
    assert 60 < sum(x < 200 for _, x in drawn[:200]) < 140


def test_a_class_is_named_in_the_middle_of_its_points():
    position = np.array([[0, 0], [9, 9], [1, 1], [2, 0], [7, 7.0], [5, 5]])
    label = np.array([3, 8, 3, 3, -1, 8])
    position[5] = [8.8, 9]
    found = embedding._middles(position, label)
    assert label[found].tolist() == [3, 8]
    assert found[0] in (0, 2, 3)
    three = position[[0, 2, 3]]
    away = np.linalg.norm(three - np.median(three, 0), axis=1)
    assert found[0] == [0, 2, 3][int(away.argmin())]


def test_no_two_classes_look_alike():
    for points in (0, 1_000_000):
        looks = {embedding.look(place, points) for place in range(embedding._FEW)}
        assert len(looks) == embedding._FEW
    assert {marker for _, marker in looks} == {"o"}


def test_equal_positions_are_drawn(tmp_path):
    write_embedding(tmp_path, [0, 1], [[3, 3], [3, 3]])
    plot_scatter(tmp_path / "e.h5", tmp_path / "i.h5", output=tmp_path / "s.png")


def test_grid_shows_each_image_in_its_cell(tmp_path):
    colours = write_images(tmp_path / "i.h5", (20, 10), [0, 1, 2])
    cells = np.array([[2, -1], [0, 1]])
    store.write(tmp_path / "g.h5", store.Grid(cells, "conv1"), RECIPE)
    plot_grid(tmp_path / "g.h5", tmp_path / "i.h5", output=tmp_path / "g.png")
    pixels = pixels_of(tmp_path / "g.png").astype(int)
    centre = {}
    for image in range(3):
        rows, columns = np.nonzero((pixels == colours[image]).all(-1))
        assert len(rows) == pytest.approx(240 * 480, rel=0.02)  # a cell of 240 by 480 dots
        centre[image] = rows.mean(), columns.mean()
    assert centre[2][0] < centre[0][0]
    assert centre[2][1] == pytest.approx(centre[0][1], abs=2)
    assert centre[1][0] == pytest.approx(centre[0][0], abs=2)
    assert centre[1][1] > centre[0][1]
    table = read_csv(tmp_path / "g.csv")
    assert list(zip(table["row"], table["column"], table["image"], strict=True)) == [
        ("0", "0", "2"),
        ("1", "0", "0"),
        ("1", "1", "1"),
    ]


@pytest.mark.parametrize(
    ("sampled", "told"),
    [
        (None, "3 of 6 images in 2 × 6 cells, each where its code lies"),
        (4, "; 4 of 6 images embedded, the others placed among them"),
    ],
)
def test_a_grid_tells_what_it_shows_of_how_many(tmp_path, sampled, told):
    write_images(tmp_path / "i.h5", (20, 10), [0, 1, 2, 0, 1, 2])
    laid = store.Grid(np.array([[5] + 5 * [-1], [0, 1] + 4 * [-1]]), "conv1", sampled)
    store.write(tmp_path / "g.h5", laid, RECIPE)
    plot_grid(tmp_path / "g.h5", tmp_path / "i.h5", output=tmp_path / "g.png", formats=["svg"])
    assert f"{told} -->" in (tmp_path / "g.svg").read_text(encoding="utf-8")


def test_large_grids_stay_printable(tmp_path):
    write_images(tmp_path / "i.h5", (12, 12), [0, 1])
    store.write(tmp_path / "g.h5", store.Grid(np.zeros((2, 300), int), "conv1"), RECIPE)
    plot_grid(tmp_path / "g.h5", tmp_path / "i.h5", output=tmp_path / "g.png")
    assert pixels_of(tmp_path / "g.png").shape[1] < 5000


# -------------------------------------------------------------------- occlusion


def sweep(tmp_path, probability, *, label, size=4, stride=4, shape=(10, 8), **rest):
    write_exhibit(tmp_path / "e.h5", shape, label)
    write_occlusion(
        tmp_path / "o.h5", np.asarray(probability), size=size, stride=stride, label=label, **rest
    )
    write_classes(tmp_path / "c.txt", 30)
    return {
        "exhibit": tmp_path / "e.h5",
        "occlusion": tmp_path / "o.h5",
        "output": tmp_path / "o.png",
        "classes": tmp_path / "c.txt",
    }


def test_occlusion_csv_against_hand_computed_numbers(tmp_path):
    # an image of 10 x 8 pixels, occluder and stride 4: three rows of which the last is cut
    probability = np.zeros((3, 2, 3))
    probability[..., 1] = [[0.6, 0.5], [0.1, 0.2], [0.6, 0.6]]
    probability[..., 2] = 0.3
    plot_occlusion(**sweep(tmp_path, probability, label=1))
    table = read_csv(tmp_path / "o.csv")
    assert table["row"] == ["0", "0", "4", "4", "8", "8"]
    assert table["column"] == ["0", "4"] * 3
    assert [float(v) for v in table["centre_y"]] == [2, 2, 6, 6, 9, 9]
    assert [float(v) for v in table["centre_x"]] == [2, 6] * 3
    assert [float(v) for v in table["probability"]] == pytest.approx([0.6, 0.5, 0.1, 0.2, 0.6, 0.6])
    assert table["predicted"] == ["1", "1", "2", "2", "1", "1"]
    assert [float(v) for v in table["predicted_probability"]][2:4] == pytest.approx([0.3, 0.3])
    assert [float(v) for v in table["map_sum"]] == list(range(6))
    assert set(table["class"]) == {"a" * 60}


def test_without_a_label_the_class_of_the_whole_image_is_drawn(tmp_path):
    probability = np.tile([0.7, 0.1, 0.2], (2, 2, 1))
    clean = np.array([0.1, 0.2, 0.7], np.float32)
    plot_occlusion(**sweep(tmp_path, probability, label=-1, clean=clean, shape=(8, 8)))
    table = read_csv(tmp_path / "o.csv")
    assert [float(v) for v in table["probability"]] == pytest.approx([0.2] * 4)


def test_classes_beyond_the_palette_share_a_grey(tmp_path):
    probability = np.eye(16)[np.arange(16)].reshape(4, 4, 16)
    job = sweep(tmp_path, probability, label=0, shape=(16, 16))
    plot_occlusion(**job)
    found = colours_of(job["output"])
    assert {rgb(colour) for colour in style.COLOURS[:7]} <= found
    assert (0xB0, 0xB0, 0xB0) in found
    assert rgb(style.COLOURS[7]) not in found
    plot_occlusion(**sweep(tmp_path, probability[:2, :, :8] + 1e-3, label=0, shape=(8, 16)))
    assert {rgb(colour) for colour in style.COLOURS[:8]} <= colours_of(job["output"])


def test_the_occluder_is_drawn_where_it_hurts_most(tmp_path):
    probability = np.full((4, 4, 2), 0.5)
    probability[3, 0, 0] = 0.1
    job = sweep(tmp_path, probability, label=0, shape=(16, 16))
    plot_occlusion(**job)
    pixels = pixels_of(job["output"]).astype(int)
    rows, columns = np.nonzero((pixels == (120, 110, 100)).all(-1))
    left, top = 0.08 + 0.24, 0.46 + 0.30  # the panel's corner in inches
    pixel = 1.7 / 16
    assert rows.mean() / style.DPI == pytest.approx(top + 14 * pixel, abs=0.02)
    assert columns.mean() / style.DPI == pytest.approx(left + 2 * pixel, abs=0.02)


@pytest.mark.parametrize(("shape", "label"), [((12, 60), 0), ((60, 12), 1), ((4, 4), -1)])
@pytest.mark.parametrize("answers", [0, 1, 20])
def test_odd_sweeps(tmp_path, shape, answers, label):
    rows, columns = (max(1, side // 4) for side in shape)
    flat = {"map_sum": np.full((rows, columns), 5, np.float32)}
    job = sweep(tmp_path, np.full((rows, columns, 30), 1 / 30), label=label, shape=shape, **flat)
    if answers:
        write_strongest(tmp_path / "s.h5", answers, (9, 5))
        job["strongest"] = tmp_path / "s.h5"
    else:
        job["reason"] = "it goes through a SiLU " * 30
    plot_occlusion(**job)


# -------------------------------------------------------------- receptive fields


def growth(tmp_path, size=(32, 32), dead=(), label=0):
    """Write what the figure is made from, and return its arguments."""
    write_layers(tmp_path / "l.json")
    write_exhibit(tmp_path / "e.h5", size, label)
    write_fields(tmp_path / "f.h5", tmp_path / "l.json", size, dead)
    return {
        "exhibit": tmp_path / "e.h5",
        "layers_json": tmp_path / "l.json",
        "fields": tmp_path / "f.h5",
        "output": tmp_path / "g.png",
    }


def boxes_of(table, prefix=""):
    return list(
        zip(*(table[prefix + edge] for edge in ("top", "left", "bottom", "right")), strict=True)
    )


def test_growth_csv_against_hand_computed_boxes(tmp_path):
    plot_growth(**growth(tmp_path), layers=["conv1", LONG_LAYER, "head"], formats=["svg"])
    table = read_csv(tmp_path / "g.csv")
    assert boxes_of(table) == [
        ("13", "13", "20", "20"),  # cell 8 of 16: -3 + 8 * 2, and 7 pixels
        ("-33", "-33", "66", "66"),  # cell 4 of 8: -49 + 4 * 4, and 99 pixels
        ("0", "0", "32", "32"),
    ]
    assert table["exact"] == ["1", "0", "1"]
    assert table["depth"] == ["0", "1", "2"]
    assert table["effective_y"] == table["effective_x"] == ["3", "49", "16"]
    assert boxes_of(table, "effective_") == [
        ("15", "15", "18", "18"),
        ("-8", "-8", "41", "41"),
        ("8", "8", "24", "24"),
    ]
    np.testing.assert_allclose([float(x) for x in table["ratio"]], [3 / 7, 49 / 99, 1 / 2])
    assert table["share"] == ["0.9"] * 3
    assert table["images"] == ["3"] * 3


def test_growth_without_a_gradient(tmp_path):
    plot_growth(**growth(tmp_path, (50, 20), dead=["conv1"]), layers=["conv1", "head"])
    table = read_csv(tmp_path / "g.csv")
    assert table["effective_y"] == ["0", "16"]
    assert table["ratio"] == ["0", "0.5"]


def test_growth_of_one_layer_and_of_a_wrong_one(tmp_path):
    job = growth(tmp_path, (50, 20), label=-1)
    plot_growth(**job, layers=["conv1"])
    with pytest.raises(LayerError, match="conv1"):
        plot_growth(**job, layers=["conv"])
    measured = store.read(store.EffectiveFields, tmp_path / "f.h5")
    fewer = {f.name: getattr(measured, f.name) for f in fields(measured)}
    fewer |= {name: value[:1] for name, value in fewer.items() if isinstance(value, np.ndarray)}
    store.write(tmp_path / "f.h5", store.EffectiveFields(**fewer), RECIPE)
    with pytest.raises(StoreError, match="no layer 'head', only conv1"):
        plot_growth(**job, layers=["conv1", "head"])


# ---------------------------------------------------------------------- training


def test_training_curve_and_its_numbers(tmp_path):
    history = {
        "epoch": [1, 2, 3],
        "loss": [2.0, 1.0, 0.5],
        "train_accuracy": [0.3, 0.6, 0.9],
        "test_loss": [2.1, 1.2, 0.9],
        "test_accuracy": [0.25, 0.5, 0.75],
        "learning_rate": [0.1, 0.1, 0.1],
    }
    write_csv(tmp_path / "h.csv", history)
    plot_training(tmp_path / "h.csv", output=tmp_path / "t.png")
    table = read_csv(tmp_path / "t.csv")
    assert table["test_accuracy"] == ["0.25", "0.5", "0.75"]
    assert "learning_rate" not in table
    assert {rgb(style.COLOURS[0]), rgb(style.COLOURS[1])} <= colours_of(tmp_path / "t.png")


def test_training_of_one_epoch_without_test_images(tmp_path):
    history = {"epoch": [1], "loss": [2.0], "train_accuracy": [1.0]}
    history |= {"test_loss": [""], "test_accuracy": [""], "learning_rate": [0.1]}
    write_csv(tmp_path / "h.csv", history)
    plot_training(tmp_path / "h.csv", output=tmp_path / "t.png")
    assert rgb(style.COLOURS[1]) not in colours_of(tmp_path / "t.png")
