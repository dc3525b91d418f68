"""Maps of the images by their codes: what the network takes for alike lies together.

t-SNE (van der Maaten & Hinton, 2008) by openTSNE, in three artifacts: the nearest
neighbours of each image's code, the two-dimensional map, and its layout as a grid of
pictures. So another perplexity, or more iterations, reuses the neighbours. How well maps
keep neighbours together is told by a fourth one.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from openTSNE import TSNEEmbedding
from openTSNE.affinity import PerplexityBasedNN
from openTSNE.initialization import rescale
from openTSNE.nearest_neighbors import PrecomputedNeighbors
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from sklearn.decomposition import IncrementalPCA
from sklearn.manifold import trustworthiness
from sklearn.neighbors import NearestNeighbors

from convatlas.codes import Codes, open_codes
from convatlas.errors import DataError
from convatlas.job import log
from convatlas.store import (
    Embedding,
    Grid,
    Images,
    Neighbours,
    Quality,
    Recipe,
    read,
    write,
)
from convatlas.votes import vote

Path = str | os.PathLike[str]

_FEWEST = 4  # images that a map can be made of
_HELD = 1 << 24  # bytes of codes at a time
_EARLY_ITERATIONS = 250  # openTSNE's and most others'
_GRID_AT_MOST = 40  # cells a side: 1,600 pictures, which still take a second to assign
_CANDIDATES = 4  # images a cell, so that the assignment's cost matrix stays small
_NEAR = 10  # neighbours that a map is judged by
_TRUSTED = 2000  # images among which all distances are compared


def find_neighbours(
    *,
    activations: Path | None = None,
    images: Path | None = None,
    output: Path,
    recipe: Recipe,
    layer: str,
    code: str,
    components: int,
    neighbours: int,
) -> None:
    """Write the nearest neighbours of every image's code in a layer.

    Codes are the layer's `mean` or `max` per unit, or, without `activations`, the pixels of
    `images`. They are reduced to their first principal components (as usual before t-SNE)
    block by block.

    Raises
    ------
    DataError
        if there are too few images for a map.
    """
    with open_codes(layer, code, activations=activations, images=images) as codes:
        if codes.images < _FEWEST:
            raise DataError(
                f"the data set has {codes.images} images; an embedding needs {_FEWEST}. "
                "Show more images, or leave out the analysis."
            )
        reduced = _principal(codes, min(components, codes.components, codes.images))
    count = min(neighbours, len(reduced) - 1)
    search = NearestNeighbors(n_neighbors=count, algorithm="brute").fit(reduced)
    distance, neighbour = search.kneighbors()  # of the points themselves, which are left out
    log.info("%d images, %d components, %d neighbours", *reduced.shape, count)
    write(
        output,
        Neighbours(
            code=reduced,
            neighbour=neighbour.astype(np.int64),
            distance=distance.astype(np.float32),
            layer=layer,
        ),
        recipe,
    )


def _principal(codes: Codes, components: int) -> NDArray[np.float32]:
    """Return the codes' first principal components, (N,components), in two passes."""
    pca = IncrementalPCA(n_components=components)
    for _, block in codes.blocks(components, _HELD):  # it can't do with fewer rows
        with np.errstate(invalid="ignore"):  # its shares of the variance, where there is none
            pca.partial_fit(block)
    parts = [pca.transform(block) for _, block in codes.blocks(components, _HELD)]
    return np.concatenate(parts).astype(np.float32)


def embed_codes(
    *,
    neighbours: Path,
    output: Path,
    recipe: Recipe,
    perplexity: float,
    iterations: int,
    early_exaggeration: float,
    seed: int,
) -> None:
    """Write the t-SNE map of the images from their neighbours.

    With too few images for the perplexity, it is lowered to a third of the
    neighbours that there are, and the log says so. Where all images have the same code
    they lie on one point.
    """
    found = read(Neighbours, neighbours)
    kept = min(int(3 * perplexity), found.neighbour.shape[1])
    if kept < int(3 * perplexity):
        perplexity = kept / 3
        log.warning("only %d neighbours are there: the perplexity is %.3g", kept, perplexity)
    affinities = PerplexityBasedNN(
        perplexity=perplexity,
        knn_index=PrecomputedNeighbors(found.neighbour[:, :kept], found.distance[:, :kept]),
    )
    # The first principal components as a start keep the map's global order (Kobak &
    # Berens, 2019) and need no random numbers.
    start = np.zeros((len(found.code), 2))
    start[:, : found.code.shape[1]] = found.code[:, :2]
    position, divergence = start, np.nan
    if np.ptp(start):
        embedding = TSNEEmbedding(rescale(start), affinities, n_jobs=1, random_state=seed)
        embedding = embedding.optimize(
            n_iter=_EARLY_ITERATIONS, exaggeration=early_exaggeration, momentum=0.8
        )
        embedding = embedding.optimize(n_iter=iterations, momentum=0.8)
        position, divergence = np.asarray(embedding), float(embedding.kl_divergence)
        log.info("Kullback-Leibler divergence %.4f", divergence)
    else:
        log.warning("%s gives every image the same code: there is nothing to map", found.layer)
    write(
        output,
        Embedding(
            position=position.astype(np.float32),
            layer=found.layer,
            perplexity=float(perplexity),
            kl_divergence=divergence,
        ),
        recipe,
    )


