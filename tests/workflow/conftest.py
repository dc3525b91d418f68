"""A small atlas made once for all tests of the workflow, and what it is made of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from running import Outcome, Place, copy_workflow, user_net

CONFIG = """\
datasets:
  scenes: {source: shapes, train: 64, test: 24, size: 32}
  pictures:
    {source: folder, path: pictures, labels: labels.csv, classes: names.txt, resize: 32, crop: 32}
models:
  small:
    architecture: small_zf
    train: {dataset: scenes, epochs: 1, snapshots: [0, 1]}
  mine:
    architecture: nets/tiny.py:build
    options: {classes: 3}
    weights: nets/tiny.pth
    normalize: {mean: [0.5, 0.5, 0.5], std: [0.25, 0.25, 0.25]}
studies:
  scenes: {model: small, dataset: scenes, layers: [relu2], exhibits: 1}
  pictures: {model: mine, dataset: pictures, layers: [first.1, second.1], exhibits: 2}
analyses:
  patches: {per_unit: 3}
  projections: {units: 2}
  directions: {number: 4}
  neighbours: {shown: 3}
  embedding: {perplexity: 3, perplexities: [5], iterations: 50}
  receptive_fields: {images: 4}
  occlusion: {size: 8, stride: 8, score: {scenes: 4, shards: 1}}
figures: {dpi: 60, formats: [png, svg]}
exhibits_per_job: 1
"""

NET = """\
from parts import block
from torch import nn


class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.first = block(3, 6)
        self.second = block(6, 8)
        self.head = nn.Linear(8, classes)

    def forward(self, x):
        x = self.second(self.first(x))
        return self.head(x.mean((2, 3)))


def build(classes, note=None):
    return Net(classes)
"""

PARTS = """\
from torch import nn


def block(inputs, outputs):
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2)
    )
"""


CLASSES = ("amber", "blue", "coral")


def write_pictures(folder: Path) -> None:
    """Write three folders of six pictures, each with a square of its own colour; label them."""
    names = [f"{name}/{number}.png" for name in CLASSES for number in range(6)]
    lines = [f"{name},{CLASSES.index(name.partition('/')[0])}\n" for name in names]
    (folder.parent / "labels.csv").write_text("".join(["file,class_index\n", *lines]))
    (folder.parent / "names.txt").write_text("".join(f"{name}\n" for name in CLASSES))
    generator = np.random.default_rng(0)
    for channel, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for number in range(6):
            pixels = generator.integers(0, 128, (40, 48, 3)).astype(np.uint8)
            pixels[8:24, 8:24, channel] = 255
            Image.fromarray(pixels).save(folder / name / f"{number}.png")


def write_net(folder: Path) -> None:
    """Write a network in two files, and a checkpoint as `DataParallel` training leaves it."""
    folder.mkdir()
    (folder / "tiny.py").write_text(NET)
    (folder / "parts.py").write_text(PARTS)
    torch.manual_seed(0)
    state = user_net(folder).state_dict()
    nested = {"epoch": 3, "state_dict": {f"module.{name}": v for name, v in state.items()}}
    torch.save(nested, folder / "tiny.pth")


@pytest.fixture(scope="session")
def start(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A working directory with pictures, a network and a config, in which nothing was run."""
    place = Place(tmp_path_factory.mktemp("project"), tmp_path_factory.mktemp("work"))
    copy_workflow(place.project)
    write_pictures(place.folder / "pictures")
    write_net(place.folder / "nets")
    (place.folder / "config.yaml").write_text(CONFIG)
    return place


@pytest.fixture(scope="session")
def observed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the jobs of the run that made the atlas said what they had loaded."""
    return tmp_path_factory.mktemp("observed")


@pytest.fixture(scope="session")
def made(
    start: Place, observed: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Place, Outcome]:
    """The whole atlas, made by one real run; and that run."""
    place = start.copied(tmp_path_factory.mktemp("made"))
    outcome = place.run("--cores", "2", CONVATLAS_OBSERVED=observed)
    assert outcome.code == 0, outcome.text
    return place, outcome


@pytest.fixture(scope="session")
def atlas(made: tuple[Place, Outcome]) -> Place:
    """The whole atlas, to be looked at only."""
    return made[0]


@pytest.fixture
def fresh(start: Place, tmp_path: Path) -> Place:
    """A copy of the working directory in which nothing was run, to be spoilt."""
    return start.copied(tmp_path)


@pytest.fixture
def finished(atlas: Place, tmp_path: Path) -> Place:
    """A copy of the whole atlas, to be changed."""
    return atlas.copied(tmp_path)
