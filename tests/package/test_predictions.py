"""What is written of a network's predictions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from studies import Study

from convatlas.errors import DataError
from convatlas.files import read_csv
from convatlas.models.load import load_model
from convatlas.predictions import check_labels, judge, score_predictions


def test_predictions_are_the_networks(make_study: Callable[..., Study]) -> None:
    from test_activations import store_activations

    study = make_study("branching", count=9)
    output = study.folder / "predictions.csv"
    score_predictions(
        activations=store_activations(study),
        layers=study.layers,
        images=study.images,
        output=output,
    )
    model = load_model(study.card, study.weights)
    with torch.no_grad():
        probability = model.module(model.prepare(study.pixels)).softmax(1).numpy()
    table = read_csv(output)
    labels = np.arange(9) % 5
    assert table["image"] == [str(i) for i in range(9)]
    assert [int(v) for v in table["predicted"]] == probability.argmax(1).tolist()
    np.testing.assert_allclose(
        [float(v) for v in table["probability"]], probability.max(1), atol=1e-5
    )
    own = probability[np.arange(9), labels]
    np.testing.assert_allclose([float(v) for v in table["label_probability"]], own, atol=1e-5)
    assert [int(v) for v in table["rank"]] == (probability > own[:, None]).sum(1).tolist()
    assert [int(v) for v in table["correct"]] == (probability.argmax(1) == labels).tolist()


def test_of_equals_the_lower_class_comes_first() -> None:
    probability = np.array([0.2, 0.3, 0.3, 0.2])
    assert judge(probability, 1).rank == 0
    assert judge(probability, 2).rank == 1
    assert judge(probability, 2).correct == 0
    assert judge(probability, 3).rank == 3


def test_images_without_a_label_are_neither_right_nor_wrong() -> None:
    judged = judge(np.array([0.4, 0.6]), -1)
    assert judged.predicted == 1
    assert judged.rank == judged.correct == judged.label_probability == ""


def test_a_label_beyond_the_outputs_is_an_error() -> None:
    with pytest.raises(DataError, match=r"'b' has the label 5.*5 outputs, 0 to 4 \(2 images"):
        check_labels(np.array([4, 5, 9]), ["a", "b", "c"], 5)
