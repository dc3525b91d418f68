"""How each operation runs in a batch of positions: on tiles where it can, or on whole maps.

A `Step` is one node of the graph. On tiles it gives the changed part of its output from
the changed parts of its inputs and the clean maps around them; on whole maps it does
what the network does. What a step can't do on tiles at all is said by `why_whole`.

==================  ==========================================================
windows             convolution, pooling: a window around each tile is read.
transposed          convolution: the cells that reach the tile, cut to it afterwards.
separable           interpolation, adaptive and uneven average pooling: the rows and
                    columns of the operation's two matrices that make the tile.
joins               addition, concatenation and the like: every input's tile is
                    widened to the one of the output.
sums                over all of a map: the clean sum with the tile's cells exchanged.
cell by cell        activations, BatchNorm, linear layers over channels, and moves of
                    axes: the operation itself, on tiles.
==================  ==========================================================
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn
from torch.nn import functional

from convatlas.graph.geometry import averaged, interpolation, padded, padding_before, pair, strides
from convatlas.graph.locality import (
    ALL_OF_A_MAP,
    JOINS,
    MAPS,
    UNKNOWN,
    fits,
    is_plain,
    why_not_local,
)
from convatlas.occlusion.spans import Cells, Span
from convatlas.occlusion.tiles import CONSTANT, LOWEST, OUTSIDE, ZERO, Tile

if TYPE_CHECKING:
    from convatlas.occlusion.incremental import Batch
    from convatlas.occlusion.network import Network


class Step:
    """One operation, run as the network does; on tiles where each cell is by itself.

    Attributes
    ----------
    node, sources : the operation, and its inputs that depend on the image.
    reads_windows : whether it looks past the border of its inputs' tiles.
    """

    reads_windows = False

    def __init__(self, network: Network, node: fx.Node) -> None:
        self.node = node
        self.network = network
        self.sources = network.sources(node)
        self.places = network.fields[node].places
        self.kind = network.kind(node)
        self.options = network.constant(dict(network.graph.operations[node].options))
        self.prepare()

    def prepare(self) -> None:
        """Make ready what every batch needs."""

    @property
    def work(self) -> float:
        """Multiply-accumulates for one cell of the output."""
        return 0.0

    def why_whole(self) -> str | None:
        """Return why this can't run on tiles, or None if it can."""
        return why_not_local(self.network.graph, self.node)

    def tile(self, batch: Batch) -> Any:
        """Return the tile of the output, or its value."""
        return self._call({s: batch.tile(s).value for s in self.sources}, batch)

    def whole(self, batch: Batch) -> Any:
        """Return the whole output."""
        return self._call({s: batch.whole(s) for s in self.sources}, batch)

    def _call(self, values: dict[fx.Node, Any], batch: Batch) -> Any:
        overwrite = not batch.is_clean and self.network.may_overwrite(self.node)
        return self.network.call(self.node, values, len(batch), overwrite)


class Rectifier(Step):
    """ReLU and ReLU6: in place, or right to where an operation behind wants the result."""

    def prepare(self) -> None:
        self._high = {"relu": None, "relu6": 6.0}[self.kind]
        self._overwrite = self.network.may_overwrite(self.node)

    def _rectify(self, value: Tensor, out: Tensor | None) -> Tensor:
        if self._high is None:
            return torch.clamp_min(value, 0, out=out)
        return torch.clamp(value, 0, self._high, out=out)

    def tile(self, batch: Batch) -> Any:
        value = batch.tile(self.sources[0]).value
        place = batch.place(self.node)
        if place is None:
            return self._rectify(value, value if self._overwrite else None)
        self._rectify(value, place.value)
        return place

    def whole(self, batch: Batch) -> Any:
        value = batch.whole(self.sources[0])
        overwrite = self._overwrite and not batch.is_clean
        return self._rectify(value, value if overwrite else None)


