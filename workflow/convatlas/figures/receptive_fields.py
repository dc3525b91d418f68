"""Draw how much of an image the units of deeper and deeper layers can see, and do see."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from convatlas import store
from convatlas.errors import StoreError
from convatlas.figures import style
from convatlas.figures.labels import sides_text
from convatlas.files import write_csv
from convatlas.layers import Layer, find_layer, read_layers

_BETWEEN = 0.2  # the two pictures, in inches
_SIDE = (style.PAGE - 2 * style.MARGIN - _BETWEEN) / 2  # of each
_NAME = 0.16  # height of the line above each
_LINE = 0.19  # height of a layer's line in the table
_REACH = 0.75  # how far boxes are followed outside the image, as a share of its longer side
_FEWEST, _MOST = 5, 8  # places for small pictures of the gradient's mass in a line
_GAP = 0.06
_SMALL_NAME = 0.13  # height of the line above each


@dataclass(frozen=True)
class _Field:
    """The receptive field of a layer's central unit, in theory and as it is measured."""

    layer: Layer
    depth: int  # place in the order of execution
    box: NDArray[Any]  # (4,) top, left, bottom, right in pixels
    effective: NDArray[Any]  # (4,) likewise; empty without a gradient
    mass: NDArray[Any]  # (H,W) of the gradient, in all one or zero
    outside: float  # share of the mass that isn't in `box`

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return _extent(self.box)

    @property
    def ratio(self) -> float:
        """Side of the measured field as a share of that in theory; 0 without a gradient."""
        return math.sqrt(math.prod(_extent(self.effective)) / math.prod(self.size))


def plot_growth(
    exhibit: str | os.PathLike[str],
    layers_json: str | os.PathLike[str],
    fields: str | os.PathLike[str],
    *,
    output: str | os.PathLike[str],
    layers: Sequence[str],
    formats: Sequence[str] = (),
    dpi: float = style.DPI,
    about: Mapping[str, str] | None = None,
) -> None:
    """Draw the receptive field of the central unit of each of `layers` on an image.

    At the left what the unit can see, at the right, on the same scale, the box that holds
    most of the gradient's mass (`fields`, a `store.EffectiveFields`). Below a line for each
    layer tells its number on the image, its stride, and both sizes; an open dot and ≤ mark
    an upper bound, a diamond what was measured. Then the mass itself, for each layer on the
    whole image, its theoretical box outlined, and enlarged: the part of the image that the
    unit can see. Each of these pictures has a scale of its own, the sides' ratio is the
    geometric mean of both axes. The CSV holds sizes, stride and boxes.

    Raises
    ------
    LayerError
        if one of `layers` isn't in `layers_json`; the message offers the nearest names.
    StoreError
        if one of them isn't in `fields`.
    """
    shown = store.read(store.Exhibit, exhibit)
    measured = store.read(store.EffectiveFields, fields)
    found = _join(layers_json, measured, layers)
    colours = mpl.colormaps["plasma"](np.linspace(0, 0.85, len(found)))  # its end is too pale
    table = len(found) * _LINE + 0.62
    small = _Small(shown.image.shape[:2], len(found))
    top = style.HEADING + _NAME
    size = (style.PAGE, top + _SIDE + 0.12 + table + small.height + style.MARGIN)
    title = "Receptive fields"
    share = f"{style.number(100 * measured.share).removesuffix('.0')} %"
    with style.page(
        output, size=size, title=title, formats=formats, dpi=dpi, about=about
    ) as figure:
        paper = style.paper(figure)
        several = "s" if measured.images != 1 else ""
        told = f"the gradient's mass is a mean over {measured.images} image{several}"
        if measured.why_not:
            told = f"not measured: {measured.why_not}"
        style.head(
            paper,
            title,
            f"of the central unit of each layer, drawn on {shown.name}; {told}",
        )
        right = style.MARGIN + _SIDE + _BETWEEN
        style.write(paper, style.MARGIN, style.HEADING + 0.08, "what it can see", bold=True)
        told = f"where {share} of the gradient arrives, along each axis"
        style.write(paper, right, style.HEADING + 0.08, told, bold=True)
        window = _window(shown.image.shape[:2], found)
        for left, boxes, measuring in (
            (style.MARGIN, [field.box for field in found], False),
            (right, [field.effective for field in found], True),
        ):
            axes = style.panel(figure, left, top, _SIDE, _SIDE)
            _draw_boxes(axes, shown.image, window, found, boxes, colours, measuring)
        top += _SIDE + 0.12
        _draw_table(figure, paper, top, shown.image.shape, found, colours)
        top += table
        small.name(figure, paper, top)
        for place, (field, colour) in enumerate(zip(found, colours, strict=True)):
            small.draw(paper, place, top, field, colour)
    _write_numbers(Path(output).with_suffix(".csv"), found, measured)


