"""Project the unit of an occlusion sweep for the exhibit and for other images.

Panel (c) of figure 7 in Zeiler & Fergus (2014).
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from convatlas.graph.tracing import trace
from convatlas.models.load import LoadedModel, load_model
from convatlas.projection.engine import Projector
from convatlas.projection.patches import crop, project_seeded
from convatlas.store import Exhibit, Images, Occlusion, Patches, Recipe, Strongest, read, write

Path = str | os.PathLike[str]

_OTHERS = 3  # as in the paper's figure
_GREY = 128


def project_strongest(
    *,
    exhibits: Sequence[Path],
    occlusion: Sequence[Path],
    patches: Path,
    images: Path,
    card: Path,
    weights: Path,
    outputs: Sequence[Path],
    recipes: Sequence[Recipe],
    batch_size: int,
) -> None:
    """Write the projections of each sweep's unit: of the exhibit first, then its top images.

    The sweeps are of the layer that `patches` has the strongest patches of.
    """
    ranked = read(Patches, patches)
    model = load_model(card, weights)
    with Images(images) as data:
        graph = trace(model.module, (3, *data.size))
        projector = Projector(graph, ranked.layer, batch_size=batch_size)
        for exhibit, sweep, output, recipe in zip(
            exhibits, occlusion, outputs, recipes, strict=True
        ):
            shown, swept = read(Exhibit, exhibit), read(Occlusion, sweep)
            write(output, _strongest(shown, swept, ranked, data, model, projector), recipe)


def _strongest(
    shown: Exhibit,
    swept: Occlusion,
    ranked: Patches,
    data: Images,
    model: LoadedModel,
    projector: Projector,
) -> Strongest:
    unit = swept.unit
    others = (ranked.image[unit] >= 0) & (ranked.image[unit] != shown.index)
    chosen = np.flatnonzero(others)[:_OTHERS]
    index = np.concatenate([[shown.index], ranked.image[unit, chosen]])
    location = np.concatenate([[swept.location], ranked.location[unit, chosen]])
    value = np.concatenate([[swept.value], ranked.value[unit, chosen]]).astype(np.float32)
    pixels = data.rows(index)
    boxes, projection = project_seeded(
        model, projector, pixels, np.full(len(index), unit), location, value
    )
    return Strongest(
        image=index,
        value=value,
        box=boxes,
        patch=_cut(pixels, boxes),
        projection=projection,
        layer=swept.layer,
        unit=unit,
    )


def _cut(pixels: NDArray[np.uint8], boxes: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Cut boxes out of images (B,H,W,3); grey outside."""
    shifted = pixels.transpose(0, 3, 1, 2).astype(np.int16) - _GREY
    patches = crop(shifted, boxes) + _GREY
    return np.asarray(patches.transpose(0, 2, 3, 1), dtype=np.uint8)