class Linear(Step):
    """A fully connected layer, by oneDNN on the CPU: a fifth faster than by BLAS."""

    def prepare(self) -> None:
        weight, _ = self.network.parameters(self.node)
        self._by_onednn = (
            weight.device.type == "cpu"
            and weight.dtype == torch.float32
            and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
            and hasattr(torch.ops.mkldnn, "_linear_pointwise")  # what torch.compile uses
        )

    def whole(self, batch: Batch) -> Any:
        value = batch.whole(self.sources[0])
        if not self._by_onednn or value.dim() != 2:
            return self._call({self.sources[0]: value}, batch)
        weight, bias = self.network.parameters(self.node)
        return torch.ops.mkldnn._linear_pointwise(value, weight, bias, "none", [], "")


class OnMaps(Step):
    """One operation on stacks of maps, (N,C,H,W), that reads windows on them."""

    reads_windows = True


class Window(OnMaps, ABC):
    """A convolution or a pool: reads a window around each tile, padding included."""

    padding_row = ZERO

    @property
    def reads_windows(self) -> bool:  # type: ignore[override]
        return not self.is_pointwise

    def prepare(self) -> None:
        o = self.options
        self.kernel = pair(self._kernel())
        self.stride = strides({**o, "kernel_size": self.kernel})
        self.dilation = pair(o.get("dilation", 1))
        self.reach = tuple((k - 1) * d for k, d in zip(self.kernel, self.dilation, strict=True))
        self.padding = tuple(
            padding_before(o.get("padding", 0), axis, reach)
            for axis, reach in enumerate(self.reach)
        )
        self.mode = o.get("padding_mode", "zeros")

    def _kernel(self) -> Any:
        return self.options["kernel_size"]

    def tile(self, batch: Batch) -> Any:
        source, spans = self.sources[0], batch.spans(self.node)
        if self.is_pointwise:
            return self._slide(batch.widened(self.node, source))
        size = self.network.size(source)
        cells = [self._cells(spans[i], i, size[i]) for i in range(2)]
        return self._slide(batch.window(self.node, source, cells, self.padding_row))

    def _cells(self, span: Span, axis: int, size: int) -> Cells:
        """Return the input's cells along one axis that an output's span looks at."""
        length = (span.length - 1) * self.stride[axis] + self.reach[axis] + 1
        first = span.start * self.stride[axis] - self.padding[axis]
        return padded_cells(first[:, None] + np.arange(length), size, self.mode)

    @property
    def is_pointwise(self) -> bool:
        """Whether a window is the tile itself."""
        return self.reach == (0, 0) and self.stride == (1, 1) and self.padding == (0, 0)

    @abstractmethod
    def _slide(self, window: Tensor) -> Tensor:
        """Run the operation on windows that hold their padding."""


class Convolution(Window):
    """Convolution, with the BatchNorm behind it folded in where nothing else sees between."""

    def prepare(self) -> None:
        weight, self.bias = self.network.parameters(self.node)
        self.weight = weight.contiguous(memory_format=torch.channels_last)
        super().prepare()
        self.groups = self.options["groups"]

    def _kernel(self) -> Any:
        return tuple(self.weight.shape[2:])

    def _slide(self, window: Tensor) -> Tensor:
        return functional.conv2d(
            window, self.weight, self.bias, self.stride, 0, self.dilation, self.groups
        )

    def whole(self, batch: Batch) -> Any:
        value, padding = batch.whole(self.sources[0]), self.options["padding"]
        if self.mode != "zeros":
            (top, left), (bottom, right) = self.padding, self.padding
            if padding == "same":
                bottom, right = self.reach[0] - top, self.reach[1] - left
            sides = (left, right, top, bottom)
            value, padding = functional.pad(value, sides, mode=self.mode), 0
        return functional.conv2d(
            value, self.weight, self.bias, self.stride, padding, self.dilation, self.groups
        )

    @property
    def work(self) -> float:
        return float(self.weight.numel())


