"""Draw the map of the images: as a scatter of their classes and as a picture grid."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray
from PIL import Image

from convatlas import store
from convatlas.classes import read_classes
from convatlas.figures import style
from convatlas.figures.labels import class_name
from convatlas.files import read_csv, write_csv

_SIDE = 5.4  # of the scatter in inches
_FEW = 24  # classes that colour and marker can tell apart
_LANDMARKS = 14  # points that get their name where the classes are more
_ROW = 0.125  # height of a line of the legend
_Area = tuple[float, float, float, float]  # left, bottom, right, top
_CELLS = 4800  # pixels that a picture grid is wide at most
_MANY = 20_000  # points: of more, each hides others, so they are drawn in a mixed order
_ROUNDS = 16  # in which groups of many points are drawn in turn


# ---------------------------------------------------------------------- scatter


@dataclass(frozen=True)
class _Points:
    """What is known of each point."""

    position: NDArray[Any]  # (N,2)
    label: NDArray[Any]  # (N,) -1 where unknown
    predicted: NDArray[Any]  # (N,) -1 without predictions
    classes: Sequence[str]

    @property
    def wrong(self) -> NDArray[Any]:
        """Where the network's answer is known and isn't the label."""
        known = (self.predicted >= 0) & (self.label >= 0)
        wrong: NDArray[Any] = known & (self.predicted != self.label)
        return wrong


def plot_scatter(
    embedding: str | os.PathLike[str],
    images: str | os.PathLike[str],
    *,
    output: str | os.PathLike[str],
    predictions: str | os.PathLike[str] | None = None,
    classes: str | os.PathLike[str] | None = None,
    formats: Sequence[str] = (),
    dpi: float = style.DPI,
    about: Mapping[str, str] | None = None,
) -> None:
    """Draw each image's place in the embedding with its class.

    Up to 24 classes are told apart by colour and marker and named beside the map. With
    more, colour runs through the classes in the order of the network's outputs, some
    points far from each other are named, and, with `predictions`, crosses mark what
    the network got wrong. Of more than 20,000 points none is a cross, some classes are named
    where most of their points lie, and vector formats hold the points as pixels. The CSV holds
    every point, and whether it was embedded or placed among those that were.
    """
    placed = store.read(store.Embedding, embedding)
    with store.Images(images) as source:
        label = source.labels()
    predicted = np.full(len(label), -1)
    if predictions is not None:
        told = read_csv(predictions, ["predicted"])["predicted"]
        predicted = np.fromiter(map(int, told), np.int64, len(told))
    points = _Points(placed.position, label, predicted, read_classes(classes))
    present = np.unique(label[label >= 0])
    few = len(present) <= _FEW

    title = f"Map of the images by {placed.layer}"
    size = (style.PAGE, style.HEADING + _SIDE + style.MARGIN)
    with style.page(
        output, size=size, title=title, formats=formats, dpi=dpi, about=about
    ) as figure:
        paper = style.paper(figure)
        style.head(
            paper,
            title,
            f"{mapped(placed)}, near where their codes are near (t-SNE, perplexity "
            f"{placed.perplexity:.3g}); the axes have no unit",
        )
        axes = style.panel(figure, style.MARGIN, style.HEADING, _SIDE, _SIDE)
        frame(axes, placed.position)
        left = style.MARGIN + _SIDE + 0.15
        if not len(present):
            dots(axes, placed.position, colour=style.COLOURS[0])
            style.write(paper, left, style.HEADING + 0.1, "no labels", colour=style.SOFT)
        elif few:
            _draw_few(figure, paper, axes, points, present, left)
        else:
            _draw_many(figure, paper, axes, points, left)
    with store.Images(images) as source:
        columns: dict[str, Any] = {
            "image": range(len(label)),
            "name": source.each_name(),
            "label": label,
            "class": (class_name(points.classes, int(i)) for i in label),
            "x": placed.position[:, 0],
            "y": placed.position[:, 1],
            "embedded": embedded(placed),
        }
        if predictions is not None:
            columns["predicted"] = predicted
        write_csv(Path(output).with_suffix(".csv"), columns)


def mapped(placed: store.Embedding) -> str:
    """Say how many images a map has, and how they came there if not all by t-SNE."""
    count = len(placed.position)
    return f"{count} images" if placed.sampled is None else _sample(placed.sampled, count)


def _sample(embedded: int, images: int) -> str:
    return f"{embedded:,} of {images:,} images embedded, the others placed among them"


def embedded(placed: store.Embedding) -> NDArray[np.uint8]:
    """Return for each image of a map whether t-SNE embedded it, (N,), or placed it (0)."""
    if placed.embedded is None:
        return np.ones(len(placed.position), np.uint8)
    return np.asarray(placed.embedded)


def frame(axes: Axes, position: NDArray[Any]) -> None:
    """Give the axes a square of data with room around it, and no ticks."""
    low, high = position.min(0), position.max(0)
    half = float((high - low).max()) / 2 * 1.06 or 1.0  # all on one point
    centre = (low + high) / 2
    axes.set_xlim(centre[0] - half, centre[0] + half)
    axes.set_ylim(centre[1] - half, centre[1] + half)
    axes.set_aspect("equal")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set(visible=True, color=style.RULE)


def dots(
    axes: Axes,
    position: NDArray[Any],
    *,
    colour: Any,
    marker: str = "o",
    total: int | None = None,
    share: float = 1.0,
) -> None:
    """Draw points, smaller the more there are; as pixels where vectors would be too many.

    `total` is how many there are on the map, if more than these; `share` shrinks their area.
    Many with a colour each are drawn in a mixed order, or the last class would hide the first.
    """
    total = total or len(position)
    size = float(np.clip(6000 / max(total, 1), 2, 22)) * share
    if total > _MANY:  # from there on their area shrinks almost as their number grows
        size *= (_MANY / total) ** 0.9
        if isinstance(colour, np.ndarray):
            order = _mix(len(position))
            position, colour = position[order], colour[order]
    axes.scatter(
        position[:, 0],
        position[:, 1],
        s=size,
        c=colour,
        marker=marker,
        linewidths=0.8 if marker == "x" else 0,
        alpha=0.85,
        rasterized=total > 5000,
    )


def draw_groups(
    axes: Axes,
    position: NDArray[Any],
    member: NDArray[Any],
    looks: Mapping[int, tuple[str, str]],
    share: float = 1.0,
) -> None:
    """Draw points by the colour and the marker of their group, one group over the other.

    Many points take turns, so that no group hides another, and are dots: the smallest crosses
    and stars are of unequal strength.

    Parameters
    ----------
    position, member : (N,2), and (N,) the number of the group.
    looks : for each group that is drawn, in the order of drawing.
    """
    total = len(position)
    turns = [np.arange(total)]
    if total > _MANY:
        turns = np.array_split(_mix(total), _ROUNDS)
    for turn in turns:
        for group, (colour, marker) in looks.items():
            some = position[turn[member[turn] == group]]
            if len(some):
                form = marker if len(turns) == 1 else "o"
                dots(axes, some, colour=colour, marker=form, total=total, share=share)


def _mix(count: int) -> NDArray[np.int64]:
    """Return the numbers up to `count` in a random order, which is always the same."""
    return np.random.default_rng(0).permutation(count)


def look(place: int, points: int = 0) -> tuple[str, str]:
    """Return the colour and the marker of the class at a place of the legend, no pair twice.

    With so many `points` that a marker's form can't be seen they are dots, and where colours
    come again they are lighter or darker.
    """
    turn, number = divmod(place, len(style.COLOURS))
    colour = style.COLOURS[number]
    if points <= _MANY:
        return colour, style.MARKERS[(number + turn) % len(style.MARKERS)]
    if turn:
        share, other = (0.5, "white") if turn == 1 else (0.45, "black")
        if colour == "#000000":  # which can only become lighter
            share, other = 0.3 * turn, "white"
        mixed = (1 - share) * np.array(to_rgb(colour)) + share * np.array(to_rgb(other))
        colour = to_hex(tuple(mixed))
    return colour, "o"


def _draw_few(
    figure: Figure,
    paper: Axes,
    axes: Axes,
    points: _Points,
    present: NDArray[Any],
    left: float,
) -> None:
    count = len(points.label)
    looks = {int(label): look(place, count) for place, label in enumerate(present)}
    unlabelled = points.label < 0
    draw_groups(axes, points.position, points.label, {-1: (style.RULE, "o"), **looks})
    if count > _MANY and len(looks) > len(style.COLOURS):
        _name_landmarks(figure, axes, points, _FEW)  # for shades are hard to tell apart
    entries = [
        (colour, marker, class_name(points.classes, label), int((points.label == label).sum()))
        for label, (colour, marker) in looks.items()
    ]
    if unlabelled.any():
        entries.append((style.RULE, "o", "no label", int(unlabelled.sum())))
    _legend(paper, entries, left)


def _legend(paper: Axes, entries: Sequence[tuple[Any, str, str, int]], left: float) -> None:
    right = style.PAGE - style.MARGIN
    style.write(paper, right, style.HEADING + 0.08, "images", size=style.TINY, align="right")
    for place, (colour, marker, name, count) in enumerate(entries):
        line = style.HEADING + 0.22 + place * _ROW
        paper.add_line(
            Line2D(
                [left + 0.05], [line - 0.03], color=colour, marker=marker, markersize=3.6, mew=0.8
            )
        )
        style.write(paper, left + 0.15, line, name, width=right - left - 0.45, size=style.SMALL)
        style.write(
            paper, right, line, str(count), size=style.SMALL, colour=style.SOFT, align="right"
        )


def _draw_many(figure: Figure, paper: Axes, axes: Axes, points: _Points, left: float) -> None:
    norm = Normalize(0, max(len(points.classes) - 1, int(points.label.max())))
    colours = mpl.colormaps[style.QUANTITY](norm(points.label))
    colours[points.label < 0] = mpl.colors.to_rgba(style.RULE)
    few = len(points.label) <= _MANY
    right = ~points.wrong
    if few:
        dots(axes, points.position[right], colour=colours[right])
        if points.wrong.any():
            dots(axes, points.position[points.wrong], colour=colours[points.wrong], marker="x")
    else:
        dots(axes, points.position, colour=colours)
    _name_landmarks(figure, axes, points)
    top = style.HEADING
    if few and (points.predicted >= 0).any():
        told = "right" if (points.label >= 0).all() else "right, or no label"
        entries = [
            (style.INK, "o", told, int(right.sum())),
            (style.INK, "x", "wrong", int(points.wrong.sum())),
        ]
        _legend(paper, entries, left)
        top += 0.22 + len(entries) * _ROW + 0.1
    style.write(paper, left, top + 0.08, "class, in the order", size=style.SMALL)
    style.write(paper, left, top + 0.18, "of the outputs", size=style.SMALL)
    bar = style.panel(figure, left, top + 0.28, 0.09, 2.0)
    figure.colorbar(ScalarMappable(norm, style.QUANTITY), cax=bar)
    bar.invert_yaxis()
    ticks = np.linspace(norm.vmin or 0, norm.vmax or 0, 5).round().astype(int)
    room = style.PAGE - left - 0.3
    bar.set_yticks(
        ticks.tolist(),
        [
            style.shorten(figure, f"{i} {class_name(points.classes, int(i))}", room, style.TINY)
            for i in ticks
        ],
        size=style.TINY,
    )
    bar.set_frame_on(False)


def _name_landmarks(figure: Figure, axes: Axes, points: _Points, most: int = _LANDMARKS) -> None:
    """Write the class at `most` points chosen one by one, each the farthest from those before.

    Of many points only one of each class is chosen from, that in the middle of its points.
    A name stands right or left of its point, where it covers fewer others; one that
    would run into a name already written is left out.
    """
    labelled = np.flatnonzero(points.label >= 0)
    if len(points.label) > _MANY:
        labelled = _middles(points.position, points.label)
    every = points.position[points.label >= 0]
    position = points.position[labelled].astype(np.float64)
    (low, high), tall = axes.get_xlim(), 0.06
    unit = (high - low) / _SIDE  # data units to the inch
    written: list[_Area] = []
    for place in _spread(position, 2 * most):
        name = class_name(points.classes, int(points.label[labelled[place]]))
        name = style.shorten(figure, name, 1.1, style.SMALL)
        width = style.text_width(figure, name, style.SMALL)
        x, y = position[place]
        areas = []
        for start in (x + 0.06 * unit, x - (0.06 + width) * unit):
            area = (start, y - tall * unit, start + width * unit, y + tall * unit)
            if low < area[0] and area[2] < high and not any(_overlap(area, a) for a in written):
                areas.append(area)
        if not areas or len(written) == most:
            continue
        area = min(areas, key=lambda area: _covered(area, every))
        written.append(area)
        halo = [patheffects.withStroke(linewidth=1.6, foreground="white")]
        axes.text(area[0], y, name, size=style.SMALL, va="center", path_effects=halo)


def _middles(position: NDArray[Any], label: NDArray[Any]) -> NDArray[np.int64]:
    """Return for each class the point that lies nearest to the median of its points."""
    order = np.argsort(label, kind="stable")
    order = order[label[order] >= 0]
    found = []
    for some in np.split(order, np.flatnonzero(np.diff(label[order])) + 1):
        away = position[some] - np.median(position[some], axis=0)
        found.append(some[np.square(away).sum(1).argmin()])
    return np.array(found)


def _spread(position: NDArray[Any], count: int) -> list[int]:
    """Return the point nearest to the centre and then, each time, the farthest from all chosen."""
    chosen = [int(np.linalg.norm(position - position.mean(0), axis=1).argmin())]
    nearest = np.full(len(position), np.inf)
    while len(chosen) < min(count, len(position)):
        nearest = np.minimum(nearest, np.linalg.norm(position - position[chosen[-1]], axis=1))
        chosen.append(int(nearest.argmax()))
    return chosen


def _covered(area: _Area, position: NDArray[Any]) -> int:
    """Return how many points lie in an area."""
    low, high = np.array(area[:2]), np.array(area[2:])
    return int(((position > low) & (position < high)).all(1).sum())


def _overlap(a: _Area, b: _Area) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


# ------------------------------------------------------------------ picture grid


def plot_grid(
    grid: str | os.PathLike[str],
    images: str | os.PathLike[str],
    *,
    output: str | os.PathLike[str],
    classes: str | os.PathLike[str] | None = None,
    formats: Sequence[str] = (),
    dpi: float = style.DPI,
    about: Mapping[str, str] | None = None,
) -> None:
    """Draw the images of a `store.Grid` in their cells, a dot to a pixel.

    A cell without an image stays white. The CSV tells which image lies where.
    """
    laid = store.read(store.Grid, grid)
    down, across = laid.image.shape
    names = read_classes(classes)
    title = f"Picture grid by {laid.layer}"
    with store.Images(images) as source:
        mosaic = _mosaic(laid.image, source)
        labels, files = source.labels(), source.names()
    width = mosaic.shape[1] / style.DPI
    height = mosaic.shape[0] / style.DPI
    size = (width + 2 * style.MARGIN, style.HEADING + height + style.MARGIN)
    with style.page(
        output, size=size, title=title, formats=formats, dpi=dpi, about=about
    ) as figure:
        paper = style.paper(figure)
        used = int((laid.image >= 0).sum())
        shown = f"{used:,}" if used == len(labels) else f"{used:,} of {len(labels):,}"
        subtitle = f"{shown} images in {down} × {across} cells, each where its code lies"
        if laid.sampled is not None:
            subtitle += f"; {_sample(laid.sampled, len(labels))}"
        style.head(paper, title, subtitle)
        style.draw_image(paper, mosaic, style.MARGIN, style.HEADING, width, height, pixels=True)
    rows, columns = np.nonzero(laid.image >= 0)
    chosen = laid.image[rows, columns]
    numbers: dict[str, Any] = {
        "row": rows,
        "column": columns,
        "image": chosen,
        "name": [files[i] for i in chosen],
        "label": labels[chosen],
        "class": [class_name(names, int(labels[i])) for i in chosen],
    }
    write_csv(Path(output).with_suffix(".csv"), numbers)


def _mosaic(cells: NDArray[Any], source: store.Images) -> NDArray[Any]:
    """Return the images side by side with white gutters, (H,W,3) uint8."""
    down, across = cells.shape
    gutter = 4
    page = int((style.PAGE - 2 * style.MARGIN) * style.DPI)
    wide = int(np.clip(page // across - gutter, 64, 240))  # a few cells don't fill the page
    wide = max(8, min(wide, _CELLS // across - gutter))
    tall = max(1, round(wide * source.size[0] / source.size[1]))
    shape = (down * (tall + gutter) - gutter, across * (wide + gutter) - gutter, 3)
    mosaic = np.full(shape, 255, dtype=np.uint8)
    for row in range(down):
        filled = np.flatnonzero(cells[row] >= 0)
        for column, image in zip(filled, source.rows(cells[row][filled]), strict=True):
            small = Image.fromarray(image).resize((wide, tall), Image.Resampling.LANCZOS)
            top, left = row * (tall + gutter), column * (wide + gutter)
            mosaic[top : top + tall, left : left + wide] = np.asarray(small)
    return mosaic
