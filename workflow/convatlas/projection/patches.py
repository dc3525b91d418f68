"""Project the strongest patches of a layer's units."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convatlas.graph.tracing import trace
from convatlas.job import log, reporting
from convatlas.models.load import LoadedModel, load_model
from convatlas.projection.engine import Projector
from convatlas.store import Images, Patches, Projections, Recipe, read, write

Path = str | os.PathLike[str]

_AT_ONCE = 256  # images in memory


def crop(signal: NDArray[Any], boxes: NDArray[np.int64]) -> NDArray[Any]:
    """Cut boxes (B,4) of one size out of `signal` (B,C,H,W); zero outside the image."""
    height, width = signal.shape[2:]
    heights, widths = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    shape = (*signal.shape[:2], int(heights.max(initial=0)), int(widths.max(initial=0)))
    result = np.zeros(shape, signal.dtype)
    for out, image, (top, left, bottom, right) in zip(result, signal, boxes, strict=True):
        y, x = slice(max(top, 0), min(bottom, height)), slice(max(left, 0), min(right, width))
        if y.start < y.stop and x.start < x.stop:
            part = image[:, y, x]
            down, across = y.start - top, x.start - left
            out[:, down : down + part.shape[1], across : across + part.shape[2]] = part
    return result


def project_patches(
    *,
    patches: Path,
    images: Path,
    card: Path,
    weights: Path,
    output: Path,
    recipe: Recipe,
    units: Sequence[int],
    batch_size: int,
) -> None:
    """Write the deconvnet projections of the strongest patches of some units of a layer.

    Each patch is projected by itself, seeded with its activation. A patch that reaches
    over the image's border is among the strongest because of the padding if the best
    image that isn't among them would take its place, were the maps to go on.
    """
    ranked = read(Patches, patches)
    chosen = np.asarray(units)
    height, width = (ranked.box[0, 0, 2:] - ranked.box[0, 0, :2]).tolist()
    model = load_model(card, weights)
    with Images(images) as data:
        graph = trace(model.module, (3, *data.size))
        projector = Projector(graph, ranked.layer, batch_size=batch_size)
        shape = (len(chosen), ranked.image.shape[1], 3, height, width)
        projection = np.zeros(shape, dtype=np.float32)
        continued = np.full(shape[:2], np.nan, dtype=np.float32)
        log.info("projecting %d units of %s", len(chosen), ranked.layer)
        found = np.argwhere(ranked.image[chosen] >= 0)
        with reporting(f"{len(found)} projections") as advance:
            for start in range(0, len(found), _AT_ONCE):
                row, rank = found[start : start + _AT_ONCE].T
                at = (chosen[row], rank)
                pixels = data.rows(ranked.image[at])
                projection[row, rank] = project_seeded(
                    model,
                    projector,
                    pixels,
                    chosen[row],
                    ranked.location[at],
                    ranked.value[at],
                    lambda done: advance(done / len(found)),
                )[1]
                # Those whose field lies within the image owe nothing to the padding.
                out = np.flatnonzero(ranked.outside[at] > 0)
                continued[row, rank] = ranked.value[at]
                continued[row[out], rank[out]] = projector.continued(
                    model.prepare(pixels[out]), chosen[row[out]], ranked.location[at][out]
                )
    write(
        output,
        Projections(
            unit=chosen,
            projection=projection,
            value=ranked.value[chosen],
            image=ranked.image[chosen],
            box=ranked.box[chosen],
            continued=continued,
            border=continued < ranked.runner_up[chosen, None],
            layer=ranked.layer,
        ),
        recipe,
    )


def project_seeded(
    model: LoadedModel,
    projector: Projector,
    images: NDArray[np.uint8],
    units: NDArray[np.int64],
    locations: NDArray[np.int64],
    values: NDArray[np.float32],
    advance: Callable[[int], None] = lambda _: None,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Project, seeded with the activations as in Zeiler & Fergus (2014).

    The signal is linear in its seed, so it is the unit-seeded one times the value.
    """
    boxes, signal = projector(model.prepare(images), units, locations, advance)
    return boxes, signal * values[:, None, None, None].astype(np.float32)
