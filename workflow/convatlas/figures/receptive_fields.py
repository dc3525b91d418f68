"""Draw how much of an image the units of deeper and deeper layers see."""

from __future__ import annotations

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
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from convatlas import store
from convatlas.figures import style
from convatlas.files import write_csv
from convatlas.layers import Layer, find_layer, read_layers

_SIDE = 3.0  # of the picture in inches
_LINE = 0.19  # height of a layer's line in the table
_REACH = 1.2  # how far boxes are followed outside the image, as a share of its longer side


@dataclass(frozen=True)
class _Field:
    """The receptive field of a layer's central unit."""

    layer: Layer
    depth: int  # place in the order of execution
    box: NDArray[Any]  # (4,) top, left, bottom, right in pixels

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        top, left, bottom, right = (int(edge) for edge in self.box)
        return bottom - top, right - left


def plot_growth(
    exhibit: str | os.PathLike[str],
    layers_json: str | os.PathLike[str],
    *,
    output: str | os.PathLike[str],
    layers: Sequence[str],
    formats: Sequence[str] = (),
    dpi: float = style.DPI,
    about: Mapping[str, str] | None = None,
) -> None:
    """Draw the receptive field of the central unit of each of `layers` on an image.

    Beside the image a line for each layer tells its number on the image, the field's
    size, and its stride; an open dot and ≤ mark an upper bound. The CSV holds size,
    stride and box.

    Raises
    ------
    LayerError
        if one of `layers` isn't in the file; the message offers the nearest names.
    """
    shown = store.read(store.Exhibit, exhibit)
    fields = _read_fields(layers_json, layers)
    size = (style.PAGE, style.HEADING + max(_SIDE, len(fields) * _LINE + 0.65) + style.MARGIN)
    colours = mpl.colormaps["plasma"](np.linspace(0, 0.85, len(fields)))  # its end is too pale
    title = "Receptive fields"
    with style.page(
        output, size=size, title=title, formats=formats, dpi=dpi, about=about
    ) as figure:
        paper = style.paper(figure)
        style.head(paper, title, f"of the central unit of each layer, drawn on {shown.name}")
        _draw_boxes(figure, shown.image, fields, colours)
        _draw_table(figure, paper, shown.image.shape, fields, colours)
    columns: dict[str, Any] = {
        "layer": [field.layer.name for field in fields],
        "kind": [field.layer.kind for field in fields],
        "depth": [field.depth for field in fields],
    }
    for i, axis in enumerate("yx"):
        columns[f"size_{axis}"] = [field.size[i] for field in fields]
        columns[f"stride_{axis}"] = [field.layer.stride[i] for field in fields]
    columns["exact"] = [int(field.layer.exact) for field in fields]
    for i, edge in enumerate(("top", "left", "bottom", "right")):
        columns[edge] = [field.box[i] for field in fields]
    write_csv(Path(output).with_suffix(".csv"), columns)


def _read_fields(path: str | os.PathLike[str], names: Sequence[str]) -> list[_Field]:
    known = read_layers(path)
    fields = []
    for layer in (find_layer(known, name) for name in names):
        centre = np.array(layer.shape[1:] if len(layer.shape) == 3 else (1, 1)) // 2
        fields.append(_Field(layer, known.index(layer), layer.boxes(centre)))
    return fields


def _draw_boxes(
    figure: Figure, image: NDArray[Any], fields: Sequence[_Field], colours: NDArray[Any]
) -> None:
    height, width = image.shape[:2]
    longer = max(height, width)
    boxes = np.array([(0, 0, height, width), *(field.box for field in fields)], dtype=float)
    low = np.maximum(boxes[:, :2].min(0), -_REACH * longer)
    high = np.minimum(boxes[:, 2:].max(0), np.array([height, width]) + _REACH * longer)
    span = float((high - low).max()) * 1.1  # room for a number at the outermost corner
    middle = (low + high) / 2
    axes = style.panel(figure, style.MARGIN, style.HEADING, _SIDE, _SIDE)
    axes.set_axis_off()
    axes.set_xlim(middle[1] - span / 2, middle[1] + span / 2)
    axes.set_ylim(middle[0] + span / 2, middle[0] - span / 2)
    style.draw_image(axes, image, 0, 0, width, height)
    halo = [patheffects.withStroke(linewidth=2.2, foreground="white")]
    for field, colour in zip(fields, colours, strict=True):
        top, left, bottom, right = field.box
        axes.add_patch(
            Rectangle(
                (left, top),
                right - left,
                bottom - top,
                facecolor="none",
                edgecolor=colour,
                linewidth=1.2,
                linestyle="-" if field.layer.exact else (0, (4, 2)),
                path_effects=halo,
            )
        )
    places = _corner_labels(boxes[1:, :2], span / _SIDE)
    for number, ((y, x), colour) in enumerate(zip(places, colours, strict=True), start=1):
        if (boxes[number, :2] < low).any():
            continue  # the corner lies beyond what is shown
        axes.text(
            x,
            y,
            str(number),
            size=style.SMALL,
            weight="bold",
            color=colour,
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
    shape: Sequence[int],
    fields: Sequence[_Field],
    colours: NDArray[Any],
) -> None:
    left = style.MARGIN + _SIDE + 0.2
    chart = left + 1.75  # where the dots begin
    right = style.PAGE - style.MARGIN - 0.62
    first = style.HEADING + 0.3
    soft: dict[str, Any] = {"size": style.TINY, "colour": style.SOFT}
    style.write(paper, left, style.HEADING + 0.1, "layer", **soft)
    style.write(paper, chart - 0.1, style.HEADING + 0.1, "stride", align="right", **soft)
    style.write(paper, right + 0.62, style.HEADING + 0.1, "size", align="right", **soft)
    for place, (field, colour) in enumerate(zip(fields, colours, strict=True)):
        line = first + place * _LINE
        style.write(paper, left, line, str(place + 1), size=style.SMALL, colour=colour, bold=True)
        style.write(paper, left + 0.17, line, field.layer.name, width=1.1, size=style.SMALL)
        stride = _sides(field.layer.stride) if field.layer.is_map else "–"
        style.write(paper, chart - 0.1, line, stride, size=style.SMALL, align="right")
        told = ("" if field.layer.exact else "≤ ") + _sides(field.size)
        style.write(paper, right + 0.62, line, told, size=style.SMALL, align="right")
    _draw_sizes(figure, fields, colours, chart, first - 0.03, right - chart, max(shape[:2]))


def _draw_sizes(
    figure: Figure,
    fields: Sequence[_Field],
    colours: NDArray[Any],
    left: float,
    first: float,
    width: float,
    image: int,
) -> None:
    """Draw the longer side of each field as a dot on its layer's line."""
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
    for place, (field, side, colour) in enumerate(zip(fields, longest, colours, strict=True)):
        fill = colour if field.layer.exact else "white"
        axes.plot(side, place, "o", markersize=4, color=colour, markerfacecolor=fill, clip_on=False)


def _sides(pair: Sequence[int]) -> str:
    """Return a pair as ``7``, or as ``7 × 5`` where its members differ."""
    return str(pair[0]) if pair[0] == pair[1] else f"{pair[0]} × {pair[1]}"
