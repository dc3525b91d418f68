"""How many images a data set has and how large they are, told before one is read."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from convatlas.data.prepare import size_is_read, source_module
from convatlas.errors import ConvatlasError
from convatlas.sizing import Pictures
from convatlas.store import Images

# Images of the training part and of the one to look at, side in pixels (0: they vary), classes;
# from the data sets' papers and torchvision's documentation.
_TORCHVISION = {
    "CIFAR10": (50_000, 10_000, 32, 10),
    "CIFAR100": (50_000, 10_000, 32, 100),
    "DTD": (1_880, 1_880, 0, 47),
    "FashionMNIST": (60_000, 10_000, 28, 10),
    "Flowers102": (1_020, 6_149, 0, 102),
    "Food101": (75_750, 25_250, 0, 101),
    "ImageNet": (1_281_167, 50_000, 0, 1000),
    "KMNIST": (60_000, 10_000, 28, 10),
    "MNIST": (60_000, 10_000, 28, 10),
    "OxfordIIITPet": (3_680, 3_669, 0, 37),
    "PCAM": (262_144, 32_768, 96, 2),
    "Places365": (1_803_460, 36_500, 0, 365),
    "QMNIST": (60_000, 60_000, 28, 10),
    "STL10": (5_000, 8_000, 96, 10),
    "SVHN": (73_257, 26_032, 32, 10),
    "USPS": (7_291, 2_007, 16, 10),
}
_ANY = (50_000, 10_000, 0, 100)  # a guess for the others
_SIDE = 224  # what most networks see
_DIGITS = {"train": 1_437, "images": 360}  # see `data.digits`


def take_census(
    source: Mapping[str, Any],
    part: str,
    made: str | os.PathLike[str],
    classes: Sequence[str] | None,
    uptodate: bool = False,
) -> Pictures:
    """Return how many images a part of a data set will have, and their size.

    Parameters
    ----------
    source : the data set's config, complete.
    part : ``images`` or ``train``.
    made : the file of its images, which tells what the config doesn't, once it is there.
    classes : its classes, if they are known.
    uptodate : whether `made`, if it is there, has what the data set has now, so that a folder
        of many images needn't be looked through.

    Where something is neither known nor there yet, it is estimated, and the `source` of what is
    returned says so. Files that can't be decoded and are to be skipped count.

    Raises
    ------
    DataError
        if a folder or its labels can't be read.
    """
    kind, _, name = source["source"].partition(":")
    known: tuple[int, int, int] | None = None
    guessed = ""
    if uptodate or kind == "torchvision" or size_is_read(source):
        known = _made(made)
    train, test, side, number = _TORCHVISION.get(name, _ANY)
    if known is not None:
        images = known[0]
    elif kind == "shapes":
        images = int(source["train" if part == "train" else "test"])
    elif kind == "digits":
        images = _DIGITS[part]
    elif kind == "folder":
        images = import_module(source_module(source)).count_images(source)
    else:
        images = min(train if part == "train" else test, source["limit"] or train + test)
        guessed = (
            f"{name} isn't read yet: its number of images is torchvision's"
            if name in _TORCHVISION
            else f"{name} isn't read yet: its number of images is a guess"
        )
    given = source.get("size") or source.get("crop") or source.get("resize")
    if given:
        height = width = int(given)
    elif known is not None:
        height, width = known[1:]
    else:
        height = width = (side if kind == "torchvision" else 0) or _SIDE
        if not (kind == "torchvision" and side):
            guessed = guessed or "its images aren't read yet"
            guessed += f"; {_SIDE} x {_SIDE} pixels are assumed"
    found = len(classes) if classes is not None else number
    return Pictures(images, height, width, max(found, 1), kind == "shapes", guessed)


def _made(path: str | os.PathLike[str]) -> tuple[int, int, int] | None:
    """Return number, height and width of the images of a file; None if there is none."""
    if not Path(path).is_file():
        return None
    try:
        with Images(path) as images:
            return len(images), *images.size
    except (ConvatlasError, OSError):  # being written by another run, or damaged: made anew anyway
        return None
