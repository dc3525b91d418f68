"""Describe a network's layers: what `layers.json` says."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
from torch import fx, nn

from convatlas.errors import ModelError
from convatlas.files import write_json
from convatlas.graph.backward import why_not
from convatlas.graph.geometry import Axis, Field, fields
from convatlas.graph.operations import POINTWISE, TRANSPARENT
from convatlas.graph.tracing import Graph, evaluating, trace
from convatlas.layers import WEIGHTED, Layer

_KEPT = 4  # graphs of which the layers are remembered: asked for at every batch
_POOLS = (
    "maxpool",
    "avgpool",
    "lppool",
    "adaptive_avgpool",
    "adaptive_maxpool",
    "mean",
    "sum",
    "amax",
)
_KINDS = {
    "adaptive_avgpool": "avgpool",
    "adaptive_maxpool": "maxpool",
    "mean": "avgpool",
    "sum": "avgpool",
}


def describe_network(
    model: nn.Module, size: tuple[int, int, int], output: str | os.PathLike[str]
) -> None:
    """Trace a network for images of `size` (C,H,W) and write its `layers.json`."""
    write_json(output, [layer.as_json() for layer in layers_of(trace(model, size))])


@lru_cache(_KEPT)
def layer_nodes(graph: Graph) -> dict[str, fx.Node]:
    """Return the nodes worth naming as layers, by name, in execution order.

    These are the operations whose output is a stack of feature maps (N,U,H,W) or a
    vector (N,U) and that change values: not dropout, reshapes or slices.
    """
    seen = fields(graph)
    return {
        graph.names[node]: node
        for node in graph.nodes
        if node in seen
        and node in graph.names
        and (graph.operations[node].kind not in TRANSPARENT or _flattens_scores(graph, node))
        and _is_layer(graph.values[node], seen[node])
    }


def _flattens_scores(graph: Graph, node: fx.Node) -> bool:
    """Whether a node lays the cells of maps side by side as the network's class scores."""
    if graph.operations[node].kind != "reshape" or not graph.is_output(node):
        return False
    before = graph.values[node.all_input_nodes[0]]
    return len(before) == 4 and before[2] * before[3] > 1


def _is_layer(value: Any, field: Field) -> bool:
    if not isinstance(value, torch.Size):
        return False
    return field.is_map(value) or len(value) == 2


@lru_cache(_KEPT)
def layers_of(graph: Graph) -> list[Layer]:
    """Return the layers of a traced classifier, in execution order, with their roles.

    Raises
    ------
    ModelError
        if the network's output isn't one score per class.
    """
    nodes = layer_nodes(graph)
    names = {node: name for name, node in nodes.items()}
    layers = all_layers(graph)
    result = _nearest(graph.output, names)
    scores = graph.values[graph.output]
    if not isinstance(scores, torch.Size) or len(scores) != 2 or len(result) != 1:
        shape = scores[1:]
        raise ModelError(
            f"the network's output has the shape (N, {', '.join(map(str, shape))}), not "
            "(N, classes). Only classifiers can be looked at; wrap the network so that it "
            "returns class scores."
        )
    code = _code(graph, nodes[result[0]], names)
    ends = _stage_ends(layers, code)
    return [
        replace(
            layer,
            output=layer.name == result[0],
            code=layer.name == code,
            stage_end=layer.name in ends,
        )
        for layer in layers
    ]


@lru_cache(_KEPT)
def all_layers(graph: Graph) -> list[Layer]:
    """Return the layers of any traced network, in execution order, without their roles."""
    seen = fields(graph)
    nodes = layer_nodes(graph)
    names = {node: name for name, node in nodes.items()}
    return [_layer(graph, name, node, seen[node], names) for name, node in nodes.items()]


def _layer(
    graph: Graph, name: str, node: fx.Node, field: Field, names: dict[fx.Node, str]
) -> Layer:
    shape = tuple(graph.values[node][1:])
    kind = graph.operations[node].kind
    axes = (field.y, field.x)
    regular = all(_is_regular(axis) for axis in axes)
    feeding = [found for source in node.all_input_nodes for found in _nearest(source, names)]
    return Layer(
        name=name,
        kind=_KINDS.get(kind, kind),
        units=shape[0],
        shape=shape,
        size=_both(int((axis.last - axis.first).max()) + 1 for axis in axes),
        stride=_both(_stride(axis) for axis in axes),
        start=_both(int(axis.first[0]) for axis in axes),
        exact=field.y.exact_at_centre and field.x.exact_at_centre,
        intervals=None if regular else (_intervals(field.y), _intervals(field.x)),
        inputs=tuple(dict.fromkeys(feeding)),
        deconvnet=why_not(graph, node, "deconvnet"),
        weight=_weight(graph, node),
        groups=graph.operations[node].options["groups"] if kind == "conv" else 1,
    )


