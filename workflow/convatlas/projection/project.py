"""The projection as a function of a network and images."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from convatlas.errors import LayerError, MethodError
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
    images : (B,C,H,W) normalised as the network takes them, in floating point.
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
        if the rule isn't defined for the operations up to the layer, or an argument isn't
        what it may be.
    ModelError
        if the network can't be traced, or fails on images of that size.

    Examples
    --------
    The strongest answer of unit 17 of a layer to each of some images:

    >>> import torch
    >>> from torchvision.models import alexnet
    >>> from convatlas.projection import project
    >>> model, images = alexnet().eval(), torch.randn(4, 3, 224, 224)
    >>> with torch.no_grad():
    ...     cells = model.features[:11](images)[:, 17].flatten(1).argmax(1)
    >>> places = torch.stack([cells // 13, cells % 13], dim=1)  # its maps are of 13 x 13 cells
    >>> boxes, signal = project(model, images, "features.10", [17] * 4, places)
    >>> boxes.shape, signal.shape
    ((4, 4), (4, 3, 163, 163))
    """
    if not isinstance(images, Tensor) or images.dim() != 4 or not images.is_floating_point():
        what = (
            f"are of {images.dtype}" if isinstance(images, Tensor) else f"a {type(images).__name__}"
        )
        raise MethodError(
            f"the images {what} and of the shape {tuple(np.shape(images))}; a projection takes a "
            "tensor (B,C,H,W) in floating point."
        )
    if batch_size < 1:
        raise MethodError(f"the batch size is {batch_size}; it must be at least one.")
    channels, height, width = images.shape[1:]
    if not isinstance(model, nn.Module | Graph):
        raise MethodError(f"the model is a {type(model).__name__}, not a torch.nn.Module.")
    if not isinstance(model, Graph):
        with evaluating(model):
            graph = trace(model, (channels, height, width))
            return project(
                graph, images, layer, units, locations, rule, batch_size=batch_size, whole=whole
            )
    if model.size != (channels, height, width):
        raise MethodError(
            f"the images are of the shape {(channels, height, width)}; the graph is that of the "
            f"network for {model.size}."
        )
    like = next((p for p in model.module.parameters() if p.is_floating_point()), images)
    images = images.to(like)
    projector = Projector(model, layer, rule, batch_size=batch_size, whole=whole)
    chosen, places = _whole(units, "units", 1), _whole(locations, "locations", 2)
    _check(projector, len(images), chosen, places)
    return projector(images, chosen, places)


def _whole(given: ArrayLike, what: str, dimensions: int) -> NDArray[np.int64]:
    """Return whole numbers, (B,) or (B,2)."""
    found = np.asarray(given)
    if found.size == 0:
        return np.zeros((0, 2)[:dimensions], dtype=np.int64)
    shaped = found.ndim == dimensions and (dimensions == 1 or found.shape[1] == 2)
    if found.dtype.kind not in "iu" or not shaped:
        raise MethodError(
            f"the {what} are of {found.dtype} and the shape {found.shape}; they must be whole "
            f"numbers of the shape {'(B,)' if dimensions == 1 else '(B, 2)'}."
        )
    return found.astype(np.int64)


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
