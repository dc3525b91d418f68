"""Do units mean more than other directions? The strongest patches along random ones.

Szegedy et al. ("Intriguing properties of neural networks", ICLR 2014) found that images
which excite a random direction of a layer look as much alike as those that excite a
unit. Here both are ranked over the same images, and how alike the patches of one row
are is told by two numbers, for units, for random directions, and for patches that were
shuffled between rows.
"""

from __future__ import annotations

import os

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from convatlas.activations import run_layers, summarise
from convatlas.graph.tracing import trace
from convatlas.job import log, progress
from convatlas.layers import code_layer, find_layer, read_layers
from convatlas.models.load import load_model
from convatlas.patches import TopK
from convatlas.store import Activations, Directions, Images, Patches, Recipe, read, write

Path = str | os.PathLike[str]


def rank_directions(
    *,
    images: Path,
    activations: Path,
    patches: Path,
    layers: Path,
    card: Path,
    weights: Path,
    output: Path,
    recipe: Recipe,
    number: int,
    seed: int,
    batch_size: int,
) -> None:
    """Write the strongest patches along random directions of a layer, and how alike they are.

    One pass over the images. The layer, and how many patches a row has, are those of
    `patches`, the units' own.
    """
    ranked = read(Patches, patches)
    described = read_layers(layers)
    layer = find_layer(described, ranked.layer)
    directions = random_directions(number, layer.units, seed)
    model = load_model(card, weights)
    top = TopK(number, ranked.image.shape[1])
    with Images(images) as data:
        graph = trace(model.module, (3, *data.size))
        labels = data.labels()
        along = torch.from_numpy(directions)
        log.info("ranking %d images along %d directions of %s", len(data), number, layer.name)
        starts = range(0, len(data), batch_size)
        for start in progress(starts, len(starts), "batches"):
            batch = model.prepare(data.block(start, min(start + batch_size, len(data))))
            for name, value in run_layers(graph, {layer.name}, batch):
                found = summarise(name, project_on(value, along))
                top.add(start, found["max"].astype(np.float32), found["argmax"].astype(np.int64))
    box = layer.boxes(np.maximum(top.location, 0))
    box[top.image < 0] = 0
    with Activations(activations) as stored:
        code = code_layer(described)
        rows = np.unique(np.concatenate([ranked.image.ravel(), top.image.ravel()]))
        rows = rows[rows >= 0]
        codes = stored.rows(code, "mean", rows)
    groups = {
        "unit": ranked.image,
        "direction": top.image,
        "shuffled": shuffled(ranked.image, seed),
    }
    alike = {
        f"{group}_{name}": value
        for group, image in groups.items()
        for name, value in (
            ("purity", purity(image, labels)),
            ("similarity", similarity(image, rows, codes)),
        )
    }
    write(
        output,
        Directions(
            vector=directions,
            value=top.value,
            image=top.image,
            location=top.location,
            box=box,
            **alike,
            layer=layer.name,
            code_layer=code,
        ),
        recipe,
    )


def random_directions(count: int, units: int, seed: int) -> NDArray[np.float32]:
    """Return random directions of unit length, (count,units); more of them keep the first ones."""
    drawn = np.random.default_rng(seed).standard_normal((count, units))
    return np.asarray(drawn / np.linalg.norm(drawn, axis=1, keepdims=True), dtype=np.float32)


def project_on(value: Tensor, directions: Tensor) -> Tensor:
    """Return what a layer's value (N,U,...) is along each of some directions, (N,D,...)."""
    return torch.einsum("nu...,du->nd...", value, directions.to(value))


def shuffled(image: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Return rows of images with the images exchanged between the rows; gaps (-1) stay."""
    result = image.copy()
    there = image >= 0
    result[there] = np.random.default_rng(seed).permutation(image[there])
    return result


def purity(image: NDArray[np.int64], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return for each row of images (R,k) the share of those that have its commonest label.

    Images without a label don't count, nor the same image twice, as it comes by shuffling;
    nan for a row with fewer than two others.
    """
    result = np.full(len(image), np.nan)
    for row, some in enumerate(image):
        found = labels[np.unique(some[some >= 0])]
        found = found[found >= 0]
        if len(found) > 1:
            result[row] = np.unique(found, return_counts=True)[1].max() / len(found)
    return result


def similarity(
    image: NDArray[np.int64], rows: NDArray[np.int64], codes: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Return for each row of images (R,k) the mean cosine similarity of their codes, in pairs.

    The same image twice counts once.

    Parameters
    ----------
    rows : (M,) ascending, the images whose codes are given.
    codes : (M,D).

    Returns
    -------
    (R,) nan for a row with fewer than two images.
    """
    lengths = np.linalg.norm(codes, axis=1, keepdims=True)
    unit = codes / np.maximum(lengths, np.finfo(np.float32).tiny)
    result = np.full(len(image), np.nan)
    for row, some in enumerate(image):
        found = unit[np.searchsorted(rows, np.unique(some[some >= 0]))].astype(np.float64)
        count = len(found)
        if count > 1:
            # The sum over all pairs is the square of the sum, less each with itself.
            pairs = np.square(found.sum(0)).sum() - np.square(found).sum()
            result[row] = pairs / (count * (count - 1))
    return result
