"""The images nearest to some by pixels or by a layer's codes, as CS231n compares them.

The search is exact: the codes of all images go by in blocks.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from convatlas.codes import PIXELS, Codes, open_codes
from convatlas.job import progress
from convatlas.patches import TopK
from convatlas.store import Exhibit, Nearest, Recipe, read, write

Path = str | os.PathLike[str]

_HELD = 1 << 28  # bytes of the codes that are searched for at once
_COMPARED = 1 << 21  # distances at a time: 16 MB, and a few copies of them
_SLICE = 1 << 13  # components at a time in double precision
_SAME = 1e-12  # of the squared lengths: below, what differs is rounding


def find_nearest(
    *,
    exhibits: Sequence[Path],
    activations: Path,
    images: Path,
    outputs: Sequence[Path],
    recipes: Sequence[Recipe],
    layers: Sequence[str],
    summary: str,
    shown: int,
) -> None:
    """Write the `shown` images nearest to each exhibit, by pixels and by each layer's codes.

    All exhibits are compared in one pass over the codes.

    Parameters
    ----------
    layers : names of layers; `PIXELS` stands for the images themselves.
    summary : how a feature map becomes one number of the code, ``mean`` or ``max``.
    """
    index = np.array([read(Exhibit, exhibit).index for exhibit in exhibits])
    found = []
    for layer in progress(layers, len(layers), "layers"):
        pixels = layer == PIXELS
        paths = {"images": images} if pixels else {"activations": activations}
        with open_codes(layer, summary, **paths) as codes:
            count = min(shown, codes.images - 1)
            found.append(nearest(codes, index, count))
    for i, (output, recipe) in enumerate(zip(outputs, recipes, strict=True)):
        write(
            output,
            Nearest(
                compared=np.array(layers, dtype=object),
                image=np.stack([image[i] for image, _ in found]),
                # The last bits of a sum depend on how many exhibits are compared at once.
                distance=np.stack([distance[i] for _, distance in found]).astype(np.float32),
                index=int(index[i]),
            ),
            recipe,
        )


def nearest(
    codes: Codes, asked: NDArray[np.int64], count: int, among: NDArray[np.bool_] | None = None
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return for some images the nearest others and their Euclidean distances, nearest first.

    Ties go to the lower image.

    Parameters
    ----------
    asked : (Q,) indices of images.
    count : how many others; there must be as many.
    among : (N,) which images may be found; all if left out.

    Returns
    -------
    (Q,count) int64 and (Q,count) float64.
    """
    step = max(1, _HELD // (4 * codes.components))
    image = np.zeros((len(asked), count), np.int64)
    distance = np.zeros((len(asked), count))
    for first in range(0, len(asked) if count else 0, step):
        chosen = asked[first : first + step]
        wanted = codes.rows(chosen)
        top = TopK(len(chosen), count, np.float64)
        most = max(_COMPARED // len(chosen), count)
        for start, block in codes.blocks(most=most):
            squared = _squared_distances(block, wanted)
            if among is not None:
                squared[~among[start : start + len(block)]] = np.inf
            own = np.flatnonzero((chosen >= start) & (chosen < start + len(block)))
            squared[chosen[own] - start, own] = np.inf
            top.add(start, -squared)
        image[first : first + step] = top.image
        distance[first : first + step] = np.sqrt(-top.value)
    return image, distance


def _squared_distances(
    block: NDArray[np.float32], wanted: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Return the squared distances between two sets of codes, (n,D) and (Q,D), as (n,Q).

    In double precision, in which the sums over pixels are exact.
    """
    lengths = [np.einsum("nd,nd->n", x, x, dtype=np.float64) for x in (block, wanted)]
    sum_of_squares = lengths[0][:, None] + lengths[1][None]
    product = np.zeros_like(sum_of_squares)
    for first in range(0, block.shape[1], _SLICE):
        part = slice(first, first + _SLICE)
        product += block[:, part].astype(np.float64) @ wanted[:, part].astype(np.float64).T
    squared = sum_of_squares - 2 * product
    squared[squared < _SAME * sum_of_squares] = 0  # copies of an image: a tie, whatever the sums
    return np.asarray(squared)
