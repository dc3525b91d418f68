"""Draw what makes units fire: a row a unit, whole images from all over its firing range."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from convatlas import store
from convatlas.classes import read_classes
from convatlas.figures import style
from convatlas.figures.labels import class_name
from convatlas.figures.patches import rows_of
from convatlas.files import known, write_csv
from convatlas.firing import most_selective, well_founded

AnyPath = str | os.PathLike[str]

_TOLD = 0.95  # width of what is told of a unit, left of its images, in inches
_BARS = 1.45  # width of the classes' bars, right of them
_BETWEEN = 0.08
_LEAST = 0.62  # height of a row
_BAR, _LINES_OF_CLASSES = 0.115, 5  # height of a line of a unit's classes, and how many
_NARROW = 0.35  # the least width of an image; for more of them the page becomes wider
_BELOW = 0.34  # from the rows to the panel under them
_PANEL = (0.5, 2.4, 1.25)  # left, width and height of the distribution
_TABLE = 3.35  # left of the ranking
_LINES = 10  # of the ranking


def plot_firing(
    firing: AnyPath,
    images: AnyPath,
    *,
    output: AnyPath,
    sampled: AnyPath,
    counted: AnyPath,
    units: int | Sequence[int],
    classes: AnyPath | None = None,
    formats: Sequence[str] = (),
    dpi: float = style.DPI,
    about: Mapping[str, str] | None = None,
) -> None:
    """Draw the most selective units of a layer, or chosen ones, and how selective all are.

    Each image is whole, with the receptive field of the place where the unit answered in
    white (dashed for an upper bound) and the answer; from left to right the answer falls
    from the largest to the threshold. Where no image's answer lies in a part of the range,
    there is an empty frame. Bars count the classes of the images on which the unit fires.

    Parameters
    ----------
    firing, images, classes : the artifacts.
    output : the PNG; the CSV beside it ranks all units by their selectivity.
    sampled : a CSV with the image of each part of each unit's range.
    counted : a CSV with the commonest classes of each unit.
    units : how many of the most selective ones are drawn, or which, in this order. A unit that
        fires on fewer images than its row has, and than its class has, is drawn only for
        want of others: its index rests on too little.

    Raises
    ------
    LayerError
        if one of the units doesn't exist.
    """
    found = store.read(store.Firing, firing)
    names = read_classes(classes)
    order = most_selective(found)
    often = well_founded(found, found.image.shape[1])
    rows = (
        [int(row) for row in [*order[often[order]], *order[~often[order]]][:units]]
        if isinstance(units, int)
        else rows_of(units, found.unit, found.layer)
    )
    title = f"What makes units of {found.layer} fire"
    with store.Images(images) as source:
        labels = source.labels()
        layout = _Layout.of(len(rows), found.image.shape[1], source.size)
        with style.page(
            output, size=layout.page, title=title, formats=formats, dpi=dpi, about=about
        ) as figure:
            paper = style.paper(figure)
            style.head(paper, title, _subtitle(found, rows, units))
            for place, row in enumerate(rows):
                top = style.HEADING + place * layout.step
                _draw_told(paper, found, row, names, top)
                _draw_images(paper, source, found, row, layout, top)
                _draw_classes(figure, paper, found, row, names, layout.bars, top)
            below = style.HEADING + layout.rows * layout.step + _BELOW
            _draw_distribution(figure, paper, found, rows, below)
            _draw_ranking(paper, found, order, rows, names, below)
    _write_ranking(Path(output).with_suffix(".csv"), found, order, names)
    _write_images(sampled, found, order, labels, names)
    _write_classes(counted, found, order, names)


@dataclass(frozen=True)
class _Layout:
    """Where things are, in inches: so many rows, `step` apart, of images of one size."""

    rows: int
    width: float  # of an image
    height: float
    step: float
    bars: float  # left of the classes' bars
    page: tuple[float, float]

    @classmethod
    def of(cls, rows: int, parts: int, size: tuple[int, int]) -> _Layout:
        free = style.PAGE - 2 * style.MARGIN - _TOLD - _BARS - 2 * _BETWEEN
        width = max((free + style.GUTTER) / parts - style.GUTTER, _NARROW)
        width = min(width, 1.2, 1.2 * size[1] / size[0])  # of few images, not huge ones
        height = width * size[0] / size[1]
        bars = style.MARGIN + _TOLD + parts * (width + style.GUTTER)
        bars += 2 * _BETWEEN - style.GUTTER
        step = max(height, _LEAST) + 0.09
        page = (
            max(style.PAGE, bars + _BARS + style.MARGIN),
            style.HEADING + rows * step + _BELOW + _PANEL[2] + 0.42,
        )
        return cls(rows, width, height, step, bars, page)


def _subtitle(found: store.Firing, rows: Sequence[int], units: int | Sequence[int]) -> str:
    parts = found.image.shape[1]
    which = f"{len(rows)} of {len(found.unit)} units"
    if isinstance(units, int) and np.isfinite(found.selectivity[rows]).any():
        which = f"the most selective of {len(found.unit)} units"
        if well_founded(found, parts)[rows].all():
            which += f", of those that fire on {parts} images or on all of a class"
        if found.labelled_images < 2 * len(np.unique(found.best[found.best >= 0])):
            which = f"{len(rows)} of {len(found.unit)} units; classes of one image tell little"
    low = 100 * found.threshold
    box = "white: the receptive field" if found.exact else "dashed: bound of the receptive field"
    return f"{which}; left the strongest answer, right {low:.3g} % of it; {box}"


def _draw_told(
    paper: Axes, found: store.Firing, row: int, names: Sequence[str], top: float
) -> None:
    soft: dict[str, Any] = {"size": style.SMALL, "colour": style.SOFT, "width": _TOLD}
    style.write(paper, style.MARGIN, top + 0.09, f"unit {int(found.unit[row])}", bold=True)
    index = found.selectivity[row]
    lines = []
    if np.isfinite(index):
        lines += [f"selectivity {index:.2f}", class_name(names, int(found.best[row]))]
    times = int(found.firing[row])
    lines += [f"fires on {times} of {found.images}"] if times else ["never fires"]
    for place, line in enumerate(lines):
        style.write(paper, style.MARGIN, top + 0.2 + 0.105 * place, line, **soft)


def _draw_images(
    paper: Axes, source: store.Images, found: store.Firing, row: int, layout: _Layout, top: float
) -> None:
    width, height = layout.width, layout.height
    tall, wide = source.size
    inch = width / wide
    for part, image in enumerate(found.image[row]):
        left = style.MARGIN + _TOLD + _BETWEEN + part * (width + style.GUTTER)
        if image < 0:
            style.draw_rectangle(paper, left, top, width, height, linestyle=(0, (3, 3)))
            continue
        style.draw_image(paper, source.rows([image])[0], left, top, width, height)
        box = found.box[row, part]
        up, down = np.clip(box[[0, 2]], 0, tall) * inch
        first, last = np.clip(box[[1, 3]], 0, wide) * inch
        _draw_box(paper, (left, top, width, height), (first, up, last, down), bool(found.exact))
        style.write(
            paper,
            left + 0.03,
            top + height - 0.035,
            style.number(float(found.value[row, part])),
            size=style.TINY,
            colour="white",
            bold=True,
            path_effects=[patheffects.withStroke(linewidth=1.1, foreground="black")],
        )


def _draw_box(
    paper: Axes,
    image: tuple[float, float, float, float],
    box: tuple[float, float, float, float],
    exact: bool,
) -> None:
    """Draw a box on an image, white in a dark halo, its lines inside the image.

    `image` is left, top, width and height on the paper; `box` left, top, right and bottom
    within it.
    """
    left, top, width, height = image
    edge = 0.012  # half of the halo, so that a box at the border is seen whole
    first, last = np.clip([box[0], box[2]], edge, width - edge)
    up, down = np.clip([box[1], box[3]], edge, height - edge)
    style.draw_rectangle(
        paper,
        left + first,
        top + up,
        last - first,
        down - up,
        edgecolor="white",
        linewidth=0.8,
        linestyle="-" if exact else (0, (4, 2)),
        joinstyle="miter",
        path_effects=[
            patheffects.Stroke(linewidth=1.7, foreground="#202020", alpha=0.75),
            patheffects.Normal(),
        ],
    )


def _draw_classes(
    figure: Figure,
    paper: Axes,
    found: store.Firing,
    row: int,
    names: Sequence[str],
    left: float,
    top: float,
) -> None:
    """Draw how many of the images on which a unit fires are of its commonest classes."""
    distinct = int(found.distinct[row])
    shown = distinct if distinct <= _LINES_OF_CLASSES else _LINES_OF_CLASSES - 1
    there = np.flatnonzero(found.times[row] > 0)[:shown]
    labelled = int(found.labelled[row])
    if not labelled:
        told = "never fires" if not found.firing[row] else "no labels"
        style.write(paper, left, top + 0.09, told, size=style.SMALL, colour=style.SOFT)
        return
    chart = left + 0.68
    room = _BARS - 0.68 - 0.2
    for place, rank in enumerate(there):
        line = top + 0.02 + place * _BAR
        times = int(found.times[row, rank])
        name = class_name(names, int(found.frequent[row, rank]))
        short = style.shorten(figure, name, chart - left - 0.04, style.TINY)
        style.write(paper, chart - 0.04, line + 0.075, short, size=style.TINY, align="right")
        wide = room * times / labelled
        style.draw_rectangle(
            paper, chart, line + 0.015, wide, _BAR - 0.035, facecolor=style.COLOURS[0], linewidth=0
        )
        style.write(
            paper, chart + wide + 0.03, line + 0.075, str(times), size=style.TINY, colour=style.SOFT
        )
    rest = distinct - len(there)
    if rest > 0:
        others = labelled - int(found.times[row, there].sum())
        line = top + 0.02 + len(there) * _BAR
        classes = "class" if rest == 1 else "classes"
        style.write(
            paper,
            left,
            line + 0.075,
            f"and {others} in {rest} other {classes}",
            width=_BARS,
            size=style.TINY,
            colour=style.SOFT,
        )


def _draw_distribution(
    figure: Figure, paper: Axes, found: store.Firing, rows: Sequence[int], top: float
) -> None:
    left, width, height = _PANEL
    known = found.selectivity[np.isfinite(found.selectivity)]
    style.write(
        paper,
        style.MARGIN,
        top - 0.1,
        "Selectivity of all units; lines: the ones above",
        width=_TABLE - 0.2,
    )
    axes = style.panel(figure, left, top, width, height)
    axes.set_xlim(0, 1)
    axes.set_xlabel("class selectivity index")
    axes.set_ylabel("units")
    if not known.size:
        axes.set_yticks([])
        axes.text(
            0.5,
            0.5,
            "not defined: it needs images of two classes\nand units that are active",
            size=style.SMALL,
            color=style.SOFT,
            ha="center",
            va="center",
            transform=axes.transAxes,
        )
        return
    heights, edges = np.histogram(known, bins=25, range=(0, 1))
    axes.stairs(heights, edges, fill=True, color=style.COLOURS[4])
    axes.set_ylim(0, 1.12 * heights.max())
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    for row in rows:
        if np.isfinite(found.selectivity[row]):
            axes.axvline(found.selectivity[row], ymax=0.96, color=style.COLOURS[1], linewidth=0.7)


def _draw_ranking(
    paper: Axes,
    found: store.Firing,
    order: NDArray[np.int64],
    rows: Sequence[int],
    names: Sequence[str],
    top: float,
) -> None:
    listed = [int(row) for row in order[:_LINES] if np.isfinite(found.selectivity[row])]
    if not listed:
        return
    ends = {"rank": _TABLE + 0.2, "unit": _TABLE + 0.55, "index": _TABLE + 3.0}
    ends["fires on"] = _TABLE + 3.75
    soft: dict[str, Any] = {"size": style.TINY, "colour": style.SOFT}
    for name, end in ends.items():
        style.write(paper, end, top - 0.1, name, align="right", **soft)
    style.write(paper, _TABLE + 0.7, top - 0.1, "class", **soft)
    for place, row in enumerate(listed):
        line = top + 0.04 + 0.135 * place
        cells = {
            "rank": str(place + 1),
            "unit": str(int(found.unit[row])),
            "index": f"{found.selectivity[row]:.3f}",
            "fires on": f"{100 * found.firing[row] / found.images:.3g} %",
        }
        bold = row in rows
        for name, text in cells.items():
            style.write(paper, ends[name], line, text, size=style.SMALL, align="right", bold=bold)
        style.write(
            paper,
            _TABLE + 0.7,
            line,
            class_name(names, int(found.best[row])),
            width=1.85,
            size=style.SMALL,
            bold=bold,
        )


# ------------------------------------------------------------------------- numbers


def _write_ranking(
    path: AnyPath, found: store.Firing, order: NDArray[np.int64], names: Sequence[str]
) -> None:
    columns: dict[str, list[Any]] = {
        "rank": list(range(1, len(order) + 1)),
        "unit": [int(found.unit[row]) for row in order],
        "selectivity": known(found.selectivity[order]),
        "class": [int(found.best[row]) for row in order],
        "class_name": [class_name(names, int(found.best[row])) for row in order],
        "class_mean": known(found.best_mean[order]),
        "rest_mean": known(found.rest_mean[order]),
        "maximum": [float(found.maximum[row]) for row in order],
        "threshold": [float(found.threshold * found.maximum[row]) for row in order],
        "firing": [int(found.firing[row]) for row in order],
        "firing_share": [float(found.firing[row] / found.images) for row in order],
        "labelled": [int(found.labelled[row]) for row in order],
        "classes": [int(found.distinct[row]) for row in order],
    }
    write_csv(path, columns)


def _write_images(
    path: AnyPath,
    found: store.Firing,
    order: NDArray[np.int64],
    labels: NDArray[Any],
    names: Sequence[str],
) -> None:
    places = [(row, part) for row in order for part in np.flatnonzero(found.image[row] >= 0)]
    at = tuple(np.array(places, dtype=int).reshape(-1, 2).T)
    image = found.image[at]
    columns: dict[str, Any] = {
        "unit": found.unit[at[0]],
        "part": at[1],
        "value": found.value[at],
        "image": image,
        "label": labels[image],
        "class": [class_name(names, int(label)) for label in labels[image]],
    }
    for i, name in enumerate(("row", "column")):
        columns[name] = found.location[at][:, i]
    for i, name in enumerate(("top", "left", "bottom", "right")):
        columns[name] = found.box[at][:, i]
    write_csv(path, columns)


def _write_classes(
    path: AnyPath, found: store.Firing, order: NDArray[np.int64], names: Sequence[str]
) -> None:
    places = [(row, rank) for row in order for rank in np.flatnonzero(found.times[row] > 0)]
    at = tuple(np.array(places, dtype=int).reshape(-1, 2).T)
    columns = {
        "unit": found.unit[at[0]],
        "class": found.frequent[at],
        "class_name": [class_name(names, int(label)) for label in found.frequent[at]],
        "images": found.times[at],
        "share": found.times[at] / np.maximum(found.labelled[at[0]], 1),
    }
    write_csv(path, columns)
