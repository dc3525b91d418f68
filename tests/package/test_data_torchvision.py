"""Data sets of torchvision, from files in their real formats that the tests write."""

from __future__ import annotations

import hashlib
import inspect
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torchvision import datasets

from convatlas.data import torchvision as source_module
from convatlas.data.prepare import list_classes, prepare_images, source_digest
from convatlas.errors import DataError
from convatlas.store import Images, Recipe


def config(name: str, root: Path, **settings: Any) -> dict[str, Any]:
    defaults = {"root": str(root), "download": False, "size": None, "limit": None}
    return defaults | {"source": f"torchvision:{name}"} | settings


def prepare(source: dict[str, Any], folder: Path, part: str = "images") -> Images:
    prepare_images(source, part, folder / f"{part}.h5", folder / f"{part}.csv", Recipe())
    return Images(folder / f"{part}.h5")


@pytest.fixture
def mnist(tmp_path: Path) -> Path:
    """An MNIST of 12 training and 5 test digits, in the IDX format of its authors."""
    rng = np.random.default_rng(0)
    raw = tmp_path / "root" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part, count in (("train", 12), ("t10k", 5)):
        pixels = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        header = struct.pack(">IIII", 0x803, count, 28, 28)
        (raw / f"{part}-images-idx3-ubyte").write_bytes(header + pixels.tobytes())
        header = struct.pack(">II", 0x801, count)
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(header + labels.tobytes())
    return tmp_path / "root"


@pytest.fixture
def cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, np.ndarray]:
    """A CIFAR-10 of a few images in its authors' pickles; returns the test images too."""
    root = tmp_path / "root"
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)

    def write(name: str, content: dict[str, Any]) -> str:
        data = pickle.dumps(content)
        (folder / name).write_bytes(data)
        return hashlib.md5(data).hexdigest()

    def batch(count: int) -> tuple[np.ndarray, dict[str, Any]]:
        images = rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        planes = images.transpose(0, 3, 1, 2).reshape(count, -1)
        return images, {"data": planes, "labels": [i % 10 for i in range(count)]}

    train = write("data_batch_1", batch(6)[1])
    images, content = batch(4)
    test = write("test_batch", content)
    names = datasets.CIFAR10.__dict__["meta"]["key"]
    meta = write("batches.meta", {names: [f"class {i}" for i in range(10)]})
    monkeypatch.setattr(datasets.CIFAR10, "train_list", [["data_batch_1", train]])
    monkeypatch.setattr(datasets.CIFAR10, "test_list", [["test_batch", test]])
    monkeypatch.setattr(
        datasets.CIFAR10, "meta", {"filename": "batches.meta", "key": names, "md5": meta}
    )
    return root, images


def test_mnist_becomes_rgb(mnist: Path, tmp_path: Path) -> None:
    source = config("MNIST", mnist)
    expected = datasets.MNIST(mnist, train=False).data.numpy()
    with prepare(source, tmp_path) as images:
        assert images.size == (28, 28)
        assert images.labels().tolist() == [0, 1, 2, 3, 4]
        assert (images.block(0, 5) == expected[..., None]).all()
    with prepare(source, tmp_path, "train") as images:
        assert len(images) == 12
    assert list_classes(source)[:2] == ["0 - zero", "1 - one"]
    assert source_digest(source) == ""


def test_cifar_keeps_its_colours_and_names(cifar: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    root, expected = cifar
    source = config("CIFAR10", root)
    with prepare(source, tmp_path) as images:
        assert (images.block(0, 4) == expected).all()
        assert len(set(images.names())) == 4
    assert list_classes(source)[9] == "class 9"


def test_size_and_limit(mnist: Path, tmp_path: Path) -> None:
    with prepare(config("MNIST", mnist, size=40, limit=3), tmp_path, "train") as images:
        assert images.size == (40, 40)
        assert images.labels().tolist() == [0, 1, 2]
    with prepare(config("MNIST", mnist, limit=99), tmp_path) as images:
        assert len(images) == 5


@pytest.mark.parametrize("name", ["MNIST", "CIFAR10", "SVHN", "Flowers102", "ImageNet"])
def test_missing_files_say_what_to_do(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError) as caught:
        prepare(config(name, tmp_path / "none"), tmp_path)
    message = str(caught.value)
    assert name in message
    assert str(tmp_path / "none") in message
    assert ("download: true" in message) == (name != "ImageNet")
    assert not (tmp_path / "none" / name).exists()


def test_damaged_files_are_named(mnist: Path, tmp_path: Path) -> None:
    file = mnist / "MNIST" / "raw" / "t10k-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(DataError, match="MNIST"):
        prepare(config("MNIST", mnist), tmp_path)


def test_unknown_name_suggests_one(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Did you mean 'CIFAR10'"):
        prepare(config("CIFAR1O", tmp_path), tmp_path)
    with pytest.raises(DataError, match="CocoDetection is not"):
        list_classes(config("CocoDetection", tmp_path))


class Mixed:
    """Stands in for a data set with images of different sizes and without class names."""

    def __init__(self, root: str, split: str) -> None:
        self.split = split

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return Image.new("L", (20, 20 + 5 * index), 50), 2 * index


def test_different_sizes_need_a_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "GTSRB", Mixed)
    with pytest.raises(
        DataError, match=r"25 x 20 pixels, the first one 20 x 20.*Set the data set's size"
    ):
        prepare(config("GTSRB", tmp_path), tmp_path)
    assert not list(tmp_path.glob("*.h5"))
    with prepare(config("GTSRB", tmp_path, size=10), tmp_path) as images:
        assert images.size == (10, 10)
    assert list_classes(config("GTSRB", tmp_path)) == ["0", "1", "2", "3", "4"]


def test_every_data_set_takes_the_argument_that_it_is_given() -> None:
    for name, (keyword, _, _) in source_module._PARTS.items():
        kind = getattr(datasets, name)
        accepted = inspect.signature(kind).parameters
        assert keyword in accepted, name
        assert next(iter(accepted)) == "root", name
