"""What the network says of every image, read from the stored class scores."""

from __future__ import annotations

import os

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from convatlas.errors import DataError
from convatlas.files import write_csv
from convatlas.layers import find_layer, read_layers
from convatlas.store import Activations, Images

Path = str | os.PathLike[str]


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
    columns: dict[str, list[object]] = {
        k: [] for k in ("predicted", "probability", "label_probability", "rank", "correct")
    }
    with Activations(activations) as stored:
        head = find_layer(read_layers(layers), stored.output)
        check_labels(labels, names, head.units)
        for start, block in stored.blocks(head.name, ["max"]):
            scores = block["max"]
            probability = scores if head.kind == "softmax" else softmax(scores, axis=1)
            for row, image in zip(probability, range(start, start + len(scores)), strict=True):
                for name, value in _judged(row, int(labels[image])).items():
                    columns[name].append(value)
    write_csv(
        output, {"image": range(len(labels)), "name": names, "label": labels.tolist(), **columns}
    )


def _judged(probability: NDArray[np.floating], label: int) -> dict[str, object]:
    predicted = int(probability.argmax())
    result: dict[str, object] = {"predicted": predicted, "probability": probability[predicted]}
    if label < 0:
        return result | {"label_probability": "", "rank": "", "correct": ""}
    own = probability[label]
    ahead = (probability > own).sum() + (probability[:label] == own).sum()
    return result | {"label_probability": own, "rank": int(ahead), "correct": int(ahead == 0)}


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
