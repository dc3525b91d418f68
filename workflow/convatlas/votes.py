"""Classification by the nearest images: how much of the classes a layer's codes tell.

The k nearest neighbours of an image vote on its class, itself left out (CS231n). The
accuracy of that, over the layers, says where classes come apart.
"""

from __future__ import annotations

import os

import numpy as np
from numpy.typing import NDArray

from convatlas.codes import open_codes
from convatlas.job import log
from convatlas.nearest import nearest
from convatlas.rates import interval
from convatlas.store import Images, Recipe, Votes, write

Path = str | os.PathLike[str]


def classify_neighbours(
    *,
    images: Path,
    activations: Path | None,
    output: Path,
    recipe: Recipe,
    layer: str,
    summary: str,
    voters: int,
    sample: int,
    seed: int,
) -> None:
    """Write how the nearest labelled images vote on the class of each image.

    Parameters
    ----------
    activations : the codes' file; None for the pixels of `images`.
    voters : how many neighbours vote, the image itself left out; fewer where there are fewer.
    sample : images that are voted on at most, drawn by `seed`; a larger number keeps
        those of a smaller one. All labelled images vote.

    An image of which no other has the same label is voted on, but doesn't count.
    """
    with Images(images) as data:
        labels = data.labels()
    labelled = np.flatnonzero(labels >= 0)
    order = np.random.default_rng(seed).permutation(labelled)
    asked = np.sort(order[:sample])
    count = min(voters, len(labelled) - 1)
    if count < 1:
        log.warning("fewer than two images have a label: nothing to vote on")
        asked, count = asked[:0], 0
    paths = {"images": images} if activations is None else {"activations": activations}
    with open_codes(layer, summary, **paths) as codes:
        near, distance = nearest(codes, asked, count, labels >= 0)
    number = np.bincount(labels[labelled], minlength=1)
    voted, twin = vote(labels[near]), number[labels[asked]] > 1
    counted, right = int(twin.sum()), int((voted == labels[asked])[twin].sum())
    low, high = interval(right, counted)
    log.info("right for %d of %d images, by %d neighbours each", right, counted, count)
    write(
        output,
        Votes(
            image=asked,
            label=labels[asked],
            vote=voted,
            twin=twin,
            neighbour=near,
            distance=distance,
            labelled=len(labelled),
            most=float(number.max() / max(len(labelled), 1)),
            counted=counted,
            right=right,
            low=low,
            high=high,
            layer=layer,
        ),
        recipe,
    )


def vote(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the commonest label of each row (Q,k); of equally common ones, the first's.

    Those below 0 don't vote; where none does the answer is -1.
    """
    found = np.full(len(labels), -1)
    for row, some in enumerate(labels):
        voting = some[some >= 0]
        if len(voting):
            classes, first, times = np.unique(voting, return_index=True, return_counts=True)
            found[row] = classes[np.lexsort((first, -times))[0]]
    return found
