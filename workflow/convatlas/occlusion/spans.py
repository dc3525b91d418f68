"""Which cells of a feature map an occluder can change.

Tracked by geometry and never by comparing values: a cell may change if its receptive
field meets the occluder. Along one axis the cells that may change are an interval, so
a map's changed part is a rectangle, the product of two such intervals.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import fx

from convatlas.graph.geometry import Field, fields
from convatlas.graph.tracing import Graph
from convatlas.occlusion.positions import Positions

Cells = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Span:
    """Intervals of cells along one axis of a map, one for each of B occluders.

    All have the same length, so that their tiles make one batch; a tile may then hold
    cells that don't change, which costs time and nothing else.

    Attributes
    ----------
    start : (B,) first cell.
    length : cells of each interval.
    size : cells of the whole axis.
    """

    start: Cells
    length: int
    size: int

    @classmethod
    def enclosing(cls, low: Cells, high: Cells, size: int) -> Span:
        """Return spans of one length that hold the cells from `low` up to `high`, exclusive."""
        length = int((high - low).max())
        return cls(np.clip(low, 0, size - length), length, size)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Span):
            return NotImplemented
        return self.length == other.length and np.array_equal(self.start, other.start)

    @property
    def cells(self) -> Cells:
        """The cells, (B, length)."""
        return self.start[:, None] + np.arange(self.length)


@dataclass(frozen=True, eq=False)
class Reach:
    """What each position of an occluder can change along one axis of one node's maps.

    `low` and `high` (exclusive) are (P,); `size` is the number of cells of the axis.
    """

    low: Cells
    high: Cells
    size: int

    @property
    def lengths(self) -> Cells:
        """Cells that may change, (P,)."""
        return self.high - self.low

    def span(self, members: Cells) -> Span:
        """Return the spans of some of the positions."""
        return Span.enclosing(self.low[members], self.high[members], self.size)


Reaches = dict[fx.Node, tuple[Reach, Reach]]


def reaches(graph: Graph, positions: Positions) -> Reaches:
    """Return what the rows and the columns of the grid of positions reach, for every node.

    Nodes that don't depend on the image, or have no rows and columns, are left out.
    """
    (top, bottom), (left, right) = positions.edges(
        np.arange(len(positions.row)), np.arange(len(positions.column))
    )
    known: dict[tuple[int, int], tuple[Reach, Reach]] = {}

    def both(field: Field) -> tuple[Reach, Reach]:
        key = (id(field.y), id(field.x))  # nodes that see the same share their field's axes
        if key not in known:
            known[key] = (
                _reach(field.y.near, field.y.far, top, bottom),
                _reach(field.x.near, field.x.far, left, right),
            )
        return known[key]

    found = fields(graph)
    return {node: both(field) for node, field in found.items() if field.places is not None}


def _reach(near: Cells, far: Cells, first: Cells, end: Cells) -> Reach:
    """Return the cells that see any pixel from `first` up to `end`, exclusive."""
    sees = (near[None] < end[:, None]) & (far[None] >= first[:, None])
    low, high = sees.argmax(1), len(near) - sees[:, ::-1].argmax(1)
    never = ~sees.any(1)  # behind a stride that skips them; one cell, which doesn't change
    return Reach(np.where(never, 0, low), np.where(never, 1, high), len(near))
