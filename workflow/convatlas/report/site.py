"""Build a study's report: one page with every figure, in a folder that needs nothing else.

The page opens from disk: its style is inside, its pictures lie beside it in
``assets``, and it uses no script. All texts, names of classes and files among them,
are escaped.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from docutils.core import publish_parts  # type: ignore[import-untyped]
from docutils.utils import SystemMessage  # type: ignore[import-untyped]
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from convatlas.classes import read_classes
from convatlas.errors import StoreError
from convatlas.figures.labels import class_name, shape_text
from convatlas.files import read_csv, read_json, read_rows, replacing, write_text
from convatlas.layers import Layer, read_layers
from convatlas.report import TEMPLATES
from convatlas.report.worst import WorstUnits, worst_units
from convatlas.startup import Startup
from convatlas.store import Recipe

# Kinds of figures, each the name of the folder that they lie in, and of their caption.
_OF_EXHIBITS = (
    *("maps", "mosaic", "overlay", "neighbours", "occlusion", "saliency", "receptive_fields"),
)
_OF_STUDIES = (  # all others are of layers
    *("training", "health", "snapshots", "accuracy", "quality", "occlusion_score"),
)
_OF_CHOSEN = ("patches", "health")  # with a figure of every layer that a study looks at
_LONGEST = 150  # letters of a file's name without its suffix
_BESIDE = ("csv", "svg", "pdf")  # what may lie beside a figure's PNG

AnyPath = str | os.PathLike[str]


@dataclass(frozen=True)
class Figure:
    """A figure of the report.

    Attributes
    ----------
    path : the PNG; its CSV, SVG and PDF, where they lie beside it, are taken along.
    analysis : the section that it belongs to.
    caption : reStructuredText with a title; figures that share it stand together.
    layer : the layer that it shows, if it is one.
    exhibit : the number of the exhibit that it shows, if it is one.
    """

    path: AnyPath
    analysis: str
    caption: AnyPath
    layer: str | None = None
    exhibit: int | None = None

    @classmethod
    def at(cls, path: AnyPath, captions: AnyPath) -> Figure:
        """Tell from where a figure lies what it shows.

        In ``figures/{analysis}/{layer}.png`` or ``.../{exhibit}.png``; an analysis with
        several kinds of figures has a folder for each but one. The kind, and the caption,
        are named after the folder.
        """
        place = Path(path)
        parts = place.parts[place.parts.index("figures") + 1 :]
        kind = parts[-2]
        return cls(
            path=path,
            analysis=parts[0],
            caption=Path(captions) / f"{kind}.rst",
            layer=None if kind in (*_OF_EXHIBITS, *_OF_STUDIES) else place.stem,
            exhibit=int(place.stem) if kind in _OF_EXHIBITS else None,
        )


def build_report(
    *,
    output: AnyPath,
    study: str,
    dataset: str,
    figures: Sequence[Figure],
    card: AnyPath,
    layers: AnyPath,
    manifest: AnyPath,
    predictions: AnyPath,
    exhibits: AnyPath,
    classes: AnyPath,
    provenance: AnyPath,
    recipe: Recipe,
    startup: Startup | None = None,
    notes: Sequence[str] = (),
) -> None:
    """Write `output`, the page, and the folder ``assets`` beside it in the place of any other.

    Parameters
    ----------
    study, dataset : their names.
    figures : in the order in which they are shown.
    card, layers, manifest, predictions, exhibits, classes, provenance : the model's
        model.json and layers.json, the data set's manifest and class names, and the
        study's predictions.csv, exhibits.csv and provenance.json.
    recipe : the parameters and code that the page prints.
    startup : what the jobs took. It is in a file of its own, as the one thing in a
        report that isn't the same when all is made again.
    notes : what a reader must know, such as why a figure isn't there.
    """
    page = Path(output)
    names = read_classes(classes)
    entries = _copy_figures(figures, provenance, page.parent / "assets")
    described = read_layers(layers)
    made = read_json(provenance)
    listed = read_csv(exhibits)
    score, told = _told(predictions, set(listed["image"]))
    shown = _exhibits(listed, told, names)
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    if startup:
        timed = environment.get_template("startup.html.j2").render(startup=startup)
        write_text(page.parent / "assets" / "startup.html", timed)
    text = environment.get_template("index.html.j2").render(
        study=study,
        dataset=dataset,
        card=read_json(card),
        normalize=_normalization(read_json(card)),
        score=score,
        outputs=next((layer.units for layer in described if layer.output), len(names)),
        skipped=_skipped(manifest),
        layers=[_layer_row(layer, entries) for layer in described],
        exhibits=[row | {"figures": _of(entries, "exhibit", row["number"])} for row in shown],
        sections=_sections(entries, {row["number"]: row["title"] for row in shown}),
        worst=_worst(entries),
        notes=[*notes, *_undefined(described, entries)],
        parameters=yaml.safe_dump(_plain(recipe.parameters), sort_keys=False, allow_unicode=True),
        digests=_digests(made),
        code=recipe.code,
        versions=_versions(made),
        startup=startup is not None,
    )
    write_text(page, text)


# ---------------------------------------------------------------------- figures


def _copy_figures(
    figures: Sequence[Figure], provenance: AnyPath, assets: Path
) -> list[dict[str, Any]]:
    """Copy the figures, what lies beside them, and the provenance of all.

    Returns what the page says of each figure.
    """
    with replacing(assets) as folder:
        folder.mkdir()
        shutil.copyfile(provenance, folder / "provenance.json")
        return _entries(figures, folder)


def _entries(figures: Sequence[Figure], assets: Path) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = []
    for number, figure in enumerate(figures, start=1):
        source = Path(figure.path)
        kind = Path(figure.caption).stem
        about = figure.layer or ("" if figure.exhibit is None else str(figure.exhibit))
        name = _safe("-".join(part for part in (f"{number:03d}", kind, about) if part))[:_LONGEST]
        files = {}
        for suffix in ("png", *_BESIDE):
            beside = source.with_suffix(f".{suffix}")
            if suffix == "png" or beside.is_file():
                shutil.copyfile(beside, assets / f"{name}.{suffix}")
                files[suffix] = f"assets/{name}.{suffix}"
        with Image.open(source) as picture:
            width, height = picture.size
        entries.append(
            {
                "number": number,
                "anchor": f"figure-{number}",
                "analysis": figure.analysis,
                "caption": figure.caption,
                "kind": kind,
                "layer": figure.layer,
                "exhibit": figure.exhibit,
                "files": files,
                "numbers": source.with_suffix(".csv") if "csv" in files else None,
                "width": width,
                "height": height,
            }
        )
    return entries


def _safe(name: str) -> str:
    """Return `name` with nothing in it that a URL or a file system might misread."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name)


