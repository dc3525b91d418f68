"""The report: complete, self-contained, escaped, the same each time; and its captions."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
from figure_artifacts import LONG_LAYER, write_classes, write_layers, write_predictions
from PIL import Image

from convatlas.errors import StoreError
from convatlas.files import write_csv, write_json, write_text
from convatlas.report.site import Figure, build_report, render_caption
from convatlas.startup import Startup
from convatlas.store import Recipe

CAPTIONS = Path(__file__).parents[2] / "workflow" / "report"
KINDS = (
    *("frequency", "redundancy", "kernels"),
    *("filters", "maps", "patches", "projections", "scatter"),
    *("grid", "occlusion", "training", "receptive_fields", "saliency", "directions"),
    *("neighbours", "accuracy", "views", "perplexities", "quality"),
    *("mosaic", "overlay"),
    *("health", "worst", "snapshots", "firing"),
)
SCRIPT = "<script>alert(1)</script>"


class Page(HTMLParser):
    """What a page links to, which anchors it has, and which elements it uses."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: list[str] = []
        self.elements: set[str] = set()
        self.images: list[dict] = []
        self.words = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.elements.add(tag)
        self.links += [found[key] for key in ("href", "src") if key in found]
        if "id" in found:
            self.anchors.append(found["id"])
        if tag == "img":
            self.images.append(found)

    def handle_data(self, data):
        self.words += data


@pytest.fixture
def study(tmp_path):
    """Return the arguments of a report over three images, one of them without a label."""
    write_layers(tmp_path / "layers.json")
    write_classes(tmp_path / "classes.txt", 12)
    lines = (tmp_path / "classes.txt").read_text().splitlines()
    write_text(tmp_path / "classes.txt", "\n".join([lines[0], SCRIPT, *lines[2:]]) + "\n")
    write_predictions(tmp_path / "predictions.csv", [0, 1, 1, 2, -1], [0, 2, 0, 2, 1])
    write_csv(
        tmp_path / "manifest.csv",
        {
            "file": ["a.png", f"{SCRIPT}.png"],
            "label": [0, 1],
            "status": ["kept", "skipped"],
            "reason": ["", "truncated & <broken>"],
        },
    )
    write_csv(tmp_path / "exhibits.csv", {"exhibit": [0, 1], "image": [1, 4], "label": [1, -1]})
    card = {"architecture": f"net.py:{SCRIPT}", "options": {}, "weights": "trained"}
    card |= {"digest": "ab12", "parameters": 123456, "training": {"epochs": 3}}
    write_json(
        tmp_path / "model.json", card | {"normalize": {"mean": [0.5] * 3, "std": [0.25] * 3}}
    )
    figures = []
    for name, kind, about in (
        ("filters", "filters", {"layer": "conv1"}),
        ("patches_a", "patches", {"layer": "conv1"}),
        ("patches_b", "patches", {"layer": LONG_LAYER}),
        ("maps", "maps", {"exhibit": 0}),
        ("occlusion", "occlusion", {"exhibit": 0}),
        ("scatter", "scatter", {"layer": LONG_LAYER}),
        ("grid", "grid", {"layer": LONG_LAYER}),
    ):
        Image.new("RGB", (30, 20), "red").save(tmp_path / f"{name}.png")
        write_csv(tmp_path / f"{name}.csv", {"a": [1]})
        analysis = "embedding" if kind in ("scatter", "grid") else kind
        path = tmp_path / f"{name}.png"
        figures.append(Figure(path, analysis, CAPTIONS / f"{kind}.rst", **about))
    write_text(tmp_path / "patches_a.svg", "<svg/>")
    made = {"convatlas_version": "0", "python": "3", "rules": {"a": {"packages": ["torch 2"]}}}
    made["files"] = {
        "demo/images.h5": {"sha256": "d1", "digest": "d2"},
        f"{SCRIPT}": {"sha256": "d3"},
    }
    write_json(tmp_path / "provenance.json", made)
    return {
        "output": tmp_path / "report" / "index.html",
        "study": f"demo {SCRIPT}",
        "dataset": "photos",
        "figures": figures,
        "card": tmp_path / "model.json",
        "layers": tmp_path / "layers.json",
        "manifest": tmp_path / "manifest.csv",
        "predictions": tmp_path / "predictions.csv",
        "exhibits": tmp_path / "exhibits.csv",
        "classes": tmp_path / "classes.txt",
        "provenance": tmp_path / "provenance.json",
        "recipe": Recipe("c0de", {"occlusion": {"size": 16, "fill": SCRIPT}}, {"images": "d1"}),
        "notes": [f"No deconvnet: {SCRIPT}"],
    }


