"""Receptive fields on arbitrary graphs: which input pixels each cell of a map can see.

For every node and axis the interval of input pixels that each cell sees is kept,
not only its size and stride: so windows of a `ceil_mode` pool, bins of adaptive
pooling, interpolation and the union of branches come out right, cell by cell. The
intervals aren't cut at the image's border: cells at the border have boxes as large
as the others, reaching into the padding.

The interval is the hull of what a cell sees (a dilated kernel has holes), as in
Araujo et al., "Computing receptive fields of convolutional neural networks",
Distill 2019.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx

from convatlas.graph.operations import POINTWISE
from convatlas.graph.tracing import Graph

Cells = NDArray[np.int64]


@dataclass(frozen=True)
class Axis:
    """What the cells along one axis of a feature map see.

    Attributes
    ----------
    first, last : (n,) first and last input pixel that each cell sees; they may lie
        outside the image.
    step : pixels from one cell to the next, for cells beyond the map's border; 0
        where every cell sees the whole input.
    size : pixels of the image along this axis.
    exact : whether both ends are reached, or only an upper bound.
    """

    first: Cells
    last: Cells
    step: Fraction
    size: int
    exact: bool = True

    @classmethod
    def pixels(cls, size: int) -> Axis:
        """Return the axis of the image itself."""
        cells = np.arange(size)
        return cls(cells, cells, Fraction(1), size)

    @classmethod
    def whole(cls, size: int, cells: int, exact: bool = True) -> Axis:
        """Return an axis whose cells all see `size` pixels."""
        return cls(np.zeros(cells, int), np.full(cells, size - 1), Fraction(0), size, exact)

    def __len__(self) -> int:
        return len(self.first)

    def window(self, low: Cells, high: Cells, step: Fraction, exact: bool = True) -> Axis:
        """Return the axis of an operation whose cells see our cells `low` to `high`."""
        return Axis(
            np.minimum(self._at(self.first, low), self._at(self.first, high)),
            np.maximum(self._at(self.last, low), self._at(self.last, high)),
            self.step * step,
            self.size,
            self.exact and exact,
        )

    def everything(self, cells: int = 1) -> Axis:
        """Return an axis of `cells` cells that see all that any of ours sees of the image."""
        first, last = max(self.first.min(), 0), min(self.last.max(), self.size - 1)
        return Axis(np.full(cells, first), np.full(cells, last), Fraction(0), self.size, self.exact)

    def take(self, index: Any) -> Axis:
        """Return the axis of a slice."""
        cells = np.arange(len(self))[index]
        step = int(cells[1] - cells[0]) if len(cells) > 1 else 1
        return Axis(self.first[cells], self.last[cells], self.step * step, self.size, self.exact)

    def union(self, other: Axis) -> Axis:
        """Return the axis of a sum of two maps, one of which may be a single cell."""
        first = np.minimum(self.first, other.first)
        last = np.maximum(self.last, other.last)
        exact = self.exact and other.exact
        joined = Axis(first, last, max(self.step, other.step), self.size, exact)
        if self.step and other.step:
            return joined
        return joined.everything(len(first))  # as with a squeeze-and-excitation gate

    def _at(self, ends: Cells, cells: Cells) -> Cells:
        """Return ends of cells, going on beyond the border as if the map were larger."""
        inside = np.clip(cells, 0, len(ends) - 1)
        beyond = (cells - inside) * self.step.numerator
        return np.asarray(ends[inside] + np.floor_divide(beyond, self.step.denominator))


@dataclass(frozen=True)
class Field:
    """The receptive field of a node's output.

    `places` are the positions of the height and width axes in the tensor; None for
    a tensor without them, each value of which sees what `y` and `x` say.
    """

    y: Axis
    x: Axis
    places: tuple[int, int] | None

    def is_map(self, shape: Sequence[int]) -> bool:
        """Whether the tensor is (N,C,H,W)."""
        return self.places == (2, 3) and len(shape) == 4

    def both(self, change: Callable[[Axis, int], Axis]) -> Field:
        """Return the field with a change made to both axes (0 is y, 1 is x)."""
        return replace(self, y=change(self.y, 0), x=change(self.x, 1))


def fields(graph: Graph) -> dict[fx.Node, Field]:
    """Return the receptive field of every node whose value depends on the image."""
    found: dict[fx.Node, Field] = {}
    for node in graph.nodes:
        if graph.operations[node].kind == "input":
            _, height, width = graph.size
            found[node] = Field(Axis.pixels(height), Axis.pixels(width), (2, 3))
            continue
        sources = [found[n] for n in node.all_input_nodes if n in found]
        if sources and _holds_tensors(graph.values.get(node)):
            found[node] = _Rules(graph, found).field(node, sources)
    return found


def _holds_tensors(value: Any) -> bool:
    if isinstance(value, torch.Size):
        return len(value) > 0
    return isinstance(value, list) and any(_holds_tensors(v) for v in value)


class _Rules:
    """How each operation changes the field; one method a group of operations."""

    def __init__(self, graph: Graph, found: dict[fx.Node, Field]) -> None:
        self._graph = graph
        self._found = found

    def field(self, node: fx.Node, sources: list[Field]) -> Field:
        operation = self._graph.operations[node]
        kind = operation.kind
        source = sources[0]
        if kind in POINTWISE or kind == "output":
            return source
        rule = getattr(self, f"_{kind}", None)
        if rule is None:
            return self._opaque(node, sources)
        options = {k: self._concrete(v) for k, v in operation.options.items()}
        result = rule(node, source, options)
        return result if isinstance(result, Field) else self._opaque(node, sources)

    # -- helpers

    def _concrete(self, value: Any) -> Any:
        """Replace nodes whose value is known by that value."""
        return fx.node.map_arg(value, lambda n: self._graph.values.get(n))

    def _shape(self, node: fx.Node) -> Sequence[int]:
        value = self._graph.values[node]
        return value if isinstance(value, torch.Size) else value[0]

    def _source_shape(self, node: fx.Node) -> Sequence[int]:
        return self._shape(next(n for n in node.all_input_nodes if n in self._found))

    def _whole(self, node: fx.Node, exact: bool) -> Field:
        """Return the field of a node whose every value sees the whole image."""
        shape = self._shape(node)
        _, height, width = self._graph.size
        is_map = len(shape) == 4
        rows, columns = (shape[2], shape[3]) if is_map else (1, 1)
        return Field(
            Axis.whole(height, rows, exact),
            Axis.whole(width, columns, exact),
            (2, 3) if is_map else None,
        )

    def _opaque(self, node: fx.Node, sources: list[Field]) -> Field:
        return self._whole(node, exact=False)

    def _gathered(self, node: fx.Node, source: Field) -> Field:
        """Return the field of a node whose every value sees all of its source."""
        shape = self._shape(node)
        is_map = len(shape) == 4 and source.places is not None
        cells = (shape[2], shape[3]) if is_map else (1, 1)
        gathered = source.both(lambda axis, i: axis.everything(cells[i]))
        return replace(gathered, places=(2, 3) if is_map else None)

    # -- windows

    def _windows(self, node: fx.Node, source: Field, o: dict[str, Any], dilation: Any = 1) -> Field:
        shape = self._shape(node)
        if source.places is None or len(shape) != 4:
            return self._whole(node, exact=False)
        kernel = _pair(o["kernel_size"])
        stride = _pair(o["stride"] if o["stride"] not in (None, (), []) else kernel)
        dilations = _pair(dilation)

        def slide(axis: Axis, i: int) -> Axis:
            reach = (kernel[i] - 1) * dilations[i]
            low = np.arange(shape[2 + i]) * stride[i] - _padding_before(o["padding"], i, reach)
            return axis.window(low, low + reach, Fraction(stride[i]))

        return source.both(slide)

    def _conv(self, node: fx.Node, source: Field, o: dict[str, Any]) -> Field:
        if "kernel_size" not in o:
            o = o | {"kernel_size": tuple(o["weight"][2:])}
        return self._windows(node, source, o, o["dilation"])

    def _maxpool(self, node: fx.Node, source: Field, o: dict[str, Any]) -> Field:
        return self._windows(node, source, o, o["dilation"])

    def _avgpool(self, node: fx.Node, source: Field, o: dict[str, Any]) -> Field:
        return self._windows(node, source, o)

    def _lppool(self, node: fx.Node, source: Field, o: dict[str, Any]) -> Field:
        return self._windows(node, source, o | {"padding": 0})

    def _conv_transpose(self, node: fx.Node, source: Field, o: dict[str, Any]) -> Field:
        shape = self._shape(node)
        kernel = _pair(o["kernel_size"] if "kernel_size" in o else tuple(o["weight"][2:]))
        stride, padding, dilation = _pair(o["stride"]), _pair(o["padding"]), _pair(o["dilation"])

        def slide(axis: Axis, i: int) -> Axis:
            # Output cell t gets input cell c where t = c * stride - padding + tap * dilation.
            t = np.arange(shape[2 + i]) + padding[i]
            low = -((-(t - (kernel[i] - 1) * dilation[i])) // stride[i])
            high = t // stride[i]
            reached = low <= high  # no input falls on a cell between the taps
            low, high = np.where(reached, low, high), np.maximum(high, np.where(reached, low, high))
            return axis.window(low, high, Fraction(1, stride[i]), exact=dilation[i] == 1)

        return source.both(slide)

    def _adaptive(self, node: fx.Node, source: Field) -> Field:
        shape = self._shape(node)
        if source.places is None or len(shape) != 4:
            return self._whole(node, exact=False)

        def bins(axis: Axis, i: int) -> Axis:
            cells, out = len(axis), shape[2 + i]
            at = np.arange(out)
            low, high = at * cells // out, -(-(at + 1) * cells // out) - 1
            if out == 1:
                return axis.everything()
            return axis.window(low, high, Fraction(cells, out))

        return source.both(bins)

    def _adaptive_avgpool(self, node: fx.Node, source: Field, o: dict[str, Any]) -> Field:
        return self._adaptive(node, source)

    def _adaptive_maxpool(self, node: fx.Node, source: Field, o: dict[str, Any]) -> Field:
        return self._adaptive(node, source)

    def _interpolate(self, node: fx.Node, source: Field, o: dict[str, Any]) -> Field:
        shape = self._shape(node)
        if source.places is None or len(shape) != 4:
            return self._whole(node, exact=False)

        def spread(axis: Axis, i: int) -> Axis:
            cells, out = len(axis), shape[2 + i]
            at = np.arange(out)
            if o["mode"] in ("nearest", "nearest-exact"):
                half = 0.5 if o["mode"] == "nearest-exact" else 0.0
                low = high = np.floor((at + half) * cells / out).astype(int)
            else:
                ends = o["align_corners"] and out > 1
                at_source = (
                    at * (cells - 1) / (out - 1) if ends else (at + 0.5) * cells / out - 0.5
                )
                extra = 1 if o["mode"] == "bicubic" else 0
                low = np.floor(at_source).astype(int) - extra
                high = np.ceil(at_source).astype(int) + extra
            low, high = (np.clip(v, 0, cells - 1) for v in (low, high))
            return axis.window(low, high, Fraction(cells, out), exact=o["mode"] != "bicubic")

        return source.both(spread)

    def _pad(self, node: fx.Node, source: Field, o: dict[str, Any]) -> Field | None:
        padding = o["padding"]
        shape = self._shape(node)
        if source.places != (len(shape) - 2, len(shape) - 1):
            return None
        if isinstance(padding, int):
            padding = (padding,) * 4
        left, top = padding[0], padding[2] if len(padding) > 2 else 0
        before = (top, left)

        def shift(axis: Axis, i: int) -> Axis:
            cells = np.arange(shape[-2 + i]) - before[i]
            return axis.window(cells, cells, Fraction(1))

        return source.both(shift)

    # -- joins

    def _join(self, node: fx.Node) -> Field | None:
        sources = [self._found[n] for n in node.all_input_nodes if n in self._found]
        shape = self._shape(node)
        if len({s.places for s in sources}) != 1 or sources[0].places is None:
            return sources[0] if all(s.places is None for s in sources) else None
        rows, columns = (shape[p] for p in sources[0].places)
        result = sources[0]
        for source in sources[1:]:
            result = replace(result, y=result.y.union(source.y), x=result.x.union(source.x))
        if (len(result.y), len(result.x)) != (rows, columns):
            return None
        return result

    def _add(self, node: fx.Node, source: Field, o: dict[str, Any]) -> Field | None:
        return self._join(node)

    _mul = _div = _maximum = _add

    def _cat(self, node: fx.Node, source: Field, o: dict[str, Any]) -> Field | None:
        rank = len(self._shape(node))
        return self._join(node) if (o["dim"] + rank) % rank == 1 else None

    # -- values that mix channels, or all of the map

    def _linear(self, node: fx.Node, source: Field, o: dict[str, Any]) -> Field:
        shape = self._shape(node)
        if source.places is not None and len(shape) - 1 not in source.places:
            return source  # over the last axis of a map whose channels are last
        return self._gathered(node, source)

    def _softmax(self, node: fx.Node, source: Field, o: dict[str, Any]) -> Field:
        rank = len(self._shape(node))
        dim = o.get("dim", 1)
        if source.places is not None and isinstance(dim, int) and (dim + rank) % rank == 1:
            return source
        return self._gathered(node, source)

    _log_softmax = _softmax

    def _layernorm(self, node: fx.Node, source: Field, o: dict[str, Any]) -> Field:
        shape = self._shape(node)
        dims = o["normalized_shape"]
        mixed = range(len(shape) - (1 if isinstance(dims, int) else len(dims)), len(shape))
        if source.places is None or not set(mixed) & set(source.places):
            return source
        return replace(self._gathered(node, source), places=source.places)

    def _groupnorm(self, node: fx.Node, source: Field, o: dict[str, Any]) -> Field:
        return self._gathered(node, source)

    def _mean(self, node: fx.Node, source: Field, o: dict[str, Any]) -> Field | None:
        if source.places is None:
            return source
        rank = len(self._source_shape(node))
        dims = o["dim"] if o["dim"] is not None else range(rank)
        dims = {(d + rank) % rank for d in ([dims] if isinstance(dims, int) else dims)}
        if not dims & set(source.places):
            return source if o["keepdim"] else None
        if not set(source.places) <= dims:
            return None
        everything = source.both(lambda axis, _: axis.everything())
        return everything if o["keepdim"] else replace(everything, places=None)

    _amax = _mean

    # -- the same values in another shape

    def _reshape(self, node: fx.Node, source: Field, o: dict[str, Any]) -> Field | None:
        if source.places is None:
            return source
        before, after = self._source_shape(node), self._shape(node)
        rows, columns = (before[p] for p in source.places)
        trailing = source.places == (len(before) - 2, len(before) - 1)
        if trailing and len(after) >= 3 and tuple(after[-2:]) == (rows, columns):
            return replace(source, places=(len(after) - 2, len(after) - 1))
        return self._gathered(node, source)

    def _permute(self, node: fx.Node, source: Field, o: dict[str, Any]) -> Field | None:
        rank = len(self._shape(node))
        arguments = [a for a in self._concrete(node.args[1:]) if a is not None]
        dims = arguments[0] if arguments and not isinstance(arguments[0], int) else arguments
        dims = dims or o.get("dims") or ()
        return self._moved(source, [(d + rank) % rank for d in dims])

    def _transpose(self, node: fx.Node, source: Field, o: dict[str, Any]) -> Field | None:
        rank = len(self._shape(node))
        order = list(range(rank))
        first, second = o.get("dim0", o.get("axis0")), o.get("dim1", o.get("axis1"))
        if first is None or second is None:
            return None
        order[first], order[second] = order[second], order[first]
        return self._moved(source, order)

    def _moved(self, source: Field, order: Sequence[int]) -> Field:
        if source.places is None or sorted(order) != list(range(len(order))):
            return source
        y, x = (list(order).index(p) for p in source.places)
        return replace(source, places=(y, x))

    def _chunk(self, node: fx.Node, source: Field, o: dict[str, Any]) -> Field | None:
        rank = len(self._source_shape(node))
        if source.places is not None and (o["dim"] + rank) % rank in source.places:
            return None
        return source

    def _item(self, node: fx.Node, source: Field, o: dict[str, Any]) -> Field | None:
        origin = next(n for n in node.all_input_nodes if n in self._found)
        if not isinstance(self._graph.values[origin], torch.Size) or source.places is None:
            return source  # one of several tensors
        index = o["index"] if isinstance(o["index"], tuple) else (o["index"],)
        if any(not isinstance(i, int | slice | None) for i in index):
            return None
        return self._indexed(source, index, len(self._source_shape(node)))

    def _indexed(self, source: Field, index: tuple[Any, ...], rank: int) -> Field | None:
        """Follow the axes of a map through an index of numbers, slices and None."""
        taken = sum(i is not None for i in index)
        moved: dict[int, int] = {}
        axes = {place: axis for place, axis in zip(source.places or (), (source.y, source.x), strict=True)}
        at = after = 0
        for entry in (*index, *[slice(None)] * (rank - taken)):
            if entry is not None:
                if isinstance(entry, slice):
                    moved[at] = after
                    if at in axes:
                        axes[at] = axes[at].take(entry)
                elif at in axes:
                    return None
                at += 1
            after += not isinstance(entry, int)
        y, x = source.places or (0, 0)
        return Field(axes[y], axes[x], (moved[y], moved[x]))


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[-1]))


def _padding_before(padding: Any, axis: int, reach: int) -> int:
    """Return the cells of padding before the first; ``same`` puts the odd one behind."""
    if padding == "same":
        return reach // 2
    return 0 if padding == "valid" else _pair(padding)[axis]
