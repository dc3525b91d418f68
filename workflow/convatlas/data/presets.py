"""The input sizes that belong to torchvision's own weights."""

from __future__ import annotations

from torchvision.models import get_model_weights

from convatlas.data.images import Sizing
from convatlas.errors import DataError, did_you_mean

_PREFIX = "torchvision/"


def preset_sizing(architecture: str, weights: str) -> Sizing:
    """Return how the images were sized on which torchvision's weights were measured.

    Parameters
    ----------
    architecture : ``torchvision/NAME``.
    weights : the name of a member of the network's weights enum, or ``DEFAULT``.

    Raises
    ------
    DataError
        if torchvision has no such network or weights.
    """
    name = architecture.removeprefix(_PREFIX)
    try:
        known = get_model_weights(name)
    except ValueError as error:
        raise DataError(
            f"The size of the images can't be taken from {architecture}: torchvision has no such "
            "network. Set resize and crop of the data set."
        ) from error
    names = list(known.__members__)
    if weights not in names:
        raise DataError(
            f"The size of the images can't be taken from weights {weights!r} of {architecture}; "
            f"torchvision has {', '.join(names)}.{did_you_mean(weights, names)}"
        )
    transforms = known[weights].transforms()
    return Sizing(
        resize=transforms.resize_size[0],
        crop=transforms.crop_size[0],
        interpolation=transforms.interpolation.value,
    )