def _sections(
    entries: Sequence[dict[str, Any]], exhibits: Mapping[int, str]
) -> list[dict[str, Any]]:
    """Group the figures by analysis, and within one by caption, in their order."""
    sections: dict[str, dict[str, dict[str, Any]]] = {}
    for entry in entries:
        groups = sections.setdefault(entry["analysis"], {})
        if entry["kind"] not in groups:
            title, body = render_caption(entry["caption"])
            groups[entry["kind"]] = {"title": title, "text": body, "figures": []}
        about = entry["layer"]
        if entry["exhibit"] is not None:
            about = exhibits.get(entry["exhibit"], f"exhibit {entry['exhibit']}")
        same = [
            other
            for key in ("layer", "exhibit")
            if entry[key] is not None
            for other in _of(entries, key, entry[key])
            if other is not entry
        ]
        groups[entry["kind"]]["figures"].append(entry | {"about": about, "same": same})
    return [
        {
            "name": _section_name(analysis, list(groups.values())),
            "anchor": f"analysis-{_safe(analysis)}",
            "groups": list(groups.values()),
            "count": sum(len(group["figures"]) for group in groups.values()),
        }
        for analysis, groups in sections.items()
    ]


def _section_name(analysis: str, groups: Sequence[dict[str, Any]]) -> str:
    """Return the title of a section: of its only group of figures, or else the analysis."""
    return groups[0]["title"] if len(groups) == 1 else analysis.replace("_", " ").capitalize()


def _of(entries: Iterable[dict[str, Any]], key: str, value: Any) -> list[dict[str, Any]]:
    return [entry for entry in entries if entry[key] == value]


def render_caption(path: AnyPath) -> tuple[Markup, Markup]:
    """Return the title and the text of a caption as HTML.

    Raises
    ------
    StoreError
        if it isn't correct reStructuredText.
    """
    settings = {
        "_disable_config": True,
        "file_insertion_enabled": False,
        "halt_level": 2,
        "raw_enabled": False,
        "report_level": 5,
    }
    try:
        parts = publish_parts(
            Path(path).read_text(encoding="utf-8"), writer="html5", settings_overrides=settings
        )
    except SystemMessage as error:
        raise StoreError(f"{path} is not correct reStructuredText: {error}. Mend it.") from error
    title = parts["title"] or Path(path).stem.replace("_", " ").capitalize()
    return Markup(title), Markup(parts["body"])


