"""A small study's artifacts on disk, for the tests of several modules."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from convatlas.store import ImageWriter, Recipe


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
