"""Project many activations back at once, each through its cone only.

Forward and backward run on the cells that the activation depends on. Activations of one
layer whose cones have one shape make a batch, whatever their units and images. Where the
cone is nearly the whole image, or the layer has none, the whole image is run, up to the
layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx
from torch.nn import functional

from convatlas.device import run_or_halve, spread
from convatlas.graph.backward import Backward
from convatlas.graph.describe import all_layers
from convatlas.graph.execution import Execution, ancestors
from convatlas.graph.geometry import fields, pair, strides
from convatlas.graph.locality import cells_of, shape_of
from convatlas.graph.tracing import Graph, like
from convatlas.job import log
from convatlas.layers import find_layer
from convatlas.projection.cones import Cone, cone, why_no_cone, work
from convatlas.projection.stem import FEW, Stem, phases_of

_BYTES = {"cpu": 2**26, "cuda": 2**31}  # of activations that a batch keeps, roughly
_MOST = {"cpu": 64, "cuda": 1024}  # activations a batch
_WORTH = 0.9  # share of the whole image's work above which a cone isn't worth its batches

Boxes = NDArray[np.int64]
Signal = NDArray[np.float32]


@dataclass(frozen=True)
class _Batch:
    """Rows of the images, and the cones of all of them along y and x; None for whole images."""

    rows: NDArray[np.int64]
    cones: tuple[Cone, Cone] | None

    def __len__(self) -> int:
        return len(self.rows)

    def halves(self) -> Iterator[_Batch]:
        for rows in np.array_split(self.rows, 2):
            yield _Batch(rows, self.cones)


class Projector:
    """Projects activations of one layer back to the image.

    Parameters
    ----------
    graph : the traced network.
    layer : the layer's name.
    rule : see `convatlas.graph.backward`.
    batch_size : images a pass, where whole images are run.
    whole : whether to run whole images only.

    Attributes
    ----------
    layer : what is known of the layer.

    Raises
    ------
    LayerError, MethodError
        see `convatlas.projection.project`.
    """

    def __init__(
        self,
        graph: Graph,
        layer: str,
        rule: str = "deconvnet",
        *,
        batch_size: int = 32,
        whole: bool = False,
    ) -> None:
        self._graph = graph
        self.layer = find_layer(all_layers(graph), layer)
        self._node = graph.node(layer)
        self._rule = rule
        self._batch_size = batch_size
        Backward(graph, self._node, rule)  # says whether the rule is defined
        self._device = like(graph.module).device.type
        found, seen = ancestors([self._node]), fields(graph)
        self._nodes = [node for node in graph.nodes if node in found and node in seen]
        # Of each place along an axis: its cone, and the first one met that is of that shape.
        self._cones: dict[tuple[int, int], tuple[Cone, Cone] | None] = {}
        self._weights = Weights(graph)
        self._shapes: dict[object, Cone] = {}
        self._passes: dict[tuple[Cone | None, Cone | None], float] = {}
        reason = "so asked" if whole else why_no_cone(graph, self._node)
        self._has_cones = reason is None
        if reason and not whole:
            log.info("%s is projected through whole images (%s)", layer, reason)

    def __call__(
        self,
        images: Tensor,
        units: NDArray[np.int64],
        places: NDArray[np.int64],
        advance: Callable[[int], None] = lambda _: None,
    ) -> tuple[Boxes, Signal]:
        """Project one activation of each image; see `convatlas.projection.project`.

        `advance` is told how many are done, each time that some are.
        """
        images = images.detach()
        boxes = self.layer.boxes(places)
        heights, widths = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
        shape = (*images.shape[:2], int(heights.max(initial=0)), int(widths.max(initial=0)))
        result = np.zeros(shape, np.float32)

        def run(batch: _Batch) -> tuple[NDArray[np.int64], NDArray[np.int64], Tensor]:
            rows, cones = batch.rows, batch.cones
            corners = self._corners(places[rows], cones)
            signal = self._back(images, rows, units[rows], places[rows], corners, cones)
            return rows, corners, signal

        def run_some(batch: _Batch) -> list[Any]:
            return run_or_halve(run, batch, _Batch.halves)

        with spread(images.device) as each:
            for rows, corners, signal in chain.from_iterable(
                each(run_some, list(self._batches(places)))
            ):
                found = signal.float().cpu().numpy()
                for row, (top, left), part in zip(rows, corners, found, strict=True):
                    _put(result[row], part, int(top - boxes[row, 0]), int(left - boxes[row, 1]))
                advance(len(rows))
        return boxes, result

    @torch.inference_mode()
    def continued(
        self, images: Tensor, units: NDArray[np.int64], places: NDArray[np.int64]
    ) -> Signal:
        """Return the activations as they would be if maps went on beyond their borders.

        In the place of the zeros that a map is padded with, its outermost cells are
        repeated: what an activation loses by that it owed to the padding.

        Returns
        -------
        (B,) float32, nan where a place has no cone.
        """
        result = np.full(len(places), np.nan, np.float32)
        for batch in self._batches(places, thrifty=False):
            rows, cones = batch.rows, batch.cones
            if cones is None:
                continue
            run = Tiles(self._graph, self._node, self._rule, cones, self._weights, continued=True)
            tile = self._cut(images, rows, self._corners(places[rows], cones), cones)
            ((_, value),) = run.values(tile)
            answers = value[torch.arange(len(rows)), torch.from_numpy(units[rows]), 0, 0]
            result[rows] = answers.float().cpu()
        return result

    # -- batches

    def _batches(self, places: NDArray[np.int64], thrifty: bool = True) -> Iterator[_Batch]:
        """Yield batches of activations, the dearest first.

        If `thrifty`, whole images are run where that costs no more.
        """
        groups: dict[tuple[Cone, Cone] | None, list[int]] = {}
        for row, (y, x) in enumerate(places.tolist()):
            groups.setdefault(self._both(y, x, thrifty), []).append(row)
        batches: list[tuple[float, _Batch]] = []
        for both, rows in groups.items():
            most = self._affordable(both)
            cost = self._work(both)
            for start in range(0, len(rows), most):
                some = np.array(rows[start : start + most])
                batches.append((cost * len(some), _Batch(some, both)))
        batches.sort(key=lambda batch: -batch[0])
        yield from (batch for _, batch in batches)

    def _both(self, y: int, x: int, thrifty: bool = True) -> tuple[Cone, Cone] | None:
        """Return cones of the shapes that a place's have; None to run the whole image."""
        if not self._has_cones:
            return None
        rows, columns = self._cone(0, y), self._cone(1, x)
        if rows is None or columns is None:
            return None
        both = (rows[1], columns[1])
        return both if not thrifty or self._work(both) < _WORTH * self._work(None) else None

    def _cone(self, axis: int, cell: int) -> tuple[Cone, Cone] | None:
        if (axis, cell) not in self._cones:
            found = cone(self._graph, self._node, axis, cell)
            alike = found and self._shapes.setdefault(found.shape, found)
            self._cones[axis, cell] = (found, alike) if found and alike else None
        return self._cones[axis, cell]

    def _cells(self, cones: tuple[Cone, Cone] | None) -> dict[fx.Node, int]:
        """Return how many cells of each node are run."""
        if cones is None:
            sizes = {node: cells_of(self._graph, node) for node in self._nodes}
            return {node: height * width for node, (height, width) in sizes.items()}
        y, x = cones
        return {node: y.length(node) * x.length(node) for node in self._nodes}

    def _work(self, cones: tuple[Cone, Cone] | None) -> float:
        key = cones or (None, None)
        if key not in self._passes:
            self._passes[key] = work(self._graph, self._nodes, self._cells(cones))
        return self._passes[key]

    def _affordable(self, cones: tuple[Cone, Cone] | None) -> int:
        """Return how many activations one batch may hold."""
        if cones is None:
            return self._batch_size
        cells = self._cells(cones)
        values = sum(shape_of(self._graph, node)[1] * cells[node] for node in self._nodes)
        kind = self._device if self._device in _MOST else "cuda"
        return int(min(max(_BYTES[kind] // (4 * values), 1), _MOST[kind]))

    # -- passes

    def _corners(
        self, places: NDArray[np.int64], cones: tuple[Cone, Cone] | None
    ) -> NDArray[np.int64]:
        """Return the first row and column of the image that is run for each place, (B,2)."""
        if cones is None:
            return np.zeros((len(places), 2), dtype=np.int64)
        image = self._nodes[0]
        found = []
        for place in places.tolist():
            both = [self._cone(axis, cell) for axis, cell in enumerate(place)]
            found.append([one[0].low[image] for one in both if one])
        return np.array(found, dtype=np.int64)

    def _back(
        self,
        images: Tensor,
        rows: NDArray[np.int64],
        units: NDArray[np.int64],
        places: NDArray[np.int64],
        corners: NDArray[np.int64],
        cones: tuple[Cone, Cone] | None,
    ) -> Tensor:
        """Return the signal of one batch in the part of the image that was run, (B,C,h,w)."""
        run: Backward
        if cones is None:
            leaf = images[torch.from_numpy(rows)]
            run = Backward(self._graph, self._node, self._rule)
            cells = torch.from_numpy(places)
        else:
            leaf = self._cut(images, rows, corners, cones)
            run = Tiles(self._graph, self._node, self._rule, cones, self._weights)
            cells = torch.zeros(len(rows), 2, dtype=torch.long)
        return send_back(run, leaf, units, cells)

    def _cut(
        self,
        images: Tensor,
        rows: NDArray[np.int64],
        corners: NDArray[np.int64],
        cones: tuple[Cone, Cone],
    ) -> Tensor:
        """Return the parts of the images that the cones hold."""
        height, width = (one.length(self._nodes[0]) for one in cones)
        tile = images.new_empty((len(rows), images.shape[1], height, width))
        tile = tile.contiguous(memory_format=torch.channels_last)
        for out, row, (top, left) in zip(tile, rows.tolist(), corners.tolist(), strict=True):
            out.copy_(images[row, :, top : top + height, left : left + width])
        return tile


def send_back(run: Backward, images: Tensor, units: NDArray[np.int64], cells: Tensor) -> Tensor:
    """Return the signal that one activation of each image sends back, seeded with one.

    Parameters
    ----------
    run : runs the network up to one layer.
    images : (B,C,H,W) normalised.
    units : (B,) of the layer.
    cells : (B,2) where in its maps; what is said of a vector doesn't matter.

    Returns
    -------
    (B,C,H,W).
    """
    leaf = images.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    with torch.enable_grad():
        ((_, value),) = run.values(leaf)
        seed = torch.zeros_like(value)
        index: tuple[Any, ...] = (torch.arange(len(units)), torch.from_numpy(units))
        if value.ndim == 4:
            index += tuple(cells.T)
        seed[index] = 1
        if not value.requires_grad:  # it is cut off from the image, as by ``detach``
            return torch.zeros_like(leaf)
        (signal,) = torch.autograd.grad(value, leaf, seed, allow_unused=True)
    return torch.zeros_like(leaf) if signal is None else signal


class Weights:
    """The weights of a graph's convolutions as they are now, laid out once for all batches."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._known: dict[fx.Node, tuple[Tensor, Tensor | None, Tensor | None]] = {}

    def of(
        self, node: fx.Node, options: Mapping[str, Any]
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Return a convolution's weight, its bias, and its phases if it goes back by them."""
        if node not in self._known:
            weight, bias = self._graph.parameters(node, options)
            weight = weight.detach().contiguous(memory_format=torch.channels_last)
            stride = pair(options["stride"])
            plain = options["groups"] == 1 and pair(options["dilation"]) == (1, 1)
            by_phases = plain and weight.shape[1] <= FEW and max(stride) > 1
            by_phases = by_phases and weight.device.type == "cpu"
            self._known[node] = (
                weight,
                None if bias is None else bias.detach(),
                phases_of(weight, stride) if by_phases else None,
            )
        return self._known[node]


class Tiles(Backward):
    """Runs a graph on the cones of a batch, so that autograd goes back through them by a rule.

    `continued` repeats a map's outermost cells where it is padded with zeros.
    """

    def __init__(
        self,
        graph: Graph,
        node: fx.Node,
        rule: str,
        cones: tuple[Cone, Cone],
        weights: Weights,
        continued: bool = False,
    ) -> None:
        super().__init__(graph, node, rule)
        self._weights = weights
        self._continued = continued
        self._fields = fields(graph)
        self._cones = cones

    def run_node(self, n: fx.Node) -> Any:
        recorded = self._graph.values[n]
        if n not in self._fields:  # sizes are those of whole maps, and parameters as they are
            is_number = not isinstance(recorded, torch.Size | list) and n.op != "get_attr"
            return recorded if is_number else super().run_node(n)
        kept = {source: self.env[source] for source in n.all_input_nodes}
        for source in kept:
            if (n, source) in self._cones[0].views and isinstance(kept[source], Tensor):
                self.env[source] = self._view(n, source)
        try:
            run = _RUN.get(self._graph.operations[n].kind)
            return run(self, n) if run else super().run_node(n)
        finally:
            self.env.update(kept)

    def _view(self, n: fx.Node, source: fx.Node) -> Tensor:
        """Return the cells of a tile that a node reads, without the padding."""
        return self._narrowed(self.env[source], n, source, source)

    def _narrowed(self, value: Tensor, n: fx.Node, source: fx.Node, like: fx.Node) -> Tensor:
        for place, one in zip(self._fields[like].places or (), self._cones, strict=True):
            view = one.views[n, source]
            if view.length != value.shape[place]:
                value = value.narrow(place, view.first, view.length)
        return value

    def _padding(self, n: fx.Node) -> tuple[Tensor, tuple[int, int], tuple[int, int, int, int]]:
        """Return the input of a window, the padding alike on both sides, and all of it."""
        (source,) = (s for s in n.all_input_nodes if s in self._fields)
        y, x = (one.views[n, source] for one in self._cones)
        sides = (x.before, x.behind, y.before, y.behind)
        return self.env[source], (y.before, x.before), sides

    def _option(self, n: fx.Node) -> dict[str, Any]:
        options = dict(self._graph.operations[n].options)
        return dict(fx.node.map_arg(options, lambda m: self.env[m]))

    def _conv(self, n: fx.Node) -> Tensor:
        value, padding, sides = self._padding(n)
        o = self._option(n)
        weight, bias, phases = self._weights.of(n, o)
        if self._continued:
            value, padding = functional.pad(value, sides, mode="replicate"), (0, 0)
        elif not _alike(sides):
            value, padding = functional.pad(value, sides), (0, 0)
        stride = pair(o["stride"])
        if phases is None:
            return functional.conv2d(
                value, weight, bias, stride, padding, o["dilation"], o["groups"]
            )
        return Stem.apply(value, weight, bias, stride, padding, phases)  # type: ignore[no-any-return]

    def _maxpool(self, n: fx.Node) -> Tensor:
        value, _, sides = self._padding(n)
        o = self._option(n)
        if any(sides):
            value = functional.pad(value, sides, value=-torch.inf)
        return functional.max_pool2d(value, o["kernel_size"], strides(o), 0, o["dilation"])

    def _avgpool(self, n: fx.Node) -> Tensor:
        value, _, sides = self._padding(n)
        o = self._option(n)
        kernel = pair(o["kernel_size"])
        if self._continued and o.get("count_include_pad", True):  # else it owes zeros nothing
            value = functional.pad(value, sides, mode="replicate")
            divisor = o.get("divisor_override")
            return functional.avg_pool2d(value, kernel, strides(o), divisor_override=divisor)
        if any(sides):
            value = functional.pad(value, sides)
        sums = functional.avg_pool2d(value, kernel, strides(o), divisor_override=1)
        rows, columns = (sums.new_tensor(one.divisors[n]) for one in self._cones)
        return sums / (rows[:, None] * columns)

    def _pad(self, n: fx.Node) -> Tensor:
        value, _, sides = self._padding(n)
        if self._continued:
            return functional.pad(value, sides, mode="replicate")
        return functional.pad(value, sides, value=float(self._option(n).get("value") or 0))

    def _reshape(self, n: fx.Node) -> Tensor:
        (source,) = (s for s in n.all_input_nodes if s in self._fields)
        value: Tensor = self.env[source]
        shape = [len(value), *self._graph.values[n][1:]]
        for place, one in zip(self._fields[n].places or (), self._cones, strict=True):
            shape[place] = one.length(n)
        return value.reshape(shape)

    def _item(self, n: fx.Node) -> Any:
        """Take one of several tiles, and of it what is needed."""
        value = Execution.run_node(self, n)
        (source,) = (s for s in n.all_input_nodes if s in self._fields)
        if isinstance(self.env[source], Tensor):
            return value
        return self._narrowed(value, n, source, n)


_RUN: dict[str, Callable[[Tiles, fx.Node], Tensor]] = {
    "conv": Tiles._conv,
    "maxpool": Tiles._maxpool,
    "avgpool": Tiles._avgpool,
    "pad": Tiles._pad,
    "reshape": Tiles._reshape,
    "item": Tiles._item,
}


def _alike(sides: tuple[int, int, int, int]) -> bool:
    left, right, top, bottom = sides
    return left == right and top == bottom


def _put(out: Signal, part: Signal, top: int, left: int) -> None:
    """Put a signal into its box, `top` and `left` from its corner; what lies outside is cut off."""
    ends = [
        (max(first, 0), min(first + length, limit))
        for first, length, limit in zip((top, left), part.shape[1:], out.shape[1:], strict=True)
    ]
    (row, last_row), (column, last_column) = ends
    if row < last_row and column < last_column:
        cut = part[:, row - top : last_row - top, column - left : last_column - left]
        out[:, row:last_row, column:last_column] = cut