def _extent(box: NDArray[Any]) -> tuple[int, int]:
    top, left, bottom, right = (int(edge) for edge in box)
    return bottom - top, right - left


def _join(
    path: str | os.PathLike[str], measured: store.EffectiveFields, names: Sequence[str]
) -> list[_Field]:
    known, rows = read_layers(path), list(measured.name)
    fields = []
    for layer in (find_layer(known, name) for name in names):
        if layer.name not in rows:
            raise StoreError(
                f"the effective fields that were measured have no layer {layer.name!r}, only "
                f"{', '.join(rows)}. Run the workflow again to make them anew."
            )
        i = rows.index(layer.name)
        fields.append(
            _Field(
                layer,
                known.index(layer),
                layer.boxes(np.array(layer.centre)),
                measured.box[i],
                measured.mass[i],
                float(measured.outside[i]),
            )
        )
    return fields


def _window(size: Sequence[int], fields: Sequence[_Field]) -> tuple[float, float, float, float]:
    """Return the part of the plane that both pictures show: a square around all boxes."""
    longer = max(size)
    boxes = np.array([(0, 0, *size), *(field.box for field in fields)], dtype=float)
    low = np.maximum(boxes[:, :2].min(0), -_REACH * longer)
    high = np.minimum(boxes[:, 2:].max(0), np.array(size) + _REACH * longer)
    span = float((high - low).max()) * 1.1  # room for a number at the outermost corner
    y, x = (low + high) / 2
    return y - span / 2, x - span / 2, y + span / 2, x + span / 2


def _draw_boxes(
    axes: Axes,
    image: NDArray[Any],
    window: tuple[float, float, float, float],
    fields: Sequence[_Field],
    boxes: Sequence[NDArray[Any]],
    colours: NDArray[Any],
    measured: bool,
) -> None:
    top, left, bottom, right = window
    axes.set_axis_off()
    axes.set_xlim(left, right)
    axes.set_ylim(bottom, top)
    style.draw_image(axes, image, 0, 0, image.shape[1], image.shape[0])
    halo = [patheffects.withStroke(linewidth=2.2, foreground="white")]
    drawn = [i for i, box in enumerate(boxes) if min(_extent(box)) > 0]
    for i in drawn:
        solid = measured or fields[i].layer.exact
        style.draw_rectangle(
            axes,
            boxes[i][1],
            boxes[i][0],
            boxes[i][3] - boxes[i][1],
            boxes[i][2] - boxes[i][0],
            edgecolor=colours[i],
            linewidth=1.2,
            linestyle="-" if solid else (0, (4, 2)),
            path_effects=halo,
        )
    if not drawn:
        return
    places = _corner_labels(
        np.array([boxes[i][:2] for i in drawn], dtype=float), (right - left) / _SIDE
    )
    for i, (y, x) in zip(drawn, places, strict=True):
        if y < top or x < left:
            continue  # beyond what is shown
        axes.text(
            x,
            y,
            str(i + 1),
            size=style.SMALL,
            weight="bold",
            color=colours[i],
            ha="center",
            va="center",
            path_effects=halo,
        )


