"""The image classification data sets of `torchvision.datasets`, by the names of their classes."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from PIL import Image
from torchvision import datasets

from convatlas.data.images import Sizing, fit, to_rgb
from convatlas.data.sample import Part, Sample
from convatlas.errors import DataError, did_you_mean

# What each class calls its training part, and the part to look at: the one with
# public labels that isn't for training.
_PARTS: dict[str, tuple[str, Any, Any]] = {
    **dict.fromkeys(
        ("CIFAR10", "CIFAR100", "FashionMNIST", "KMNIST", "MNIST", "QMNIST", "USPS"),
        ("train", True, False),
    ),
    **dict.fromkeys(
        (
            *("Country211", "DTD", "FGVCAircraft", "Flowers102", "Food101", "GTSRB", "PCAM"),
            *("RenderedSST2", "STL10", "StanfordCars", "SVHN"),
        ),
        ("split", "train", "test"),
    ),
    **dict.fromkeys(("CLEVRClassification", "ImageNet", "Imagenette"), ("split", "train", "val")),
    "OxfordIIITPet": ("split", "trainval", "test"),
    "Places365": ("split", "train-standard", "val"),
}


def open_part(source: Mapping[str, Any], part: str, preset: object) -> Part:
    """Return the images of a part: ``train``, or ``images``, the test or validation part.

    Brought to `source["size"]` (shorter side, and square at the centre), or as they
    are; only the first `source["limit"]`, if that is set.

    Raises
    ------
    DataError
        if torchvision has no such data set, or can't open it.
    """
    dataset = _open(source, part)
    count = len(dataset)
    if source["limit"] is not None:
        count = min(count, source["limit"])
    sizing = None if source["size"] is None else Sizing(source["size"], source["size"])
    return Part(count, _samples(dataset, count, sizing, source["source"]))


def list_classes(source: Mapping[str, Any]) -> list[str]:
    """Return the class names, or the numbers up to the largest label where there are none."""
    dataset = _open(source, "images")
    names = getattr(dataset, "classes", None)
    if names:  # ImageNet has a tuple of synonyms for each class
        return [name if isinstance(name, str) else str(name[0]) for name in names]
    labels = getattr(dataset, "targets", None)
    if labels is None:
        labels = getattr(dataset, "labels", None)
    if labels is None:
        labels = [dataset[i][1] for i in range(len(dataset))]
    return [str(label) for label in range(1 + max(int(label) for label in labels))]


def _open(source: Mapping[str, Any], part: str) -> Any:
    name = source["source"].partition(":")[2]
    if name not in _PARTS:
        raise DataError(
            f"source: torchvision:{name} is not a data set of torchvision for image "
            f"classification with a part to train on.{did_you_mean(name, _PARTS)} There are "
            f"{', '.join(sorted(_PARTS))}. Others can be read as a folder."
        )
    kind = getattr(datasets, name)
    keyword, train, images = _PARTS[name]
    arguments = {keyword: train if part == "train" else images}
    if "download" in inspect.signature(kind).parameters:
        arguments["download"] = source["download"]
    try:
        return kind(source["root"], **arguments)
    except Exception as error:  # each class fails in its own way where files are missing or broken
        remedy = (
            "Put its files there by hand, as torchvision's documentation says."
            if source["download"] or "download" not in arguments
            else "Set root to where it is, or download: true to fetch it."
        )
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            f"torchvision can't open {name} in {source['root']} ({reason}). {remedy}"
        ) from error


def _samples(dataset: Any, count: int, sizing: Sizing | None, source: str) -> Iterator[Sample]:
    for index in range(count):
        try:
            picture, target = dataset[index]
            image: Image.Image = to_rgb(picture)
            if sizing is not None:
                image = fit(image, sizing)
        except Exception as error:  # whatever a decoder raises at a broken file
            raise DataError(
                f"{source}: image {index} can't be read ({error}). Delete the data set's files "
                "and fetch them again."
            ) from error
        label = -1 if target is None else int(target)
        yield Sample(f"{index:06d}", label, np.asarray(image))
