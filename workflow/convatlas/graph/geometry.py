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

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx
from torch.nn import functional

from convatlas.graph.operations import POINTWISE
from convatlas.graph.tracing import Graph

Cells = NDArray[np.int64]


@dataclass(frozen=True)
class Axis:
    """What the cells along one axis of a feature map see.

    Attributes
    ----------
    first, last : (n,) first and last input pixel of each cell's field, as if all maps on
        the way went on beyond their borders; they may lie outside the image.
    near, far : (n,) first and last input pixel that the cell is really connected to.
    step : pixels from one cell to the next, for cells beyond the map's border; 0
        where every cell sees the whole input.
    size : pixels of the image along this axis.
    exact : whether both ends are reached, or only an upper bound.
    """

    first: Cells
    last: Cells
    near: Cells
    far: Cells
    step: Fraction
    size: int
    exact: bool = True

    @classmethod
    def pixels(cls, size: int) -> Axis:
        """Return the axis of the image itself."""
        cells = np.arange(size)
        return cls(cells, cells, cells, cells, Fraction(1), size)

    @classmethod
    def same(cls, first: int, last: int, cells: int, size: int, exact: bool) -> Axis:
        """Return an axis whose cells all see the pixels from `first` to `last`."""
        low, high = np.full(cells, first), np.full(cells, last)
        return cls(low, high, low, high, Fraction(0), size, exact)

    def __len__(self) -> int:
        return len(self.first)

    @property
    def exact_at_centre(self) -> bool:
        """Whether the field of the middle cell, cut at the image, is what it really sees.

        It isn't where windows leave out the last pixels of a map whose size doesn't fit.
        """
        i = len(self) // 2
        cut = (max(self.first[i], 0), min(self.last[i], self.size - 1))
        return self.exact and cut == (self.near[i], self.far[i])

    def window(
        self, low: Cells, high: Cells, step: Fraction, exact: bool = True, spacing: int = 1
    ) -> Axis:
        """Return the axis of an operation whose cells see our cells `low` to `high`.

        They see every `spacing`-th of them.
        """
        taps = np.arange(0, int((high - low).max(initial=0)) + 1, spacing)
        seen: NDArray[Any] = low[:, None] + taps
        seen = np.where(seen > high[:, None], low[:, None], seen)
        missing: NDArray[Any] = np.logical_or(seen < 0, seen >= len(self))
        nothing = missing.all(axis=1, keepdims=True)  # only padding: taken for the nearest cell
        inside = np.where(missing & ~nothing, 0, seen.clip(0, len(self) - 1))
        missing &= ~nothing
        return Axis(
            np.minimum(self._at(self.first, low), self._at(self.first, high)),
            np.maximum(self._at(self.last, low), self._at(self.last, high)),
            np.where(missing, self.size, self.near[inside]).min(1),
            np.where(missing, -1, self.far[inside]).max(1),
            self.step * step,
            self.size,
            self.exact and exact,
        )

    def everything(self, cells: int = 1) -> Axis:
        """Return an axis of `cells` cells that see all that any of ours sees of the image."""
        return Axis.same(int(self.near.min()), int(self.far.max()), cells, self.size, self.exact)

    def take(self, index: Any) -> Axis:
        """Return the axis of a slice."""
        cells = np.arange(len(self))[index]
        step = int(cells[1] - cells[0]) if len(cells) > 1 else 1
        first, last, near, far = (at[cells] for at in (self.first, self.last, self.near, self.far))
        return Axis(first, last, near, far, self.step * step, self.size, self.exact)

    def union(self, other: Axis) -> Axis:
        """Return the axis of a sum of two maps, one of which may be a single cell."""
        joined = Axis(
            np.minimum(self.first, other.first),
            np.maximum(self.last, other.last),
            np.minimum(self.near, other.near),
            np.maximum(self.far, other.far),
            max(self.step, other.step),
            self.size,
            self.exact and other.exact,
        )
        if self.step and other.step:
            return joined
        return joined.everything(len(joined))  # as with a squeeze-and-excitation gate

    def padded(self, before: int, after: int, mode: str) -> Axis:
        """Return the axis with cells added at both ends, filled as `mode` says.

        Cells filled with a constant see what they would see in a larger map, those that
        repeat the map's own values what these see, too. That is an upper bound.
        """
        cells = np.arange(-before, len(self) + after)
        larger = self.window(cells, cells, Fraction(1))
        if mode in ("constant", "zeros"):
            return larger
        if mode == "circular":
            return replace(self.everything(len(cells)), exact=False)
        last = len(self) - 1
        if mode == "reflect":
            cells = last - np.abs(last - np.abs(cells))
        source = np.clip(cells, 0, last)
        # Ascending, for `window` looks at the ends of windows only.
        first = np.minimum.accumulate(np.minimum(larger.first, self.first[source])[::-1])[::-1]
        final = np.maximum.accumulate(np.maximum(larger.last, self.last[source]))
        near, far = first.clip(0, self.size - 1), final.clip(0, self.size - 1)
        return replace(larger, first=first, last=final, near=near, far=far, exact=False)

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


