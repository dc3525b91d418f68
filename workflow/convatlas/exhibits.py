"""Pick the images that are shown one by one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import PurePath

import numpy as np
from numpy.typing import NDArray

from convatlas.errors import DataError
from convatlas.files import write_csv
from convatlas.store import Exhibit, Images, Recipe, read, write

Path = str | os.PathLike[str]


def pick_exhibits(
    *,
    images: Path,
    outputs: Sequence[Path],
    recipes: Sequence[Recipe],
    indices: Sequence[int | None],
    seed: int,
) -> None:
    """Write some exhibits: the images `indices`, or by a stratified pick where that is None.

    Which one is picked depends on the exhibit's number, the output's name, and not on how
    many are asked for.

    Raises
    ------
    DataError
        if there are fewer images than that.
    """
    numbers = [int(PurePath(output).stem) for output in outputs]
    with Images(images) as data:
        labels = data.labels()
        order = stratified_order(labels, max(numbers) + 1, seed)
        for output, recipe, number, index in zip(outputs, recipes, numbers, indices, strict=True):
            write(output, _exhibit(data, labels, order, number, index), recipe)


def _exhibit(
    data: Images,
    labels: NDArray[np.int64],
    order: NDArray[np.int64],
    number: int,
    index: int | None,
) -> Exhibit:
    count = len(labels)
    if index is None and number >= count:
        raise DataError(
            f"exhibit {number} is asked for, but the data set has only {count} images. "
            f"Set the study's `exhibits` to {count} or less."
        )
    if index is not None and index >= count:
        raise DataError(
            f"the study's `exhibits` asks for image {index}, but the data set has only {count} "
            f"images, 0 to {count - 1}."
        )
    row = int(order[number]) if index is None else index
    return Exhibit(
        image=data.rows([row])[0],
        index=row,
        label=int(labels[row]),
        name=data.name(row),
        mask=data.mask(row),
    )


def stratified_order(labels: NDArray[np.integer], count: int, seed: int) -> NDArray[np.int64]:
    """Return `count` images in an order that goes round the classes, one of each in turn.

    The order of the classes, and of the images in each, is random by `seed`. A
    shorter order is the beginning of a longer one. With fewer images than that, all.
    """
    count = min(count, len(labels))
    generator = np.random.default_rng(seed)
    classes = generator.permutation(np.unique(labels))
    of_class = [generator.permutation(np.flatnonzero(labels == c)) for c in classes]
    order: list[int] = []
    turn = 0
    while len(order) < count:
        order += [int(images[turn]) for images in of_class if turn < len(images)]
        turn += 1
    return np.asarray(order[:count], dtype=np.int64)


def list_exhibits(exhibits: Sequence[Path], output: Path) -> None:
    """Write `exhibits.csv`: number, row in images.h5 and label of every exhibit."""
    found = [read(Exhibit, path) for path in exhibits]
    write_csv(
        output,
        {
            "exhibit": range(len(found)),
            "image": [e.index for e in found],
            "label": [e.label for e in found],
            "name": [e.name for e in found],
        },
    )
