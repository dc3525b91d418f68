"""Occlusion sweeps: the probability of every class for every position of an occluder.

Zeiler & Fergus (2014), section 4.2 and figure 7.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from convatlas.errors import LayerError, MethodError
from convatlas.graph.describe import layers_of
from convatlas.graph.tracing import Graph, evaluating, trace
from convatlas.job import log, progress
from convatlas.layers import Layer
from convatlas.models.load import LoadedModel, load_model
from convatlas.occlusion.engine import plain
from convatlas.occlusion.positions import Positions
from convatlas.store import Exhibit, Images, Occlusion, Recipe, read, write

Path = str | os.PathLike[str]
Pair = int | Sequence[int]

GREY = 128  # the grey of Zeiler & Fergus's occluder, in 0..255


@dataclass(frozen=True)
class Sweep:
    """What the network says under every position of the occluder.

    Attributes
    ----------
    row : (R,) top of the occluder, column : (C,) its left, in pixels.
    probability : (R,C,K) float32, of every class.
    clean_probability : (K,) float32, of the image as it is.
    map_sum : (R,C) float32, sum over space of one unit's feature map; None unless a
        layer was asked for.
    clean_map_sum : that sum on the image as it is.
    unit, value, location : the unit: the layer's strongest on the image as it is, its
        largest activation there, and that one's row and column in the map.
    """

    row: NDArray[np.int64]
    column: NDArray[np.int64]
    probability: NDArray[np.float32]
    clean_probability: NDArray[np.float32]
    map_sum: NDArray[np.float32] | None = None
    clean_map_sum: float = 0.0
    unit: int = -1
    value: float = 0.0
    location: tuple[int, int] = (0, 0)


def sweep(
    model: nn.Module | Graph,
    image: Tensor,
    size: Pair = 16,
    stride: Pair = 8,
    fill: float | Sequence[float] | Tensor = 0.0,
    *,
    layer: str | None = None,
    batch_size: int = 32,
) -> Sweep:
    """Slide an occluder over an image and run the network under each position.

    The windows cover the whole image: their corners are multiples of the stride from
    0 up to the first window that reaches the far border, where it is cut.

    Parameters
    ----------
    model : a classifier that fx can trace, or its graph.
    image : (C,H,W) normalised as the network takes it.
    size, stride : of the occluder, in pixels; one number, or height and width.
    fill : the occluder's colour in the space of `image`: one number, or one a channel.
    layer : a layer whose strongest feature map is summed under each position.
    batch_size : positions a forward pass.

    Raises
    ------
    LayerError
        if the layer doesn't exist or isn't made of maps.
    MethodError
        if the size or the stride isn't a positive number.
    """
    channels, height, width = image.shape
    if not isinstance(model, Graph):
        with evaluating(model):
            graph = trace(model, (channels, height, width))
            return sweep(graph, image, size, stride, fill, layer=layer, batch_size=batch_size)
    positions = Positions.covering((height, width), _pair("size", size), _pair("stride", stride))
    described = {found.name: found for found in layers_of(model)}
    head = next(found for found in described.values() if found.output)
    probe = _map_layer(described, model, layer) if layer is not None else None
    nodes = [model.output] + ([model.node(probe.name)] if probe else [])

    nothing = Positions(np.zeros(1, int), np.zeros(1, int), (0, 0), (height, width))
    colour = torch.as_tensor(fill, dtype=image.dtype, device=image.device).expand(channels)
    (clean,) = plain(model, image, nothing, colour, nodes, 1)
    clean_map = clean[nodes[1]][0].float() if probe else None
    unit = int(clean_map.amax((1, 2)).argmax()) if clean_map is not None else -1

    probabilities, sums = [], []
    batches = plain(model, image, positions, colour, nodes, batch_size)
    for batch in progress(batches, -(-len(positions) // batch_size), "batches of positions"):
        probabilities.append(_probability(batch[nodes[0]], head))
        if probe:
            sums.append(batch[nodes[1]][:, unit].float().sum((1, 2)).cpu().numpy())
    shape = (len(positions.row), len(positions.column))
    result = Sweep(
        row=positions.row,
        column=positions.column,
        probability=np.concatenate(probabilities).reshape(*shape, -1),
        clean_probability=_probability(clean[nodes[0]], head)[0],
    )
    if clean_map is None:
        return result
    place = int(clean_map[unit].argmax())
    return Sweep(
        **{k: getattr(result, k) for k in ("row", "column", "probability", "clean_probability")},
        map_sum=np.concatenate(sums).reshape(shape),
        clean_map_sum=float(clean_map[unit].sum()),
        unit=unit,
        value=float(clean_map[unit].max()),
        location=(place // clean_map.shape[2], place % clean_map.shape[2]),
    )


def _pair(what: str, value: Pair) -> tuple[int, int]:
    height, width = (value, value) if isinstance(value, int) else (int(v) for v in value)
    if height < 1 or width < 1:
        raise MethodError(f"the occluder's {what} is {value}; it must be at least one pixel.")
    return height, width


def _map_layer(described: dict[str, Layer], graph: Graph, name: str) -> Layer:
    graph.node(name)  # raises a LayerError that offers the nearest names
    found = described.get(name)
    if found is None or len(found.shape) != 3:
        raise LayerError(f"layer {name!r} has no feature maps to be summed; choose one that has.")
    return found


def _probability(scores: Tensor, head: Layer) -> NDArray[np.float32]:
    """Return class probabilities from the network's output, (n,K)."""
    scores = scores.float()
    if head.kind != "softmax":  # some networks end with one of their own
        scores = torch.softmax(scores, dim=1)
    return np.asarray(scores.cpu().numpy())


