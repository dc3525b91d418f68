"""Incremental inference: run only what an occluder changes, exactly.

The image is run once as it is and its activations are kept. For every position of the
occluder only the rectangle that it can reach in each feature map is computed, a *tile*,
from the tile before it and the clean map around; positions with tiles of like size make
a batch. Where a tile covers its map, or an operation looks at all of one, whole maps
take over. What follows once all is vectors, the *head*, runs over many batches at once.

Nakandala, Kumar and Papakonstantinou ("Incremental and approximate inference for faster
occlusion-based deep CNN explanations", SIGMOD 2019) describe the idea for plain stacks;
here it holds for any graph that fx can trace.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import psutil
import torch
from torch import Tensor, fx
from torch.nn import functional

from convatlas.device import WORKERS, run_or_halve, spread
from convatlas.graph.tracing import Graph
from convatlas.job import log
from convatlas.occlusion.batches import Part, Plan
from convatlas.occlusion.network import Network
from convatlas.occlusion.positions import Positions
from convatlas.occlusion.spans import Cells, reaches
from convatlas.occlusion.tiles import Index, OccludedImage, Spans, Table, Tile

_HEAD_BYTES = 256 * 2**20  # of vectors gathered before the head runs
_MOST = {"cpu": 64, "cuda": 1024}  # positions a batch: more don't make it faster
_COPIES = 4  # of the largest map that live at once: a window, its result, a table, one spare


class Clean:
    """The unoccluded image's way through the network: the maps around every tile."""

    def __init__(self, network: Network, image: Tensor) -> None:
        self.network = network
        image = image[None].to(network.dtype).contiguous(memory_format=torch.channels_last)
        batch = Batch(self, None, image)
        self.values = batch.values
        self._integrals: dict[fx.Node, Tensor] = {}
        self._thread = threading.local()
        for node in network.body:
            self.values[node] = network.steps[node].whole(batch)

    def table(self, node: fx.Node) -> Table:
        """Return this thread's table of a node's map."""
        tables = self._tables()
        if node not in tables:
            constant = max(self.network.padded_with(node), default=0.0)
            tables[node] = Table(self.values[node], self.network.places(node), constant)
        return tables[node]

    def _tables(self) -> dict[fx.Node, Table]:
        if not hasattr(self._thread, "tables"):
            self._thread.tables = {}
        tables: dict[fx.Node, Table] = self._thread.tables
        return tables

    def sum_outside(self, node: fx.Node, spans: Spans) -> Tensor:
        """Return the sums of a map outside of each tile of a batch, (B,C) float64."""
        if node not in self._integrals:
            places = self.network.places(node)
            cells = torch.movedim(self.values[node], places, (1, 2))[0].double()
            integral = cells.cumsum(0).cumsum(1)
            self._integrals[node] = functional.pad(integral, (0, 0, 1, 0, 1, 0))
        integral = self._integrals[node]
        top, left = (torch.from_numpy(span.start).to(integral.device) for span in spans)
        bottom, right = top + spans[0].length, left + spans[1].length
        above, below = integral[top], integral[bottom]
        inside = below[:, right] - above[:, right] - below[:, left] + above[:, left]
        return (integral[-1, -1] - inside).flatten(0, 1)