@lru_cache(4)  # graphs: asked for many times while a network is made ready
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
        return True
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
        if kind == "localnorm" and source.places is not None and 1 in source.places:
            return self._opaque(node, sources)  # it normalises across rows, not channels
        if kind in POINTWISE or kind == "output":
            return source
        rule = getattr(self, f"_{kind}", None)
        if rule is None:
            return self._opaque(node, sources)
        options = {k: self._concrete(v) for k, v in operation.options.items()}
        result = rule(node, source, options)
        if not isinstance(result, Field):
            return self._opaque(node, sources)
        if result.places is None and tuple(self._shape(node)[2:]) == (1, 1):
            return replace(result, places=(2, 3))  # a vector written as maps of one cell
        return result

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
            Axis.same(0, height - 1, rows, height, exact),
            Axis.same(0, width - 1, columns, width, exact),
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
        kernel, stride = pair(o["kernel_size"]), strides(o)
        dilations = pair(dilation)

        def slide(axis: Axis, i: int) -> Axis:
            reach = (kernel[i] - 1) * dilations[i]
            before = padding_before(o["padding"], i, reach)
            low = np.arange(shape[2 + i]) * stride[i]
            mode = o.get("padding_mode", "zeros")
            if mode == "zeros":
                low = low - before
            else:
                axis = axis.padded(
                    before, max(int(low[-1]) + reach - before - len(axis) + 1, 0), mode
                )
            return axis.window(low, low + reach, Fraction(stride[i]), spacing=dilations[i])

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
        kernel = pair(o["kernel_size"] if "kernel_size" in o else tuple(o["weight"][2:]))
        stride, padding, dilation = pair(o["stride"]), pair(o["padding"]), pair(o["dilation"])

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

        if o["mode"] == "area":
            return self._adaptive(node, source)
        exact = o["mode"] != "bicubic" and not o["antialias"]

        def spread(axis: Axis, i: int) -> Axis:
            cells, out = len(axis), shape[2 + i]
            used = interpolation(o, i, cells, out).numpy() != 0
            low, high = used.argmax(1), cells - 1 - used[:, ::-1].argmax(1)
            return axis.window(low, high, Fraction(cells, out), exact=exact)

        return source.both(spread)

    def _pad(self, node: fx.Node, source: Field, o: dict[str, Any]) -> Field | None:
        padding = o["padding"]
        shape = self._shape(node)
        if source.places != (len(shape) - 2, len(shape) - 1):
            return None
        ends = padded(padding)
        return source.both(lambda axis, i: axis.padded(*ends[i], o["mode"]))

    # -- joins

    def _join(self, node: fx.Node) -> Field | None:
        sources = [self._found[n] for n in node.all_input_nodes if n in self._found]
        shape = self._shape(node)
        placed = {s.places for s in sources if s.places is not None}
        if len(placed) > 1:
            return None
        places = placed.pop() if placed else None
        lengths = [
            {len(axis) for axis in axes} - {1}
            for axes in zip(*((s.y, s.x) for s in sources), strict=True)
        ]
        if any(len(several) > 1 for several in lengths):
            return None
        result = sources[0]
        for source in sources[1:]:
            result = replace(result, y=result.y.union(source.y), x=result.x.union(source.x))
        cells = tuple(shape[p] for p in places) if places else (1, 1)
        return replace(result, places=places) if (len(result.y), len(result.x)) == cells else None

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
        if not isinstance(dim, int):
            return self._gathered(node, source)
        if source.places is not None and (dim + rank) % rank not in (0, *source.places):
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

    _amax = _sum = _mean

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
        rank = len(self._source_shape(node))
        if any(i is Ellipsis for i in index):
            at = next(k for k, i in enumerate(index) if i is Ellipsis)
            rest = rank - sum(i is not None for i in index) + 1
            index = (*index[:at], *[slice(None)] * rest, *index[at + 1 :])
        if any(not isinstance(i, int | slice | None) for i in index):
            return None
        return self._indexed(source, index, rank)

    def _indexed(self, source: Field, index: tuple[Any, ...], rank: int) -> Field | None:
        """Follow the axes of a map through an index of numbers, slices and None."""
        taken = sum(i is not None for i in index)
        moved: dict[int, int] = {}
        axes = dict(zip(source.places or (), (source.y, source.x), strict=True))
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


