"""The handwritten digits: their split, scale and order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

from convatlas.data.prepare import list_classes, prepare_images, source_digest
from convatlas.store import Images, Recipe


def prepare(folder: Path, part: str, size: int = 32, seed: int = 0) -> Images:
    source = {"source": "digits", "size": size, "seed": seed}
    prepare_images(source, part, folder / f"{part}.h5", folder / f"{part}.csv", Recipe())
    return Images(folder / f"{part}.h5")


def test_parts_share_nothing_and_miss_nothing(tmp_path: Path) -> None:
    with prepare(tmp_path, "train") as train, prepare(tmp_path, "images") as test:
        assert (len(train), len(test)) == (1437, 360)
        assert len({*train.names(), *test.names()}) == 1797
        counts = np.bincount(test.labels(), minlength=10)
        assert counts.min() >= 34
        assert counts.max() <= 38


def test_pixels_are_scikit_learns(tmp_path: Path) -> None:
    with prepare(tmp_path, "images", size=8) as images:
        rows = [int(name.removeprefix("digit_")) for name in images.names()]
        digits = load_digits()
        expected = np.rint(digits.images[rows] * 255 / 16)
        assert (images.block(0, 360) == expected[..., None]).all()
        assert (images.labels() == digits.target[rows]).all()


def test_seed_draws_the_split(tmp_path: Path) -> None:
    with prepare(tmp_path, "images") as images:
        first, size = images.names(), images.size
    with prepare(tmp_path, "images") as images:
        again = images.names()
    with prepare(tmp_path, "images", seed=1) as images:
        other = images.names()
    assert first == again != other
    assert size == (32, 32)


def test_classes_and_files() -> None:
    source = {"source": "digits", "size": 8, "seed": 0}
    assert list_classes(source) == list("0123456789")
    assert source_digest(source) == ""
