"""The codes by which images are compared: a layer's answers to them, or their pixels."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from convatlas.store import Activations, Images

Path = str | os.PathLike[str]
Code = NDArray[np.float32]

PIXELS = "pixels"
"""What stands in a layer's place where images are compared as they are, in 0..255."""

_BYTES = 1 << 24  # of a block, unless asked for otherwise


@dataclass(frozen=True)
class Codes:
    """The codes of all images, read in blocks.

    Attributes
    ----------
    images, components : how many codes there are, and how many numbers each has.
    block : ``block(start, stop)`` returns those of images `start` to `stop`, (n,D).
    rows : ``rows(indices)`` returns those of some images, in their order, (n,D).
    """

    images: int
    components: int
    block: Callable[[int, int], Code]
    rows: Callable[[Sequence[int] | NDArray[np.integer]], Code]

    def blocks(
        self, fewest: int = 1, byte_limit: int | None = None, most: int | None = None
    ) -> Iterator[tuple[int, Code]]:
        """Yield blocks of at most about `byte_limit` bytes, each with its first image's index.

        None has more than `most` rows, and none less than `fewest`, if there are as many at
        all: the last two are one where the last would.
        """
        step = (byte_limit or _BYTES) // (4 * self.components)
        step = max(fewest, min(step, most or step), 1)
        start = 0
        while start < self.images:
            stop = min(start + step, self.images)
            if self.images - stop < fewest:
                stop = self.images
            yield start, self.block(start, stop)
            start = stop


@contextmanager
def open_codes(
    layer: str, summary: str, *, activations: Path | None = None, images: Path | None = None
) -> Iterator[Codes]:
    """Open the codes of a layer in `activations`, or without these the pixels of `images`.

    A layer's code of an image is a number a unit: the `summary` (``mean`` or ``max``) of
    its map. Pixels are the values of all colours at all places.
    """
    if activations is not None:
        with Activations(activations) as stored:
            count, units = stored.shape(layer)
            yield Codes(
                count,
                units,
                lambda start, stop: stored.block(layer, summary, start, stop),
                lambda indices: stored.rows(layer, summary, indices),
            )
    elif images is not None:
        with Images(images) as data:
            size = 3 * data.size[0] * data.size[1]
            yield Codes(
                len(data),
                size,
                lambda start, stop: data.block(start, stop).reshape(-1, size).astype(np.float32),
                lambda indices: data.rows(indices).reshape(-1, size).astype(np.float32),
            )
    else:
        raise ValueError("neither activations nor images")
