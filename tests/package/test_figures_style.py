"""The style module: what it computes, what it writes, and what it keeps out."""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import matplotlib as mpl
import numpy as np
import pytest
from figure_artifacts import pixels_of
from PIL import Image

from convatlas.classes import read_classes
from convatlas.figures import style
from convatlas.figures.labels import class_name, shape_text

BOX_CASES = [
    # box (top, left, bottom, right), rows and columns of it inside an image of 10 x 20
    ((2, 3, 6, 8), slice(0, 4), slice(0, 5)),
    ((-2, -3, 4, 5), slice(2, 6), slice(3, 8)),
    ((8, 15, 14, 25), slice(0, 2), slice(0, 5)),
    ((-100, -100, 200, 200), slice(100, 110), slice(100, 120)),
    ((12, 3, 16, 8), slice(-2, -2), slice(0, 5)),
]


@pytest.mark.parametrize(("box", "rows", "columns"), BOX_CASES[:4])
def test_inside_is_the_part_of_a_box_on_the_image(box, rows, columns):
    assert style.inside(np.array(box), (10, 20)) == (rows, columns)


def test_a_box_beside_the_image_has_nothing_inside():
    rows, _ = style.inside(np.array(BOX_CASES[4][0]), (10, 20))
    assert rows.start == rows.stop


@pytest.mark.parametrize("box", [case[0] for case in BOX_CASES])
def test_crop_equals_a_crop_of_the_padded_image(box):
    image = np.random.default_rng(0).integers(1, 255, (10, 20, 3), dtype=np.uint8)
    pad = 210
    padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)))
    top, left, bottom, right = box
    expected = padded[top + pad : bottom + pad, left + pad : right + pad]
    np.testing.assert_array_equal(style.crop(image, np.array(box)), expected)


def test_signed_rgb_is_grey_at_zero_and_symmetric():
    drawn = style.signed_rgb(np.array([-2.0, -1.0, 0.0, 0.5, 1.0, 9.0]), 1.0)
    assert drawn.tolist() == [0, 0, 128, 191, 255, 255]
    assert style.signed_rgb(np.zeros(2), 0.0).tolist() == [128, 128]


def test_signal_scale_ignores_zeros_and_is_a_percentile():
    signal = np.concatenate([np.zeros(10_000), np.linspace(-1, 1, 2001)[:1000], np.ones(1000)])
    expected = np.percentile(np.abs(signal[signal != 0]), 99.0)
    assert style.signal_scale(signal) == pytest.approx(expected)
    assert style.signal_scale(np.zeros(5)) == 0


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (3.14159, "3.14"),
        (-31.4159, "−31.4"),
        (0.0123456, "0.0123"),
        (31415, "31415"),
        (1.2e9, "1.2e+09"),
        (-np.inf, "-inf"),
    ],
)
def test_number_has_three_digits(value, text):
    assert style.number(value) == text


@pytest.mark.parametrize(("count", "columns"), [(1, 1), (7, 7), (64, 8), (96, 12), (48, 8)])
def test_grid_columns_leave_few_gaps(count, columns):
    assert style.grid_columns(count, 8, 16) == columns


def test_shorten_keeps_both_ends_and_fits(tmp_path):
    with style.page(tmp_path / "a.png", size=(2, 1), title="a") as figure:
        name = "features.0.branch_with_a_long_name.9"
        short = style.shorten(figure, name, 0.9, 7)
        assert style.text_width(figure, short, 7) <= 0.9
        assert short.startswith("feat")
        assert short.endswith(".9")
        assert "…" in short
        assert style.shorten(figure, "conv1", 0.9, 7) == "conv1"
        assert style.shorten(figure, "conv1", 0.0, 7) == "…"


