"""Draw the strongest feature maps of some layers for one image."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from convatlas import store
from convatlas.classes import read_classes
from convatlas.figures import style
from convatlas.figures.labels import class_name, shape_text
from convatlas.files import write_csv

_IMAGE, _TALLEST = 1.35, 2.0  # largest width and height of the image in inches
_BAR = 0.5  # width of the colour bar with its numbers
_NAME, _UNIT = 0.16, 0.09  # heights of the lines above a layer's maps and above each map
_GAP = 2 * style.GUTTER
_PER_LINE = 8


def plot_maps(
    exhibit: str | os.PathLike[str],
    maps: str | os.PathLike[str],
    *,
    output: str | os.PathLike[str],
    layers: Sequence[str],
    units: int = 8,
    classes: str | os.PathLike[str] | None = None,
    formats: Sequence[str] = (),
    dpi: float = style.DPI,
    about: Mapping[str, str] | None = None,
) -> None:
    """Draw an exhibit and, a layer a row, the maps that answer it most.

    A layer's maps are ordered by their maximum (ties: the lower unit first) and share
    one scale: from zero up, or symmetric about zero where a map has negative values.
    The CSV tells of every map drawn its maximum, where it is, minimum and mean.
    """
    shown = store.read(store.Exhibit, exhibit)
    strips = [_Strip.strongest(layer, store.read_maps(maps, layer), units) for layer in layers]
    rows, columns = shown.image.shape[:2]
    tall = min(_IMAGE * rows / columns, _TALLEST)
    left = style.MARGIN + _IMAGE + 0.2
    across = min(units, _PER_LINE)
    side = (style.PAGE - left - _BAR - style.MARGIN - _GAP * (across - 1)) / across
    below = style.HEADING + sum(strip.height(side, across) for strip in strips)
    size = (style.PAGE, max(below, style.HEADING + tall + 0.4))
    title = f"Activation maps of {shown.name}"
    with style.page(
        output, size=size, title=title, formats=formats, dpi=dpi, about=about
    ) as figure:
        paper = style.paper(figure)
        style.head(
            paper,
            title,
            "the units with the highest maximum in each layer, strongest first; above each map its "
            "unit and its maximum; one scale per layer",
        )
        style.draw_image(
            paper, shown.image, style.MARGIN, style.HEADING, tall * columns / rows, tall
        )
        line = style.HEADING + tall + 0.13
        label = class_name(read_classes(classes), shown.label) or "no label"
        style.write(paper, style.MARGIN, line, label, width=_IMAGE)
        pixels = f"{shape_text(shown.image.shape[:2])} pixels"
        style.write(paper, style.MARGIN, line + 0.12, pixels, size=style.SMALL, colour=style.SOFT)
        top = style.HEADING
        for strip in strips:
            strip.draw(figure, paper, left, top, side, across)
            top += strip.height(side, across)
    _write_numbers(Path(output).with_suffix(".csv"), strips)


@dataclass(frozen=True)
class _Strip:
    """The maps of one layer that are drawn, strongest first."""

    layer: str
    units: NDArray[Any]  # (u,) their numbers
    maps: NDArray[Any]  # (u,H,W)
    total: int  # units that the layer has

    @classmethod
    def strongest(cls, layer: str, maps: NDArray[Any], units: int) -> _Strip:
        """Choose the `units` maps with the highest maximum of a layer's `maps`, (U,H,W)."""
        order = np.argsort(-maps.max((1, 2)), kind="stable")[:units]
        return cls(layer, order, maps[order], len(maps))

    def tile(self, side: float) -> tuple[float, float]:
        """Return the width and height of a map whose longer side takes `side` inches."""
        rows, columns = self.maps.shape[1:]
        return side * columns / max(rows, columns), side * rows / max(rows, columns)

    def height(self, side: float, across: int) -> float:
        """Return the height of the layer's row of maps with its name, in inches."""
        lines = -(-len(self.units) // across)
        return _NAME + lines * (_UNIT + self.tile(side)[1] + _GAP) + 0.08

    def draw(
        self, figure: Figure, paper: Axes, left: float, top: float, side: float, across: int
    ) -> None:
        norm, colours, told = scale_of(self.maps)
        width, height = self.tile(side)
        right = left + across * (side + _GAP) - _GAP
        shape = shape_text((self.total, *self.maps.shape[1:]))
        room = right - left - style.text_width(figure, shape, style.SMALL) - 0.1
        style.write(paper, left, top + 0.09, self.layer, width=room, bold=True)
        soft: dict[str, Any] = {"colour": style.SOFT, "align": "right"}
        style.write(paper, right, top + 0.09, shape, size=style.SMALL, **soft)
        for place, (unit, values) in enumerate(zip(self.units, self.maps, strict=True)):
            x = left + place % across * (side + _GAP)
            y = top + _NAME + place // across * (_UNIT + height + _GAP)
            style.write(paper, x, y + 0.065, str(unit), size=style.TINY)
            most = style.number(float(values.max()))
            style.write(paper, x + side, y + 0.065, most, size=style.TINY, **soft)
            style.draw_image(
                paper, values, x, y + _UNIT, width, height, pixels=True, cmap=colours, norm=norm
            )
        bar = style.panel(figure, right + 0.09, top + _NAME + _UNIT, 0.07, height)
        draw_scale(bar, ScalarMappable(norm, colours), told)


def scale_of(maps: NDArray[Any]) -> tuple[Normalize, str, list[float]]:
    """Return a scale that maps share, its colours, and the values to print at it.

    It goes from zero up, or is symmetric about zero where there are negative values.
    """
    low, high = float(maps.min()), float(maps.max())
    if low < 0:
        reach = max(-low, high)
        return Normalize(-reach, reach), style.SIGNED, [-reach, 0.0, reach]
    return Normalize(0, high or 1.0), style.QUANTITY, [0.0, high] if high else [0.0]


def draw_scale(axes: Axes, colours: ScalarMappable, told: Sequence[float]) -> None:
    """Fill axes with a colour bar that has the values `told` beside it."""
    figure = axes.get_figure(root=True)
    if figure is None:
        return
    figure.colorbar(colours, cax=axes)
    axes.set_yticks(told, [style.number(value) for value in told])
    axes.tick_params(length=0, labelsize=style.TINY)
    axes.set_frame_on(False)


def _write_numbers(path: Path, strips: Sequence[_Strip]) -> None:
    names = ("layer", "rank", "unit", "maximum", "row", "column", "minimum", "mean")
    rows: list[tuple[Any, ...]] = []
    for strip in strips:
        for rank, (unit, values) in enumerate(zip(strip.units, strip.maps, strict=True)):
            place = [int(i) for i in np.unravel_index(values.argmax(), values.shape)]
            most, least, mean = values.max(), values.min(), values.mean()
            rows.append((strip.layer, rank, int(unit), most, *place, least, mean))
    columns = list(zip(*rows, strict=True)) or [()] * len(names)
    write_csv(path, dict(zip(names, columns, strict=True)))
