"""Project a unit's answer back to the pixels that caused it.

The deconvnet of Zeiler & Fergus (2014), and its relatives guided backpropagation
(Springenberg et al., 2015) and the plain gradient (Simonyan et al., 2014); see
`convatlas.graph.backward` for their rules.

>>> from convatlas.projection import project
>>> boxes, projections = project(model, images, "features.10", units, locations)
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from convatlas.graph.backward import Backward
from convatlas.graph.describe import layers_of
from convatlas.graph.tracing import Graph, evaluating, trace
from convatlas.job import log, progress
from convatlas.layers import find_layer
from convatlas.models.load import LoadedModel, load_model
from convatlas.store import Images, Patches, Projections, Recipe, read, write

Path = str | os.PathLike[str]


def project(
    model: nn.Module | Graph,
    images: Tensor,
    layer: str,
    units: ArrayLike,
    locations: ArrayLike,
    rule: str = "deconvnet",
    *,
    batch_size: int = 32,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Project single activations back to the input, one for each row of `images`.

    Parameters
    ----------
    model : a network that fx can trace, or its graph.
    images : (B,C,H,W) normalised as the network takes them.
    layer : name of a layer, as `convatlas.graph.receptive_fields` lists them.
    units : (B,) the unit to project.
    locations : (B,2) row and column of its activation; zeros for a vector.
    rule : ``deconvnet``, ``guided`` or ``gradient``.
    batch_size : rows a pass.

    Returns
    -------
    boxes : (B,4) int64, top, left, bottom, right of the receptive fields in pixels;
        they may reach outside the image.
    projections : (B,C,h,w) float32, the signal in the space of `images`, seeded with
        one at the unit, cropped to the boxes, and zero outside the image. Signed.

    Raises
    ------
    LayerError
        if the layer doesn't exist.
    MethodError
        if the rule isn't defined for the operations up to the layer.
    """
    if not isinstance(model, Graph):
        with evaluating(model):
            graph = trace(model, _size(images))
            return project(graph, images, layer, units, locations, rule, batch_size=batch_size)
    described = find_layer(layers_of(model), layer)
    chosen = np.asarray(units, dtype=np.int64)
    places = np.asarray(locations, dtype=np.int64).reshape(-1, 2)
    boxes = described.boxes(places)
    signal = [
        _back(
            model,
            images[i : i + batch_size],
            layer,
            chosen[i:][:batch_size],
            places[i:][:batch_size],
            rule,
        )
        for i in range(0, len(images), batch_size)
    ]
    return boxes, crop(np.concatenate(signal), boxes)


def _size(images: Tensor) -> tuple[int, int, int]:
    channels, height, width = images.shape[1:]
    return channels, height, width


def _back(
    graph: Graph,
    images: Tensor,
    layer: str,
    units: NDArray[np.int64],
    places: NDArray[np.int64],
    rule: str,
) -> NDArray[np.float32]:
    """Return the whole-image signal of one batch, (B,C,H,W)."""
    leaf = images.detach().clone().requires_grad_()
    with torch.enable_grad():
        ((_, value),) = Backward(graph, graph.node(layer), rule).values(leaf)
        seed = torch.zeros_like(value)
        rows = torch.arange(len(units))
        index: tuple[Any, ...] = (rows, torch.from_numpy(units))
        if value.ndim == 4:
            index += tuple(torch.from_numpy(places.T.copy()))
        seed[index] = 1
        (signal,) = torch.autograd.grad(value, leaf, seed)
    return np.asarray(signal.cpu().numpy())


def crop(signal: NDArray[Any], boxes: NDArray[np.int64]) -> NDArray[Any]:
    """Cut boxes (B,4) of one size out of `signal` (B,C,H,W); zero outside the image."""
    height, width = signal.shape[2:]
    heights, widths = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    shape = (*signal.shape[:2], int(heights.max(initial=0)), int(widths.max(initial=0)))
    result = np.zeros(shape, signal.dtype)
    for out, image, (top, left, bottom, right) in zip(result, signal, boxes, strict=True):
        y, x = slice(max(top, 0), min(bottom, height)), slice(max(left, 0), min(right, width))
        if y.start < y.stop and x.start < x.stop:
            part = image[:, y, x]
            down, across = y.start - top, x.start - left
            out[:, down : down + part.shape[1], across : across + part.shape[2]] = part
    return result


def project_patches(
    *,
    patches: Path,
    images: Path,
    card: Path,
    weights: Path,
    output: Path,
    recipe: Recipe,
    units: Sequence[int],
    batch_size: int,
) -> None:
    """Write the deconvnet projections of the strongest patches of some units of a layer.

    Each patch is projected by itself, seeded with its activation.
    """
    ranked = read(Patches, patches)
    chosen = np.asarray(units)
    height, width = (ranked.box[0, 0, 2:] - ranked.box[0, 0, :2]).tolist()
    model = load_model(card, weights)
    with Images(images) as data:
        graph = trace(model.module, (3, *data.size))
        shape = (len(chosen), ranked.image.shape[1], 3, height, width)
        projection = np.zeros(shape, dtype=np.float32)
        log.info("projecting %d units of %s", len(chosen), ranked.layer)
        for i, unit in enumerate(progress(chosen, len(chosen), "units")):
            there = ranked.image[unit] >= 0
            projection[i, there] = project_seeded(
                model,
                graph,
                data.rows(ranked.image[unit, there]),
                ranked.layer,
                np.full(there.sum(), unit),
                ranked.location[unit, there],
                ranked.value[unit, there],
                batch_size,
            )[1]
    write(
        output,
        Projections(
            unit=chosen,
            projection=projection,
            value=ranked.value[chosen],
            image=ranked.image[chosen],
            box=ranked.box[chosen],
            layer=ranked.layer,
        ),
        recipe,
    )


def project_seeded(
    model: LoadedModel,
    graph: Graph,
    images: NDArray[np.uint8],
    layer: str,
    units: NDArray[np.int64],
    locations: NDArray[np.int64],
    values: NDArray[np.float32],
    batch_size: int,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Project by the deconvnet, seeded with the activations as in Zeiler & Fergus (2014).

    The signal is linear in its seed, so it is the unit-seeded one times the value.
    """
    boxes, signal = project(
        graph, model.prepare(images), layer, units, locations, batch_size=batch_size
    )
    return boxes, np.asarray(signal * values[:, None, None, None], dtype=np.float32)
