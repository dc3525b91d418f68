"""What is written of a network's predictions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from studies import Study, write_noise

from convatlas.errors import DataError
from convatlas.files import read_csv
from convatlas.models.load import load_model
from convatlas.predictions import check_labels, judge, score_predictions
from convatlas.store import Images


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
    judged = judge(np.array([[0.2, 0.3, 0.3, 0.2]] * 3), np.array([1, 2, 3]))
    assert judged.predicted.tolist() == [1, 1, 1]
    assert judged.rank.tolist() == [0, 1, 3]
    assert judged.correct.tolist() == [1, 0, 0]


def test_images_without_a_label_are_neither_right_nor_wrong() -> None:
    judged = judge(np.array([[0.4, 0.6], [0.9, 0.1]]), np.array([-1, 1]))
    assert judged.predicted.tolist() == [1, 0]
    assert judged.rank.tolist() == ["", 1]
    assert judged.correct.tolist() == ["", 0]
    assert judged.label_probability.tolist() == ["", 0.1]


def test_a_label_beyond_the_outputs_is_an_error(tmp_path: Path) -> None:
    write_noise(tmp_path / "i.h5", 3, (4, 4))
    with (
        Images(tmp_path / "i.h5") as data,
        pytest.raises(DataError, match=r"'1.png' has the label 5.*5 outputs, 0 to 4 \(2 images"),
    ):
        check_labels(np.array([4, 5, 9]), data, 5)
