"""Draw the strongest feature maps of some layers over the image, where their cells look."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize, to_rgb
from matplotlib.figure import Figure
from numpy.typing import NDArray

from convatlas import store
from convatlas.classes import read_classes
from convatlas.figures import style
from convatlas.figures.labels import class_name, shape_text, sides_text
from convatlas.figures.maps import draw_scale
from convatlas.files import write_csv
from convatlas.layers import Layer, find_layer, read_layers

_PER_LINE = 4
_LARGEST, _TALLEST = 2.4, 2.4  # width and height of a panel in inches
_BAR = 0.5  # width of the colour bar with its numbers
_NAME, _UNIT = 0.17, 0.11  # heights of the lines above a layer's panels and above each
_GAP = 0.07
_DOT = 0.035  # of the mark on the strongest cell, its halo left out
_DOTS = 500  # pixels along the longer side of the colour that lies over an image
_ABOVE, _BELOW = "#d55e00", "#0072b2"  # Okabe & Ito: vermilion above zero, blue below
_OPAQUE = 0.88  # at the scale's end: the image is still seen
_PALE = 0.45  # of the greyed image, how much white is mixed in


def plot_overlay(
    exhibit: str | os.PathLike[str],
    maps: str | os.PathLike[str],
    layers_json: str | os.PathLike[str],
    *,
    output: str | os.PathLike[str],
    layers: Sequence[str],
    units: int = 4,
    classes: str | os.PathLike[str] | None = None,
    formats: Sequence[str] = (),
    dpi: float = style.DPI,
    about: Mapping[str, str] | None = None,
) -> None:
    """Draw, over an exhibit in grey, the maps of each layer that answer it most.

    A cell is drawn about the centre of its receptive field, half-way to its neighbours
    (`Layer.edges`), not stretched with the map over the whole image: what lies at the
    border, where no cell is centred, stays bare. The colour's opacity is in proportion to
    the value: vermilion above zero, blue below. A layer's maps share one scale. A dot is on
    the strongest cell, and a box around what it sees, dashed if that is an upper bound.
    The CSV tells of each map its maximum, where that is in the map and on the image (in
    pixels from the top left corner), and its box.

    Raises
    ------
    LayerError
        if one of `layers` isn't in `layers_json`.
    """
    shown = store.read(store.Exhibit, exhibit)
    known = read_layers(layers_json)
    picked = [
        _Layer.strongest(find_layer(known, name), store.read_maps(maps, name), units)
        for name in layers
    ]
    rows, columns = shown.image.shape[:2]
    room = style.PAGE - 2 * style.MARGIN - _BAR
    across = min(units, _PER_LINE)
    wide = min((room - (across - 1) * _GAP) / across, _LARGEST, _TALLEST * columns / rows)
    inch = wide / columns  # of a pixel
    title = f"Where {shown.name} excites its strongest units"
    size = (style.PAGE, style.HEADING + sum(x.height(rows * inch, across) for x in picked))
    with style.page(
        output, size=size, title=title, formats=formats, dpi=dpi, about=about
    ) as figure:
        paper = style.paper(figure)
        label = class_name(read_classes(classes), shown.label) or "no label"
        style.head(
            paper,
            title,
            f"{label}; each cell about the centre of what it sees; a dot on the strongest, a box "
            "around what that sees, dashed if an upper bound; one scale per layer",
        )
        backdrop = _greyed(shown.image)
        top = style.HEADING
        for layer in picked:
            layer.draw(figure, paper, backdrop, top, inch, across)
            top += layer.height(rows * inch, across)
    _write_numbers(Path(output).with_suffix(".csv"), picked)


@dataclass(frozen=True)
class _Layer:
    """The maps of one layer that are drawn, strongest first."""

    layer: Layer
    units: NDArray[Any]  # (u,) their numbers
    maps: NDArray[Any]  # (u,H,W)

    @classmethod
    def strongest(cls, layer: Layer, maps: NDArray[Any], units: int) -> _Layer:
        """Choose the `units` maps with the highest maximum of a layer's `maps`, (U,H,W)."""
        order = np.argsort(-maps.max((1, 2)), kind="stable")[:units]
        return cls(layer, order, maps[order])

    def peak(self, place: int) -> tuple[int, int]:
        """Return row and column of a map's maximum, the first of equals."""
        row, column = np.unravel_index(int(self.maps[place].argmax()), self.maps.shape[1:])
        return int(row), int(column)

    def centre(self, cell: tuple[int, int]) -> tuple[float, float]:
        """Return y and x of the middle of a cell's place on the image, in pixels."""
        y, x = (
            float(edges[i] + edges[i + 1]) / 2
            for edges, i in zip(self.layer.edges(), cell, strict=True)
        )
        return y, x

    def height(self, tall: float, across: int) -> float:
        """Return the height with panels so `tall`, in inches."""
        return _NAME + -(-len(self.units) // across) * (_UNIT + tall + _GAP) + 0.06

    @property
    def told(self) -> str:
        """What is known of the layer's cells, in words."""
        bound = "" if self.layer.exact else "at most "
        if 0 in self.layer.stride:
            return "each cell sees everything; drawn over the whole image"
        stride, size = (sides_text(pair) for pair in (self.layer.stride, self.layer.size))
        if self.layer.intervals is not None:
            return f"cells see at most {size} pixels, and lie about {stride} apart"
        return f"a cell sees {bound}{size} pixels, the next one {stride} further on"

    def draw(
        self,
        figure: Figure,
        paper: Axes,
        backdrop: NDArray[np.uint8],
        top: float,
        inch: float,
        across: int,
    ) -> None:
        rows, columns = backdrop.shape[:2]
        wide, tall = columns * inch, rows * inch
        right = style.MARGIN + across * (wide + _GAP) - _GAP
        told = f"{shape_text((self.layer.units, *self.maps.shape[1:]))}; {self.told}"
        left = style.MARGIN + style.text_width(figure, self.layer.name, style.TEXT, True) + 0.12
        end = style.PAGE - style.MARGIN
        style.write(paper, style.MARGIN, top + 0.1, self.layer.name, width=2.6, bold=True)
        left = min(left, style.MARGIN + 2.7)
        soft: dict[str, Any] = {"size": style.SMALL, "colour": style.SOFT}
        style.write(paper, left, top + 0.1, told, width=end - left, **soft)
        reach = float(np.abs(self.maps).max())
        least = -reach if self.maps.min() < 0 else 0.0
        for place, (unit, values) in enumerate(zip(self.units, self.maps, strict=True)):
            x = style.MARGIN + place % across * (wide + _GAP)
            y = top + _NAME + place // across * (_UNIT + tall + _GAP)
            row, column = self.peak(place)
            most = style.number(float(values[row, column]))
            name, where = f"unit {unit}", f"{most} in row {row}, column {column}"
            style.write(paper, x, y + 0.075, name, width=wide, size=style.SMALL)
            room = wide - style.text_width(figure, name, style.SMALL) - 0.06
            if not values.any():
                where = most = "zero throughout"
            fits = style.text_width(figure, where, style.SMALL) <= room
            told = where if fits else most
            style.write(paper, x + wide, y + 0.075, told, width=room, align="right", **soft)
            axes = style.panel(figure, x, y + _UNIT, wide, tall)
            axes.set_axis_off()
            axes.set_xlim(0, columns)
            axes.set_ylim(rows, 0)
            style.draw_image(axes, backdrop, 0, 0, columns, rows)
            colour = _over(values, self.layer, (rows, columns), reach)
            style.draw_image(axes, colour, 0, 0, columns, rows)
            if values.any():
                self._mark(axes, (row, column), inch)
            style.draw_rectangle(paper, x, y + _UNIT, wide, tall)
        bar = style.panel(figure, right + 0.09, top + _NAME + _UNIT, 0.07, tall)
        scale = ScalarMappable(Normalize(least, reach or 1.0), _legend(least < 0))
        draw_scale(bar, scale, [least, 0.0, reach] if least else [0.0, reach] if reach else [0.0])

    def _mark(self, axes: Axes, cell: tuple[int, int], inch: float) -> None:
        """Draw what a cell sees, and a dot in its middle; of a small box only one of them."""
        halo = [patheffects.withStroke(linewidth=2.0, foreground="white")]
        top, left, bottom, right = (int(edge) for edge in self.layer.boxes(np.array(cell)))
        side = inch * min(bottom - top, right - left)
        if side > _DOT:
            style.draw_rectangle(
                axes,
                left,
                top,
                right - left,
                bottom - top,
                edgecolor=style.INK,
                linewidth=0.9,
                linestyle="-" if self.layer.exact else (0, (4, 2)),
                path_effects=halo,
                zorder=3,
            )
        if not _DOT < side < 4 * _DOT:
            y, x = self.centre(cell)
            axes.plot(x, y, "o", markersize=2.2, color=style.INK, path_effects=halo, zorder=4)


def _greyed(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return an image without its colours and paler, (H,W,3), so that colours stand out on it."""
    # Luma of ITU-R BT.601, as Pillow turns an image into grey.
    grey = image.astype(np.float64) @ [0.299, 0.587, 0.114]
    pale = np.rint(grey * (1 - _PALE) + 255 * _PALE).astype(np.uint8)
    return np.repeat(pale[..., None], 3, axis=2)


def _over(
    values: NDArray[Any], layer: Layer, size: tuple[int, int], reach: float
) -> NDArray[np.uint8]:
    """Return a map (H,W) as colour to lie over an image of `size`, (h,w,4).

    Every pixel of the image is divided so finely that the edges of cells come out.
    """
    fine = max(1, round(_DOTS / max(size)))
    inside, places = [], []
    for edges, pixels in zip(layer.edges(), size, strict=True):
        at = (np.arange(pixels * fine) + 0.5) / fine
        cell = np.searchsorted(edges, at, side="right") - 1
        inside.append((cell >= 0) & (cell < len(edges) - 1))
        places.append(np.clip(cell, 0, len(edges) - 2))
    strength = values[np.ix_(*places)] / (reach or 1.0)
    strength = np.where(inside[0][:, None] & inside[1], strength, 0)
    colour = np.empty((*strength.shape, 4), np.uint8)
    colour[..., :3] = np.where(strength[..., None] < 0, _rgb(_BELOW), _rgb(_ABOVE))
    colour[..., 3] = np.rint(255 * _OPAQUE * np.abs(strength))
    return colour


def _rgb(colour: str) -> NDArray[np.uint8]:
    parts: NDArray[np.uint8] = np.rint(255 * np.array(to_rgb(colour))).astype(np.uint8)
    return parts


def _legend(signed: bool) -> LinearSegmentedColormap:
    """Return the colours as they look over white."""
    ends = [_BELOW, "white", _ABOVE] if signed else ["white", _ABOVE]
    mixed = [1 - _OPAQUE * (1 - np.array(to_rgb(colour))) for colour in ends]
    return LinearSegmentedColormap.from_list("over white", [tuple(x) for x in mixed])


def _write_numbers(path: Path, layers: Sequence[_Layer]) -> None:
    names = (
        *("layer", "rank", "unit", "maximum", "row", "column", "centre_y", "centre_x"),
        *("top", "left", "bottom", "right", "exact"),
    )
    rows: list[tuple[Any, ...]] = []
    for one in layers:
        for rank, unit in enumerate(one.units):
            cell = one.peak(rank)
            box = one.layer.boxes(np.array(cell)).tolist()
            most = one.maps[rank][cell]
            told = (one.layer.name, rank, int(unit), most, *cell, *one.centre(cell), *box)
            rows.append((*told, int(one.layer.exact)))
    columns = list(zip(*rows, strict=True)) or [()] * len(names)
    write_csv(path, dict(zip(names, columns, strict=True)))
