"""Project the unit of an occlusion sweep for the exhibit and for other images.

Panel (c) of figure 7 in Zeiler & Fergus (2014).
"""

from __future__ import annotations

import os

import numpy as np
from numpy.typing import NDArray

from convatlas.graph.tracing import trace
from convatlas.models.load import load_model
from convatlas.projection.engine import Projector
from convatlas.projection.patches import crop, project_seeded
from convatlas.store import Exhibit, Images, Occlusion, Patches, Recipe, Strongest, read, write

Path = str | os.PathLike[str]

_OTHERS = 3  # as in the paper's figure
_GREY = 128


def project_strongest(
    *,
    exhibit: Path,
    occlusion: Path,
    patches: Path,
    images: Path,
    card: Path,
    weights: Path,
    output: Path,
    recipe: Recipe,
    batch_size: int,
) -> None:
    """Write the projections of a sweep's unit: of the exhibit first, then its top images."""
    shown, swept, ranked = (
        read(Exhibit, exhibit),
        read(Occlusion, occlusion),
        read(Patches, patches),
    )
    unit = swept.unit
    others = (ranked.image[unit] >= 0) & (ranked.image[unit] != shown.index)
    chosen = np.flatnonzero(others)[:_OTHERS]
    index = np.concatenate([[shown.index], ranked.image[unit, chosen]])
    location = np.concatenate([[swept.location], ranked.location[unit, chosen]])
    value = np.concatenate([[swept.value], ranked.value[unit, chosen]]).astype(np.float32)
    model = load_model(card, weights)
    with Images(images) as data:
        graph = trace(model.module, (3, *data.size))
        pixels = data.rows(index)
    boxes, projection = project_seeded(
        model,
        Projector(graph, swept.layer, batch_size=batch_size),
        pixels,
        np.full(len(index), unit),
        location,
        value,
    )
    write(
        output,
        Strongest(
            image=index,
            value=value,
            box=boxes,
            patch=_cut(pixels, boxes),
            projection=projection,
            layer=swept.layer,
            unit=unit,
        ),
        recipe,
    )


def _cut(pixels: NDArray[np.uint8], boxes: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Cut boxes out of images (B,H,W,3); grey outside."""
    shifted = pixels.transpose(0, 3, 1, 2).astype(np.int16) - _GREY
    patches = crop(shifted, boxes) + _GREY
    return np.asarray(patches.transpose(0, 2, 3, 1), dtype=np.uint8)