def test_how_much_of_the_time_was_start_up(study):
    """In a file of its own, so that the page itself is the same whenever it is made."""
    build_report(**study)
    assert "startup.html" not in study["output"].read_text()
    build_report(**study, startup=Startup(108, 2345.6, 543.2))
    page = study["output"].read_text()
    build_report(**study, startup=Startup(108, 1.0, 0.0))
    assert study["output"].read_text() == page
    assert 'src="assets/startup.html"' in page
    build_report(**study, startup=Startup(108, 2345.6, 543.2))
    text = (study["output"].parent / "assets/startup.html").read_text()
    assert "108 jobs took 2,346 core-seconds, 23% of them start-up" in text


def test_every_link_leads_somewhere_and_none_to_the_network(study):
    build_report(**study)
    page = Page(study["output"])
    assert len(page.anchors) == len(set(page.anchors))
    for link in page.links:
        if link.startswith("#"):
            assert link[1:] in page.anchors
        else:
            assert (study["output"].parent / unquote(link)).is_file(), link
    assert "http" not in study["output"].read_text()
    assert "script" not in page.elements
    assert "link" not in page.elements


def test_every_figure_is_there_with_its_files(study):
    build_report(**study)
    page = Page(study["output"])
    assert len(page.images) == len(study["figures"])
    for image in page.images:
        assert (image["loading"], image["width"], image["height"]) == ("lazy", "30", "20")
        assert image["alt"]
    assets = sorted(path.name for path in (study["output"].parent / "assets").iterdir())
    assert assets[:5] == [
        "001-filters-conv1.csv",
        "001-filters-conv1.png",
        "002-patches-conv1.csv",
        "002-patches-conv1.png",
        "002-patches-conv1.svg",
    ]
    assert "004-maps-0.png" in assets
    assert page.words.count("What to look for.") == 6  # once for each kind, not each figure


def test_names_are_text_never_markup(study):
    build_report(**study)
    page = Page(study["output"])
    assert "script" not in page.elements
    for told in (f"demo {SCRIPT}", f"net.py:{SCRIPT}", f"{SCRIPT}.png", f"No deconvnet: {SCRIPT}"):
        assert told in page.words
    assert "truncated & <broken>" in page.words
    assert "it goes through a <SiLU>" in page.words


def test_numbers_of_the_summary(study):
    build_report(**study)
    words = re.sub(r"\s+", " ", Page(study["output"]).words)
    assert "5 (data set photos), 3 classes; 1 skipped" in words
    assert "2 of 4 (50.0 %)" in words  # right
    assert "3 of 4 (75.0 %)" in words  # within five: one wrong answer has rank 4, one 7
    assert "Without a label1" in words
    assert "123,456 parameters, 12 outputs" in words
    assert "≤ 99 × 99" in words
    assert "size: 16" in words
    assert "c0de" in words


def test_figures_of_a_layer_and_of_an_exhibit_are_linked(study):
    build_report(**study)
    text = study["output"].read_text()
    figures = dict(re.findall(r'<figure id="(figure-\d)">(.*?)</figure>', text, re.DOTALL))
    assert re.findall(r'href="#(figure-\d)"', figures["figure-2"]) == ["figure-1"]
    assert re.findall(r'href="#(figure-\d)"', figures["figure-3"]) == ["figure-6", "figure-7"]
    assert re.findall(r'href="#(figure-\d)"', figures["figure-4"]) == ["figure-5"]


def with_worst(study, **tables):
    """Add a figure of the worst units of each layer, with the numbers beside it."""
    figures = list(study["figures"])
    folder = study["output"].parents[1]
    for i, (layer, rows) in enumerate(tables.items()):
        path = folder / f"worst_{i}.png"
        Image.new("RGB", (30, 20), "red").save(path)
        names = ("unit", "reason", "frequency", "lifetime")
        columns = {name: [row[k] for row in rows] for k, name in enumerate(names)}
        write_csv(path.with_suffix(".csv"), {"rank": range(len(rows)), **columns})
        figures.append(Figure(path, "health", CAPTIONS / "worst.rst", layer=layer))
    return study | {"figures": figures}


def table_of(page, section):
    """Return the texts of the cells of a section's table, a list a line."""
    text = re.search(rf'<section id="{section}">(.*?)</section>', page.read_text(), re.DOTALL)[1]
    lines = re.findall(r"<tr>(<td.*?)</tr>", text)
    return [re.findall(r"<td[^>]*>(?:<a[^>]*>)?(.*?)(?:</a>)?</td>", line) for line in lines]