def arrange_grid(
    *, embedding: Path, output: Path, recipe: Recipe, side: int | str, seed: int
) -> None:
    """Write a layout of a map as a square grid of images without overlap.

    Each cell gets the image whose place in the map is nearest, no image twice, so
    that the sum of squared distances is least (Jonker & Volgenant's assignment). With
    many more images than cells, a random sample of them is laid out.

    Parameters
    ----------
    side : cells a side, or ``auto``: as many as the images fill, 40 at most.
    """
    found = read(Embedding, embedding)
    images = len(found.position)
    fits = int(np.sqrt(images))
    side = min(fits, _GRID_AT_MOST) if side == "auto" else min(int(side), fits)
    chosen = np.arange(images)
    if images > _CANDIDATES * side**2:
        generator = np.random.default_rng(seed)
        chosen = np.sort(generator.choice(images, _CANDIDATES * side**2, replace=False))
    position = found.position[chosen].astype(np.float64)
    low, high = position.min(0), position.max(0)
    position = (position - low) / np.maximum(high - low, np.finfo(float).tiny)
    centre = (np.arange(side) + 0.5) / side
    # Row 0 is the top of the picture, where the scatter's second axis ends.
    rows, columns = np.meshgrid(1 - centre, centre, indexing="ij")
    cells = np.stack([columns.ravel(), rows.ravel()], axis=1)
    cell, image = linear_sum_assignment(cdist(cells, position, "sqeuclidean"))
    grid = np.full(side**2, -1, dtype=np.int64)
    grid[cell] = chosen[image]
    write(output, Grid(image=grid.reshape(side, side), layer=found.layer), recipe)


def measure_quality(
    *,
    neighbours: Sequence[Path],
    embeddings: Sequence[Path],
    images: Path,
    output: Path,
    recipe: Recipe,
    seed: int,
) -> None:
    """Write how well maps keep what is near by code near, and what strangers away.

    A map is judged by what it was made from, the codes' first principal components. For each
    its trustworthiness (Venna & Kaski, 2001: 1 where all that is near in the map is near by
    code), the mean share of an image's ten nearest by code that are among its ten nearest in
    the map, and how often a vote of these on the class is right, by map and by code. With
    few images, fewer than ten; trustworthiness, which needs all distances, is measured among
    2,000 images at most, drawn by `seed`.

    Parameters
    ----------
    neighbours, embeddings : as many of the one as of the other, in one order.
    images : with the labels.
    """
    with Images(images) as data:
        labels = data.labels()
    near = min(_NEAR, (len(labels) - 1) // 2)
    order = np.random.default_rng(seed).permutation(len(labels))
    some = np.sort(order[:_TRUSTED])
    close = min(near, max(len(some) // 2 - 1, 1))
    found: dict[str, list[float | str]] = {}
    for graph, map_ in zip(neighbours, embeddings, strict=True):
        known, placed = read(Neighbours, graph), read(Embedding, map_)
        position = placed.position.astype(np.float64)
        if not np.ptp(position):
            log.warning("%s maps every image to one point", placed.layer)
        search = NearestNeighbors(n_neighbors=near).fit(position)
        by_map = search.kneighbors(return_distance=False)
        by_code = known.neighbour[:, :near]
        shared = (by_map[:, :, None] == by_code[:, None, :]).any(2)
        numbers = {
            "layer": placed.layer,
            "perplexity": placed.perplexity,
            "kl_divergence": placed.kl_divergence,
            "trustworthiness": trustworthiness(
                known.code[some].astype(np.float64), position[some], n_neighbors=close
            ),
            "recall": shared.mean(),
            "map_accuracy": _accuracy(by_map, labels),
            "code_accuracy": _accuracy(by_code, labels),
        }
        for key, number in numbers.items():
            found.setdefault(key, []).append(number)
    columns = {
        key: np.array(values, dtype=object if key == "layer" else np.float64)
        for key, values in found.items()
    }
    write(output, Quality(**columns, near=near, images=len(labels), trusted=len(some)), recipe)


def _accuracy(near: NDArray[np.int64], labels: NDArray[np.int64]) -> float:
    """Return how often the vote of the nearest is right; of labelled images with others alike.

    Neighbours without a label vote for none.
    """
    times = np.bincount(labels[labels >= 0], minlength=1)
    asked = np.flatnonzero((labels >= 0) & (times[labels] > 1))
    return float((vote(labels[near[asked]]) == labels[asked]).mean()) if len(asked) else np.nan