def _corner_labels(corners: NDArray[Any], inch: float) -> NDArray[Any]:
    """Return where to write the number of each box, (n,2): outside its top left corner.

    From the innermost corner outwards each number moves up and left until it is clear
    of the one before. `inch` is in pixels.
    """
    places = corners - 0.055 * inch
    outwards = np.argsort(-corners.sum(1), kind="stable")
    for inner, outer in pairwise(outwards):
        if np.linalg.norm(places[outer] - places[inner]) < 0.12 * inch:
            places[outer] = places[inner] - 0.085 * inch
    return places


def _draw_table(
    figure: Figure,
    paper: Axes,
    top: float,
    shape: Sequence[int],
    fields: Sequence[_Field],
    colours: NDArray[Any],
) -> None:
    left, right = style.MARGIN, style.PAGE - style.MARGIN
    ends = {"stride": 2.25, "in theory": 2.95, "measured": 3.6, "ratio": 4.05}
    first = top + 0.3
    soft: dict[str, Any] = {"size": style.TINY, "colour": style.SOFT}
    style.write(paper, left, top + 0.1, "layer", **soft)
    for name, end in ends.items():
        style.write(paper, end, top + 0.1, name, align="right", **soft)
    for place, (field, colour) in enumerate(zip(fields, colours, strict=True)):
        line = first + place * _LINE
        style.write(paper, left, line, str(place + 1), size=style.SMALL, colour=colour, bold=True)
        style.write(paper, left + 0.2, line, field.layer.name, width=1.5, size=style.SMALL)
        seen = field.ratio > 0
        told = (
            sides_text(field.layer.stride) if field.layer.is_map else "–",
            ("" if field.layer.exact else "≤ ") + sides_text(field.size),
            sides_text(_extent(field.effective)) if seen else "no gradient",
            f"{100 * field.ratio:.0f} %" if seen else "–",
        )
        for text, end in zip(told, ends.values(), strict=True):
            style.write(paper, end, line, text, size=style.SMALL, align="right")
    chart = 4.25
    _draw_sizes(figure, fields, colours, chart, first - 0.03, right - 0.1 - chart, max(shape[:2]))


def _draw_sizes(
    figure: Figure,
    fields: Sequence[_Field],
    colours: NDArray[Any],
    left: float,
    first: float,
    width: float,
    image: int,
) -> None:
    """Draw the longer side of each field on its layer's line: a dot, and a diamond as measured."""
    longest = [max(field.size) for field in fields]
    axes = style.panel(figure, left, first - _LINE / 2, width, len(fields) * _LINE)
    axes.set_ylim(len(fields) - 0.5, -0.5)
    axes.set_xlim(0, 1.08 * max(*longest, image))
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.axvline(image, color=style.RULE, linewidth=0.8)
    axes.annotate(
        "image",
        (image, 1),
        xycoords=("data", "axes fraction"),
        xytext=(0, 2),
        textcoords="offset points",
        ha="center",
        size=style.TINY,
        color=style.SOFT,
    )
    axes.set_xlabel("longer side (pixels)", size=style.TINY, labelpad=1)
    axes.hlines(range(len(fields)), 0, longest, color=style.RULE, linewidth=0.5)
    look: dict[str, Any] = {"markersize": 4, "clip_on": False}
    for place, (field, side, colour) in enumerate(zip(fields, longest, colours, strict=True)):
        fill = colour if field.layer.exact else "white"
        axes.plot(side, place, "o", color=colour, markerfacecolor=fill, **look)
        if field.ratio:
            axes.plot(max(_extent(field.effective)), place, "D", color=colour, **look)