def test_the_worst_units_of_all_layers_are_listed_and_linked(study):
    conv1 = [(3, "dead", 0, ""), (4, "dead", 0, ""), (1, "rarely active", 0.005, 0.987654)]
    head = [(9, "dead", 0, ""), (2, "constant", 1, 0), (7, "always on", 1, 0.25), (0, "", 0.5, 0.5)]
    build_report(**with_worst(study, conv1=conv1, head=head))
    # By what is wrong, and of equals a line of each layer in turn.
    assert table_of(study["output"], "worst") == [
        ["conv1", "3, 4", "dead", "0 %", "–", "figure 8"],
        ["head", "9", "dead", "0 %", "–", "figure 9"],
        ["head", "2", "constant", "100 %", "0.000", "figure 9"],
        ["conv1", "1", "rarely active", "0.5 %", "0.988", "figure 8"],
        ["head", "7", "always on", "100 %", "0.250", "figure 9"],
    ]
    text = study["output"].read_text()
    assert '<a href="#figure-8">figure 8</a>' in text
    assert "6 in all" in text
    assert '<a href="#worst">' in text


def test_of_many_bad_units_the_worst_are_listed(study):
    many = [(unit, "dead", 0, "") for unit in range(300)]
    many += [(300 + unit, "always on", 1, 0.1) for unit in range(40)]
    few = [(5, "dead", 0, ""), (6, "rarely active", 0.001, 0.9), (7, "always on", 1, 0.1)]
    build_report(**with_worst(study, conv1=many, head=few))
    found = table_of(study["output"], "worst")
    assert len(found) == 20
    first = ", ".join(map(str, range(12)))
    assert [line[:3] for line in found[:5]] == [
        ["conv1", f"{first}, … (300 in all)", "dead"],
        ["head", "5", "dead"],
        ["head", "6", "rarely active"],
        ["conv1", "300", "always on"],
        ["head", "7", "always on"],
    ]
    assert "the 319 worst of 343" in study["output"].read_text()


def test_where_nothing_is_wrong_there_is_no_table(study):
    build_report(**with_worst(study, conv1=[(0, "", 0.5, 0.5)]))
    assert 'id="worst"' not in study["output"].read_text()
    build_report(**study)
    assert 'href="#worst"' not in study["output"].read_text()


def test_the_same_bytes_and_nothing_stale(study):
    build_report(**study)
    first = {p: p.read_bytes() for p in study["output"].parent.rglob("*") if p.is_file()}
    stale = study["output"].parent / "assets" / "009-old.png"
    stale.write_bytes(b"old")
    build_report(**study)
    assert {p: p.read_bytes() for p in study["output"].parent.rglob("*") if p.is_file()} == first


def test_a_study_without_labels_exhibits_or_figures(study, tmp_path):
    write_predictions(tmp_path / "predictions.csv", [-1, -1], [0, 1])
    write_csv(tmp_path / "exhibits.csv", {"exhibit": [], "image": [], "label": []})
    build_report(**(study | {"figures": [], "notes": []}))
    words = re.sub(r"\s+", " ", Page(study["output"]).words)
    assert "not known: the images have no labels" in words
    assert "Top-1" not in words


@pytest.mark.parametrize("kind", KINDS)
def test_captions_are_plain_and_say_what_to_look_for(kind):
    path = CAPTIONS / f"{kind}.rst"
    text = path.read_text(encoding="utf-8")
    title, body = render_caption(path)
    assert title
    assert "<strong>What to look for.</strong>" in body
    assert not re.search(r"\d", text)  # numbers come from the data
    assert "{{" not in text


def test_a_broken_caption_is_named(tmp_path):
    write_text(tmp_path / "x.rst", "Title\n=====\n\n*open\n")
    with pytest.raises(StoreError, match=r"x\.rst is not correct reStructuredText"):
        render_caption(tmp_path / "x.rst")
    write_text(tmp_path / "y.rst", "Title\n=====\n\n.. raw:: html\n\n   <script></script>\n")
    with pytest.raises(StoreError):
        render_caption(tmp_path / "y.rst")


def test_figures_of_health_are_found_by_where_they_lie():
    folder = Path("results/demo/figures/health")
    for name, kind, layer in (
        ("layers", "health", None),
        ("worst/layers", "worst", "layers"),
        ("snapshots/curves", "snapshots", None),
    ):
        found = Figure.at(folder / f"{name}.png", CAPTIONS)
        assert found == Figure(folder / f"{name}.png", "health", CAPTIONS / f"{kind}.rst", layer)