def sweep_occlusion(
    *,
    exhibit: Path,
    images: Path,
    card: Path,
    weights: Path,
    output: Path,
    recipe: Recipe,
    size: Pair,
    stride: Pair,
    fill: str | Sequence[float],
    layer: str,
    batch_size: int,
) -> None:
    """Write the occlusion sweep of one exhibit.

    `fill` is ``mean`` (of the data set's pixels, per channel), ``zero`` (black),
    ``grey`` (128), or [r, g, b] in 0..255. `layer` is the layer whose strongest map is
    summed.
    """
    shown = read(Exhibit, exhibit)
    with Images(images) as data:
        colour = _colour(fill, data.mean)
    model = load_model(card, weights)
    graph = trace(model.module, (3, *shown.image.shape[:2]))
    log.info("occluder of %s at stride %s, summing a map of %s", size, stride, layer)
    result = sweep(
        graph,
        model.prepare(shown.image[None])[0],
        size,
        stride,
        _normalised(colour, model),
        layer=layer,
        batch_size=batch_size,
    )
    write(
        output,
        Occlusion(
            row=result.row,
            column=result.column,
            probability=result.probability,
            map_sum=np.asarray(result.map_sum),
            clean_probability=result.clean_probability,
            clean_map_sum=result.clean_map_sum,
            size=_pair("size", size),
            stride=_pair("stride", stride),
            fill=colour,
            layer=layer,
            unit=result.unit,
            value=result.value,
            location=result.location,
            label=shown.label,
        ),
        recipe,
    )


def _colour(fill: str | Sequence[float], mean: NDArray[np.float64]) -> NDArray[np.float64]:
    named = {"mean": mean, "zero": np.zeros(3), "grey": np.full(3, GREY)}
    return np.asarray(named[fill] if isinstance(fill, str) else fill, dtype=np.float64)


def _normalised(colour: NDArray[np.float64], model: LoadedModel) -> Tensor:
    """Return a colour in 0..255 as the network takes it, (3,)."""
    pixel = torch.as_tensor(colour, dtype=torch.float32, device=model.mean.device) / 255
    return (pixel - model.mean.flatten()) / model.std.flatten()