class MaxPool(Window):
    """Max-pooling; what lies outside is minus infinity, a last window in `ceil_mode` too."""

    padding_row = LOWEST

    def _slide(self, window: Tensor) -> Tensor:
        return functional.max_pool2d(window, self.kernel, self.stride, 0, self.dilation)


class EvenPool(Window):
    """Average or power pooling whose windows all lie within the map."""

    def _slide(self, window: Tensor) -> Tensor:
        if self.kind == "lppool":
            power = self.options["norm_type"]
            return functional.lp_pool2d(window, power, self.kernel, self.stride)
        return functional.avg_pool2d(
            window, self.kernel, self.stride, divisor_override=self.options.get("divisor_override")
        )


class Transposed(OnMaps):
    """Transposed convolution: the input's cells that reach a tile, cut to it afterwards."""

    def prepare(self) -> None:
        self.weight, self.bias = self.network.parameters(self.node)
        o = self.options
        self.stride, self.padding = pair(o["stride"]), pair(o["padding"])
        self.dilation = pair(o["dilation"])
        self.reach = tuple(
            (k - 1) * d for k, d in zip(self.weight.shape[2:], self.dilation, strict=True)
        )

    def tile(self, batch: Batch) -> Any:
        source, spans = self.sources[0], batch.spans(self.node)
        cells, cuts = [], []
        for i in range(2):
            first = (spans[i].start + self.padding[i] - self.reach[i]) // self.stride[i]
            last = (spans[i].start + spans[i].length - 1 + self.padding[i]) // self.stride[i]
            length = int((last - first).max()) + 1
            inputs = first[:, None] + np.arange(length)
            cells.append(padded_cells(inputs, self.network.size(source)[i], "zeros"))
            cuts.append(spans[i].cells - (first * self.stride[i] - self.padding[i])[:, None])
        window = batch.window(self.node, source, cells, ZERO)
        groups = self.options["groups"]
        wide = functional.conv_transpose2d(
            window, self.weight, self.bias, self.stride, 0, 0, groups, self.dilation
        )
        over = [max(int(cut.max()) + 1 - n, 0) for cut, n in zip(cuts, wide.shape[2:], strict=True)]
        if any(over):  # beyond the last input's reach there is the bias alone
            wide = functional.pad(wide, (0, over[1], 0, over[0]))
            fill = 0 if self.bias is None else self.bias[:, None, None]
            if over[0]:
                wide[:, :, -over[0] :] = fill
            if over[1]:
                wide[:, :, :, -over[1] :] = fill
        return batch.crop(self.node, wide, cuts)

    @property
    def work(self) -> float:
        return float(self.weight.numel()) / (self.stride[0] * self.stride[1])


