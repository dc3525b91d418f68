"""Draw the feature maps of all units of some layers for one image, side by side."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from numpy.typing import NDArray

from convatlas import store
from convatlas.figures import style
from convatlas.figures.labels import shape_text
from convatlas.figures.maps import draw_scale, scale_of
from convatlas.files import write_csv

_LARGEST = 0.62  # longer side of a map in inches
_TALLEST = 3.2  # all maps of a layer
_LABELS = 0.3  # width of the column with the units' numbers
_BAR = 0.5  # width of the colour bar with its numbers
_NAME, _OFFSETS = 0.16, 0.09  # heights of the lines above a layer's maps
_BETWEEN = 0.14  # layers
_LETTER = 0.085  # height that a line of the smallest type needs
_GUTTER = 1 / 14  # of a map's longer side
_ROOM = style.PAGE - 2 * style.MARGIN - _LABELS - _BAR  # width of all maps
_ACROSS = (
    *range(1, 11),
    12,
    16,
    20,
    24,
    32,
    40,
    48,
    *(2**i * j for i in range(5, 14) for j in (2, 3)),
)
_DEAD, _MARK = "#bdbdbd", "#6e6e6e"


def plot_mosaic(
    exhibit: str | os.PathLike[str],
    maps: str | os.PathLike[str],
    *,
    output: str | os.PathLike[str],
    layers: Sequence[str],
    formats: Sequence[str] = (),
    dpi: float = style.DPI,
    about: Mapping[str, str] | None = None,
) -> None:
    """Draw the maps of all units of each layer for one exhibit, in the order of the units.

    The number at the left of a row is its first unit's, the one above a column is to be
    added to it. A layer's maps share one scale: from zero up, or symmetric about zero where
    there are negative values. A map that is zero throughout is grey and struck through,
    and counted. However many units a layer has, its maps take no more than a certain
    height: where two cells would fall on a pixel of the figure, a pixel shows that of
    several cells which is farthest from zero (a mean would hide a single strong one). The
    CSV tells of every map its maximum, its mean and the share of its cells above zero.
    """
    shown = store.read(store.Exhibit, exhibit)
    blocks: list[_Block] = []
    columns: dict[str, list[Any]] = {
        name: [] for name in ("layer", "unit", "maximum", "mean", "above_zero")
    }
    for layer in layers:
        values = store.read_maps(maps, layer)
        blocks.append(_Block.of(layer, values, dpi))
        columns["layer"] += [layer] * len(values)
        columns["unit"] += range(len(values))
        columns["maximum"] += list(values.max((1, 2)))
        columns["mean"] += list(values.mean((1, 2), dtype=np.float64))
        columns["above_zero"] += list((values > 0).mean((1, 2)))
    title = f"All activation maps of {shown.name}"
    size = (style.PAGE, style.HEADING + sum(block.height for block in blocks))
    with style.page(
        output, size=size, title=title, formats=formats, dpi=dpi, about=about
    ) as figure:
        paper = style.paper(figure)
        style.head(
            paper,
            title,
            "a layer's units in their order: at the left the first unit of each row, above how "
            "many further; struck through what is zero throughout; one scale per layer",
        )
        top = style.HEADING
        for block in blocks:
            block.draw(figure, paper, top)
            top += block.height
    write_csv(Path(output).with_suffix(".csv"), columns)


@dataclass(frozen=True)
class _Block:
    """All maps of one layer, put together as one picture."""

    layer: str
    shape: tuple[int, ...]  # (U,H,W)
    dead: int  # maps that are zero throughout
    pooled: int  # cells along each side that a pixel of the picture stands for
    across: int  # maps a row
    step: tuple[float, float]  # from one map to the next, width and height in inches
    picture: NDArray[np.uint8]  # (h,w,3)
    scale: ScalarMappable
    told: list[float]  # values to print at the scale

    @classmethod
    def of(cls, layer: str, maps: NDArray[Any], dpi: float) -> _Block:
        """Put together a layer's `maps`, (U,H,W), for a page of so many pixels an inch."""
        norm, colours, told = scale_of(maps)
        units, *sides = maps.shape
        across, side = _arrange(units, sides[0], sides[1])
        dots = side * (1 - _GUTTER) * dpi  # pixels of the page for a map's longer side
        pooled = max(1, int(max(sides) / max(dots, 1) + 0.5))
        tiles = _farthest(maps, pooled)
        dead = np.asarray(~maps.any((1, 2)))
        gutter = max(1, round(max(tiles.shape[1:]) * _GUTTER))
        picture = _assemble(tiles, dead, across, gutter, norm, colours)
        height, width = (cells + gutter for cells in tiles.shape[1:])
        inch = min(side / max(height, width), _ROOM / (across * width))
        return cls(
            layer,
            maps.shape,
            int(dead.sum()),
            pooled,
            across,
            (width * inch, height * inch),
            picture,
            ScalarMappable(norm, colours),
            told,
        )

    @property
    def rows(self) -> int:
        """Rows of maps."""
        return -(-self.shape[0] // self.across)

    @property
    def height(self) -> float:
        """Height with the lines above, in inches."""
        return _NAME + _OFFSETS + max(self.rows * self.step[1], 3 * _LETTER) + _BETWEEN

    def draw(self, figure: Figure, paper: Axes, top: float) -> None:
        wide, tall = self.step
        left = style.MARGIN + _LABELS
        first = top + _NAME + _OFFSETS
        right = style.PAGE - style.MARGIN - _BAR
        told = shape_text(self.shape)
        if self.pooled > 1:
            told += (
                f"; a pixel stands for {self.pooled} × {self.pooled} cells, by the farthest from 0"
            )
        if self.dead:
            told += f"; {self.dead} of {self.shape[0]} zero throughout"
        room = right - left - style.text_width(figure, told, style.SMALL) - 0.1
        style.write(paper, left, top + 0.09, self.layer, width=room, bold=True)
        soft: dict[str, Any] = {"size": style.TINY, "colour": style.SOFT}
        style.write(
            paper, right, top + 0.09, told, size=style.SMALL, colour=style.SOFT, align="right"
        )
        small: dict[str, Any] = soft | {"vertical": "center_baseline"}
        for row in range(0, self.rows, math.ceil(_LETTER / tall)):
            middle = first + (row + 0.5) * tall
            style.write(paper, left - 0.05, middle, str(row * self.across), align="right", **small)
        widest = style.text_width(figure, f"+{self.across}", style.TINY) + 0.04
        each = next(n for n in (1, 2, 4, 5, 8, 10, 16, 32, 64, 128, 256) if n * wide >= widest)
        for column in range(0, min(self.across, self.shape[0]), each):
            middle = left + (column + 0.5) * wide
            style.write(paper, middle, first - 0.03, f"+{column}", align="center", **soft)
        height, width = self.picture.shape[:2]
        inch = wide * self.across / width
        style.draw_image(paper, self.picture, left, first, width * inch, height * inch)
        bar = style.panel(figure, right + 0.09, first, 0.07, max(min(height * inch, 0.9), 0.2))
        draw_scale(bar, self.scale, self.told)


def _arrange(units: int, rows: int, columns: int) -> tuple[int, float]:
    """Return how many maps stand in a row, and the inches for the longer side of each.

    As few as fill the row, but so many that all maps aren't too tall.
    """
    wide, tall = columns / max(rows, columns), rows / max(rows, columns)
    fit = max(1, int(_ROOM / (_LARGEST * wide)))
    if units <= fit:
        return units, _LARGEST
    for across in _ACROSS:
        side = min(_LARGEST, _ROOM / (across * wide))
        if across >= fit and -(-units // across) * side * tall <= _TALLEST:
            break
    return across, side


def _farthest(maps: NDArray[Any], side: int) -> NDArray[Any]:
    """Return maps in which a cell has the value, of `side` x `side` cells, farthest from zero."""
    if side == 1:
        return maps
    units, rows, columns = maps.shape
    more = [(0, 0), (0, -rows % side), (0, -columns % side)]
    padded = np.pad(maps, more, mode="edge")
    shape = (units, padded.shape[1] // side, side, padded.shape[2] // side, side)
    high, low = padded.reshape(shape).max((2, 4)), padded.reshape(shape).min((2, 4))
    return np.asarray(np.where(-low > high, low, high))


def _assemble(
    tiles: NDArray[Any],
    dead: NDArray[np.bool_],
    across: int,
    gutter: int,
    norm: Any,
    colours: str,
) -> NDArray[np.uint8]:
    """Return maps side by side, (h,w,3), with white between them and marks on the dead ones."""
    units, height, width = tiles.shape
    lines = -(-units // across)
    tall, wide = height + gutter, width + gutter
    picture = np.full((lines * tall, across * wide, 3), 255, np.uint8)
    grid = picture.reshape(lines, tall, across, wide, 3).transpose(0, 2, 1, 3, 4)
    rows, places = np.divmod(np.arange(units), across)
    coloured = colormaps[colours](norm(tiles), bytes=True)[..., :3]
    down, along = ((np.arange(n) + 0.5) / n for n in (height, width))
    slash = np.abs(down[:, None] - along) <= 0.5 / min(max(height, width), 16)
    coloured[dead] = np.where(slash[..., None], _bytes(_MARK), _bytes(_DEAD))
    grid[rows, places, :height, :width] = coloured
    return picture[: lines * tall - gutter, :]


def _bytes(colour: str) -> tuple[int, ...]:
    return tuple(round(255 * part) for part in to_rgb(colour))
