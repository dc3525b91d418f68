"""How much of its receptive field a cell really uses, by the gradient that arrives there.

After Luo et al., "Understanding the Effective Receptive Field in Deep Convolutional Neural
Networks" (NIPS 2016): the gradient of a layer's central cell is largest in the middle of its
receptive field and falls off towards its ends much as a Gaussian does, so that the field that
counts is smaller than the one that the geometry allows.

The cell's units are all gone back from at once, each times a number drawn from the standard
normal distribution. What arrives at a pixel is then normal, too, and its mean absolute value
over many draws is, but for a constant factor, the root of the sum of the squared gradients of
the single units. Each image has a draw of its own.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from math import prod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from convatlas.activations import check_fit
from convatlas.device import run_or_halve
from convatlas.errors import ModelError
from convatlas.graph.backward import Backward, why_not
from convatlas.graph.execution import ancestors
from convatlas.graph.tracing import Graph, trace
from convatlas.job import log, progress
from convatlas.layers import find_layer, read_layers
from convatlas.models.load import load_model
from convatlas.store import EffectiveFields, Images, Recipe, write

Path = str | os.PathLike[str]

_BYTES = 2**29  # of activations that a batch keeps, roughly
_ROUNDING = 1e-9  # of a sum over all pixels in float64


def measure_fields(
    *,
    images: Path,
    card: Path,
    weights: Path,
    layers: Path,
    output: Path,
    recipe: Recipe,
    wanted: Sequence[str],
    number: int,
    share: float,
    seed: int,
    batch_size: int,
) -> None:
    """Write the effective receptive field of the central cell of some layers.

    Parameters
    ----------
    wanted : names of the layers.
    number : images over which the gradient's mass is a mean: a random pick by `seed`, in
        which those picked for a smaller number are contained; all if there are fewer.
    share : of the mass that the effective field holds along each axis, between 0 and 1.
    batch_size : images a pass, at most.

    Raises
    ------
    LayerError
        if there is no such layer, or the network isn't the one that `layers` describes.
    ModelError
        if the gradient isn't finite.

    Where the network changes its values in a way through which the gradient can't be told,
    nothing is measured, and the artifact says why.
    """
    model = load_model(card, weights)
    described = read_layers(layers)
    chosen = [find_layer(described, name) for name in wanted]
    with Images(images) as data:
        graph = trace(model.module, (3, *data.size))
        check_fit(graph, described)
        picked = np.random.default_rng(seed).permutation(len(data))[:number]
        cells = {graph.node(layer.name): layer.centre for layer in chosen}
        step = min(batch_size, _fitting(graph, cells))
        log.info("%d images in batches of %d, %d layers", len(picked), step, len(chosen))
        mass = np.zeros((len(chosen), *data.size))

        def run(order: NDArray[np.int64]) -> NDArray[np.float64]:
            batch = model.prepare(data.rows(picked[order]))
            return gradient_mass(graph, cells, batch, [(seed, int(i)) for i in order])

        reason = next(filter(None, (why_not(graph, node, "gradient") for node in cells)), "")
        if reason:
            log.warning("not measured: %s", reason)
        starts = range(0, 0 if reason else len(picked), step)
        for start in progress(starts, len(starts), "batches"):
            order = np.arange(start, min(start + step, len(picked)))
            for part in run_or_halve(run, order, lambda rows: np.array_split(rows, 2)):
                mass += part
    if not np.isfinite(mass).all():
        raise ModelError(
            "the gradient of some layers isn't finite. Check the weights, and that `normalize` is "
            "what the network was trained with."
        )
    mass /= max(len(picked), 1)
    fields = np.array([layer.boxes(np.array(layer.centre)) for layer in chosen]).reshape(-1, 4)
    total = mass.sum((1, 2))
    outside = np.array([_outside(*pair) for pair in zip(mass, fields, strict=True)])
    sizes = [effective_size(*pair, share) for pair in zip(mass, fields, strict=True)]
    for layer, all_of_it, beyond in zip(chosen, total, outside, strict=True):
        if all_of_it == 0 and not reason:
            log.warning("%s: no gradient arrives at the image; its units are dead", layer.name)
        elif beyond > _ROUNDING:
            log.warning("%s: %.3g of the mass lies outside of its field", layer.name, beyond)
    size = np.array(sizes, dtype=np.int64).reshape(-1, 2)
    write(
        output,
        EffectiveFields(
            name=np.array(list(wanted), dtype=object),
            mass=(mass / np.where(total, total, 1)[:, None, None]).astype(np.float32),
            cell=np.array([layer.centre for layer in chosen], dtype=np.int64).reshape(-1, 2),
            theory=fields,
            size=size,
            box=_centred(fields, size),
            outside=outside,
            total=total,
            share=share,
            images=0 if reason else len(picked),
            why_not=reason,
        ),
        recipe,
    )


def gradient_mass(
    graph: Graph,
    cells: dict[fx.Node, tuple[int, int]],
    batch: Tensor,
    seeds: Sequence[Sequence[int]],
) -> NDArray[np.float64]:
    """Return how much gradient arrives at each pixel from one cell of each of some nodes.

    Parameters
    ----------
    graph : the traced network.
    cells : row and column for each node; those of a vector don't matter.
    batch : (B,C,H,W) normalised.
    seeds : of each image, for the numbers that the units are taken times.

    Returns
    -------
    (L,H,W) for the nodes in their order: the absolute gradient, summed over channels and
    images.
    """
    leaf = batch.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    targets: dict[fx.Node, Tensor] = {}
    with torch.enable_grad():
        first, *rest = cells
        for node, value in Backward(graph, first, "gradient", also=rest).values(leaf):
            answer = value[:, :, cells[node][0], cells[node][1]] if value.ndim == 4 else value
            units = answer.shape[1]
            drawn = [np.random.default_rng(seed).standard_normal(units) for seed in seeds]
            targets[node] = (answer * torch.from_numpy(np.stack(drawn)).to(answer)).sum()
    found = np.zeros((len(cells), *batch.shape[2:]))
    for place, node in enumerate(cells):
        if not targets[node].requires_grad:  # it is cut off from the image, as by ``detach``
            continue
        (signal,) = torch.autograd.grad(targets[node], leaf, retain_graph=True, allow_unused=True)
        if signal is not None:
            found[place] = signal.double().abs().sum((0, 1)).cpu().numpy()
    return found


def effective_size(
    mass: NDArray[np.floating], field: NDArray[np.integer], share: float
) -> tuple[int, int]:
    """Return height and width of the smallest box about a field's centre that holds a share.

    Along each axis by itself: of the mass summed over the other one, `share` lies in an
    interval of so many pixels about the centre of the field. It is odd where the field is,
    and even where the field is, because only such intervals have whole pixels.

    Parameters
    ----------
    mass : (H,W), not negative; zero throughout gives (0, 0).
    field : top, left, bottom, right in pixels; may reach outside.
    """
    found = []
    for axis in (0, 1):
        along = mass.sum(1 - axis, dtype=np.float64)
        needed = share * along.sum() * (1 - _ROUNDING)
        first, last = int(field[axis]), int(field[axis + 2])
        size = 0
        if needed > 0:
            size = 2 - (last - first) % 2
            while _within(along, (first + last - size) // 2, size) < needed:
                size += 2
        found.append(size)
    height, width = found
    return height, width


def _within(along: NDArray[np.float64], first: int, length: int) -> float:
    return float(along[max(first, 0) : max(first + length, 0)].sum())


def _fitting(graph: Graph, nodes: Collection[fx.Node]) -> int:
    """Return of how many images a batch may keep the activations, at least one."""
    shapes = [graph.values.get(node) for node in ancestors(nodes)]
    one = sum(4 * prod(shape[1:]) for shape in shapes if isinstance(shape, torch.Size))
    return max(1, _BYTES // max(one, 1))


def _outside(mass: NDArray[np.float64], field: NDArray[np.int64]) -> float:
    top, left, bottom, right = (max(int(edge), 0) for edge in field)
    total = mass.sum()
    rest = mass.copy()
    rest[top:bottom, left:right] = 0
    return float(rest.sum() / total) if total else 0.0


def _centred(fields: NDArray[np.int64], size: NDArray[np.int64]) -> NDArray[np.int64]:
    corner = (fields[:, :2] + fields[:, 2:] - size) // 2
    return np.concatenate([corner, corner + size], axis=1)
