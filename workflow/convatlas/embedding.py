"""Maps of the images by their codes: what the network takes for alike lies together.

t-SNE (van der Maaten & Hinton, 2008) by openTSNE, in three artifacts: the nearest
neighbours of each image's code, the two-dimensional map, and its layout as a grid of
pictures. So another perplexity, or more iterations, reuses the neighbours. How well maps
keep neighbours together is told by a fourth one.

Where images are too many for that, a sample of them is embedded, as if there were no others;
these are then placed one by one where the forces of the sample balance (Poličar, Stražar &
Zupan, 2023, openTSNE's `transform`). They neither move the sample nor each other, so they go
by in blocks, and their time grows with their number alone.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from openTSNE import TSNEEmbedding
from openTSNE.affinity import PerplexityBasedNN, joint_probabilities_nn
from openTSNE.initialization import median, rescale
from openTSNE.nearest_neighbors import PrecomputedNeighbors
from openTSNE.tsne import PartialTSNEEmbedding
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
    Others,
    OthersWriter,
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
_ROWS = 1 << 15  # of the images that aren't embedded, at a time
_PLACING_PERPLEXITY = 5.0  # this and what follows is what openTSNE's `transform` takes
_PLACING_NEIGHBOURS = 15  # three times as many
_PLACING_ITERATIONS = 250
_PLACING = {"learning_rate": 0.1, "exaggeration": 1.5, "momentum": 0.8, "max_grad_norm": 0.25}


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
    sample: int,
    seed: int,
) -> None:
    """Write the nearest neighbours of every image's code in a layer.

    Codes are the layer's `mean` or `max` per unit, or, without `activations`, the pixels of
    `images`. They are reduced to their first principal components (as usual before t-SNE)
    block by block.

    Parameters
    ----------
    sample : images that are embedded at most. Of more, so many are drawn by `seed`, each as
        likely as any other; a larger number keeps those of a smaller one, and so do, but for
        a few, more images. The components are the sample's, and neighbours are looked for in
        it: those of the sample as of the images of a smaller data set, those of the others as
        far as they are needed to place them, see `store.Others`.

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
        chosen = None
        some = codes
        if codes.images > sample:
            chosen = _draw(codes.images, sample, seed)
            some = _only(codes, chosen)
        pca = _components(some, min(components, some.components, some.images))
        reduced = _reduce(some, pca)
        count = min(neighbours, len(reduced) - 1)
        search = NearestNeighbors(n_neighbors=count, algorithm="brute").fit(reduced)
        distance, neighbour = search.kneighbors()  # of the points themselves, which are left out
        log.info("%d images, %d components, %d neighbours", *reduced.shape, count)
        found = Neighbours(
            code=reduced,
            neighbour=neighbour.astype(np.int64),
            distance=distance.astype(np.float32),
            layer=layer,
            image=chosen,
        )
        if chosen is None:
            write(output, found, recipe)
            return
        kept = min(_PLACING_NEIGHBOURS, len(chosen))
        log.info(
            "they are a sample of %d images, which get %d neighbours in it", codes.images, kept
        )
        embedded = np.zeros(codes.images, bool)
        embedded[chosen] = True
        with OthersWriter(output, recipe, found, codes.images, kept) as writer:
            for first, block in codes.blocks(byte_limit=_HELD):
                others = block[~embedded[first : first + len(block)]]
                if len(others):
                    others = pca.transform(others).astype(np.float32)
                    far, near = search.kneighbors(others, n_neighbors=kept)
                    writer.append(others, near, far)


def _draw(images: int, sample: int, seed: int) -> NDArray[np.int64]:
    """Return `sample` of the images, ascending: those whose random numbers are lowest.

    The number of an image doesn't depend on how many there are.
    """
    number = np.random.default_rng(seed).random(images)
    return np.sort(np.argsort(number, kind="stable")[:sample])


def _only(codes: Codes, chosen: NDArray[np.int64]) -> Codes:
    """Return the codes of some images alone."""
    return Codes(
        len(chosen),
        codes.components,
        lambda start, stop: codes.rows(chosen[start:stop]),
        lambda indices: codes.rows(chosen[np.asarray(indices)]),
    )


def _components(codes: Codes, components: int) -> IncrementalPCA:
    """Return the codes' first principal components."""
    pca = IncrementalPCA(n_components=components)
    for _, block in codes.blocks(components, _HELD):  # it can't do with fewer rows
        with np.errstate(invalid="ignore"):  # its shares of the variance, where there is none
            pca.partial_fit(block)
    return pca


def _reduce(codes: Codes, pca: IncrementalPCA) -> NDArray[np.float32]:
    """Return the codes in their components, (N,components)."""
    parts = [pca.transform(block) for _, block in codes.blocks(pca.n_components, _HELD)]
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
    they lie on one point. Images outside the sample are placed by their nearest in it, with
    openTSNE's perplexity of 5, from the median of their places.
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
    embedding: TSNEEmbedding | None = None
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
    every, embedded = position.astype(np.float32), None
    if found.image is not None:
        every, embedded = _place(neighbours, found.image, every, embedding)
    write(
        output,
        Embedding(
            position=every,
            layer=found.layer,
            perplexity=float(perplexity),
            kl_divergence=divergence,
            embedded=embedded,
            sampled=None if found.image is None else len(found.image),
        ),
        recipe,
    )