class Batch:
    """One batch on its way through the network: what steps ask for.

    Parameters
    ----------
    clean : the image as it is.
    part : the positions; None for the image as it is.
    image : under these positions.
    """

    def __init__(self, clean: Clean, part: Part | None, image: Tensor | OccludedImage) -> None:
        self._clean = clean
        self._part = part
        self._network = clean.network
        self._count = len(image) if isinstance(image, Tensor) else len(part or ())
        self.is_clean = part is None
        self.values: dict[fx.Node, Any] = {self._network.image: image}
        self._wholes: dict[fx.Node, Tensor] = {}
        self._begun: dict[fx.Node, Tile] = {}
        self._placed: set[fx.Node] = set()

    def __len__(self) -> int:
        return self._count

    def run(self) -> Iterator[fx.Node]:
        """Run the body, yielding each node when its value is there."""
        part, network = self._part, self._network
        assert part is not None
        for node in network.body:
            step = network.steps[node]
            if node in part.spans:
                made = step.tile(self)
                self.values[node] = made if isinstance(made, Tile) else self._tile(node, made)
            else:
                self.values[node] = step.whole(self)
            yield node
            for source in network.dead_after(node):
                self.values.pop(source, None)
                self._wholes.pop(source, None)

    def spans(self, node: fx.Node) -> Spans:
        """Return where the tiles of a node lie."""
        assert self._part is not None
        return self._part.spans[node]

    def tile(self, node: fx.Node) -> Tile:
        """Return a node's tile."""
        value = self.values[node]
        if isinstance(value, OccludedImage):
            y, x = (span.cells for span in value.spans)
            made = value.window(y, x, 0, (node, "tile"), self._index)
            value = self.values[node] = self._tile(node, made)
        assert isinstance(value, Tile)
        return value

    def whole(self, node: fx.Node) -> Any:
        """Return a node's whole maps, made from its tile if need be."""
        value = self.values[node]
        if not isinstance(value, Tile | OccludedImage):
            return value
        if node not in self._wholes:
            assert self._part is not None
            height, width = self._network.size(node)
            y = np.broadcast_to(np.arange(height), (len(self._part.rows), height))
            x = np.broadcast_to(np.arange(width), (len(self._part.columns), width))
            self._wholes[node] = value.window(y, x, 0, (node, "whole"), self._index)
        return self._wholes[node]

    def window(
        self, node: fx.Node, source: fx.Node, cells: Sequence[Cells], padding: int
    ) -> Tensor:
        """Return the windows on a source's maps that a node reads: rows (By,h), columns (Bx,w)."""
        y, x = cells
        made: Tensor = self.values[source].window(y, x, padding, (node, source), self._index)
        return made

    def widened(self, node: fx.Node, source: fx.Node) -> Tensor:
        """Return a source's tile, as large as that of a node."""
        spans = self.spans(node)
        if spans == self.spans(source):
            return self.tile(source).value
        return self.window(node, source, [span.cells for span in spans], 0)

    def crop(self, node: fx.Node, maps: Tensor, cells: Sequence[Cells]) -> Tensor:
        """Return other rows (By,h) and columns (Bx,w) of each of the batch's maps."""
        y, x = cells
        batch, channels, height, width = maps.shape

        def rows() -> Index:
            number = np.arange(batch).reshape(len(y), len(x), 1, 1)
            return ((number * height + y[:, None, :, None]) * width + x[None, :, None]).ravel()

        flat = maps.permute(0, 2, 3, 1).reshape(-1, channels)
        chosen = flat.index_select(0, self._index((node, "crop"), rows))
        return chosen.view(batch, y.shape[1], x.shape[1], channels).permute(0, 3, 1, 2)

    def begin(self, node: fx.Node) -> Tile:
        """Return the tile of a node before it is filled; in its table if windows are read there."""
        if node not in self._begun:
            y, x = self.spans(node)
            windowed = self._network.windowed(node)
            if windowed:
                value = self._clean.table(node).room(len(self), y.length, x.length)
            else:
                shape = [len(self), y.length, x.length, self._network.shape(node)[1]]
                value = self._clean.values[node].new_empty(shape).permute(0, 3, 1, 2)
            self._begun[node] = self._tile(node, value, held=windowed)
        return self._begun[node]

    def place(self, node: fx.Node) -> Tile | None:
        """Return where the result of a node is wanted, if anywhere: in its table or its join."""
        if self._network.windowed(node):
            return self.begin(node)
        assert self._part is not None
        join = self._network.concatenated_in(node)
        if join is None or join not in self._part.spans or self.spans(join) != self.spans(node):
            return None
        channels = self._network.channels(join, node)
        self._placed.add(node)
        return self._tile(node, self.begin(join).value[:, channels])

    def is_placed(self, node: fx.Node) -> bool:
        """Whether the result of a node lies in its concatenation already."""
        return node in self._placed

    def sums(self, node: fx.Node) -> Tensor:
        """Return the sums over each whole map, (B,C) float64."""
        value = self.values[node]
        places = self._network.places(node)
        inside: Tensor = (value.value if isinstance(value, Tile) else value).sum(places)
        if not isinstance(value, Tile):
            return inside.double()
        return inside.double() + self._clean.sum_outside(node, value.spans)

    def _tile(self, node: fx.Node, value: Any, held: bool = False) -> Tile:
        return Tile(value, self.spans(node), lambda: self._clean.table(node), held)

    def _index(self, key: object, rows: Callable[[], Index]) -> Tensor:
        """Return an index of this batch, made once for all images."""
        assert self._part is not None
        known = self._part.indices
        if key not in known:
            known[key] = torch.from_numpy(rows()).to(self._network.device, non_blocking=True)
        return known[key]


