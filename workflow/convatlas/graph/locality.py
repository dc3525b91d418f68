"""Which operations give a part of their output from a part of their input.

Those that work cell by cell, or on windows, do. What looks at all of a map, or in a
way that isn't known, doesn't, and `why_not_local` says why.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import fx

from convatlas.graph.geometry import fields, pair, strides
from convatlas.graph.operations import POINTWISE
from convatlas.graph.tracing import Graph

MAPS = (2, 3)  # places of rows and columns in (N,C,H,W)

ALL_OF_A_MAP = "it looks at all of a map"
UNKNOWN = "what it looks at isn't known"

_NO_ROWS = "it has no rows and columns"
_BY_CHANNEL = ("batchnorm", "prelu", "localnorm")  # what they do depends on the second axis
JOINS = ("add", "mul", "div", "maximum", "cat")


def why_not_local(graph: Graph, node: fx.Node) -> str | None:
    """Return why a part of a node's input doesn't give a part of its output, or None if it does."""
    kind = graph.operations[node].kind
    if kind not in JOINS and not is_plain(graph, node):
        return UNKNOWN
    return _CHECKS.get(kind, _by_itself)(graph, node)


def is_plain(graph: Graph, node: fx.Node) -> bool:
    """Whether a node is what its kind says: of one input, and without anybody's hooks."""
    if len(sources_of(graph, node)) != 1:
        return False
    if node.op != "call_module":
        return True
    module = graph.module.get_submodule(str(node.target))
    return not (module._forward_hooks or module._forward_pre_hooks)


def sources_of(graph: Graph, node: fx.Node) -> list[fx.Node]:
    """Return the inputs of a node that depend on the image."""
    seen = fields(graph)
    return [source for source in node.all_input_nodes if source in seen]


def shape_of(graph: Graph, node: fx.Node) -> torch.Size:
    """Return the shape of a node's output, of the first if there are several."""
    value = graph.values[node]
    return value if isinstance(value, torch.Size) else value[0]


def cells_of(graph: Graph, node: fx.Node) -> tuple[int, int]:
    """Return the rows and columns of a node's maps; one each for what has none."""
    places = fields(graph)[node].places
    shape = shape_of(graph, node)
    return (shape[places[0]], shape[places[1]]) if places else (1, 1)


def why_not_everywhere(graph: Graph, node: fx.Node) -> str | None:
    """Return why an operation isn't the same in every cell, or None if it is.

    It isn't if a parameter has rows and columns of its own, as an embedding of positions.
    """
    seen = fields(graph)
    rank = len(shape_of(graph, node))
    for source in node.all_input_nodes:
        shape = graph.values.get(source)
        if source in seen or not isinstance(shape, torch.Size):
            continue
        for place in seen[node].places or ():
            at = place - rank + len(shape)  # aligned from the right
            if at >= 0 and shape[at] != 1:
                return "a parameter has rows and columns of its own"
    return None


def fits(graph: Graph, node: fx.Node) -> bool:
    """Whether all windows of a pool lie within its input's map."""
    o = graph.operations[node].options
    if any(isinstance(value, fx.Node) for value in o.values()) or any(pair(o.get("padding", 0))):
        return False
    (source,) = sources_of(graph, node)
    kernel, stride = pair(o["kernel_size"]), strides(o)
    before, after = shape_of(graph, source)[2:], shape_of(graph, node)[2:]
    return all(
        (n - 1) * s + k <= size for n, s, k, size in zip(after, stride, kernel, before, strict=True)
    )


def _by_itself(graph: Graph, node: fx.Node) -> str | None:
    """Check an operation that changes each value, or each cell, by itself."""
    (source,) = sources_of(graph, node)
    kind, seen = graph.operations[node].kind, fields(graph)
    places = seen[node].places
    if places is None:
        return _NO_ROWS
    if kind in ("softmax", "log_softmax", "linear", "layernorm"):
        return None if seen[node] is seen[source] else ALL_OF_A_MAP
    if kind not in POINTWISE:
        return UNKNOWN
    if kind in _BY_CHANNEL:
        return "its channels are rows" if 1 in places else None
    return why_not_everywhere(graph, node)


