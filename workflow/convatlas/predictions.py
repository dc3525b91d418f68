"""What the network says of every image, read from the stored class scores."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from convatlas.errors import DataError
from convatlas.files import write_rows
from convatlas.layers import Layer, find_layer, read_layers
from convatlas.store import Activations, Images

Path = str | os.PathLike[str]


class Judgement(NamedTuple):
    """What the network says of one image, and whether it is right.

    `rank` is the label's place among the classes (0 is the prediction), of equals the
    lower class first. The last three are empty texts where the image has no label.
    """

    predicted: int
    probability: float
    label_probability: float | str
    rank: int | str
    correct: int | str


def score_predictions(*, activations: Path, layers: Path, images: Path, output: Path) -> None:
    """Write `predictions.csv`: for every image its label, prediction and probabilities.

    Raises
    ------
    DataError
        if a label lies beyond the network's outputs.
    """
    with Images(images) as data:
        labels, names = data.labels(), data.names()
    with Activations(activations) as stored:
        head = find_layer(read_layers(layers), stored.output)
        check_labels(labels, names, head.units)
        rows = (
            (image, names[image], int(labels[image]), *judge(probability, int(labels[image])))
            for image, probability in enumerate(_probabilities(stored, head))
        )
        write_rows(output, ["image", "name", "label", *Judgement._fields], rows)


def _probabilities(stored: Activations, head: Layer) -> Iterator[NDArray[np.floating]]:
    """Yield the class probabilities of each image in turn, (K,)."""
    for _, block in stored.blocks(head.name, ["max"]):
        scores = block["max"]
        yield from scores if head.kind == "softmax" else softmax(scores, axis=1)


def judge(probability: NDArray[np.floating], label: int) -> Judgement:
    """Judge one image by its class probabilities, (K,), and its label, -1 if it has none."""
    predicted = int(probability.argmax())
    if label < 0:
        return Judgement(predicted, probability[predicted], "", "", "")
    own = probability[label]
    rank = int((probability > own).sum() + (probability[:label] == own).sum())
    return Judgement(predicted, probability[predicted], own, rank, int(rank == 0))


def check_labels(labels: NDArray[np.integer], names: list[str], outputs: int) -> None:
    """Raise a `DataError` if a label is none of the network's outputs."""
    wrong = np.flatnonzero(labels >= outputs)
    if len(wrong):
        first = int(wrong[0])
        raise DataError(
            f"image {names[first]!r} has the label {int(labels[first])}, but the network has "
            f"{outputs} outputs, 0 to {outputs - 1} ({len(wrong)} images in all). "
            "Give class indices in the order of the network's outputs."
        )