# ---------------------------------------------------------------------- summary


def _told(
    predictions: AnyPath, images: Collection[str]
) -> tuple[dict[str, Any], dict[str, dict[str, str]]]:
    """Count the images, the labelled ones, and those right at first and within five guesses.

    Returns beside it what is told of some images, by their numbers.
    """
    score = dict.fromkeys(("images", "labelled", "first", "five"), 0)
    labels: set[str] = set()
    told = {}
    for row in read_rows(predictions):
        score["images"] += 1
        if row["rank"]:
            rank = int(row["rank"])
            score["labelled"] += 1
            score["first"] += rank == 0
            score["five"] += rank < 5
        labels.add(row["label"])
        if row["image"] in images:
            told[row["image"]] = row
    return score | {"classes": len(labels - {"", "-1"})}, told


def _skipped(manifest: AnyPath) -> list[tuple[str, str]]:
    """Return the files that were left out, with the reasons."""
    rows = read_rows(manifest)
    return [(row["file"], row["reason"]) for row in rows if row["status"] == "skipped"]


def _exhibits(
    table: Mapping[str, Sequence[str]],
    told: Mapping[str, Mapping[str, str]],
    classes: Sequence[str],
) -> list[dict[str, Any]]:
    """Return each exhibit's number, image, label, and what the network says of it."""
    rows = []
    for number, image, label in zip(table["exhibit"], table["image"], table["label"], strict=True):
        said = told[image]
        name = said["name"]
        rows.append(
            {
                "number": int(number),
                "anchor": f"exhibit-{number}",
                "image": int(image),
                "name": name,
                "title": f"exhibit {number}, {name}",
                "label": class_name(classes, int(label)),
                "predicted": class_name(classes, int(said["predicted"])),
                "probability": float(said["probability"]),
            }
        )
    return rows


def _layer_row(layer: Layer, entries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    bound = "" if layer.exact else "≤ "
    return {
        "name": layer.name,
        "anchor": f"layer-{_safe(layer.name)}",
        "kind": layer.kind,
        "shape": shape_text(layer.shape),
        "field": bound + shape_text(layer.size),
        "stride": shape_text(layer.stride) if layer.is_map else "–",
        "figures": _of(entries, "layer", layer.name),
    }


def _undefined(layers: Sequence[Layer], entries: Sequence[dict[str, Any]]) -> list[str]:
    """Say for the layers that have figures why some kinds have none of them."""
    shown = {entry["layer"] for entry in entries if entry["analysis"] in _OF_CHOSEN}
    return [
        *(
            f"No projections of {layer.name}: {layer.deconvnet}"
            for layer in layers
            if layer.name in shown and layer.deconvnet
        ),
        *(
            f"No activation maps of {layer.name}: it has a single cell"
            for layer in layers
            if layer.name in shown and not layer.is_map
        ),
    ]


def _worst(entries: Sequence[dict[str, Any]]) -> WorstUnits:
    """Return the worst units of the layers that have a figure of theirs with its numbers."""
    # From where they were copied: a job's own outputs aren't in their place before its end.
    shown = [entry for entry in _of(entries, "kind", "worst") if entry["numbers"]]
    return worst_units((entry, entry["numbers"]) for entry in shown)


def _normalization(card: Mapping[str, Any]) -> str:
    parts = (
        f"{key} ({', '.join(f'{value:.4g}' for value in card['normalize'][key])})"
        for key in ("mean", "std")
    )
    return ", ".join(parts)


def _versions(made: Mapping[str, Any]) -> dict[str, str]:
    """Return the versions of what the study was made with."""
    found = {"convatlas": made["convatlas_version"], "Python": made["python"]}
    packages = {package for rule in made["rules"].values() for package in rule["packages"]}
    return found | dict(package.split(" ", 1) for package in sorted(packages))


def _digests(made: Mapping[str, Any]) -> dict[str, str]:
    """Return the digests of all that the figures were made from, by file."""
    return {
        path: entry.get("digest", entry["sha256"])
        for path, entry in made["files"].items()
        if "/figures/" not in path
    }


def _plain(value: Any) -> Any:
    """Return a value made of types that YAML knows."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
