"""What the network says of every image, read from the stored class scores."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from convatlas.errors import DataError
from convatlas.files import write_rows
from convatlas.layers import Layer, find_layer, read_layers
from convatlas.store import Activations, Images

Path = str | os.PathLike[str]

_COLUMNS = (
    *("image", "name", "label", "predicted", "probability"),
    *("label_probability", "rank", "correct"),
)


def score_predictions(*, activations: Path, layers: Path, images: Path, output: Path) -> None:
    """Write `predictions.csv`: for every image its label, prediction and probabilities.

    `rank` is the label's place among the classes (0 is the prediction), of equals the
    lower class first; it and `label_probability` are empty, and `correct` is, where
    the image has no label.

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
            (image, names[image], int(labels[image]), *_judged(probability, int(labels[image])))
            for image, probability in enumerate(_probabilities(stored, head))
        )
        write_rows(output, _COLUMNS, rows)


def _probabilities(stored: Activations, head: Layer) -> Iterator[NDArray[np.floating]]:
    """Yield the class probabilities of each image in turn, (K,)."""
    for _, block in stored.blocks(head.name, ["max"]):
        scores = block["max"]
        yield from scores if head.kind == "softmax" else softmax(scores, axis=1)


def _judged(probability: NDArray[np.floating], label: int) -> tuple[object, ...]:
    """Return prediction, its probability, the label's, the label's rank, and correctness."""
    predicted = int(probability.argmax())
    if label < 0:
        return predicted, probability[predicted], "", "", ""
    own = probability[label]
    ahead = int((probability > own).sum() + (probability[:label] == own).sum())
    return predicted, probability[predicted], own, ahead, int(ahead == 0)


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
