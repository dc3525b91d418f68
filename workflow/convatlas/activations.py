"""Store what every layer answers to every image: one forward pass, all layers.

For each unit and image three numbers are kept: the largest activation, where it
was, and the mean over the map. Whole maps are kept for single exhibits only.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx
from torch.nn import functional

from convatlas.errors import LayerError, ModelError
from convatlas.graph.aliases import seen_through_views
from convatlas.graph.describe import layer_nodes
from convatlas.graph.execution import Execution
from convatlas.graph.tracing import Graph, trace
from convatlas.job import log, progress
from convatlas.layers import Layer, output_layer, read_layers, stored_layers
from convatlas.models.load import LoadedModel, load_model
from convatlas.store import ActivationWriter, Exhibit, Images, MapWriter, Recipe, read

Path = str | os.PathLike[str]
Summaries = Mapping[str, NDArray[np.generic]]

_KEPT = 4  # graphs of which it is remembered what follows from what: asked for at every part
_CACHE = 1 << 24  # bytes: half of the third level of a usual server's processor, or less


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
    batch_size : images that go through the network one after the other, see `summarise_layers`.
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
        layout = choose_layout(graph, model.prepare(data.block(start, min(start + 2, stop))))
        units = {layer.name: layer.units for layer in kept}
        placed = {layer.name for layer in kept if layer.is_map}
        with ActivationWriter(output, recipe, units, start, stop, scores) as writer:
            batches = _batches(data, model, layout, start, stop, batch_size)
            total = -(-(stop - start) // batch_size)
            for first, batch in progress(batches, total, "batches"):
                for name, summaries in summarise_layers(graph, set(units), batch).items():
                    # A single cell's place, zeros, isn't written: it reads so and takes no room.
                    told = [key for key in summaries if name in placed or key != "argmax"]
                    writer.write(name, first, {key: summaries[key] for key in told})


def shard_bounds(images: int, shard: int, shards: int, batch_size: int) -> tuple[int, int]:
    """Return the first image of a shard and the one after its last."""
    batches = -(-images // batch_size)
    start, stop = (batches * i // shards * batch_size for i in (shard, shard + 1))
    return min(start, images), min(stop, images)


def _batches(
    data: Images,
    model: LoadedModel,
    layout: torch.memory_format,
    start: int,
    stop: int,
    batch_size: int,
) -> Iterator[tuple[int, Tensor]]:
    """Yield the network's inputs, reading the next images while these are looked at."""

    def read(first: int) -> NDArray[np.uint8]:
        return data.block(first, min(first + batch_size, stop))

    with ThreadPoolExecutor(1) as reader:
        ahead = reader.submit(read, start)
        for first in range(start, stop, batch_size):
            pixels = ahead.result()
            if first + batch_size < stop:
                ahead = reader.submit(read, first + batch_size)
            yield first, model.prepare(pixels, layout)


