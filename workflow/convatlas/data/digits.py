"""Scikit-learn's handwritten digits, for quick trials."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from convatlas.data.sample import Part, Sample

_TEST = 360  # of 1,797
_BRIGHTEST = 16  # the pixels are counts of 4 x 4 bits, see sklearn.datasets.load_digits


def open_part(source: Mapping[str, Any], part: str, preset: object) -> Part:
    """Return the digits of the test part (``images``) or of the rest (``train``).

    The split is drawn by `source["seed"]`, with each digit's share kept. The 8 x 8
    pixels are enlarged bilinearly to `source["size"]`; ink is white.
    """
    digits = load_digits()
    train, test = train_test_split(
        np.arange(len(digits.target)),
        test_size=_TEST,
        stratify=digits.target,
        random_state=source["seed"],
    )
    rows = np.sort(train if part == "train" else test)
    return Part(len(rows), _samples(digits.images, digits.target, rows, source["size"]))


def list_classes(source: Mapping[str, Any]) -> list[str]:
    """Return the names of the ten digits."""
    return [str(digit) for digit in range(10)]


def _samples(
    images: NDArray[np.float64], labels: NDArray[np.int64], rows: NDArray[np.int64], size: int
) -> Iterator[Sample]:
    for row in rows:
        ink = np.rint(images[row] * (255 / _BRIGHTEST)).astype(np.uint8)
        image = Image.fromarray(ink).resize((size, size), Image.Resampling.BILINEAR)
        yield Sample(f"digit_{row:04d}", int(labels[row]), np.asarray(image.convert("RGB")))
