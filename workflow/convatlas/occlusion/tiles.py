"""Tiles: the changed parts of a feature map, and windows that look past their borders.

A batch holds the tiles of several positions. What an operation needs around them comes
from the map of the unoccluded image, or from the padding. So that such windows are put
together in one read, a `Table` keeps the cells of a clean map as rows, behind them rows
of padding, and behind these the cells of the tiles: a batch of windows is a list of row
numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from convatlas.occlusion.spans import Cells, Span

OUTSIDE = -1  # the number of a cell beyond the map's border
ZERO, LOWEST, CONSTANT = range(3)  # the rows of padding

Index = NDArray[np.int64]
Spans = tuple[Span, Span]
# Gives the index that a key stands for as a tensor, made by the function if it is new.
Remember = Callable[[Hashable, Callable[[], Index]], Tensor]


class Table:
    """The cells of a clean map as rows, with room for the tiles of a batch behind them.

    Parameters
    ----------
    clean : the map of one image, (1,...).
    places : the positions of its height and width axes.
    constant : the padding that isn't zero or minus infinity.

    Attributes
    ----------
    size : rows and columns of the map.
    first : the first row behind the clean map and the padding.
    """

    def __init__(self, clean: Tensor, places: tuple[int, int], constant: float = 0.0) -> None:
        self._places = places
        cells = torch.movedim(clean, places, (1, 2))[0]
        self.size = (cells.shape[0], cells.shape[1])
        self._values = cells.shape[2:]  # of one cell
        rows = cells.reshape(self.size[0] * self.size[1], -1)
        padding = rows.new_tensor([0.0, -torch.inf, constant])[:, None]
        self._rows = torch.cat([rows, padding.expand(-1, rows.shape[1])])
        self.first = len(self._rows)

    def room(self, batch: int, height: int, width: int) -> Tensor:
        """Return where the tiles of a batch are kept, as the one tensor that they are."""
        end = self.first + batch * height * width
        if end > len(self._rows):
            grown = self._rows.new_empty(end, self._rows.shape[1])
            grown[: self.first] = self._rows[: self.first]
            self._rows = grown
        return self._tensor(self._rows[self.first : end], batch, height, width)

    def read(self, index: Tensor, batch: int, height: int, width: int) -> Tensor:
        """Return the windows whose cells are the rows of an index."""
        return self._tensor(self._rows.index_select(0, index), batch, height, width)

    def _tensor(self, rows: Tensor, batch: int, height: int, width: int) -> Tensor:
        cells = rows.view(batch, height, width, *self._values)
        return torch.movedim(cells, (1, 2), self._places)


@dataclass
class Tile:
    """The changed parts of a map for a batch of positions; the rest is as in the clean map.

    Attributes
    ----------
    value : (B,...) with the tiles' rows and columns in the place of the map's; or
        several such tensors.
    spans : where they lie.
    table : gives the clean map's table.
    held : whether the value lies in the table already.
    """

    value: Tensor
    spans: Spans
    table: Callable[[], Table]
    held: bool = False

    def window(self, y: Cells, x: Cells, padding: int, key: Hashable, remember: Remember) -> Tensor:
        """Return windows on the maps: the cells in the rows `y` and the columns `x`.

        Parameters
        ----------
        y, x : (By,h) and (Bx,w), `OUTSIDE` in the padding; the batch is all pairs.
        padding : which one to read outside.
        key : what `remember` may know this index by.
        """
        table, spans = self.table(), self.spans
        batch = len(self.value)
        if not self.held:
            table.room(batch, spans[0].length, spans[1].length).copy_(self.value)
            self.held = True

        def rows() -> Index:
            at = [cells - span.start[:, None] for cells, span in zip((y, x), spans, strict=True)]
            inside = [(a >= 0) & (a < span.length) for a, span in zip(at, spans, strict=True)]
            number = np.arange(batch).reshape(len(y), 1, len(x), 1)
            row = number * spans[0].length + at[0][:, :, None, None]
            row = row * spans[1].length + at[1][None, None]
            return _rows(table, y, x, padding, inside, table.first + row)

        return table.read(remember(key, rows), batch, y.shape[1], x.shape[1])


@dataclass
class OccludedImage:
    """The image under each position of the occluder, made only where it is looked at.

    Attributes
    ----------
    table : of the image. Behind it lies what the occluder shows: one cell of its colour,
        or all of another image.
    edges : first row and end of each window, (By,) each, and the same of columns.
    spans : which cells a tile holds.
    one_colour : whether the occluder is of one colour.
    """

    table: Table
    edges: tuple[tuple[Cells, Cells], tuple[Cells, Cells]]
    spans: Spans
    one_colour: bool

    def window(self, y: Cells, x: Cells, padding: int, key: Hashable, remember: Remember) -> Tensor:
        """Return windows on the images, as `Tile.window` does."""

        def rows() -> Index:
            inside = [
                (cells >= first[:, None]) & (cells < end[:, None])
                for cells, (first, end) in zip((y, x), self.edges, strict=True)
            ]
            cell = y[:, :, None, None] * self.table.size[1] + x[None, None]
            shown = self.table.first + (0 if self.one_colour else cell)
            return _rows(self.table, y, x, padding, inside, shown)

        return self.table.read(remember(key, rows), len(y) * len(x), y.shape[1], x.shape[1])


def _rows(
    table: Table,
    y: Cells,
    x: Cells,
    padding: int,
    inside: list[NDArray[np.bool_]],
    changed: Index | int,
) -> Index:
    """Return the rows of windows: `changed` where both axes are inside, else the clean map's."""
    height, width = table.size
    rows = y[:, :, None, None] * width + x[None, None]
    np.copyto(rows, changed, where=inside[0][:, :, None, None] & inside[1][None, None])
    outside = [cells == OUTSIDE for cells in (y, x)]
    if outside[0].any() or outside[1].any():
        beyond = outside[0][:, :, None, None] | outside[1][None, None]
        np.copyto(rows, height * width + padding, where=beyond)
    return rows.transpose(0, 2, 1, 3).ravel()
