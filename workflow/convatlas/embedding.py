"""Maps of the images by their codes: what the network takes for alike lies together.

t-SNE (van der Maaten & Hinton, 2008) by openTSNE, in three artifacts: the nearest
neighbours of each image's code, the two-dimensional map, and its layout as a grid of
pictures. So another perplexity, or more iterations, reuses the neighbours.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from openTSNE import TSNEEmbedding
from openTSNE.affinity import PerplexityBasedNN
from openTSNE.initialization import rescale
from openTSNE.nearest_neighbors import PrecomputedNeighbors
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from sklearn.decomposition import IncrementalPCA
from sklearn.neighbors import NearestNeighbors

from convatlas.errors import DataError
from convatlas.job import log
from convatlas.store import Activations, Embedding, Grid, Neighbours, Recipe, read, write

Path = str | os.PathLike[str]

_FEWEST = 4  # images that a map can be made of
_BLOCK = 1024  # rows of codes at a time
_EARLY_ITERATIONS = 250  # openTSNE's and most others'
_GRID_AT_MOST = 40  # cells a side: 1,600 pictures, which still take a second to assign
_CANDIDATES = 4  # images a cell, so that the assignment's cost matrix stays small


def find_neighbours(
    *,
    activations: Path,
    output: Path,
    recipe: Recipe,
    layer: str,
    code: str,
    components: int,
    neighbours: int,
) -> None:
    """Write the nearest neighbours of every image's code in a layer.

    Codes are the layer's `mean` or `max` per unit, reduced to their first principal
    components (as usual before t-SNE) block by block.

    Raises
    ------
    DataError
        if there are too few images for a map, or all have the same code.
    """
    with Activations(activations) as stored:
        images, units = stored.shape(layer)
        if images < _FEWEST:
            raise DataError(
                f"the data set has {images} images; an embedding needs {_FEWEST}. "
                "Show more images, or leave out the analysis."
            )
        codes = _principal(stored, layer, code, min(components, units, images))
    if np.ptp(codes, axis=0).max() == 0:
        raise DataError(
            f"layer {layer!r} gives every image the same code, so there is nothing to map. "
            "Choose another layer, or leave out the analysis `embedding`."
        )
    count = min(neighbours, images - 1)
    search = NearestNeighbors(n_neighbors=count, algorithm="brute").fit(codes)
    distance, neighbour = search.kneighbors()  # of the points themselves, which are left out
    log.info("%d images, %d components, %d neighbours", images, codes.shape[1], count)
    write(
        output,
        Neighbours(
            code=codes,
            neighbour=neighbour.astype(np.int64),
            distance=distance.astype(np.float32),
            layer=layer,
        ),
        recipe,
    )


def _principal(stored: Activations, layer: str, code: str, components: int) -> NDArray[np.float32]:
    """Return the codes' first principal components, (N,components), in two passes."""
    pca = IncrementalPCA(n_components=components)
    for block in _blocks(stored, layer, code, components):
        pca.partial_fit(block)
    parts = [pca.transform(block) for block in _blocks(stored, layer, code, components)]
    return np.concatenate(parts).astype(np.float32)


def _blocks(
    stored: Activations, layer: str, code: str, fewest: int
) -> Iterator[NDArray[np.float32]]:
    """Yield blocks of codes of at least `fewest` rows, as incremental PCA needs them."""
    _, units = stored.shape(layer)
    held: NDArray[np.float32] | None = None
    for _, block in stored.blocks(layer, [code], byte_limit=4 * units * max(fewest, _BLOCK)):
        if held is not None and len(block[code]) >= fewest:
            yield held
            held = block[code]
        else:
            held = block[code] if held is None else np.concatenate([held, block[code]])
    if held is not None:
        yield held


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
    neighbours that there are, and the log says so.
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
    embedding = TSNEEmbedding(rescale(start), affinities, n_jobs=1, random_state=seed)
    embedding = embedding.optimize(
        n_iter=_EARLY_ITERATIONS, exaggeration=early_exaggeration, momentum=0.8
    )
    embedding = embedding.optimize(n_iter=iterations, momentum=0.8)
    log.info("Kullback-Leibler divergence %.4f", embedding.kl_divergence)
    write(
        output,
        Embedding(
            position=np.asarray(embedding, dtype=np.float32),
            layer=found.layer,
            perplexity=float(perplexity),
            kl_divergence=float(embedding.kl_divergence),
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