def _weight(graph: Graph, node: fx.Node) -> str | None:
    """Return the name of a layer's weights, if they are kept as such and not as factors."""
    if graph.operations[node].kind not in WEIGHTED or node.op != "call_module":
        return None
    own = graph.module.get_submodule(str(node.target)).named_parameters(recurse=False)
    return f"{node.target}.weight" if "weight" in dict(own) else None


def _both(values: Any) -> tuple[int, int]:
    y, x = values
    return y, x


def _is_regular(axis: Axis) -> bool:
    if len(axis) == 1:
        return True
    steps = axis.first[1:] - axis.first[:-1]
    widths = axis.last - axis.first
    return bool((steps == steps[0]).all() and (widths == widths[0]).all())


def _stride(axis: Axis) -> int:
    if not _is_regular(axis):
        return max(round(axis.step), 1) if axis.step else 0
    return int(axis.first[1] - axis.first[0]) if len(axis) > 1 else round(axis.step)


def _intervals(axis: Axis) -> list[list[int]]:
    return [[int(a), int(b)] for a, b in zip(axis.first, axis.last, strict=True)]


def _nearest(node: fx.Node, names: dict[fx.Node, str]) -> list[str]:
    """Return the layers that feed a node, looking through what isn't a layer."""
    found: dict[str, None] = {}
    visited: set[fx.Node] = set()
    stack = [node]
    while stack:
        one = stack.pop()
        if one in visited:
            continue
        visited.add(one)
        if one in names:
            found[names[one]] = None
        else:
            stack.extend(reversed(one.all_input_nodes))
    return list(found)


def _code(graph: Graph, output: fx.Node, names: dict[fx.Node, str]) -> str:
    """Return the layer that feeds the last one with weights: the classifier."""
    node = output
    while graph.operations[node].kind not in WEIGHTED:
        sources = [s for s in node.all_input_nodes if s.op != "get_attr"]
        if not sources:
            return names[output]
        node = sources[0]
    feeding = [name for source in node.all_input_nodes for name in _nearest(source, names)]
    return feeding[0] if feeding else names[output]


def _stage_ends(layers: Sequence[Layer], code: str) -> set[str]:
    """Return a layer for each resolution: the last of its blocks, or simply the last.

    Blocks end where branches join (and in the BatchNorm or ReLU right behind); what
    follows at that resolution belongs to the next block already, as in MobileNet.
    Counted are the layers from the first with weights to the code. Pooling begins a
    stage rather than ending one, so a stage of pools alone is none.
    """
    begin = next((i for i, layer in enumerate(layers) if layer.kind in WEIGHTED), 0)
    end = next(i for i, layer in enumerate(layers) if layer.name == code)
    stages: dict[tuple[int, ...], list[Layer]] = {}
    for layer in layers[begin : end + 1]:
        if layer.is_map and layer.kind not in _POOLS:
            stages.setdefault(layer.shape[1:], []).append(layer)
    ends = {stage[-1].name for stage in list(stages.values())[-1:]}
    ends |= {_block_end(stage).name for stage in list(stages.values())[:-1]}
    last = layers[end]
    if not last.is_map and last.kind not in _POOLS:
        ends.add(last.name)
    return ends


def _block_end(stage: Sequence[Layer]) -> Layer:
    joins = [layer for layer in stage if layer.kind in ("add", "cat")]
    if not joins:
        return stage[-1]
    end = joins[-1]
    for layer in stage:
        if layer.inputs == (end.name,) and layer.kind in POINTWISE:
            end = layer
    return end


def receptive_fields(model: nn.Module, size: tuple[int, int, int]) -> dict[str, Layer]:
    """Return the receptive field of every layer of a network, by the layer's name.

    Parameters
    ----------
    model : any network that fx can trace and that takes (N,C,H,W); a classifier, or not.
    size : (C,H,W) of the images.

    Returns
    -------
    dict
        of `Layer`, whose `size`, `stride` and `start` are [y, x] in input pixels, and
        whose `exact` tells whether the field is exact or an upper bound.

    Raises
    ------
    ModelError
        if the network can't be traced, or fails on an image of that size.

    Examples
    --------
    >>> from torchvision.models import resnet18
    >>> field = receptive_fields(resnet18(), (3, 224, 224))["layer4.1.add"]
    >>> field.size, field.stride, field.start, field.exact
    ((435, 435), (32, 32), (-217, -217), True)
    """
    if not isinstance(model, nn.Module):
        raise ModelError(f"a network is a torch.nn.Module; this is a {type(model).__name__}.")
    if len(size) != 3:
        raise ModelError(f"the size is {tuple(size)}; it must be channels, height and width.")
    with evaluating(model):
        return {layer.name: layer for layer in all_layers(trace(model, size))}
