"""The projection as a function of a network and images."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from convatlas.errors import LayerError
from convatlas.graph.tracing import Graph, evaluating, trace
from convatlas.projection.engine import Projector


def project(
    model: nn.Module | Graph,
    images: Tensor,
    layer: str,
    units: ArrayLike,
    locations: ArrayLike,
    rule: str = "deconvnet",
    *,
    batch_size: int = 32,
    whole: bool = False,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Project single activations back to the input, one for each row of `images`.

    Only the part of each image that the activation depends on is run, forward and
    backward. The same image may stand in several rows.

    Parameters
    ----------
    model : a network that fx can trace, or its graph.
    images : (B,C,H,W) normalised as the network takes them.
    layer : name of a layer, as `convatlas.graph.receptive_fields` lists them.
    units : (B,) the unit to project.
    locations : (B,2) row and column of its activation; zeros for a vector.
    rule : ``deconvnet``, ``guided`` or ``gradient``.
    batch_size : images a pass, where whole images must be run.
    whole : run whole images only, as a reference.

    Returns
    -------
    boxes : (B,4) int64, top, left, bottom, right of the receptive fields in pixels;
        they may reach outside the image.
    projections : (B,C,h,w) float32, the signal in the space of `images`, seeded with
        one at the unit, cropped to the boxes, and zero outside the image. Signed.

    Raises
    ------
    LayerError
        if the layer, a unit or a location doesn't exist.
    MethodError
        if the rule isn't defined for the operations up to the layer.

    Examples
    --------
    The strongest answer of unit 17 to each of some images:

    >>> maps = features(images)[:, 17]  # (B,h,w), of the layer
    >>> places = np.stack(np.unravel_index(maps.flatten(1).argmax(1), maps.shape[1:]), axis=1)
    >>> boxes, signal = project(model, images, "features.10", [17] * len(images), places)
    """
    if not isinstance(model, Graph):
        channels, height, width = images.shape[1:]
        with evaluating(model):
            graph = trace(model, (channels, height, width))
            return project(
                graph, images, layer, units, locations, rule, batch_size=batch_size, whole=whole
            )
    projector = Projector(model, layer, rule, batch_size=batch_size, whole=whole)
    chosen = np.asarray(units, dtype=np.int64).reshape(-1)
    places = np.asarray(locations, dtype=np.int64).reshape(-1, 2)
    _check(projector, len(images), chosen, places)
    return projector(images, chosen, places)


def _check(
    projector: Projector, count: int, units: NDArray[np.int64], places: NDArray[np.int64]
) -> None:
    """Raise a `LayerError` unless there is one activation of the layer for each image."""
    layer = projector.layer
    if not len(units) == len(places) == count:
        raise LayerError(
            f"there are {count} images, {len(units)} units and {len(places)} locations to "
            f"project from {layer.name!r}; give one unit and one location for each image."
        )
    rows, columns = layer.shape[1:] or (1, 1)
    for value, limit, what in (
        (units, layer.units, "unit"),
        (places[:, 0], rows, "row"),
        (places[:, 1], columns, "column"),
    ):
        wrong = value[(value < 0) | (value >= limit)]
        if wrong.size:
            raise LayerError(
                f"layer {layer.name!r} has no {what} {wrong[0]}; there are 0 to {limit - 1}."
            )
