"""Figures of units: filters, maps, patches and projections."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from figure_artifacts import (
    LONG_LAYER,
    RECIPE,
    pixels_of,
    write_classes,
    write_directions,
    write_exhibit,
    write_filters,
    write_images,
    write_patches,
    write_projections,
)
from matplotlib import colormaps

from convatlas import store
from convatlas.errors import LayerError
from convatlas.figures import mosaic, overlay, style
from convatlas.figures.directions import plot_directions
from convatlas.figures.filters import plot_filters
from convatlas.figures.frequency import plot_frequency
from convatlas.figures.kernels import plot_kernels
from convatlas.figures.maps import plot_maps
from convatlas.figures.mosaic import plot_mosaic
from convatlas.figures.overlay import plot_overlay
from convatlas.figures.patches import plot_patches
from convatlas.figures.projections import plot_projections
from convatlas.figures.redundancy import pairs_of, plot_redundancy
from convatlas.files import read_csv, write_json
from convatlas.layers import Layer

pytestmark = pytest.mark.filterwarnings("error")


def area(path, colour) -> float:
    """Return how many square inches of a figure have exactly this colour."""
    pixels = pixels_of(path)
    return float((pixels == np.array(colour)).all(-1).sum()) / style.DPI**2


# ---------------------------------------------------------------------- filters


def test_filters_share_one_contrast_and_keep_their_colours(tmp_path):
    weight = np.zeros((3, 3, 4, 4))
    weight[0, 0], weight[0, 1:] = 2, -2  # the strongest: pure red
    weight[1] = [[[0]], [[1]], [[0]]]  # half as strong: greenish grey
    write_filters(tmp_path / "f.h5", weight)
    plot_filters(tmp_path / "f.h5", output=tmp_path / "f.png")
    tile = 0.8**2  # of three filters each is as large as it may be
    assert area(tmp_path / "f.png", (255, 0, 0)) == pytest.approx(tile, rel=0.03)
    assert area(tmp_path / "f.png", (128, 191, 128)) == pytest.approx(tile, rel=0.03)
    assert area(tmp_path / "f.png", (128, 128, 128)) == pytest.approx(tile, rel=0.03)


def test_filters_csv_holds_every_weight(tmp_path):
    weight = np.random.default_rng(0).normal(size=(5, 3, 2, 4)).astype(np.float32)
    write_filters(tmp_path / "f.h5", weight)
    plot_filters(tmp_path / "f.h5", output=tmp_path / "f.png", formats=["svg"])
    table = read_csv(tmp_path / "f.csv")
    found = np.full(weight.shape, np.nan, np.float32)
    at = tuple(np.array(table[name], int) for name in ("unit", "channel", "row", "column"))
    found[at] = np.array(table["weight"], np.float32)
    np.testing.assert_array_equal(found, weight)


@pytest.mark.parametrize(
    "shape",
    [(1, 3, 7, 7), (96, 3, 11, 11), (32, 1, 5, 5), (7, 4, 3, 9), (5, 3, 1, 1), (2, 40, 3, 3)],
)
def test_filters_of_any_shape_stay_on_the_page(tmp_path, shape):
    weight = np.ones(shape)
    weight[0] = -1  # black
    write_filters(tmp_path / "f.h5", weight, LONG_LAYER)
    plot_filters(tmp_path / "f.h5", output=tmp_path / "f.png")
    pixels = pixels_of(tmp_path / "f.png")
    for edge in (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]):
        assert (edge == 255).all()


def test_frequencies_are_told_in_words_and_in_the_csv(tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(style, "head", lambda axes, title, subtitle: told.append(subtitle))
    weight = np.ones((4, 3, 5, 5))
    weight[3] = 0
    filters = write_filters(tmp_path / "f.h5", weight)
    peak = np.array([0.05, 0.2, 0.5, np.nan])
    filters = dataclasses.replace(filters, peak=peak, high=np.array([0.2, 0.3, 0.7, np.nan]))
    store.write(tmp_path / "f.h5", filters, RECIPE)
    plot_frequency(tmp_path / "f.h5", output=tmp_path / "f.png")
    assert told == [
        "1 of 3 filters has its peak in the middle band (white noise: 15 %); high frequencies "
        "hold 40 % of a filter's energy; the stride aliases 50 %; 1 all zero"
    ]
    table = read_csv(tmp_path / "f.csv")
    names = ["unit", "rms", "rms_pixels", "low", "middle", "high", "peak", "aliased"]
    assert list(table) == names
    assert table["peak"] == ["0.05", "0.2", "0.5", ""]
    assert table["rms"] == ["1", "1", "1", "0"]


@pytest.mark.parametrize("case", ["one", "all zero", "unknown scale", "many", "pixels"])
def test_odd_frequencies(tmp_path, case):
    weight = np.ones((300 if case == "many" else 1 if case == "one" else 6, 3, 7, 7)) / 50
    weight *= 0 if case == "all zero" else 1
    filters = write_filters(tmp_path / "f.h5", weight, LONG_LAYER, known=case != "all zero")
    if case == "unknown scale":
        filters = dataclasses.replace(filters, rms_pixels=np.full(6, np.nan), stride=(1, 1))
    elif case == "pixels":
        filters = dataclasses.replace(filters, rms_pixels=filters.rms, stride=(2, 1))
    store.write(tmp_path / "f.h5", filters, RECIPE)
    plot_frequency(tmp_path / "f.h5", output=tmp_path / "f.png", formats=["svg"], dpi=60)
    assert len(read_csv(tmp_path / "f.csv")["unit"]) == len(weight)
    pixels = pixels_of(tmp_path / "f.png")
    for edge in (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]):
        assert (edge == 255).all()


def test_pairs_of_similar_filters(tmp_path):
    alike = np.eye(4, dtype=np.float32)
    for (a, b), value in {(0, 2): 0.5, (1, 3): 1, (0, 1): 0.875, (2, 3): -0.5}.items():
        alike[a, b] = alike[b, a] = value
    weight = np.ones((4, 3, 2, 2))
    write_filters(tmp_path / "f.h5", weight, similarity=alike)
    plot_redundancy(tmp_path / "f.h5", similar=0.875, output=tmp_path / "f.png")
    table = read_csv(tmp_path / "f.csv")
    assert list(zip(*table.values(), strict=True)) == [
        ("pair", "1", "3", "1"),
        ("pair", "0", "1", "0.875"),
        ("nearest", "0", "1", "0.875"),
        ("nearest", "1", "3", "1"),
        ("nearest", "2", "0", "0.5"),
        ("nearest", "3", "1", "1"),
    ]
    # Of two groups, the units 0 and 1 are a pair, and 2 and 3.
    grouped = write_filters(tmp_path / "g.h5", weight, similarity=alike, groups=2)
    first, second, value = pairs_of(grouped)
    assert (first.tolist(), second.tolist(), value.tolist()) == ([0, 2], [1, 3], [0.875, -0.5])
    plot_redundancy(tmp_path / "g.h5", similar=1.0, output=tmp_path / "g.png", dpi=60)
    assert read_csv(tmp_path / "g.csv")["unit"] == ["0", "1", "2", "3"]
    weight[1] = 0
    write_filters(tmp_path / "z.h5", weight, similarity=np.eye(4, dtype=np.float32))
    plot_redundancy(tmp_path / "z.h5", similar=0.9, output=tmp_path / "z.png", dpi=60)
    assert read_csv(tmp_path / "z.csv")["unit"] == ["0", "2", "3"]  # the zero one is near none


def test_the_channels_with_the_largest_weights_stand_for_a_pair(tmp_path):
    weight = np.zeros((2, 30, 3, 3))
    weight[0, 27], weight[1, 27] = 1, -1
    alike = np.ones((2, 2), np.float32)
    write_filters(tmp_path / "f.h5", weight, similarity=alike)
    plot_redundancy(tmp_path / "f.h5", similar=0.9, output=tmp_path / "f.png")
    kernel = 0.25**2  # of a side of about that many inches
    assert area(tmp_path / "f.png", (0, 0, 0)) == pytest.approx(kernel, rel=0.3)


@pytest.mark.parametrize(
    "shape", [(2, 64, 1, 1), (700, 1, 3, 3), (30, 3, 5, 5), (41, 2, 1, 7), (2, 3, 31, 31)]
)
def test_redundancy_of_any_shape(tmp_path, shape):
    weight = np.random.default_rng(0).normal(size=shape)
    write_filters(tmp_path / "f.h5", weight, LONG_LAYER)
    plot_redundancy(tmp_path / "f.h5", similar=0.9, output=tmp_path / "f.png", dpi=60)
    pixels = pixels_of(tmp_path / "f.png")
    for edge in (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]):
        assert (edge == 255).all()


def test_kernels_share_one_contrast_and_are_told_in_the_csv(tmp_path):
    weight = np.zeros((3, 4, 2, 2))
    weight[2, 1], weight[2, 2, 0, 1] = -1, 1
    weight[0] = 9  # isn't drawn
    write_filters(tmp_path / "f.h5", weight)
    plot_kernels(tmp_path / "f.h5", units=[2, 1], output=tmp_path / "f.png")
    assert area(tmp_path / "f.png", (0, 0, 0)) == pytest.approx(0.36**2, rel=0.05)
    # Of eight kernels one is black, and a quarter of one is white.
    assert area(tmp_path / "f.png", (128, 128, 128)) == pytest.approx(6.75 * 0.36**2, rel=0.05)
    table = read_csv(tmp_path / "f.csv")
    assert table["unit"] == ["2"] * 4 + ["1"] * 4
    assert table["channel"] == ["0", "1", "2", "3"] * 2
    assert table["rms"] == ["0", "1", "0.5", "0", *"0000"]
    assert table["weight_0_1"] == ["0", "-1", "1", "0", *"0000"]
    assert table["weight_1_0"] == ["0", "-1", "0", "0", *"0000"]
    with pytest.raises(LayerError, match="no unit 3"):
        plot_kernels(tmp_path / "f.h5", units=[3], output=tmp_path / "f.png")


@pytest.mark.parametrize(
    "shape", [(1, 1, 1, 1), (16, 2048, 1, 1), (16, 2048, 3, 3), (16, 96, 5, 5), (3, 7, 1, 31)]
)
def test_kernels_of_any_shape_stay_on_the_page(tmp_path, shape):
    write_filters(tmp_path / "f.h5", -np.ones(shape), LONG_LAYER)
    units = list(range(shape[0]))
    plot_kernels(tmp_path / "f.h5", units=units, output=tmp_path / "f.png", dpi=60)
    pixels = pixels_of(tmp_path / "f.png")
    for edge in (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]):
        assert (edge == 255).all()
    assert pixels.shape[0] / 60 < 20
    assert len(read_csv(tmp_path / "f.csv")["unit"]) == shape[0] * shape[1]


# ------------------------------------------------------------------------- maps


def test_maps_are_the_strongest_and_told_in_the_csv(tmp_path):
    maps = np.zeros((4, 3, 5), np.float32)
    maps[2, 1, 4], maps[0, 0, 0], maps[3, 2, 2] = 9, 4, 4
    with store.MapWriter(tmp_path / "m.h5", RECIPE) as writer:
        writer.write("conv1", maps)
    write_exhibit(tmp_path / "e.h5", (20, 30))
    plot_maps(
        tmp_path / "e.h5",
        tmp_path / "m.h5",
        output=tmp_path / "m.png",
        layers=["conv1"],
        units=3,
    )
    table = read_csv(tmp_path / "m.csv")
    assert table["unit"] == ["2", "0", "3"]  # of equals the lower first
    assert table["maximum"] == ["9", "4", "4"]
    assert list(zip(table["row"], table["column"], strict=True)) == [
        ("1", "4"),
        ("0", "0"),
        ("2", "2"),
    ]
    assert table["mean"][0] == "0.600000024"  # 9 / 15 in float32


def test_maps_colours_are_one_scale_per_layer(tmp_path):
    maps = np.stack([np.full((2, 2), 8.0), np.full((2, 2), 4.0), np.zeros((2, 2))])
    with store.MapWriter(tmp_path / "m.h5", RECIPE) as writer:
        writer.write("conv1", maps.astype(np.float32))
        writer.write("signed", (maps - 4).astype(np.float32))
    write_exhibit(tmp_path / "e.h5", (20, 20))
    output = tmp_path / "m.png"
    plot_maps(
        tmp_path / "e.h5", tmp_path / "m.h5", output=output, layers=["conv1", "signed"], units=3
    )
    for name, place in (("viridis", 0.0), ("viridis", 0.5), ("viridis", 1.0), ("RdBu_r", 1.0)):
        colour = np.array(colormaps[name](place, bytes=True)[:3])
        assert area(output, colour) > 0.4  # each tile is more than half a square inch


@pytest.mark.parametrize("label", [0, 1, 4, -1])
@pytest.mark.parametrize("size", [(60, 12), (12, 60)])
def test_maps_of_odd_exhibits_and_layers(tmp_path, label, size):
    rng = np.random.default_rng(0)
    with store.MapWriter(tmp_path / "m.h5", RECIPE) as writer:
        writer.write(LONG_LAYER, rng.normal(size=(20, 9, 2)).astype(np.float32))
        writer.write("flat", np.zeros((1, 4, 4), np.float32))
        writer.write("vector", np.full((3, 1, 1), 2, np.float32))
    write_exhibit(tmp_path / "e.h5", size, label)
    write_classes(tmp_path / "c.txt", 5)
    plot_maps(
        tmp_path / "e.h5",
        tmp_path / "m.h5",
        output=tmp_path / "m.png",
        layers=[LONG_LAYER, "flat", "vector"],
        units=12,
        classes=tmp_path / "c.txt",
    )
    assert len(read_csv(tmp_path / "m.csv")["unit"]) == 12 + 1 + 3


def write_maps(path, **maps):
    with store.MapWriter(path, RECIPE) as writer:
        for layer, values in maps.items():
            writer.write(layer, np.asarray(values, np.float32))


def test_a_mosaic_shows_every_unit_in_its_place(tmp_path):
    maps = np.zeros((3, 2, 2))
    maps[0], maps[2] = 8, 4
    write_maps(tmp_path / "m.h5", conv=maps, signed=maps - 4)
    write_exhibit(tmp_path / "e.h5", (20, 20))
    output = tmp_path / "m.png"
    plot_mosaic(tmp_path / "e.h5", tmp_path / "m.h5", output=output, layers=["conv", "signed"])
    pixels = pixels_of(output)

    def places(name, value):
        """Return the columns of the page with this colour in a large tile of it."""
        colour = np.array(colormaps[name](value, bytes=True)[:3])
        found = (pixels == colour).all(-1).sum(0) > 0.3 * style.DPI
        return np.flatnonzero(found)

    first, third = places("viridis", 1.0), places("viridis", 0.5)
    assert first.max() < third.min() - 0.3 * style.DPI  # the dead one is between them
    tile = (mosaic._LARGEST * 2 / 3) ** 2  # two cells, and a gutter of one
    # One map of each layer is zero throughout: half of its cells are struck through.
    assert area(output, (0xBD, 0xBD, 0xBD)) == pytest.approx(2 * tile / 2, rel=0.03)
    assert places("RdBu_r", 1.0).max() < places("RdBu_r", 0.0).min()
    table = read_csv(tmp_path / "m.csv")
    assert table["layer"] == ["conv"] * 3 + ["signed"] * 3
    assert table["unit"] == ["0", "1", "2"] * 2
    assert table["maximum"] == ["8", "0", "4", "4", "-4", "0"]
    assert table["above_zero"] == ["1", "0", "1", "1", "0", "0"]


def test_mosaic_csv_by_hand(tmp_path):
    maps = np.zeros((2, 2, 4))
    maps[1, 0] = [3, -1, 0, 6]
    write_maps(tmp_path / "m.h5", conv=maps)
    write_exhibit(tmp_path / "e.h5", (20, 20))
    plot_mosaic(
        tmp_path / "e.h5",
        tmp_path / "m.h5",
        output=tmp_path / "m.png",
        layers=["conv"],
        formats=["svg"],
    )
    table = read_csv(tmp_path / "m.csv")
    assert [table[name][1] for name in ("maximum", "mean", "above_zero")] == ["6", "1", "0.25"]


def test_a_lone_cell_survives_when_many_share_a_pixel():
    maps = np.zeros((2, 5, 7), np.float32)
    maps[0, 4, 6], maps[1, 1, 1], maps[1, 0, 0] = 9, -5, 3
    found = mosaic._farthest(maps, 3)
    assert found.shape == (2, 2, 3)
    assert found[0].tolist() == [[0, 0, 0], [0, 0, 9]]
    assert found[1].tolist() == [[-5, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize(
    "shape",
    [(2048, 7, 7), (64, 112, 112), (1, 1, 5), (5000, 2, 2), (11, 30, 2), (3, 2, 90), (33, 5, 5)],
)
def test_a_mosaic_of_any_shape_stays_on_a_page_of_bounded_height(tmp_path, shape):
    write_maps(tmp_path / "m.h5", **{LONG_LAYER: np.ones(shape)})
    write_exhibit(tmp_path / "e.h5", (60, 20))
    output = tmp_path / "m.png"
    job = {"output": output, "layers": [LONG_LAYER], "dpi": 100}
    plot_mosaic(tmp_path / "e.h5", tmp_path / "m.h5", **job)
    pixels = pixels_of(output)
    assert len(pixels) < 450
    for edge in (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]):
        assert (edge == 255).all()
    across, side = mosaic._arrange(*shape)
    assert across * side * shape[2] / max(shape[1:]) <= mosaic._ROOM + 1e-9


def write_overlay(tmp_path, layers, size=(32, 32), **maps):
    """Write what the figure is made from, and return its arguments."""
    entries = [layer.as_json() for layer in layers]
    write_json(tmp_path / "l.json", entries)
    write_maps(tmp_path / "m.h5", **maps)
    write_exhibit(tmp_path / "e.h5", size)
    return {
        "exhibit": tmp_path / "e.h5",
        "maps": tmp_path / "m.h5",
        "layers_json": tmp_path / "l.json",
        "output": tmp_path / "o.png",
        "layers": [layer.name for layer in layers],
    }


def a_layer(name, shape, size, stride, start, **more):
    return Layer(name, "conv", shape[0], shape, size, stride, start, **({"exact": True} | more))


def test_overlay_csv_by_hand(tmp_path):
    maps = np.zeros((3, 4, 4))
    maps[1, 2, 3], maps[2, 0, 0] = 9, 4
    layer = a_layer("conv", (3, 4, 4), (11, 7), (8, 6), (-2, 1))
    plot_overlay(**write_overlay(tmp_path, [layer], conv=maps), units=2, formats=["svg"])
    table = read_csv(tmp_path / "o.csv")
    assert table["unit"] == ["1", "2"]
    assert table["maximum"] == ["9", "4"]
    assert (table["row"], table["column"]) == (["2", "0"], ["3", "0"])
    # -2 + 2 * 8 to 25, whose middle is 19.5; 1 + 3 * 6 to 26
    assert (table["centre_y"], table["centre_x"]) == (["19.5", "3.5"], ["22.5", "4.5"])
    assert [table[edge][0] for edge in ("top", "left", "bottom", "right")] == [
        "14",
        "19",
        "25",
        "26",
    ]


def test_an_overlay_colours_a_cell_where_it_looks_and_nothing_else():
    """Half-way to its neighbours, and not what the map would cover were it stretched."""
    values = np.array([[0.0, 0, 0], [0, 2, 0], [-1, 0, 0]])
    layer = a_layer("conv", (1, 3, 3), (5, 5), (4, 4), (6, 6))
    colour = overlay._over(values, layer, (30, 30), 2.0)
    fine = len(colour) // 30
    alpha = colour[..., 3].reshape(30, fine, 30, fine)
    rows, columns = np.nonzero(alpha.any((1, 3)))
    strong = alpha.min((1, 3)) == alpha.max()
    # Middles at 8.5, 12.5, 16.5: cell 1 from 10.5 to 14.5, cell 2 to 18.5.
    assert np.flatnonzero(strong.any(0)).tolist() == [11, 12, 13]
    assert np.flatnonzero(strong.any(1)).tolist() == [11, 12, 13]
    assert (rows.min(), rows.max()) == (10, 18)
    assert (columns.min(), columns.max()) == (6, 14)
    covered = (alpha > 0).mean() * 30 * 30
    assert covered == pytest.approx(2 * 4 * 4, rel=0.03)
    below = (colour == [*overlay._rgb(overlay._BELOW), colour[..., 3].max() / 2]).all(-1)
    assert below.sum() / fine**2 == pytest.approx(16, rel=0.05)


def test_an_overlay_of_odd_layers(tmp_path):
    rng = np.random.default_rng(0)
    shapes = {LONG_LAYER: (20, 9, 2), "flat": (1, 4, 4), "whole": (3, 2, 2), "uneven": (2, 3, 2)}
    uneven = (((0, 3), (2, 4), (2, 9)), ((0, 4), (0, 4)))
    layers = [
        a_layer(LONG_LAYER, shapes[LONG_LAYER], (60, 60), (3, 9), (-20, -20), exact=False),
        a_layer("flat", shapes["flat"], (1, 1), (2, 2), (0, 0)),
        a_layer("whole", shapes["whole"], (40, 12), (0, 0), (0, 0)),
        a_layer("uneven", shapes["uneven"], (8, 5), (3, 1), (0, 0), intervals=uneven),
    ]
    maps = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    maps["flat"][:] = 0
    job = write_overlay(tmp_path, layers, (40, 12), **maps)
    plot_overlay(**job, units=6, dpi=100)
    table = read_csv(tmp_path / "o.csv")
    assert [table["layer"].count(name) for name in shapes] == [6, 1, 3, 2]
    pixels = pixels_of(tmp_path / "o.png")
    for edge in (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]):
        assert (edge == 255).all()
    with pytest.raises(LayerError, match="there is no layer 'conv'"):
        plot_overlay(**job | {"layers": ["conv"]})


# -------------------------------------------------------- patches, projections


def write_study(tmp_path, *, box, size=(40, 40), images=12, units=4, per_unit=9, labels=None):
    labels = [0] * images if labels is None else labels
    colours = write_images(tmp_path / "i.h5", size, labels)
    patches = write_patches(
        tmp_path / "p.h5", units=units, images=images, per_unit=per_unit, box=box, size=size
    )
    write_projections(tmp_path / "j.h5", patches, signal=0.5)
    return colours, patches


def test_patches_show_their_images_and_hatch_what_is_outside(tmp_path):
    output = tmp_path / "p.png"
    inner, _ = write_study(tmp_path, box=(5, 5, 25, 25))
    plot_patches(tmp_path / "p.h5", tmp_path / "i.h5", output=output, units=[0])
    whole = area(output, inner[0])
    write_study(tmp_path, box=(-10, 5, 10, 25))  # the upper half is outside
    plot_patches(tmp_path / "p.h5", tmp_path / "i.h5", output=output, units=[0])
    assert whole > 0.3
    assert area(output, inner[0]) == pytest.approx(whole / 2, rel=0.03)
    assert area(output, (0xEC, 0xEC, 0xEC)) > 9 * whole / 2 * 0.5  # the hatches' ground
    assert area(output, (0, 0, 0)) < 0.01  # no black where there is no image


def test_patches_csv(tmp_path):
    _, patches = write_study(tmp_path, box=(-10, 5, 10, 25), labels=[0, 1, -1] * 4)
    write_classes(tmp_path / "c.txt", 6)
    plot_patches(
        tmp_path / "p.h5",
        tmp_path / "i.h5",
        output=tmp_path / "p.png",
        units=[3, 1],
        classes=tmp_path / "c.txt",
    )
    table = read_csv(tmp_path / "p.csv")
    assert table["unit"] == ["3"] * 9 + ["1"] * 9
    assert table["dead"] == ["0"] * 9 + ["1"] * 9
    assert table["value"][:3] == ["9", "8", "7"]
    assert [int(i) for i in table["image"]] == [*patches.image[3], *patches.image[1]]
    assert set(zip(table["label"], table["class"], strict=True)) == {
        ("0", "US$ 5$ bill_<b>"),
        ("1", "a" * 60),
        ("-1", ""),
    }
    assert table["top"][0], table["bottom"][0] == ("-10", "10")
    assert float(table["outside"][0]) == 0.5


def test_a_unit_that_is_not_there_is_named(tmp_path):
    write_study(tmp_path, box=(0, 0, 8, 8))
    with pytest.raises(LayerError, match=r"conv2 has no unit 40 .* there are 4, from 0 to 3"):
        plot_patches(tmp_path / "p.h5", tmp_path / "i.h5", output=tmp_path / "p.png", units=[0, 40])


def test_projections_share_a_contrast_and_stand_beside_their_patches(tmp_path):
    colours, patches = write_study(tmp_path, box=(5, 5, 25, 25))
    output = tmp_path / "j.png"
    plot_projections(
        tmp_path / "j.h5", tmp_path / "p.h5", tmp_path / "i.h5", output=output, units=[0]
    )
    tile = area(output, colours[0])
    assert tile > 0.1
    # all nine are full white: the signal is the scale; so is the paper, so compare the rest
    table = read_csv(tmp_path / "j.csv")
    assert table["scale"] == ["0.5"] * 9
    assert table["minimum"] == table["maximum"] == ["0.5"] * 9
    assert float(table["norm"][0]) == pytest.approx(0.5 * np.sqrt(3 * 20 * 20))
    write_projections(tmp_path / "j.h5", patches, signal=0.0)
    plot_projections(
        tmp_path / "j.h5", tmp_path / "p.h5", tmp_path / "i.h5", output=output, units=[0]
    )
    assert area(output, (128, 128, 128)) == pytest.approx(9 * tile, rel=0.03)


@pytest.mark.parametrize(
    "case",
    [
        {"box": (-200, -200, 235, 235), "units": 2},  # far larger than the image
        {"box": (3, 3, 4, 4), "size": (70, 9)},  # one pixel of a tall image
        {"box": (0, 0, 30, 6), "images": 1, "units": 2},  # a tall box, one image
        {"box": (0, 0, 8, 8), "per_unit": 1, "units": 1, "images": 1},
        {"box": (0, 0, 8, 8), "per_unit": 10, "units": 33, "labels": [-1] * 12},  # a poster
    ],
)
def test_odd_patches_and_projections(tmp_path, case):
    _, patches = write_study(tmp_path, **case)
    units = patches.unit.tolist()
    for name in ("p", "j"):
        output = tmp_path / f"{name}.png"
        if name == "p":
            plot_patches(tmp_path / "p.h5", tmp_path / "i.h5", output=output, units=units)
        else:
            plot_projections(tmp_path / "j.h5", tmp_path / "p.h5", tmp_path / "i.h5", output=output)
        pixels = pixels_of(output)
        for edge in (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]):
            assert (edge == 255).all()
        real = int((patches.image >= 0).sum())
        assert len(read_csv(tmp_path / f"{name}.csv")["unit"]) == real


def test_patches_that_win_by_the_padding_are_framed(tmp_path):
    _, patches = write_study(tmp_path, box=(-10, 5, 10, 25))
    frame = tuple(int(style.COLOURS[1][i : i + 2], 16) for i in (1, 3, 5))
    areas = []
    for border in ((), (2,), (2, 5, 8)):
        write_projections(tmp_path / "j.h5", patches, signal=0.5, border=border)
        plot_projections(
            tmp_path / "j.h5",
            tmp_path / "p.h5",
            tmp_path / "i.h5",
            output=tmp_path / "j.png",
            units=[0],
        )
        areas.append(area(tmp_path / "j.png", frame))
    assert areas[0] == 0
    assert areas[2] == pytest.approx(3 * areas[1], rel=0.05)
    table = read_csv(tmp_path / "j.csv")
    assert table["border"] == list("001001001")
    assert table["continued"][:3] == ["8", "7", "6"]


def test_directions_stand_beside_units(tmp_path):
    colours, patches = write_study(tmp_path, box=(5, 5, 25, 25), labels=[0, 0, 1] * 4)
    write_directions(tmp_path / "d.h5", patches, count=3)
    arguments = (tmp_path / "d.h5", tmp_path / "p.h5", tmp_path / "i.h5")
    plot_directions(*arguments, output=tmp_path / "d.png", units=[0])
    # The direction's patches are the unit's, so every colour stands there twice.
    assert area(tmp_path / "d.png", colours[0]) > 0.005
    assert area(tmp_path / "d.png", colours[0]) == area(tmp_path / "d.png", colours[8])
    table = read_csv(tmp_path / "d.csv")
    assert table["group"] == ["unit"] * 4 + ["direction"] * 3 + ["shuffled"] * 4
    assert table["row"] == list("01230120123")
    assert table["purity"][4:7] == [""] * 3
    found = store.read(store.Directions, tmp_path / "d.h5")
    assert float(table["similarity"][1]) == pytest.approx(found.unit_similarity[1])


@pytest.mark.parametrize(
    "case",
    [
        {"box": (-200, -200, 235, 235), "units": 9},
        {"box": (0, 0, 8, 30), "images": 1, "units": 1},
        {"box": (0, 0, 8, 8), "per_unit": 1, "units": 2, "labels": [-1] * 12},
        {"box": (0, 0, 8, 8), "per_unit": 16, "units": 40},
    ],
)
def test_odd_directions(tmp_path, case):
    _, patches = write_study(tmp_path, **case)
    write_directions(tmp_path / "d.h5", patches, count=2)
    arguments = (tmp_path / "d.h5", tmp_path / "p.h5", tmp_path / "i.h5")
    plot_directions(*arguments, output=tmp_path / "d.png", units=patches.unit.tolist())
    pixels = pixels_of(tmp_path / "d.png")
    for edge in (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]):
        assert (edge == 255).all()


def test_figures_of_units_are_the_same_bytes_twice(tmp_path):
    write_study(tmp_path, box=(-4, -4, 12, 12))
    for folder in ("one", "two"):
        plot_projections(
            tmp_path / "j.h5",
            tmp_path / "p.h5",
            tmp_path / "i.h5",
            output=tmp_path / folder / "conv.2.png",
            formats=["svg", "pdf"],
            about={"study": "demo"},
        )
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == ["conv.2.csv", "conv.2.pdf", "conv.2.png", "conv.2.svg"]
    for name in names:
        one, two = ((tmp_path / folder / name).read_bytes() for folder in ("one", "two"))
        assert one == two