_Done = tuple[Part, Tensor, Tensor | None]  # with its vectors and sums


class Incremental:
    """Runs a network under every position of an occluder, computing only what changes.

    Parameters
    ----------
    graph : the traced network.
    probe : a node whose maps are summed under each position, or None.
    most : positions a batch at most; None to choose by the memory at hand.
    dtype : to compute in; None for the network's own.
    """

    def __init__(
        self,
        graph: Graph,
        probe: fx.Node | None = None,
        most: int | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        with torch.inference_mode():
            self._network = Network(graph, probe, dtype)
        self._plans: dict[tuple[object, ...], Plan] = {}
        self._most = most
        self._say_what_is_whole()

    @torch.inference_mode()
    def look(self, image: Tensor) -> tuple[Tensor, Tensor | None]:
        """Run the network on an image (C,H,W) as it is.

        Returns
        -------
        its scores (K,) and the probe's maps (U,h,w).
        """
        network = self._network
        with network.precision():
            self._clean = Clean(network, image)
        maps = self._clean.values[network.probe][0] if network.probe else None
        return self._finish(self._clean.values[network.cut])[0], maps

    @torch.inference_mode()
    def occlude(
        self, positions: Positions, shown: Tensor, unit: int, advance: Callable[[float], None]
    ) -> tuple[Tensor, Tensor | None]:
        """Run the network on the image last looked at, under every position of an occluder.

        Parameters
        ----------
        positions : of the occluder.
        shown : what it shows: a colour (C,), or another image (C,H,W).
        unit : of the probe, whose maps are summed.
        advance : is told each share of the work that is done.

        Returns
        -------
        scores (P,K) in the order of the positions, and the sums (P,).
        """
        network = self._network
        plan = self._plan(positions, shown.dim() == 1)
        total = sum(part.work for part in plan.parts)
        scores: Tensor | None = None
        sums = torch.zeros(len(positions)) if network.probe else None
        with self._running(plan, positions, shown, unit) as run:
            for some in self._rounds(plan.parts):
                numbers, vectors = [], []
                for done in run(some):
                    for part, found, summed in done:
                        numbers.append(part.numbers(positions))
                        vectors.append(found)
                        if sums is not None and summed is not None:
                            sums[numbers[-1]] = summed.float().cpu()
                        advance(part.work / total)
                found = self._finish(torch.cat(vectors))
                if scores is None:
                    scores = found.new_empty(len(positions), found.shape[1])
                scores[torch.cat(numbers).to(found.device)] = found
        assert scores is not None
        return scores, sums

    @contextmanager
    def _running(
        self, plan: Plan, positions: Positions, shown: Tensor, unit: int
    ) -> Iterator[Callable[[list[Part]], Iterable[list[_Done]]]]:
        """Give a function that runs batches, several at once on a processor."""
        network, clean = self._network, self._clean
        thread = threading.local()
        one_colour = shown.dim() == 1

        def run(part: Part) -> _Done:
            with torch.inference_mode(), network.precision():
                if not hasattr(thread, "image"):
                    thread.image = _behind(network, clean, shown.to(network.dtype))
                edges = positions.edges(part.rows, part.columns)
                image = OccludedImage(thread.image, edges, part.spans[network.image], one_colour)
                batch, summed = Batch(clean, part, image), None
                for node in batch.run():
                    if node is network.probe:
                        summed = batch.sums(node)[:, unit]
                return part, batch.whole(network.cut), summed

        def run_some(part: Part) -> list[_Done]:
            return run_or_halve(run, part, plan.halves)

        with spread(network.device) as each:
            yield lambda parts: each(run_some, parts)

    def _finish(self, vectors: Tensor) -> Tensor:
        """Run the head; return scores (N,K)."""
        network = self._network
        batch = Batch(self._clean, None, vectors)
        batch.values[network.cut] = vectors
        with network.precision():
            for node in network.head:
                batch.values[node] = network.steps[node].whole(batch)
        scores: Tensor = batch.values[network.graph.output]
        return scores.float() if self._network.dtype.itemsize < 4 else scores

    def _plan(self, positions: Positions, one_colour: bool) -> Plan:
        """Return the batches, which keep their indices for the next image."""
        key = (
            one_colour,  # the indices differ
            positions.size,
            positions.image,
            *positions.row.tolist(),
            -1,
            *positions.column.tolist(),
        )
        if key not in self._plans:
            most = self._most or self._affordable(positions)
            self._plans[key] = Plan(self._network, positions, most)
        return self._plans[key]

    def _affordable(self, positions: Positions) -> int:
        """Return how many positions fit into the memory, as far as more are of use.

        Counted is the memory that there is, not what is free: batches of other sizes would
        give other last bits.
        """
        network = self._network
        changed = reaches(network.graph, positions)
        largest = 1
        for node in network.body:
            values = math.prod(network.shape(node)[1:])
            if node in changed and network.tiled(node):
                y, x = changed[node]
                cells = network.size(node)
                values = values * int(y.lengths.max() * x.lengths.max()) // (cells[0] * cells[1])
            largest = max(largest, values)
        if network.device.type == "cpu":
            memory = psutil.virtual_memory().total / 4 / WORKERS
        else:
            memory = torch.cuda.get_device_properties(network.device).total_memory / 2
        fitting = memory / (_COPIES * largest * network.dtype.itemsize)
        return int(min(max(fitting, 1), _MOST[network.device.type]))

    def _rounds(self, parts: list[Part]) -> Iterator[list[Part]]:
        """Yield batches, the dearest first, as many at once as the head has memory for."""
        network = self._network
        each = math.prod(network.shape(network.cut)[1:]) * network.dtype.itemsize
        some: list[Part] = []
        held = 0
        for part in sorted(parts, key=lambda part: -part.work):
            if some and held + each * len(part) > _HEAD_BYTES:
                yield some
                some, held = [], 0
            some.append(part)
            held += each * len(part)
        yield some

    def _say_what_is_whole(self) -> None:
        """Log once for each operation why whole maps are made for it."""
        network, said = self._network, set()
        for node in network.body[:-1]:
            reason = network.why_whole(node)
            first = all(
                s is network.image or not network.why_whole(s) for s in network.sources(node)
            )
            name = network.graph.operations[node].options.get("name", network.kind(node))
            if reason and first and name not in said:
                said.add(name)
                where = network.graph.names.get(node, node.name)
                log.info("occlusion runs %s (%s) on whole maps: %s", name, where, reason)


def _behind(network: Network, clean: Clean, shown: Tensor) -> Table:
    """Return a table of the image, with what an occluder shows behind it."""
    constant = max(network.padded_with(network.image), default=0.0)
    table = Table(clean.values[network.image], (2, 3), constant)
    cells = shown.reshape(len(shown), -1)
    table.room(1, 1, cells.shape[1]).copy_(cells[None, :, None])
    return table