class _Small:
    """Small pictures of the gradient's mass, one layer beside the other.

    Parameters
    ----------
    size : height and width of the image.
    layers : how many there are.
    """

    def __init__(self, size: Sequence[int], layers: int) -> None:
        self._size = size
        self._lines = max(-(-layers // _MOST), 1)
        self._across = max(-(-layers // self._lines), _FEWEST)
        room = style.PAGE - 2 * style.MARGIN
        self._wide = (room - (self._across - 1) * _GAP) / self._across
        self._tall = min(self._wide * size[0] / size[1], 1.5 * self._wide)

    @property
    def _line(self) -> float:
        return _SMALL_NAME + self._tall + _GAP + self._wide + 0.08

    @property
    def height(self) -> float:
        """Height of all of them with their title, in inches."""
        return _NAME + self._lines * self._line

    def name(self, figure: Figure, paper: Axes, top: float) -> None:
        """Write what the pictures show."""
        title = "where the gradient arrives"
        style.write(paper, style.MARGIN, top + 0.08, title, bold=True)
        left = style.MARGIN + style.text_width(figure, title, style.TEXT, bold=True) + 0.12
        style.write(
            paper,
            left,
            top + 0.08,
            "above on the whole image, outlined what the unit can see; below that part enlarged; "
            "each on a scale of its own",
            width=style.PAGE - style.MARGIN - left,
            size=style.SMALL,
            colour=style.SOFT,
        )

    def draw(self, paper: Axes, place: int, top: float, field: _Field, colour: Any) -> None:
        left = style.MARGIN + place % self._across * (self._wide + _GAP)
        top += _NAME + place // self._across * self._line
        style.write(
            paper, left, top + 0.09, str(place + 1), size=style.SMALL, colour=colour, bold=True
        )
        name: dict[str, Any] = {"width": self._wide - 0.16, "size": style.TINY}
        style.write(paper, left + 0.15, top + 0.09, field.layer.name, colour=style.SOFT, **name)
        top += _SMALL_NAME
        inch = min(self._wide / self._size[1], self._tall / self._size[0])
        height, width = (side * inch for side in self._size)
        x, y = left + (self._wide - width) / 2, top + (self._tall - height) / 2
        ends = [
            (min(max(int(field.box[i]), 0), side), min(max(int(field.box[i + 2]), 0), side))
            for i, side in enumerate(self._size)
        ]
        (first, last), (start, stop) = ends
        self._picture(paper, field, field.mass, x, y, inch)
        outline: dict[str, Any] = {"edgecolor": "white", "linewidth": 0.6}
        style.draw_rectangle(
            paper,
            x + start * inch,
            y + first * inch,
            (stop - start) * inch,
            (last - first) * inch,
            linestyle="-" if field.layer.exact else (0, (4, 2)),
            **outline,
        )
        part = field.mass[first:last, start:stop]
        top += self._tall + _GAP
        if not part.size:
            return
        inch = self._wide / max(part.shape)
        height, width = (side * inch for side in part.shape)
        x, y = left + (self._wide - width) / 2, top + (self._wide - height) / 2
        self._picture(paper, field, part, x, y, inch)

    def _picture(
        self, paper: Axes, field: _Field, mass: NDArray[Any], x: float, y: float, inch: float
    ) -> None:
        height, width = (side * inch for side in mass.shape)
        if not field.mass.any():
            style.draw_nothing(paper, x, y, width, height)
            return
        norm = Normalize(0, float(field.mass.max()))
        style.draw_image(
            paper, mass, x, y, width, height, pixels=True, cmap=style.QUANTITY, norm=norm
        )


def _write_numbers(path: Path, fields: Sequence[_Field], measured: store.EffectiveFields) -> None:
    columns: dict[str, Any] = {
        "layer": [field.layer.name for field in fields],
        "kind": [field.layer.kind for field in fields],
        "depth": [field.depth for field in fields],
    }
    for i, axis in enumerate("yx"):
        columns[f"size_{axis}"] = [field.size[i] for field in fields]
        columns[f"stride_{axis}"] = [field.layer.stride[i] for field in fields]
    columns["exact"] = [int(field.layer.exact) for field in fields]
    edges = ("top", "left", "bottom", "right")
    for i, edge in enumerate(edges):
        columns[edge] = [field.box[i] for field in fields]
    for i, axis in enumerate("yx"):
        columns[f"effective_{axis}"] = [_extent(field.effective)[i] for field in fields]
    for i, edge in enumerate(edges):
        columns[f"effective_{edge}"] = [field.effective[i] for field in fields]
    columns["ratio"] = [field.ratio for field in fields]
    columns["outside"] = [field.outside for field in fields]
    columns["share"] = [measured.share] * len(fields)
    columns["images"] = [measured.images] * len(fields)
    write_csv(path, columns)