class Separable(OnMaps):
    """An operation that is one matrix over the rows and one over the columns of a map."""

    def prepare(self) -> None:
        self._matrices: tuple[NDArray[np.floating], NDArray[np.floating]] | None = None
        # As precise as the operation itself has its factors.
        self._dtype = torch.promote_types(self.network.dtype, torch.float32)

    def _matrix(self, axis: int) -> Tensor:
        """Return the matrix of an axis, (cells of the output, cells of the input)."""
        before = self.network.shape(self.sources[0])[2 + axis]
        after = self.network.shape(self.node)[2 + axis]
        o = self.options
        if self.kind == "interpolate" and o["mode"] != "area":
            return interpolation(o, axis, before, after, self._dtype)
        matrix = torch.zeros(after, before, dtype=self._dtype)
        at = np.arange(after)
        if self.kind == "avgpool":
            low, high, divisor = averaged(o, axis, before, after)
        else:  # adaptive pooling, and interpolation of the mode "area", which is the same
            low, high = at * before // after, -(-(at + 1) * before // after)
            divisor = high - low
        for cell in at:
            matrix[cell, max(low[cell], 0) : min(high[cell], before)] = 1 / divisor[cell]
        return matrix

    def tile(self, batch: Batch) -> Any:
        source, spans = self.sources[0], batch.spans(self.node)
        if self._matrices is None:
            self._matrices = (self._matrix(0).numpy(), self._matrix(1).numpy())
        cells, parts = [], []
        for matrix, span in zip(self._matrices, spans, strict=True):
            used = (matrix != 0)[span.cells].any(1)  # (B, input's cells)
            low, high = used.argmax(1), used.shape[1] - used[:, ::-1].argmax(1)
            inputs = Span.enclosing(low, np.where(used.any(1), high, low + 1), used.shape[1])
            cells.append(inputs.cells)
            parts.append(matrix[span.cells[:, :, None], inputs.cells[:, None]])
        window = batch.window(self.node, source, cells, ZERO)
        rows, columns = (torch.from_numpy(part).to(window) for part in parts)
        values = window.permute(0, 2, 3, 1)
        values = values.reshape(len(rows), len(columns), *values.shape[1:])
        values = torch.einsum("aij,abjwc->abiwc", rows, values)
        values = torch.einsum("bvw,abiwc->abivc", columns, values)
        return values.flatten(0, 1).permute(0, 3, 1, 2)


class Same(Step):
    """An operation that changes nothing here, as adaptive pooling to the size that is there."""

    def why_whole(self) -> str | None:
        return None

    def tile(self, batch: Batch) -> Any:
        return batch.tile(self.sources[0])

    def whole(self, batch: Batch) -> Any:
        return batch.whole(self.sources[0])


class Opaque(Step):
    """An operation of several inputs, or a hooked one, of which nothing more is known."""

    def why_whole(self) -> str | None:
        return UNKNOWN


class Pad(OnMaps):
    """Padding by itself: the window that the tile is."""

    def prepare(self) -> None:
        (top, _), (left, _) = padded(self.options["padding"])
        self._before = (top, left)
        self._mode = self.options["mode"]

    @property
    def constant(self) -> float:
        """What is padded with."""
        return float(self.options.get("value") or 0.0)

    def why_whole(self) -> str | None:
        reason = super().why_whole()
        if reason:
            return reason
        constants = self.network.padded_with(self.sources[0])
        return None if len(constants) <= 1 else "its input is padded with several constants"

    def tile(self, batch: Batch) -> Any:
        source, spans = self.sources[0], batch.spans(self.node)
        cells = [
            padded_cells(spans[i].cells - self._before[i], self.network.size(source)[i], self._mode)
            for i in range(2)
        ]
        return batch.window(self.node, source, cells, CONSTANT if self.constant else ZERO)


class Join(Step):
    """An operation on maps of one size, cell by cell: a sum, a product."""

    def tile(self, batch: Batch) -> Any:
        return self._call({s: batch.widened(self.node, s) for s in self.sources}, batch)


class Concatenation(Join):
    """A concatenation of channels; what is made for it alone is made in its place."""

    def prepare(self) -> None:
        tensors = self.node.args[0] if self.node.args else self.node.kwargs["tensors"]
        given = list(tensors) if isinstance(tensors, list | tuple) else []
        counts = [self.network.shape(source)[1] for source in given if source in self.sources]
        ends = np.cumsum([0, *counts])
        self._simple = bool(given) and len(set(given)) == len(counts) == len(given)
        self.channels = {
            source: slice(int(a), int(b))
            for source, a, b in zip(given, ends[:-1], ends[1:], strict=False)
        }

    def tile(self, batch: Batch) -> Any:
        if not self._simple:  # one twice, or with a parameter
            return super().tile(batch)
        made = batch.begin(self.node)
        for source, channels in self.channels.items():
            if not batch.is_placed(source):
                made.value[:, channels].copy_(batch.widened(self.node, source))
        return made