def test_wrap_loses_no_word(tmp_path):
    text = "only rectifiers and max-pooling have the two rules of the deconvnet"
    with style.page(tmp_path / "a.png", size=(2, 1), title="a") as figure:
        lines = style.wrap(figure, text, 1.0, 6)
        assert " ".join(lines) == text
        assert len(lines) > 2
        assert all(style.text_width(figure, line, 6) <= 1.0 for line in lines)


def _draw(output, **page):
    with style.page(output, size=(2, 1), title="A & b", **page) as figure:
        paper = style.paper(figure)
        style.write(paper, 0.1, 0.3, "US$ 5$ <x>_y")
        style.draw_nothing(paper, 0.1, 0.5, 0.3, 0.3)
        noise = np.random.default_rng(0).integers(0, 255, (9, 9, 3), dtype=np.uint8)
        style.draw_image(paper, noise, 1, 0.5, 0.4, 0.4)


def test_the_same_bytes_each_time_in_every_format(tmp_path):
    about = {"study": "demo", "digest": "12ab"}
    for folder in ("one", "two"):
        _draw(tmp_path / folder / "a.b.png", formats=["svg", "pdf"], about=about)
    for kind in ("png", "svg", "pdf"):
        one, two = (tmp_path / folder / f"a.b.{kind}" for folder in ("one", "two"))
        assert one.read_bytes() == two.read_bytes()
    assert sorted(p.name for p in (tmp_path / "one").iterdir()) == [
        "a.b.pdf",
        "a.b.png",
        "a.b.svg",
    ]


def test_metadata_tell_what_it_is_and_not_when(tmp_path):
    _draw(tmp_path / "a.png", formats=["svg"], about={"study": "démo", "digest": "12ab"})
    with Image.open(tmp_path / "a.png") as image:
        assert image.text == {"Title": "A & b", "Description": "study: démo\ndigest: 12ab"}
    svg = (tmp_path / "a.svg").read_text()
    ElementTree.fromstring(svg)
    assert "US$ 5$ &lt;x&gt;_y" in svg  # the text as it is, not as a formula
    assert "dc:date" not in svg


def test_the_users_own_matplotlib_settings_change_nothing(tmp_path):
    _draw(tmp_path / "a.png")
    with mpl.rc_context({"font.size": 30, "lines.linewidth": 9, "savefig.transparent": True}):
        _draw(tmp_path / "b.png")
        assert mpl.rcParams["font.size"] == 30  # and they are left alone
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_a_failure_leaves_no_file(tmp_path):
    with (
        pytest.raises(ZeroDivisionError),
        style.page(tmp_path / "a.png", size=(1, 1), title="a"),
    ):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_huge_pages_get_fewer_dots(tmp_path, monkeypatch):
    monkeypatch.setattr(style, "_MOST_PIXELS", 1e4)
    with style.page(tmp_path / "a.png", size=(4, 2), title="a"):
        pass
    height, width = pixels_of(tmp_path / "a.png").shape[:2]
    assert width * height <= 1e4
    assert width == pytest.approx(2 * height, abs=2)


def test_class_names(tmp_path):
    path = tmp_path / "classes.txt"
    path.write_text("tench\n\ngold fish\n", encoding="utf-8")
    classes = read_classes(path)
    assert [class_name(classes, i) for i in (0, 1, 2, 3, -1)] == [
        "tench",
        "class 1",
        "gold fish",
        "class 3",
        "",
    ]
    assert read_classes(None) == []
    assert shape_text((64, 3)) == "64 × 3"


def test_plotting_imports_no_network_and_no_pyplot():
    code = (
        "import sys, pkgutil, importlib, convatlas.figures, convatlas.report.site\n"
        "for m in pkgutil.iter_modules(convatlas.figures.__path__):\n"
        "    importlib.import_module('convatlas.figures.' + m.name)\n"
        "print([m for m in ('torch', 'torchvision', 'openTSNE', 'sklearn', 'matplotlib.pyplot')"
        " if m in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_report_needs_no_matplotlib():
    code = "import sys, convatlas.report.site; print('matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
