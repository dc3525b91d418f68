"""Rank the image patches that excite each unit of a layer most.

One pass over the stored maxima with a running top-k, so memory depends on k and
the number of units, not of images.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from convatlas.layers import find_layer, read_layers
from convatlas.store import Activations, Images, Patches, Recipe, write

Path = str | os.PathLike[str]

_FIRST = 64  # rows of the first part, see `longer_and_longer`
_MANY = 4  # times k candidates a unit: above, the k-th of them is looked for first


class TopK:
    """A running top-k for each of many units.

    Ties go to the lower image index. Starts at minus infinity, so that a unit whose
    answers are all negative has a strongest image too.

    Attributes
    ----------
    value : (U,k), descending; -inf where there is no image yet.
    image : (U,k) int64, -1 where there is none.
    location : (U,k,2) int64, -1 where there is none.
    """

    def __init__(self, units: int, k: int, dtype: type[np.floating] = np.float32) -> None:
        self.value = np.full((units, k), -np.inf, dtype=dtype)
        self.image = np.full((units, k), -1, dtype=np.int64)
        self.location = np.full((units, k, 2), -1, dtype=np.int64)
        self._low = np.full(units, np.inf, dtype=dtype)
        self._high = np.full(units, -np.inf, dtype=dtype)
        self._count = 0

    def add(
        self,
        start: int,
        value: NDArray[np.floating],
        location: NDArray[np.integer] | None = None,
    ) -> None:
        """Add the images from `start` on: `value` (n,U), and `location` (n,U,2) if there is one."""
        self._count += len(value)
        self._low = np.minimum(self._low, value.min(0, initial=np.inf))
        self._high = np.maximum(self._high, value.max(0, initial=-np.inf))
        for part in longer_and_longer(len(value)):
            some = None if location is None else location[part]
            self._merge(start + part.start, value[part], some)

    def _merge(
        self, start: int, value: NDArray[np.floating], location: NDArray[np.integer] | None
    ) -> None:
        """Merge in those of some images that are among the best of them and of those before."""
        units, k = self.value.shape
        better = value > self.value[:, -1]  # of equals the running one has the lower image
        if np.count_nonzero(better) > _MANY * k * units and len(value) > k:
            # In the negative, so that what isn't a number comes last.
            least = -np.partition(-value, k - 1, axis=0)[k - 1]
            better &= ~(value < least)
        row, unit = np.divmod(np.flatnonzero(better), units)
        if not len(row):
            return
        found = value[row, unit]
        order = np.lexsort((-found, unit))  # by unit, then value; equal ones as they came
        row, unit, found = row[order], unit[order], found[order]
        touched, begin, count = np.unique(unit, return_index=True, return_counts=True)
        rank = np.arange(len(unit)) - np.repeat(begin, count)
        line = np.repeat(np.arange(len(touched)), count)
        first = rank < k
        row, unit, found, rank, line = (of[first] for of in (row, unit, found, rank, line))
        values = np.full((len(touched), 2 * k), -np.inf, dtype=self.value.dtype)
        images = np.full((len(touched), 2 * k), -1, dtype=np.int64)
        values[:, :k], images[:, :k] = self.value[touched], self.image[touched]
        values[line, k + rank], images[line, k + rank] = found, row + start
        best = np.argsort(-values, axis=1, kind="stable")[:, :k]
        self.value[touched] = np.take_along_axis(values, best, 1)
        self.image[touched] = np.take_along_axis(images, best, 1)
        if location is not None:
            places = np.full((len(touched), 2 * k, 2), -1, dtype=np.int64)
            places[:, :k] = self.location[touched]
            places[line, k + rank] = location[row, unit]
            self.location[touched] = np.take_along_axis(places, best[..., None], 1)

    @property
    def dead(self) -> NDArray[np.bool_]:
        """(U,) whether a unit gave every one of several images the same answer."""
        return np.asarray((self._count > 1) & (self._low == self._high))


def longer_and_longer(rows: int) -> Iterator[slice]:
    """Cut rows into parts, each twice as long as the one before.

    Where the best are looked for, those of the first parts keep most of the others out.
    """
    first, step = 0, _FIRST
    while first < rows:
        yield slice(first, min(first + step, rows))
        first, step = first + step, 2 * step


def rank_patches(
    *,
    activations: Path,
    layers: Path,
    images: Path,
    output: Path,
    recipe: Recipe,
    layer: str,
    per_unit: int,
) -> None:
    """Write the `per_unit` strongest patches of each unit of a layer."""
    described = find_layer(read_layers(layers), layer)
    with Images(images) as data:
        size = data.size
    with Activations(activations) as stored:
        _, units = stored.shape(layer)
        top = TopK(units, per_unit + 1)
        for start, block in stored.blocks(layer, ["max", "argmax"]):
            top.add(start, block["max"], block["argmax"])
    value, image, location = (of[:, :per_unit] for of in (top.value, top.image, top.location))
    box = described.boxes(np.maximum(location, 0))
    box[image < 0] = 0
    write(
        output,
        Patches(
            unit=np.arange(units),
            value=value,
            image=image,
            location=location,
            box=box,
            outside=share_outside(box, size),
            dead=top.dead,
            runner_up=top.value[:, per_unit],
            layer=layer,
        ),
        recipe,
    )


def share_outside(box: NDArray[np.integer], size: tuple[int, int]) -> NDArray[np.float32]:
    """Return the share of each box (...,4) that lies outside an image of `size`."""
    inside = np.ones(box.shape[:-1])
    for low, high, limit in ((0, 2, size[0]), (1, 3, size[1])):
        length = np.maximum(box[..., high] - box[..., low], 1)
        within = np.minimum(box[..., high], limit) - np.maximum(box[..., low], 0)
        inside = inside * np.clip(within, 0, None) / length
    return np.asarray(1 - inside, dtype=np.float32)
