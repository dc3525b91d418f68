"""Names that mean something to a plotting library, a font or a browser are text to ours."""

from __future__ import annotations

import html
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from figure_artifacts import (
    LONG_LAYER,
    RECIPE,
    write_fields,
    write_filters,
    write_firing,
    write_health_history,
    write_images,
    write_layers,
    write_occlusion,
    write_patches,
    write_predictions,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_report import CAPTIONS, study

from convatlas import store
from convatlas.classes import one_line, read_classes
from convatlas.figures import style
from convatlas.figures.embedding import plot_grid, plot_scatter
from convatlas.figures.filters import plot_filters
from convatlas.figures.firing import plot_firing
from convatlas.figures.frequency import plot_frequency
from convatlas.figures.kernels import plot_kernels
from convatlas.figures.labels import class_name
from convatlas.figures.maps import plot_maps
from convatlas.figures.mosaic import plot_mosaic
from convatlas.figures.occlusion import plot_occlusion
from convatlas.figures.overlay import plot_overlay
from convatlas.figures.patches import plot_patches
from convatlas.figures.receptive_fields import plot_growth
from convatlas.figures.redundancy import plot_redundancy
from convatlas.figures.snapshots import plot_snapshots
from convatlas.files import read_csv, read_json, write_csv, write_json
from convatlas.report.site import build_report
from convatlas.store import Recipe

__all__ = ["study"]  # a fixture

NAMES = [
    *("$\\frac{", "$x$", "\\alpha", "{}", "%(a)s", "a_b^c", "#&~"),
    *("写真", "👩‍🔬", "مرحبا", "שלום", "\u202egnp", "e\u0301", "\u200b", "\ufffe", "\U000e0001"),
    *(
        "<script>alert(1)</script>",
        "' onload='alert(1)",
        '" onerror="alert(1)',
        "javascript:alert(1)",
    ),
    *("{{ 7 * 7 }}", "{% raw %}", "]]>", "<!--", "--><b>", "&lt;", "</title>", "=1+2", "x" * 5000),
    *("a\0b", "a\nb", "a\x1b[31mb", "\ud800", "a\tb", "  "),
]
FIGURES = pytest.mark.filterwarnings("error")  # a missing glyph warns, at the user's terminal


def write_names(path: Path) -> list[str]:
    """Write all names as the workflow does, a class a line."""
    lines = [one_line(name) for name in NAMES]
    path.write_bytes("".join(f"{line}\n" for line in lines).encode())
    return lines


def write_exhibit(path: Path, name: str) -> None:
    image = np.full((16, 16, 3), 90, np.uint8)
    store.write(path, store.Exhibit(image, 0, 0, name), RECIPE)


def assert_drawn(output: Path) -> None:
    """Assert that a figure is there and that its SVG is well-formed."""
    assert output.stat().st_size > 1000
    ElementTree.parse(output.with_suffix(".svg"))


FORMATS = ["svg", "pdf"]


@FIGURES
@pytest.mark.parametrize("few", [True, False])
def test_maps_of_images_show_any_class(tmp_path: Path, few: bool) -> None:
    names = write_names(tmp_path / "c.txt")
    labels = [i for i in range(len(names)) if i % 2] if few else list(range(len(names)))
    assert (len(labels) <= 24) == few
    write_images(tmp_path / "i.h5", (8, 8), labels)
    position = np.random.default_rng(0).normal(size=(len(labels), 2)).astype(np.float32)
    store.write(tmp_path / "e.h5", store.Embedding(position, "$layer", 30.0), RECIPE)
    write_predictions(tmp_path / "p.csv", labels, [0] * len(labels))
    plot_scatter(
        tmp_path / "e.h5",
        tmp_path / "i.h5",
        output=tmp_path / "s.png",
        predictions=tmp_path / "p.csv",
        classes=tmp_path / "c.txt",
        formats=FORMATS,
    )
    assert_drawn(tmp_path / "s.png")
    assert read_csv(tmp_path / "s.csv")["class"] == [names[i] for i in labels]
    cells = np.arange(len(labels)).reshape(1, -1)
    store.write(tmp_path / "g.h5", store.Grid(cells, "</svg>\x0c"), RECIPE)
    plot_grid(
        tmp_path / "g.h5",
        tmp_path / "i.h5",
        output=tmp_path / "g.png",
        classes=tmp_path / "c.txt",
        formats=FORMATS,
    )
    assert_drawn(tmp_path / "g.png")
    assert read_csv(tmp_path / "g.csv")["class"] == [names[i] for i in labels]


@FIGURES
@pytest.mark.parametrize(
    "name", [n for n in NAMES if "\0" not in n and "\ud800" not in n], ids=ascii
)
def test_figures_of_an_exhibit_show_any_name(tmp_path: Path, name: str) -> None:
    write_exhibit(tmp_path / "e.h5", name)
    (tmp_path / "c.txt").write_bytes(f"{one_line(name)}\nother\n".encode())
    layer = LONG_LAYER if len(name) > 100 else f"layer{name}".replace("\n", "")
    with store.MapWriter(tmp_path / "m.h5", RECIPE) as writer:
        writer.write("conv", np.ones((2, 4, 4), np.float32))
    plot_maps(
        tmp_path / "e.h5",
        tmp_path / "m.h5",
        output=tmp_path / "m.png",
        layers=["conv"],
        units=1,
        classes=tmp_path / "c.txt",
        dpi=40,
    )
    write_layers(tmp_path / "l.json")
    described = read_json(tmp_path / "l.json")
    described[0]["name"] = layer
    write_json(tmp_path / "l.json", described)
    write_fields(tmp_path / "f.h5", tmp_path / "l.json", (16, 16))
    with store.MapWriter(tmp_path / "n.h5", RECIPE) as writer:
        writer.write("group", np.ones((2, 16, 16), np.float32))
    drawn = {
        "exhibit": tmp_path / "e.h5",
        "maps": tmp_path / "n.h5",
        "layers": ["group"],
        "dpi": 40,
    }
    described[0]["name"] = "group"
    write_json(tmp_path / "g.json", described)
    plot_mosaic(**drawn, output=tmp_path / "s.png", formats=["svg"])
    plot_overlay(
        **drawn,
        output=tmp_path / "o.png",
        layers_json=tmp_path / "g.json",
        classes=tmp_path / "c.txt",
        formats=["svg"],
    )
    for figure in ("s.png", "o.png"):
        assert_drawn(tmp_path / figure)
    plot_growth(
        tmp_path / "e.h5",
        tmp_path / "l.json",
        tmp_path / "f.h5",
        output=tmp_path / "r.png",
        layers=[layer, "head"],
        formats=["svg"],
        dpi=40,
    )
    assert_drawn(tmp_path / "r.png")
    assert read_csv(tmp_path / "r.csv")["layer"] == [layer, "head"]


@FIGURES
def test_patches_and_occlusion_show_any_class(tmp_path: Path) -> None:
    names = write_names(tmp_path / "c.txt")
    write_images(tmp_path / "i.h5", (16, 16), range(len(names)))
    write_patches(
        tmp_path / "p.h5", units=4, images=len(names), per_unit=9, box=(0, 0, 8, 8), size=(16, 16)
    )
    plot_patches(
        tmp_path / "p.h5",
        tmp_path / "i.h5",
        output=tmp_path / "p.png",
        units=[0, 2, 3],
        classes=tmp_path / "c.txt",
        formats=FORMATS,
    )
    assert_drawn(tmp_path / "p.png")
    layer = "$x$ 写真\\frac{"
    firing = write_firing(
        tmp_path / "f.h5", units=len(names), images=len(names), parts=3, layer=layer
    )
    plot_firing(
        tmp_path / "f.h5",
        tmp_path / "i.h5",
        output=tmp_path / "f.png",
        sampled=tmp_path / "f" / "images.csv",
        counted=tmp_path / "f" / "classes.csv",
        units=3,
        classes=tmp_path / "c.txt",
        formats=FORMATS,
    )
    assert_drawn(tmp_path / "f.png")
    shown = [class_name(names, int(label)) for label in firing.best[-2::-1]]
    assert read_csv(tmp_path / "f.csv")["class_name"][:-1] == shown
    write_health_history(tmp_path / "h.h5", [0, 2], [layer, LONG_LAYER])
    plot_snapshots(tmp_path / "h.h5", output=tmp_path / "h.png", formats=FORMATS)
    assert_drawn(tmp_path / "h.png")
    assert read_csv(tmp_path / "h.csv")["layer"][:2] == [layer, LONG_LAYER]
    write_exhibit(tmp_path / "e.h5", "写真 $x$.png")
    # Each class is the most probable somewhere, so that the figure names as many as it can.
    side = int(np.ceil(np.sqrt(len(names))))
    probability = np.eye(len(names))[np.arange(side * side).reshape(side, side) % len(names)]
    write_occlusion(tmp_path / "o.h5", probability, size=4, stride=2, label=0)
    plot_occlusion(
        exhibit=tmp_path / "e.h5",
        occlusion=tmp_path / "o.h5",
        output=tmp_path / "o.png",
        classes=tmp_path / "c.txt",
        formats=FORMATS,
    )
    assert_drawn(tmp_path / "o.png")


@FIGURES
@pytest.mark.parametrize("name", ["$\\frac{", "<b>&", "写真", "x" * 5000])
def test_figures_of_filters_show_any_layer(tmp_path: Path, name: str) -> None:
    weight = np.random.default_rng(0).normal(size=(4, 3, 3, 3))
    write_filters(tmp_path / "f.h5", weight, name)
    common: dict[str, Any] = {"formats": ["svg"], "dpi": 40}
    plot_filters(tmp_path / "f.h5", output=tmp_path / "a.png", **common)
    plot_frequency(tmp_path / "f.h5", output=tmp_path / "b.png", **common)
    plot_redundancy(tmp_path / "f.h5", similar=0.9, output=tmp_path / "c.png", **common)
    plot_kernels(tmp_path / "f.h5", units=[0, 3], output=tmp_path / "d.png", **common)
    for letter in "abcd":
        assert_drawn(tmp_path / f"{letter}.png")


@FIGURES
@settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(text=st.text(max_size=30) | st.sampled_from(NAMES))
def test_any_text_is_drawn_within_its_width(tmp_path: Path, text: str) -> None:
    with style.page(tmp_path / "a.png", size=(2, 1), title=text, formats=["svg"], dpi=50) as figure:
        paper = style.paper(figure)
        style.write(paper, 0.1, 0.3, text)
        style.head(paper, text, text)
        written = style.write(paper, 0.1, 0.5, text, width=0.8, bold=True).get_text()
        assert style.text_width(figure, written, style.TEXT, bold=True) <= 0.8
    ElementTree.parse(tmp_path / "a.svg")


def test_letters_that_the_font_lacks_are_boxes_and_the_log_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    style._drawable.cache_clear()
    with caplog.at_level("INFO", logger="convatlas"):
        assert style.drawable("写真 é 👩‍🔬 x\0") == "□□ é □‍□ x\\x00"
    assert "U+5199 (CJK UNIFIED IDEOGRAPH-5199)" in caplog.text
    assert style.drawable("Größe $5 Ωμ → ½ שלום") == "Größe $5 Ωμ → ½ שלום"
    long = style.drawable("a" * 10**6 + "z")
    assert len(long) < 500
    assert long.endswith("az")


# ------------------------------------------------------------------------ report


class Strict(HTMLParser):
    """Collects what a browser could run or fetch, and all words of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: set[str] = set()
        self.attributes: set[str] = set()
        self.targets: list[str] = []
        self.words = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.targets += [str(v) for k, v in attrs if k in ("href", "src", "action", "style")]

    def handle_comment(self, data: str) -> None:
        self.elements.add(f"comment {data}")

    def handle_data(self, data: str) -> None:
        self.words += data


KNOWN = {
    *("html", "head", "meta", "title", "style", "body", "nav", "main", "header", "section"),
    *(
        "h1",
        "h2",
        "h3",
        "p",
        "ul",
        "ol",
        "li",
        "dl",
        "dt",
        "dd",
        "div",
        "span",
        "b",
        "strong",
        "em",
    ),
    *(
        "a",
        "img",
        "figure",
        "figcaption",
        "details",
        "summary",
        "table",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
        "pre",
        "cite",
    ),
}
INERT = {
    *("lang", "charset", "name", "content", "aria-label", "class", "id", "href", "src", "width"),
    *("height", "loading", "alt"),
}


def spoilt(study: dict[str, Any], text: str) -> dict[str, Any]:
    """Put `text` wherever a user's words go in a report."""
    folder = Path(study["card"]).parent
    line = one_line(text)
    (folder / "classes.txt").write_bytes(f"{line}\n{line}\n{line}\n".encode())
    told = text.encode("utf-8", "backslashreplace").decode()
    table = read_csv(study["predictions"])
    write_csv(study["predictions"], table | {"name": [told] * len(table["name"])})
    write_csv(
        study["manifest"],
        {"file": [told], "label": [0], "status": ["skipped"], "reason": [told]},
    )
    write_layers(folder / "layers.json")
    layers = read_json(folder / "layers.json")
    layers[0] |= {"name": told, "kind": told, "deconvnet": told}
    write_json(folder / "layers.json", layers)
    card = read_json(study["card"])
    card |= {"architecture": told, "weights": told, "digest": told}
    card |= {"options": {told: told}, "training": {told: told}}
    write_json(study["card"], card)
    figures = [
        type(figure)(figure.path, figure.analysis, figure.caption, told, figure.exhibit)
        if figure.layer == "conv1"
        else figure
        for figure in study["figures"]
    ]
    return study | {
        "study": told,
        "dataset": told,
        "notes": [told],
        "figures": figures,
        "recipe": Recipe(told, {told: {told: [told]}, "text": told}, {told: told}),
    }


def seen(text: str) -> str:
    """Return text as a browser shows it, white space aside."""
    return "".join(text.split())


@pytest.mark.parametrize("text", NAMES, ids=ascii)
def test_a_report_shows_any_text_as_text(study: dict[str, Any], text: str) -> None:
    assert_inert(study, text)


@settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    text=st.lists(
        st.sampled_from(
            ["<", ">", '"', "'", "&", "/", "=", " ", "script", "on", "img src", "a href", "`", "\n"]
        )
        | st.sampled_from(["{{", "}}", "{%", "-->", "<!--", "]]>", "<![CDATA[", "&#60;", "\0"])
        | st.text(max_size=2),
        min_size=1,
        max_size=8,
    ).map("".join)
)
def test_a_report_shows_any_markup_as_text(study: dict[str, Any], text: str) -> None:
    assert_inert(study, text)


def assert_inert(study: dict[str, Any], text: str) -> None:
    build_report(**spoilt(study, text))
    page = Strict(Path(study["output"]).read_text(encoding="utf-8"))
    assert page.elements <= KNOWN
    assert page.attributes <= INERT
    for target in page.targets:
        assert target.startswith(("#", "assets/"))
    told = text.encode("utf-8", "backslashreplace").decode()
    words = seen(page.words)
    # At least: study twice, data set, architecture three times, weights, note, why there are
    # no projections, two of a skipped file, two exhibits, layers and digests.
    assert words.count(seen(told)) >= 15
    assert seen(one_line(text).strip()) in words
    for path in Path(study["output"]).parent.rglob("*"):
        assert re.fullmatch(r"[A-Za-z0-9._-]+", path.name)


def test_the_strict_parser_sees_what_runs() -> None:
    page = Strict("<p onload='x'><script>a</script><a href='javascript:b'>&lt;i&gt;</a><!-- c -->")
    assert {"script", "comment  c "} <= page.elements
    assert "onload" in page.attributes
    assert page.targets == ["javascript:b"]
    assert html.unescape("&lt;i&gt;") in page.words
    assert CAPTIONS.is_dir()
    assert read_classes(None) == []
