"""Cones: the cells of every map before a layer that one of its cells depends on.

Along each axis these are an interval in every map, cut at the map's border. Cells in
the middle of a layer have cones of one shape that differ only in where they lie; so do
many at its border. Cells whose cones are of one shape are run as one batch: whatever
an operation reads, all of them read at the same place of their tiles.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import fx

from convatlas.graph.execution import ancestors
from convatlas.graph.geometry import averaged, fields, padded, padding_before, pair, strides
from convatlas.graph.locality import JOINS, cells_of, shape_of, sources_of, why_not_local
from convatlas.graph.operations import POINTWISE
from convatlas.graph.tracing import Graph

_WINDOWS = frozenset(["conv", "maxpool", "avgpool", "lppool", "pad"])
_CELLWISE = POINTWISE | {
    *JOINS,
    *("softmax", "log_softmax", "linear", "layernorm"),
    *("reshape", "permute", "transpose", "chunk", "item", "input"),
}


@dataclass(frozen=True)
class View:
    """What an operation reads of an input's tile along one axis.

    `length` cells from `first` on, with cells of padding `before` and `behind` them.
    """

    first: int
    length: int
    before: int = 0
    behind: int = 0


@dataclass(frozen=True, eq=False)
class Cone:
    """The cone of one cell along one axis.

    Attributes
    ----------
    low, high : for each node, the first of its cells, and the one behind the last.
    views : for each node and each of its inputs, what it reads.
    divisors : for each average pool, what the sum in each of its cells is divided by.
    """

    low: Mapping[fx.Node, int]
    high: Mapping[fx.Node, int]
    views: Mapping[tuple[fx.Node, fx.Node], View]
    divisors: Mapping[fx.Node, tuple[float, ...]]

    @cached_property
    def shape(self) -> tuple[object, ...]:
        """What those cones have in common, of one layer, that make one batch."""
        lengths = [self.length(node) for node in self.low]
        return (*lengths, *self.views.values(), *self.divisors.values())

    def length(self, node: fx.Node) -> int:
        """Return the number of a node's cells."""
        return self.high[node] - self.low[node]


def why_no_cone(graph: Graph, target: fx.Node) -> str | None:
    """Return what keeps a layer's cells from having cones, or None if they have some."""
    seen, found = fields(graph), ancestors([target])
    if seen[target].places is None:
        return "it has no rows and columns"
    for node in graph.nodes:
        if node not in found:
            continue
        reason = _why_not_here(graph, node)
        if reason:
            return f"{graph.names.get(node, node.name)}: {reason}"
    return None


def _why_not_here(graph: Graph, node: fx.Node) -> str | None:
    operation = graph.operations[node]
    if operation.kind == "input":
        return None
    if node not in fields(graph):
        is_tensor = isinstance(graph.values[node], torch.Size | list)
        depends = any(n in fields(graph) for n in ancestors([node]))
        return "it is made to the image's measure" if is_tensor and depends else None
    reason = why_not_local(graph, node)
    if reason:
        return reason
    if operation.kind in _WINDOWS:
        mode = operation.options.get("padding_mode", operation.options.get("mode", "constant"))
        return None if mode in ("zeros", "constant") else "it pads with the map's own values"
    return None if operation.kind in _CELLWISE else "only whole maps are made for it"


def cone(graph: Graph, target: fx.Node, axis: int, cell: int) -> Cone | None:
    """Return the cone of a cell along an axis (0 is y, 1 is x).

    None if part of it lies in the padding alone.
    """
    low, high = {target: cell}, {target: cell + 1}
    views: dict[tuple[fx.Node, fx.Node], tuple[int, int]] = {}
    divisors: dict[fx.Node, tuple[float, ...]] = {}
    seen = fields(graph)
    for node in reversed(graph.nodes):
        if node not in low or node not in seen:
            continue
        first, end = _reads(graph, node, axis, low[node], high[node])
        for source in sources_of(graph, node):
            size = cells_of(graph, source)[axis]
            inside = max(first, 0), min(end, size)
            if inside[0] >= inside[1]:
                return None
            views[node, source] = first, end
            low[source] = min(low.get(source, inside[0]), inside[0])
            high[source] = max(high.get(source, inside[1]), inside[1])
        if graph.operations[node].kind == "avgpool":
            before, after = (cells_of(graph, n)[axis] for n in (sources_of(graph, node)[0], node))
            _, _, divisor = averaged(_options(graph, node), axis, before, after)
            divisors[node] = tuple(divisor[low[node] : high[node]].tolist())
    return Cone(
        low,
        high,
        {
            (node, source): _view(ends, low[source], high[source], cells_of(graph, source)[axis])
            for (node, source), ends in views.items()
        },
        divisors,
    )


def _reads(graph: Graph, node: fx.Node, axis: int, low: int, high: int) -> tuple[int, int]:
    """Return the cells that some of a node's cells read of its inputs; padding is below 0."""
    kind = graph.operations[node].kind
    if kind not in _WINDOWS:
        return low, high
    o = _options(graph, node)
    if kind == "pad":
        before = padded(o["padding"])[axis][0]
        return low - before, high - before
    kernel = pair(o["kernel_size"] if "kernel_size" in o else tuple(o["weight"][2:]))
    stride = strides({**o, "kernel_size": kernel})[axis]
    reach = (kernel[axis] - 1) * pair(o.get("dilation", 1))[axis]
    start = -padding_before(o["padding"], axis, reach)
    return low * stride + start, (high - 1) * stride + start + reach + 1


def _options(graph: Graph, node: fx.Node) -> dict[str, Any]:
    options = dict(graph.operations[node].options)
    return dict(fx.node.map_arg(options, graph.values.get))


def _view(ends: tuple[int, int], low: int, high: int, size: int) -> View:
    first, end = ends
    inside = max(first, 0), min(end, size)
    return View(inside[0] - low, inside[1] - inside[0], inside[0] - first, end - inside[1])


def work(graph: Graph, nodes: Sequence[fx.Node], cells: Mapping[fx.Node, int]) -> float:
    """Return the multiply-accumulates for so many cells of each node, roughly."""
    total = 0.0
    for node in nodes:
        each = shape_of(graph, node)[1] if len(shape_of(graph, node)) > 1 else 1
        if graph.operations[node].kind in ("conv", "linear"):
            each = _weights(graph, node)
        total += each * cells[node]
    return total


def _weights(graph: Graph, node: fx.Node) -> int:
    if node.op == "call_module":
        module: Any = graph.module.get_submodule(str(node.target))
        return int(module.weight.numel())
    return math.prod(graph.values[graph.operations[node].options["weight"]])
