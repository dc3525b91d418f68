"""Training: what it learns, writes and refuses, and that it does so twice alike."""

from __future__ import annotations

import logging
from itertools import pairwise

import numpy as np
import pytest
import torch

from convatlas.errors import ConfigError, DataError, ModelError
from convatlas.files import read_csv, read_json
from convatlas.models.load import load_model
from convatlas.models.training import ShuffledImages, evaluate, one_cycle, train_model
from convatlas.store import Images, ImageWriter, Recipe

NET = """
from torch import nn

def build(outputs=3):
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, outputs),
    )

def rows_first():
    class Rows(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)
            self.fc = nn.Linear(4 * 14 * 14, 3)

        def forward(self, x):
            return self.fc(self.conv(x).view(x.shape[0], -1))

    return Rows()

def maps():
    return nn.Conv2d(3, 3, 1)
"""


def write_images(path, labels, size=(16, 16)):
    """Write images whose colour tells their label."""
    random = np.random.default_rng(len(labels))
    with ImageWriter(path, Recipe(), size) as writer:
        for i, label in enumerate(labels):
            image = random.integers(0, 150, (*size, 3), dtype=np.uint8)
            image[..., label % 3] += 100
            writer.append(image, label, f"{i}.png")
    return path


@pytest.fixture
def coloured(tmp_path):
    return write_images(tmp_path / "train.h5", [i % 3 for i in range(90)])


@pytest.fixture
def train(tmp_path, coloured):
    """Train a tiny network; return the folder with what it wrote."""
    (tmp_path / "tinynet.py").write_text(NET)

    def run(folder="out", function="build", images=coloured, test=coloured, options=None, **given):
        out = tmp_path / folder
        settings = {"epochs": 3, "batch_size": 16, "learning_rate": 0.1, "weight_decay": 1e-4}
        settings |= {"seed": 0, "snapshots": (), **given}
        train_model(
            function if function == "small_zf" else f"{tmp_path / 'tinynet.py'}:{function}",
            options or {},
            images,
            test,
            weights_out=out / "weights.pt",
            card_out=out / "model.json",
            history_out=out / "training.csv",
            snapshots_out=[out / f"{epoch}.pt" for epoch in settings["snapshots"]],
            **settings,
        )
        return out

    return run


def message(error, call, *args, **kwargs) -> str:
    with pytest.raises(error) as caught:
        call(*args, **kwargs)
    return str(caught.value)


# ------------------------------------------------------------------ what it writes


def test_it_learns_and_its_files_agree(train, coloured):
    out = train(epochs=8)
    history = read_csv(out / "training.csv")
    assert list(history) == [
        "epoch",
        "loss",
        "train_accuracy",
        "test_loss",
        "test_accuracy",
        "learning_rate",
    ]
    assert history["epoch"] == [str(i) for i in range(1, 9)]
    assert float(history["loss"][-1]) < float(history["loss"][0])
    assert float(history["learning_rate"][-1]) == pytest.approx(0, abs=1e-9)
    model = load_model(out / "model.json", out / "weights.pt")
    loss, accuracy = evaluate(model, coloured)
    assert accuracy == float(history["test_accuracy"][-1]) > 0.9
    assert loss == pytest.approx(float(history["test_loss"][-1]), rel=1e-4)
    assert model.card["training"]["test_accuracy"] == accuracy
    assert model.card["weights"] == "trained"


def test_the_normalisation_is_that_of_the_images(train, coloured):
    card = read_json(train(epochs=1) / "model.json")
    with Images(coloured) as images:
        pixels = images.block(0, len(images)).reshape(-1, 3) / 255
    np.testing.assert_allclose(card["normalize"]["mean"], pixels.mean(0))
    np.testing.assert_allclose(card["normalize"]["std"], pixels.std(0))
    given = {"mean": [0.5] * 3, "std": [0.25] * 3}
    assert read_json(train(epochs=1, normalize=given) / "model.json")["normalize"] == given


def test_small_zf_gets_its_outputs_and_size_from_the_data(train, tmp_path):
    wide = write_images(tmp_path / "wide.h5", [0, 1, 2, 1], (16, 32))
    out = train(function="small_zf", images=wide, test=None, epochs=1)
    assert read_json(out / "model.json")["options"] == {"classes": 3, "size": [16, 32]}
    assert read_csv(out / "training.csv")["test_accuracy"] == [""]
    out = train(function="small_zf", images=wide, test=None, epochs=1, classes=7)
    assert read_json(out / "model.json")["options"]["classes"] == 7


def test_the_same_seed_gives_the_same_bytes(train):
    first, second = (train(name, "small_zf", snapshots=[0, 2]) for name in ("a", "b"))
    names = sorted(path.name for path in first.iterdir())
    assert names == ["0.pt", "2.pt", "model.json", "training.csv", "weights.pt"]
    for name in names:
        assert (first / name).read_bytes() == (second / name).read_bytes(), name
    other = train("c", "small_zf", seed=1)
    assert (other / "weights.pt").read_bytes() != (first / "weights.pt").read_bytes()