class Sum(Step):
    """A sum or mean over all of a map, with the cells of the tile exchanged in the clean one."""

    def why_whole(self) -> str | None:
        return ALL_OF_A_MAP

    def whole(self, batch: Batch) -> Any:
        source = self.sources[0]
        value = batch.values[source]
        places = self.network.fields[source].places
        if not isinstance(value, Tile) or value.value.dim() != 4 or not self._is_over(places):
            return super().whole(batch)
        total = batch.sums(source)
        if self.kind != "sum":
            total = total / math.prod(self.network.size(source))
        shape = (len(total), *self.network.shape(self.node)[1:])
        return total.to(value.value.dtype).reshape(shape)

    def _is_over(self, places: tuple[int, int] | None) -> bool:
        """Whether what is summed is exactly the rows and the columns."""
        if places is None:
            return False
        if self.kind == "adaptive_avgpool":
            return places == MAPS
        if set(self.options) - {"dim", "keepdim"}:
            return False
        dims = self.options["dim"]
        dims = (dims,) if isinstance(dims, int) else dims
        return dims is not None and {d % 4 for d in dims} == set(places)


class Reshape(Step):
    """Another shape for the same values; on tiles, the rows and columns stay the last axes."""

    def tile(self, batch: Batch) -> Any:
        value = batch.tile(self.sources[0]).value
        shape = [len(value), *self.network.shape(self.node)[1:]]
        for place, span in zip(self.network.places(self.node), batch.spans(self.node), strict=True):
            shape[place] = span.length
        return value.reshape(shape)


def padded_cells(cells: Cells, size: int, mode: str) -> Cells:
    """Return which cell of a map a cell beyond its border repeats; `OUTSIDE` if none."""
    if mode == "reflect":
        return np.asarray(size - 1 - np.abs(size - 1 - np.abs(cells)))
    if mode == "replicate":
        return np.clip(cells, 0, size - 1)
    if mode == "circular":
        return cells % size
    return np.asarray(np.where((cells >= 0) & (cells < size), cells, OUTSIDE))


def fold(weight: Tensor, bias: Tensor | None, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Return a convolution's weight and bias with a BatchNorm behind it folded in.

    In double precision, so that the folding itself adds nothing to the rounding.
    """
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None
    assert variance is not None
    gamma = norm.weight.double() if norm.affine else torch.ones_like(mean, dtype=torch.float64)
    beta = norm.bias.double() if norm.affine else torch.zeros_like(mean, dtype=torch.float64)
    scale = gamma / torch.sqrt(variance.double() + norm.eps)
    start = mean.double() if bias is None else mean.double() - bias.double()
    return weight.double() * scale[:, None, None, None], beta - start * scale


_STEPS: Mapping[str, type[Step]] = {
    "conv": Convolution,
    "conv_transpose": Transposed,
    "linear": Linear,
    "maxpool": MaxPool,
    "avgpool": Separable,
    "adaptive_avgpool": Separable,
    "interpolate": Separable,
    "pad": Pad,
    "relu": Rectifier,
    "relu6": Rectifier,
    "add": Join,
    "mul": Join,
    "div": Join,
    "maximum": Join,
    "cat": Concatenation,
    "mean": Sum,
    "sum": Sum,
    "reshape": Reshape,
}


def step_for(network: Network, node: fx.Node) -> Step:
    """Return the step of a node."""
    kind = network.kind(node)
    step = _STEPS.get(kind, Step)
    if kind not in JOINS and not is_plain(network.graph, node):
        step = Opaque
    elif kind in ("avgpool", "lppool") and fits(network.graph, node):
        step = EvenPool
    elif kind == "adaptive_avgpool" and network.shape(node)[2:] == (1, 1):
        step = Sum
    elif kind == "adaptive_avgpool" and network.shape(node) == network.shape(
        network.sources(node)[0]
    ):
        step = Same
    return step(network, node)
