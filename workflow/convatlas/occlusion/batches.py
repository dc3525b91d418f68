"""Which positions make a batch: those whose tiles are of like size.

A batch is some rows of the grid of positions times some of its columns. All its tiles
in a map are as large as the largest must be, so positions in the middle of the image
and at its border are better kept apart; yet each batch costs something of its own. The
cut that costs least is found along either axis by dynamic programming.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from convatlas.occlusion.network import Network
from convatlas.occlusion.positions import Positions
from convatlas.occlusion.spans import Cells, Reach, Reaches, reaches
from convatlas.occlusion.tiles import Spans

# What things cost, in multiply-accumulates, of which a processor core does some 5e10 a
# second. Measured on one; only the order of magnitude matters.
_TOUCH = 40.0  # writing and reading one value
_CALL = 3e6  # starting one operation
_LOAD = 100.0  # bringing one weight into the order that a convolution wants
_LIKELY = 5  # rows and columns of a batch, to begin with


@dataclass(frozen=True)
class Part:
    """The positions of one batch: some rows of the grid with some of its columns.

    Attributes
    ----------
    rows, columns : numbers in the grid, (By,) and (Bx,).
    spans : where the tile of each node lies that is computed on tiles.
    work : estimated cost, in multiply-accumulates.
    indices : of the windows, kept for the next image.
    """

    rows: Cells
    columns: Cells
    spans: Mapping[fx.Node, Spans]
    work: float
    indices: dict[object, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows) * len(self.columns)

    def numbers(self, positions: Positions) -> Tensor:
        """Return the numbers of the positions in the order of the grid, (By*Bx,)."""
        grid = self.rows[:, None] * len(positions.column) + self.columns
        return torch.from_numpy(grid.ravel())


class Plan:
    """How the positions of an occluder are put into batches.

    Parameters
    ----------
    network : made ready.
    positions : of the occluder.
    most : positions a batch at most.
    """

    def __init__(self, network: Network, positions: Positions, most: int) -> None:
        self._network = network
        self._reaches: Reaches = reaches(network.graph, positions)
        nodes = [n for n in network.body if n in self._reaches]
        self._cost = np.array([_cell_cost(network, n) for n in nodes])
        self._each = sum(_CALL + _LOAD * network.steps[n].work for n in network.body)
        rows, columns = (
            np.array([self._reaches[n][axis].lengths for n in nodes], float).reshape(
                len(nodes), count
            )
            for axis, count in enumerate((len(positions.row), len(positions.column)))
        )
        self.parts = [
            self.part(band_y, band_x) for band_y, band_x in self._group(rows, columns, most)
        ]

    def part(self, rows: Cells, columns: Cells) -> Part:
        """Return a batch of positions: where its tiles lie, and what runs on whole maps."""
        network = self._network
        spans: dict[fx.Node, Spans] = {}
        known: dict[tuple[Reach, Reach], Spans] = {}  # many nodes reach the same
        for node in (network.image, *network.body):
            if node not in self._reaches or not network.tiled(node):
                continue
            if any(source not in spans for source in network.sources(node)):
                continue
            y, x = reach = self._reaches[node]
            if reach not in known:
                known[reach] = (y.span(rows), x.span(columns))
            pair = known[reach]
            if node is network.image or any(span.length < span.size for span in pair):
                spans[node] = pair
        for node in reversed(network.body):  # what a join would have to widen
            user = network.widened_for(node)
            if node in spans and user in spans:
                spans[node] = spans[user]
        cells = [self._cells(node, spans) for node in network.body if node in self._reaches]
        work = float(self._cost @ np.array(cells, float))
        return Part(rows, columns, spans, len(rows) * len(columns) * work + self._each)

    def halves(self, part: Part) -> list[Part]:
        """Return a batch as two, or one position as itself."""
        if len(part) == 1:
            return [part]
        if len(part.rows) >= len(part.columns):
            middle = len(part.rows) // 2
            cut = [(part.rows[:middle], part.columns), (part.rows[middle:], part.columns)]
        else:
            middle = len(part.columns) // 2
            cut = [(part.rows, part.columns[:middle]), (part.rows, part.columns[middle:])]
        return [self.part(*pair) for pair in cut]

    def _cells(self, node: fx.Node, spans: Mapping[fx.Node, Spans]) -> int:
        """Return how many cells of a node's map are computed for each position."""
        if node in spans:
            return math.prod(span.length for span in spans[node])
        return math.prod(self._network.size(node))

    def _group(
        self, rows: NDArray[np.float64], columns: NDArray[np.float64], most: int
    ) -> list[tuple[Cells, Cells]]:
        """Return the rows and the columns of each batch, from lengths (L,R) and (L,C)."""
        longest = max(math.isqrt(most), 1)
        axes = (rows, columns)
        bands: list[list[Cells]] = [[], []]
        others = [-(-rows.shape[1] // _LIKELY), -(-columns.shape[1] // _LIKELY)]
        for axis in (0, 1, 0, 1):
            lengths, across = axes[axis], axes[1 - axis]
            costs = self._cost * across.sum(1)
            bands[axis] = cheapest_bands(lengths, costs, self._each * others[1 - axis], longest)
            others[axis] = len(bands[axis])
        return [(y, x) for y in bands[0] for x in bands[1]]


def _cell_cost(network: Network, node: fx.Node) -> float:
    values = math.prod(network.shape(node)[1:]) / math.prod(network.size(node))
    return network.steps[node].work + _TOUCH * values


def cheapest_bands(
    lengths: NDArray[np.float64], costs: NDArray[np.float64], each: float, longest: int
) -> list[Cells]:
    """Cut positions along one axis into bands so that the sum of their costs is least.

    A band costs, for each of its members, `costs` times the greatest lengths in it.

    Parameters
    ----------
    lengths : (L,P) of the P positions' tiles in L maps.
    costs : (L,) of a row of cells in each map.
    each : what a band costs besides.
    longest : members of a band at most.
    """
    order = np.argsort(costs @ lengths, kind="stable")
    ordered, count = lengths[:, order], len(order)
    least, cut = np.full(count + 1, np.inf), np.zeros(count + 1, int)
    least[0] = 0.0
    for end in range(1, count + 1):
        greatest = np.zeros(len(lengths))
        for start in range(end - 1, max(end - longest, 0) - 1, -1):
            greatest = np.maximum(greatest, ordered[:, start])
            total = least[start] + (end - start) * float(costs @ greatest) + each
            if total < least[end]:
                least[end], cut[end] = total, start
    bands, end = [], count
    while end:
        bands.append(np.sort(order[cut[end] : end]))
        end = cut[end]
    return bands[::-1]