def _on_maps(graph: Graph, node: fx.Node) -> str | None:
    (source,) = sources_of(graph, node)
    seen = fields(graph)
    places = [seen[node].places, seen[source].places]
    return None if places == [MAPS, MAPS] else "its input isn't a stack of maps"


def _lppool(graph: Graph, node: fx.Node) -> str | None:
    reason = _on_maps(graph, node)
    return reason or (None if fits(graph, node) else UNKNOWN)  # by what it divides a cut window


def _maxpool(graph: Graph, node: fx.Node) -> str | None:
    if isinstance(graph.values[node], list):
        return "it returns where the maxima are"
    return _on_maps(graph, node)


def _pad(graph: Graph, node: fx.Node) -> str | None:
    padding = graph.operations[node].options["padding"]
    if not isinstance(padding, int) and len(padding) > 4:
        return "it pads more than rows and columns"
    return _on_maps(graph, node)


def _join(graph: Graph, node: fx.Node) -> str | None:
    seen, sources = fields(graph), sources_of(graph, node)
    places = seen[node].places
    if places is None or any(seen[source].places != places for source in sources):
        return "one of its inputs has no rows and columns"
    sizes = {cells_of(graph, source) for source in sources}
    if sizes != {cells_of(graph, node)}:
        return "its inputs' sizes differ"
    return why_not_everywhere(graph, node)


def _cat(graph: Graph, node: fx.Node) -> str | None:
    if fields(graph)[node].places != MAPS or node.kwargs.get("out") is not None:
        return "it isn't over channels"
    return _join(graph, node)


def _all(graph: Graph, node: fx.Node) -> str | None:
    return ALL_OF_A_MAP


def _reshape(graph: Graph, node: fx.Node) -> str | None:
    (source,) = sources_of(graph, node)
    seen = fields(graph)
    kept = seen[source].places is not None and seen[node].places is not None
    if not kept or cells_of(graph, source) != cells_of(graph, node):
        return ALL_OF_A_MAP
    before, after = shape_of(graph, source), shape_of(graph, node)
    return None if before[0] == after[0] else "it mixes the images of a batch"


def _move(graph: Graph, node: fx.Node) -> str | None:
    (source,) = sources_of(graph, node)
    seen = fields(graph)
    places = seen[node].places
    if places is None or seen[source].places is None:
        return _NO_ROWS
    given = torch.empty(shape_of(graph, source), device="meta")
    arguments = fx.node.map_arg(
        (node.args, node.kwargs), lambda n: given if n is source else graph.values[n]
    )
    moved = getattr(fx.Interpreter(graph.module), node.op)(node.target, *arguments)
    if 0 in places or moved.stride()[0] != given.stride()[0]:
        return "it moves the axis of the batch"
    return None


def _pieces(graph: Graph, node: fx.Node) -> str | None:
    (source,) = sources_of(graph, node)
    seen = fields(graph)
    if seen[node] is not seen[source]:
        return "it cuts rows or columns"
    apart = all(graph.operations[user].kind == "item" for user in node.users)
    return None if apart else "its pieces go somewhere together"


def _item(graph: Graph, node: fx.Node) -> str | None:
    (source,) = sources_of(graph, node)
    seen = fields(graph)
    places = seen[source].places
    if places is None or seen[node].places is None:
        return _NO_ROWS
    if isinstance(graph.values[source], list):
        return None
    index = graph.operations[node].options["index"]
    index = index if isinstance(index, tuple) else (index,)
    if not all(isinstance(i, slice) for i in index) or index[0] != slice(None):
        return "it cuts more than channels"
    if any(p < len(index) and index[p] != slice(None) for p in places):
        return "it cuts rows or columns"
    return None


_CHECKS: dict[str, Callable[[Graph, fx.Node], str | None]] = {
    **dict.fromkeys(("conv", "conv_transpose", "avgpool", "interpolate"), _on_maps),
    "adaptive_avgpool": _on_maps,
    "lppool": _lppool,
    "maxpool": _maxpool,
    "pad": _pad,
    **dict.fromkeys(("add", "mul", "div", "maximum"), _join),
    "cat": _cat,
    **dict.fromkeys(("mean", "sum"), _all),
    "reshape": _reshape,
    **dict.fromkeys(("permute", "transpose"), _move),
    "chunk": _pieces,
    "item": _item,
}