@torch.inference_mode()
def run_layers(graph: Graph, names: set[str], batch: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Yield each named layer's value for a batch, before anything can overwrite it."""
    nodes = {node: name for name, node in layer_nodes(graph).items() if name in names}
    for node, value in Execution(graph, nodes).values(batch):
        yield nodes[node], value


# --------------------------------------------------------------------- summaries


class _Summary(NamedTuple):
    """Of each map its largest value, the place of that by number, and its mean; each (N,U)."""

    largest: Tensor
    place: Tensor
    mean: Tensor


def summarise(name: str, value: Tensor) -> Summaries:
    """Return a layer's `max`, `argmax` (row and column, first of equals) and `mean`.

    `value` is (N,U,H,W), or (N,U) for a vector.

    Raises
    ------
    ModelError
        if one isn't finite.
    """
    return _told({name: value.shape}, [_Summary(*_measure(value))])[name]


@torch.inference_mode()
def summarise_layers(graph: Graph, names: set[str], batch: Tensor) -> dict[str, Summaries]:
    """Return the summaries of some layers for a batch, as `summarise` makes them.

    On the processor a batch goes through the network a few images at a time, so that what
    a layer answers is still in the cache where it is summarised and where the next layer
    reads it. `tests/benchmarks/extraction.py` measures what that is worth.
    """
    nodes = {name: node for name, node in layer_nodes(graph).items() if name in names}
    parts = [_run(graph, list(nodes.values()), part) for part in _cut(graph, batch)]
    return _told({name: graph.values[node] for name, node in nodes.items()}, parts)


def _run(graph: Graph, nodes: Sequence[fx.Node], batch: Tensor) -> _Summary:
    """Return the summaries of some nodes' values, their units side by side."""
    found: dict[fx.Node, _Summary] = {}
    known = _derived(graph, frozenset(nodes))
    for node, value in Execution(graph, nodes).values(batch):
        sources = [found[source] for source in known.get(node, ())]
        if not sources:
            found[node] = _measure(value)
        elif graph.operations[node].kind == "relu":
            largest, place, _ = sources[0]
            place = torch.where(largest > 0, place, 0)  # all are zero: the first one
            found[node] = _Summary(largest.clamp_min(0), place, value.float().mean(dim=(2, 3)))
        else:
            found[node] = _Summary(*(torch.cat(of, 1) for of in zip(*sources, strict=True)))
    joined = [torch.cat(part, 1) for part in zip(*(found[node] for node in nodes), strict=True)]
    return _Summary(*joined)


@lru_cache(_KEPT)
def _derived(graph: Graph, nodes: frozenset[fx.Node]) -> dict[fx.Node, list[fx.Node]]:
    """Return the rectifiers and concatenations whose summaries follow from those of other nodes.

    Only where these are still as they were when they were summarised.
    """
    found = {}
    alone = seen_through_views(graph, closed=True) is None
    for before, node in pairwise(graph.nodes):
        sources = node.all_input_nodes
        if node not in nodes or not nodes.issuperset(sources) or len(graph.values[node]) != 4:
            continue
        kind = graph.operations[node].kind
        if (kind == "relu" and sources == [before]) or (
            kind == "cat" and alone and _joins_units(graph, node, sources)
        ):
            found[node] = sources
    return found


def _joins_units(graph: Graph, node: fx.Node, sources: Sequence[fx.Node]) -> bool:
    """Whether a concatenation has its sources' maps one after the other, none changed before."""
    units = sum(graph.values[source][1] for source in sources)
    changed = any(graph.operations[user].in_place for source in sources for user in source.users)
    over = graph.operations[node].options["dim"] in (1, -3)
    return over and not changed and units == graph.values[node][1]


def _measure(value: Tensor) -> _Summary:
    """Return the summary of a layer's value, (N,U,H,W) or (N,U)."""
    value = value.float()
    if value.ndim == 2 or value.shape[2:].numel() == 1:
        flat = value.flatten(1)
        return _Summary(flat, torch.zeros_like(flat, dtype=torch.int64), flat)
    if value.device.type == "cpu" and value.is_contiguous(memory_format=torch.channels_last):
        # Of all that finds the largest and its place, alone vectorised in this layout.
        largest, place = functional.max_pool2d(value, value.shape[2:], return_indices=True)
        return _Summary(largest.flatten(1), place.flatten(1), value.mean(dim=(2, 3)))
    maps = value.flatten(2)
    largest, place = maps.max(dim=2)
    return _Summary(largest, place, maps.mean(dim=2))


def _told(shapes: Mapping[str, Sequence[int]], parts: Sequence[_Summary]) -> dict[str, Summaries]:
    """Return the summaries by layer, from those of all of them side by side."""
    # In one piece each from the device, which waits for nothing else meanwhile.
    largest, place, mean = (torch.cat(part).cpu().numpy() for part in zip(*parts, strict=True))
    found: dict[str, Summaries] = {}
    first = 0
    for name, shape in shapes.items():
        units = slice(first, first + shape[1])
        width = shape[3] if len(shape) == 4 else 1
        row, column = np.divmod(place[:, units], width)
        found[name] = {
            "max": largest[:, units],
            "argmax": np.stack([row, column], axis=2).astype(np.int16),
            "mean": mean[:, units],
        }
        first = units.stop
        if not all(np.isfinite(found[name][key]).all() for key in ("max", "mean")):
            raise ModelError(
                f"layer {name!r} has activations that aren't finite. "
                "Check the weights, and that `normalize` is what the network was trained with."
            )
    return found


def _cut(graph: Graph, batch: Tensor) -> Sequence[Tensor]:
    """Cut a batch into parts of which the largest value fits into the processor's cache."""
    if batch.device.type != "cpu":
        return [batch]
    shapes = [shape for shape in graph.values.values() if isinstance(shape, torch.Size)]
    largest = max(4 * shape[1:].numel() for shape in shapes)
    parts = -(-len(batch) // max(1, _CACHE // largest))
    # A network may take a batch of one for a single image, so there are two at least.
    return batch.tensor_split(max(1, min(parts, len(batch) // 2)))


def choose_layout(graph: Graph, batch: Tensor) -> torch.memory_format:
    """Return the memory layout of images in which a network is run, and bring its weights into it.

    On the processor channels-last, which is the faster by up to two thirds, where the
    network has the same answer to a batch in it: some lay out its values by themselves.
    """
    usual, other = torch.contiguous_format, torch.channels_last
    if batch.device.type != "cpu":
        return usual
    with torch.inference_mode():
        expected = _scores(graph, batch.clone())
        try:
            graph.module.to(memory_format=other)  # type: ignore[call-overload]
            found = _scores(graph, batch.contiguous(memory_format=other))
            same = torch.allclose(found, expected, rtol=1e-3, atol=1e-4, equal_nan=True)
            reason = "its answers differ"
        except RuntimeError as error:
            same, reason = False, str(error)
    if not same:
        log.info("the network isn't run in the channels-last layout: %s", reason.splitlines()[0])
        graph.module.to(memory_format=usual)  # type: ignore[call-overload]
    return other if same else usual


def _scores(graph: Graph, batch: Tensor) -> Tensor:
    ((_, value),) = Execution(graph, [graph.output]).values(batch)
    return value


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
    images = [read(Exhibit, exhibit).image for exhibit in exhibits]
    graph = trace(model.module, (3, *images[0].shape[:2]))
    check_fit(graph, described)
    for image, output, recipe in zip(images, outputs, recipes, strict=True):
        with MapWriter(output, recipe) as writer:
            for name, value in run_layers(graph, maps, model.prepare(image[None])):
                writer.write(name, value[0].float().cpu().numpy())
