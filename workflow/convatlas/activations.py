"""Store what every layer answers to every image: one forward pass, all layers.

For each unit and image three numbers are kept: the largest activation, where it
was, and the mean over the map. Whole maps are kept for single exhibits only.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from convatlas.errors import LayerError, ModelError
from convatlas.graph.describe import layer_nodes
from convatlas.graph.execution import Execution
from convatlas.graph.tracing import Graph, trace
from convatlas.job import log, progress
from convatlas.layers import Layer, output_layer, read_layers, stored_layers
from convatlas.models.load import LoadedModel, load_model
from convatlas.store import ActivationWriter, Exhibit, Images, MapWriter, Recipe, read

Path = str | os.PathLike[str]


def extract_activations(
    *,
    images: Path,
    card: Path,
    weights: Path,
    layers: Path,
    output: Path,
    recipe: Recipe,
    shard: int,
    shards: int,
    batch_size: int,
    wanted: Sequence[str] = ("*",),
) -> None:
    """Write the summaries of all layers for one shard of the images.

    Shards hold whole batches, so that the result doesn't depend on their number.

    Parameters
    ----------
    images, card, weights, layers : the artifacts that the shard is made from.
    shard, shards : which one, of how many.
    batch_size : images a forward pass.
    wanted : names and globs of the layers to keep; the codes and class scores always are.

    Raises
    ------
    LayerError
        if the network doesn't have the layers of `layers` for these images.
    ModelError
        if an activation isn't finite.
    """
    model = load_model(card, weights)
    described = read_layers(layers)
    with Images(images) as data:
        graph = trace(model.module, (3, *data.size))
        check_fit(graph, described)
        scores = output_layer(described).name
        kept = stored_layers(described, wanted)
        start, stop = shard_bounds(len(data), shard, shards, batch_size)
        log.info("images %d to %d, %d layers", start, stop - 1, len(kept))
        units = {layer.name: layer.units for layer in kept}
        names = set(units)
        with ActivationWriter(output, recipe, units, start, stop, scores) as writer:
            batches = _batches(data, model, start, stop, batch_size)
            total = -(-(stop - start) // batch_size)
            for first, batch in progress(batches, total, "batches"):
                for name, value in run_layers(graph, names, batch):
                    writer.write(name, first, summarise(name, value))


def shard_bounds(images: int, shard: int, shards: int, batch_size: int) -> tuple[int, int]:
    """Return the first image of a shard and the one after its last."""
    batches = -(-images // batch_size)
    start, stop = (batches * i // shards * batch_size for i in (shard, shard + 1))
    return min(start, images), min(stop, images)


def _batches(
    data: Images, model: LoadedModel, start: int, stop: int, batch_size: int
) -> Iterator[tuple[int, Tensor]]:
    for first in range(start, stop, batch_size):
        yield first, model.prepare(data.block(first, min(first + batch_size, stop)))


@torch.inference_mode()
def run_layers(graph: Graph, names: set[str], batch: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Yield each named layer's value for a batch, before anything can overwrite it."""
    nodes = {node: name for name, node in layer_nodes(graph).items() if name in names}
    for node, value in Execution(graph, nodes).values(batch):
        yield nodes[node], value


def summarise(name: str, value: Tensor) -> Mapping[str, NDArray[np.generic]]:
    """Return a layer's `max`, `argmax` (row and column, first of equals) and `mean`.

    `value` is (N,U,H,W), or (N,U) for a vector.
    """
    maps = value.float().flatten(2) if value.ndim == 4 else value.float()[..., None]
    largest, place = maps.max(dim=2)
    mean = maps.mean(dim=2)
    if not (torch.isfinite(largest).all() and torch.isfinite(mean).all()):
        raise ModelError(
            f"layer {name!r} has activations that aren't finite. "
            "Check the weights, and that `normalize` is what the network was trained with."
        )
    width = value.shape[3] if value.ndim == 4 else 1
    where = torch.stack([place // width, place % width], dim=2)
    return {
        "max": largest.cpu().numpy(),
        "argmax": where.to(torch.int16).cpu().numpy(),
        "mean": mean.cpu().numpy(),
    }


def check_fit(graph: Graph, described: Sequence[Layer]) -> None:
    """Raise a `LayerError` if a traced network isn't the one that `layers.json` describes.

    This happens where one model is looked at through images of different sizes.
    """
    nodes: dict[str, fx.Node] = layer_nodes(graph)
    for layer in described:
        node = nodes.get(layer.name)
        shape = tuple(graph.values[node][1:]) if node is not None else None
        if shape != layer.shape:
            raise LayerError(
                f"for images of {graph.size[1]} x {graph.size[2]} pixels, layer {layer.name!r} has "
                f"the shape {shape}, but layers.json says {layer.shape}: the model is also used "
                "with images of another size. List it a second time in the config, under another "
                "name, for this data set."
            )


def record_maps(
    *,
    exhibits: Sequence[Path],
    card: Path,
    weights: Path,
    layers: Path,
    outputs: Sequence[Path],
    recipes: Sequence[Recipe],
) -> None:
    """Write every layer's whole feature maps for each of some exhibits, which are of one size.

    Raises
    ------
    LayerError
        if the network doesn't have the layers of `layers` for images of this size.
    """
    model = load_model(card, weights)
    described = read_layers(layers)
    maps = {layer.name for layer in described if layer.is_map}
    graph = None
    for exhibit, output, recipe in zip(exhibits, outputs, recipes, strict=True):
        image = read(Exhibit, exhibit).image
        if graph is None:
            graph = trace(model.module, (3, *image.shape[:2]))
            check_fit(graph, described)
        with MapWriter(output, recipe) as writer:
            for name, value in run_layers(graph, maps, model.prepare(image[None])):
                writer.write(name, value[0].float().cpu().numpy())
