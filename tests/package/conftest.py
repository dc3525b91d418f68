"""What several tests of the package share: a small study's artifacts on disk."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from convatlas.store import ImageWriter, Recipe

NETWORKS = Path(__file__).with_name("networks.py")


@dataclass(frozen=True)
class Study:
    """A model and images on disk; the first four fields are what most functions ask for."""

    images: Path
    card: Path
    weights: Path
    layers: Path
    pixels: np.ndarray  # (N,H,W,3) uint8, what is in `images`
    folder: Path

    @property
    def inputs(self) -> dict[str, Path]:
        return {name: getattr(self, name) for name in ("images", "card", "weights", "layers")}


def write_noise(path: Path, count: int, size: tuple[int, int], classes: int = 5) -> np.ndarray:
    """Write smooth random images and return their pixels, (N,H,W,3) uint8."""
    generator = np.random.default_rng(0)
    coarse = generator.integers(0, 256, (count, 4, 4, 3)).astype(float)
    scale = np.ones((-(-size[0] // 4), -(-size[1] // 4)))
    smooth = np.stack([[np.kron(c, scale) for c in i.transpose(2, 0, 1)] for i in coarse])
    smooth = smooth[:, :, : size[0], : size[1]].transpose(0, 2, 3, 1)
    noise = generator.normal(0, 25, smooth.shape)
    pixels = np.clip(smooth + noise, 0, 255).astype(np.uint8)
    with ImageWriter(path, Recipe(), size) as writer:
        for i, image in enumerate(pixels):
            writer.append(image, i % classes, f"{i}.png")
    return pixels


@pytest.fixture
def make_study(tmp_path: Path) -> Callable[..., Study]:
    """Return a function that makes a study of one of the functions in networks.py."""

    def make(function: str, count: int = 23, size: tuple[int, int] = (26, 31)) -> Study:
        from convatlas.graph.describe import describe_model
        from convatlas.models.load import import_model, load_model

        paths = {n: tmp_path / n for n in ("images.h5", "model.json", "weights.pt", "layers.json")}
        pixels = write_noise(paths["images.h5"], count, size)
        unit = {"mean": [0.5] * 3, "std": [0.25] * 3}
        # Under a name of its own, since the tests have imported networks.py itself.
        source = Path(shutil.copy(NETWORKS, tmp_path / f"net_{tmp_path.name}.py"))
        import_model(
            f"{source}:{function}", {}, "random", unit, 0, paths["weights.pt"], paths["model.json"]
        )
        model = load_model(paths["model.json"], paths["weights.pt"])
        describe_model(model.module, (3, *size), paths["layers.json"])
        images, card, weights, layers = paths.values()
        return Study(images, card, weights, layers, pixels, tmp_path)

    # import_model has torch use deterministic algorithms from then on; a test shouldn't.
    torch.use_deterministic_algorithms(False)
    return make