def interpolation(
    options: Mapping[str, Any],
    axis: int,
    before: int,
    after: int,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Return the matrix of an interpolation along one axis, (after,before).

    Found by interpolating unit vectors, so that it is what torch does to the last cell.
    """
    scale = options["scale_factor"] if not options["recompute_scale_factor"] else None
    if isinstance(scale, tuple | list):
        scale = scale[axis]
    # Three cells wide: with one, torch takes the layout for another and is wrong (antialias).
    units = torch.eye(before, dtype=dtype).reshape((before, 1, before, 1)).repeat(1, 1, 1, 3)
    size, scales = (after, 3), None if scale is None else (float(scale), 1.0)
    if axis == 1:
        units, size = units.transpose(2, 3).contiguous(), size[::-1]
        scales = None if scales is None else scales[::-1]
    smooth = options["mode"] in ("bilinear", "bicubic")
    with torch.no_grad():
        result = functional.interpolate(
            units,
            size=size if scales is None else None,
            scale_factor=scales,
            mode=options["mode"],
            align_corners=options["align_corners"] if smooth else None,
            antialias=bool(options["antialias"]),
        )
    one = result[:, 0, :, 0] if axis == 0 else result[:, 0, 0]
    return one.T


def averaged(
    options: Mapping[str, Any], axis: int, before: int, after: int
) -> tuple[Cells, Cells, Cells]:
    """Return what the cells of an average pool are the mean of, along one axis.

    Parameters
    ----------
    before, after : cells of the input and of the output.

    Returns
    -------
    first and end (exclusive) of each window, which may lie in the padding, and what its
    sum is divided by; the divisors of the two axes are multiplied.
    """
    kernel, padding = pair(options["kernel_size"])[axis], pair(options["padding"])[axis]
    low = np.arange(after) * strides(options)[axis] - padding
    high = np.minimum(low + kernel, before + padding)
    if options.get("divisor_override"):
        return low, high, np.full(after, options["divisor_override"] if axis == 0 else 1)
    if options.get("count_include_pad", True):
        return low, high, high - low
    return low, high, np.minimum(high, before) - np.maximum(low, 0)


def pair(value: Any) -> tuple[int, int]:
    """Return a number twice, or two as they are: of rows, and of columns."""
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[-1]))


def strides(options: Mapping[str, Any]) -> tuple[int, int]:
    """Return the stride of windows, which is their size unless given."""
    given = options["stride"]
    return pair(options["kernel_size"] if given in (None, (), []) else given)


def padded(padding: Any) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return what a padding by itself adds above and below, and left and right."""
    if isinstance(padding, int):
        padding = (padding,) * 4
    left, right, top, bottom = (*padding, 0, 0)[:4]
    return (top, bottom), (left, right)


def padding_before(padding: Any, axis: int, reach: int) -> int:
    """Return the cells of padding before the first; ``same`` puts the odd one behind."""
    if padding == "same":
        return reach // 2
    return 0 if padding == "valid" else pair(padding)[axis]
