"""What the network says of every image, read from the stored class scores."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from convatlas.errors import DataError
from convatlas.files import write_rows
from convatlas.layers import Layer, find_layer, read_layers
from convatlas.store import Activations, Images

Path = str | os.PathLike[str]

_BYTES = 1 << 24  # of the scores that are judged at once, and a few copies of them


class Judgements(NamedTuple):
    """What the network says of some images, and whether it is right; each (n,).

    `rank` is the label's place among the classes (0 is the prediction), of equals the
    lower class first. In the last three are empty texts where an image has no label.
    """

    predicted: NDArray[np.int64]
    probability: NDArray[np.floating]
    label_probability: NDArray[Any]
    rank: NDArray[Any]
    correct: NDArray[Any]


def score_predictions(*, activations: Path, layers: Path, images: Path, output: Path) -> None:
    """Write `predictions.csv`: for every image its label, prediction and probabilities.

    Raises
    ------
    DataError
        if a label lies beyond the network's outputs.
    """
    with Images(images) as data, Activations(activations) as stored:
        head = find_layer(read_layers(layers), stored.output)
        labels = data.labels()
        check_labels(labels, data, head.units)
        header = ["image", "name", "label", *Judgements._fields]
        write_rows(output, header, _rows(data, labels, stored, head))


def _rows(
    data: Images, labels: NDArray[np.int64], stored: Activations, head: Layer
) -> Iterator[tuple[Any, ...]]:
    """Yield the row of each image."""
    for start, block in stored.blocks(head.name, ["max"], _BYTES):
        scores = block["max"]
        stop = start + len(scores)
        own = labels[start:stop]
        judged = judge(scores if head.kind == "softmax" else softmax(scores, axis=1), own)
        names = data.names(start, stop)
        yield from zip(range(start, stop), names, own.tolist(), *judged, strict=True)


def judge(probability: NDArray[np.floating], label: NDArray[np.integer]) -> Judgements:
    """Judge images by class probabilities, (n,K), and labels, -1 where there is none, (n,)."""
    row = np.arange(len(label))
    predicted = probability.argmax(1)
    own = probability[row, np.maximum(label, 0)][:, None]
    before = np.arange(probability.shape[1]) < label[:, None]
    rank = (probability > own).sum(1) + ((probability == own) & before).sum(1)
    unknown = label < 0
    told = (own[:, 0].astype(object), rank.astype(object), (rank == 0).astype(int).astype(object))
    for column in told:
        column[unknown] = ""
    return Judgements(predicted, probability[row, predicted], *told)


def check_labels(labels: NDArray[np.integer], data: Images, outputs: int) -> None:
    """Raise a `DataError` if a label of some images is none of the network's outputs."""
    wrong = np.flatnonzero(labels >= outputs)
    if len(wrong):
        first = int(wrong[0])
        raise DataError(
            f"image {data.name(first)!r} has the label {int(labels[first])}, but the network has "
            f"{outputs} outputs, 0 to {outputs - 1} ({len(wrong)} images in all). "
            "Give class indices in the order of the network's outputs."
        )