def _place(
    neighbours: Path,
    sample: NDArray[np.int64],
    position: NDArray[np.float32],
    embedding: TSNEEmbedding | None,
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Return the positions of all images, (N,2), and which of them are the sample's, (N,).

    The others lie where their neighbours' median is, moved by the forces of the sample if
    there is an `embedding`.
    """
    with Others(neighbours) as others:
        count = len(sample) + len(others.image)
        every = np.zeros((count, 2), np.float32)
        embedded = np.zeros(count, np.uint8)
        every[sample], embedded[sample] = position, 1
        if embedding is None:
            every[others.image] = position[0]
            return every, embedded
        # It moves the sample to the middle of its grid, and we move all of them back.
        before = np.array(embedding[0])
        embedding.prepare_interpolation_grid()
        moved = np.array(embedding[0]) - before
        for image, block in others.blocks(("neighbour", "distance"), _ROWS):
            kept = block["neighbour"].shape[1]
            pull = joint_probabilities_nn(
                block["neighbour"].astype(np.int64),
                block["distance"].astype(np.float64),
                [min(_PLACING_PERPLEXITY, kept / 3)],
                symmetrize=False,
                normalization="point-wise",
                n_reference_samples=len(sample),
                n_jobs=1,
            )
            placed = PartialTSNEEmbedding(
                median(embedding, block["neighbour"]),
                embedding,
                P=pull,
                negative_gradient_method="fft",  # which is chosen by the block's size otherwise
                n_jobs=1,
            ).optimize(_PLACING_ITERATIONS, max_step_norm=None, **_PLACING)
            every[image] = np.asarray(placed) - moved
    return every, embedded


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
    laid = Grid(image=grid.reshape(side, side), layer=found.layer, sampled=found.sampled)
    write(output, laid, recipe)


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
    2,000 images at most, drawn by `seed`. Where only a sample of the images was embedded, the
    others are means over these 2,000 images, too, whose nearest are looked for among all.

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
    asked = np.arange(len(labels))
    found: dict[str, list[float | str]] = {}
    for graph, map_ in zip(neighbours, embeddings, strict=True):
        known, placed = read(Neighbours, graph), read(Embedding, map_)
        position = placed.position.astype(np.float64)
        if not np.ptp(position):
            log.warning("%s maps every image to one point", placed.layer)
        search = NearestNeighbors(n_neighbors=near).fit(position)
        if known.image is None:
            by_map = search.kneighbors(return_distance=False)
            by_code = known.neighbour[:, :near]
            code = known.code[some]
        else:
            asked = some
            by_map = _others(search.kneighbors(position[asked], near + 1, False), asked)
            code, by_code = _nearest_of_all(graph, known.image, known.code, asked, near)
        shared = (by_map[:, :, None] == by_code[:, None, :]).any(2)
        numbers = {
            "layer": placed.layer,
            "perplexity": placed.perplexity,
            "kl_divergence": placed.kl_divergence,
            "trustworthiness": trustworthiness(
                code.astype(np.float64), position[some], n_neighbors=close
            ),
            "recall": shared.mean(),
            "map_accuracy": _accuracy(by_map, labels, asked),
            "code_accuracy": _accuracy(by_code, labels, asked),
        }
        for key, number in numbers.items():
            found.setdefault(key, []).append(number)
    columns = {
        key: np.array(values, dtype=object if key == "layer" else np.float64)
        for key, values in found.items()
    }
    write(output, Quality(**columns, near=near, images=len(asked), trusted=len(some)), recipe)


def _nearest_of_all(
    graph: Path,
    sample: NDArray[np.int64],
    code: NDArray[np.float32],
    asked: NDArray[np.int64],
    count: int,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return the codes of some images, (Q,D), and the nearest of all images to each, (Q,count).

    `sample` and `code` are those of the images that `graph` has the neighbours of.
    """
    wanted = np.zeros((len(asked), code.shape[1]), np.float32)
    distance = np.full((len(asked), count + 1), np.inf)  # one more for the image itself
    found = np.full((len(asked), count + 1), -1, np.int64)
    with Others(graph) as others:

        def blocks() -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
            yield sample, code
            for image, block in others.blocks(("code",), _ROWS):
                yield image, block["code"]

        for image, block in blocks():
            place = np.minimum(np.searchsorted(image, asked), len(image) - 1)
            here = np.flatnonzero(image[place] == asked)
            wanted[here] = block[place[here]]
        for image, block in blocks():
            search = NearestNeighbors(n_neighbors=min(count + 1, len(block)), algorithm="brute")
            far, near = search.fit(block).kneighbors(wanted)
            distance = np.concatenate([distance, far], axis=1)
            found = np.concatenate([found, image[near]], axis=1)
            best = np.lexsort((found, distance))[:, : count + 1]
            distance = np.take_along_axis(distance, best, 1)
            found = np.take_along_axis(found, best, 1)
    return wanted, _others(found, asked)


def _others(found: NDArray[np.int64], asked: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return what was found (Q,k) without the image itself, or the last where it isn't there."""
    order = np.argsort(found == asked[:, None], axis=1, kind="stable")[:, :-1]
    return np.take_along_axis(found, order, 1)


def _accuracy(
    near: NDArray[np.int64], labels: NDArray[np.int64], images: NDArray[np.int64]
) -> float:
    """Return how often the vote of the nearest is right; of labelled images with others alike.

    Neighbours without a label vote for none. `near` are those of `images`.
    """
    times = np.bincount(labels[labels >= 0], minlength=1)
    label = labels[images]
    asked = np.flatnonzero((label >= 0) & (times[label] > 1))
    if not len(asked):
        return float("nan")
    return float((vote(labels[near[asked]]) == label[asked]).mean())