def test_snapshots_are_of_their_epochs(train):
    out = train(snapshots=[3, 0, 1])
    states = [torch.load(out / f"{epoch}.pt", weights_only=True) for epoch in (0, 1, 3)]
    assert len({state["0.weight"].sum().item() for state in states}) == 3
    assert (out / "3.pt").read_bytes() == (out / "weights.pt").read_bytes()
    assert states[0]["1.num_batches_tracked"] == 0
    load_model(out / "model.json", out / "0.pt")


def test_networks_that_need_rows_first_can_be_trained(train):
    train(function="rows_first", epochs=1)


def test_progress_and_the_rest_of_the_time_are_in_the_log(train, caplog):
    caplog.set_level(logging.INFO, "convatlas")
    train(epochs=2)
    assert "epoch 1: loss" in caplog.text
    assert "s left" in caplog.text


# ----------------------------------------------------------------- what it refuses


def test_snapshots_outside_the_training(train):
    assert "[9]" in message(ConfigError, train, snapshots=[1, 9])


def test_images_without_a_label(train, tmp_path):
    path = write_images(tmp_path / "part.h5", [0, 1, -1, 2])
    assert "1 of 4 images" in message(DataError, train, images=path)
    assert "2.png" in message(DataError, train, test=path)


def test_labels_beyond_the_classes(train):
    text = message(DataError, train, classes=2)
    assert "2.png" in text
    assert "2 classes, 0 to 1" in text


def test_a_loss_that_is_no_number(train):
    text = message(ModelError, train, function="rows_first", learning_rate=1e30)
    assert "diverged in epoch 1" in text
    assert "learning_rate" in text


def test_networks_that_do_not_fit_the_data(train, tmp_path):
    assert "2 outputs, but there are 3" in message(ModelError, train, options={"outputs": 2})
    assert "returns (2, 3, 16, 16)" in message(ModelError, train, function="maps")
    small = write_images(tmp_path / "small.h5", [0, 1, 2], (15, 15))
    text = message(ModelError, train, function="rows_first", images=small)
    assert "can't take images of 15x15" in text


def test_images_of_one_colour(train, tmp_path):
    with ImageWriter(tmp_path / "flat.h5", Recipe(), (16, 16)) as writer:
        for i in range(4):
            writer.append(np.full((16, 16, 3), 7, np.uint8), i % 2, str(i))
    assert "the same in all pixels" in message(DataError, train, images=tmp_path / "flat.h5")


# -------------------------------------------------------------------- shuffled images


@pytest.fixture
def numbered(tmp_path):
    """Images that are all of one value, their label."""
    with ImageWriter(tmp_path / "numbers.h5", Recipe(), (128, 128)) as writer:
        for i in range(200):
            writer.append(np.full((128, 128, 3), i, np.uint8), i, str(i))
    with Images(tmp_path / "numbers.h5") as images:
        yield images


@pytest.mark.parametrize("memory", [1 << 30, 3 << 20])
def test_each_image_comes_once_an_epoch_in_a_new_seeded_order(numbered, memory):
    def orders():
        shuffled = ShuffledImages(numbered, numbered.labels(), 0, memory)
        for _ in range(2):
            batches = list(shuffled.epoch(32))
            assert all((images[:, 0, 0, 0] == labels).all() for images, labels in batches)
            assert max(len(labels) for _, labels in batches) <= 32
            yield np.concatenate([labels for _, labels in batches]).tolist()

    first, second = orders()
    assert sorted(first) == sorted(second) == list(range(200))
    assert first != second
    assert [first, second] == list(orders())
    neighbours = sum(abs(a - b) == 1 for a, b in pairwise(first))
    assert neighbours < 20


def test_a_large_file_is_read_in_parts_that_fit_into_memory(numbered, monkeypatch):
    held = []
    read = Images.block
    monkeypatch.setattr(
        Images, "block", lambda self, a, b: held.append(min(b, 200) - a) or read(self, a, b)
    )
    shuffled = ShuffledImages(numbered, numbered.labels(), 0, memory=3 << 20)
    parts = [len(labels) for _, labels in shuffled._parts()]
    assert max(parts) * 128 * 128 * 3 <= 3 << 20
    assert sum(parts) == sum(held) == 200
    assert len(parts) > 2


def test_no_batch_is_of_a_single_image(numbered):
    shuffled = ShuffledImages(numbered, numbered.labels(), 0)
    assert [len(labels) for _, labels in shuffled.epoch(199)] == [100, 100]


def test_the_learning_rate_goes_up_and_down_once():
    rates = [one_cycle(i / 100, 2.0) for i in range(101)]
    assert rates[0] == pytest.approx(0.08)
    assert max(rates) == rates[25] == pytest.approx(2.0)
    assert rates[-1] == pytest.approx(0, abs=1e-12)
    assert rates == sorted(rates[:26]) + sorted(rates[26:], reverse=True)
