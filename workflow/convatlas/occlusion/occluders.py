"""How large an occluder is, how far it steps, and what it shows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from convatlas.errors import MethodError

Extent = float | Sequence[float]  # pixels, or a share of the side; one number or two


def pixels(what: str, extent: Extent, image: tuple[int, int]) -> tuple[int, int]:
    """Return a height and width in pixels.

    Parameters
    ----------
    what : ``size`` or ``stride``, for the error.
    extent : one number, or height and width: whole pixels, or, below one, a share of the
        image's side.
    image : height and width of the image.

    Raises
    ------
    MethodError
        if a number is neither.
    """
    given = [extent, extent] if np.ndim(extent) == 0 else list(extent)  # type: ignore[arg-type]
    pair: list[Any] = [value.item() if hasattr(value, "item") else value for value in given]
    if len(pair) != 2 or not all(isinstance(value, int | float) for value in pair):
        raise MethodError(f"the occluder's {what} is {extent!r}; it takes one number, or two.")
    height, width = (_pixels(what, value, side) for value, side in zip(pair, image, strict=True))
    return height, width


def _pixels(what: str, value: float, side: int) -> int:
    if isinstance(value, float) and 0 < value < 1:
        return max(round(value * side), 1)
    # 1.0 would be a single pixel, where 0.99 is nearly all of the side.
    one = isinstance(value, bool) or (isinstance(value, float) and value == 1)
    if one or not math.isfinite(value) or value < 1 or value != int(value):
        raise MethodError(
            f"the occluder's {what} is {value}; it must be a whole number of pixels, at least "
            "one, or a share of the image's side between 0 and 1."
        )
    return min(int(value), 2**31)  # more than any image has


def blurred(image: Tensor, sigma: float | None = None) -> Tensor:
    """Return an image blurred by a Gaussian, for an occluder that takes away detail only.

    Fong & Vedaldi (2017), "Interpretable explanations of black boxes by meaningful
    perturbation", section 4, compare such occluders with constant ones.

    Parameters
    ----------
    image : (C,H,W).
    sigma : the Gaussian's standard deviation in pixels; a sixteenth of the shorter side
        unless given.

    Raises
    ------
    MethodError
        for a sigma that isn't above zero.
    """
    # Here, as most sweeps need none of torchvision, which takes longer to import than torch.
    from torchvision.transforms.functional import gaussian_blur

    if sigma is not None and not 0 < sigma < math.inf:
        raise MethodError(f"the blur's sigma is {sigma}; it must be a number of pixels above zero.")
    shorter = min(image.shape[-2:])
    sigma = shorter / 16 if sigma is None else sigma
    # Three standard deviations to either side, as far as the reflected border reaches.
    reach = max(min(math.ceil(3 * sigma), shorter - 1), 1)
    return gaussian_blur(image, [2 * reach + 1] * 2, [sigma] * 2) if shorter > 1 else image


def shown(fill: Any, image: Tensor) -> Tensor:
    """Return what an occluder shows, (C,) or (C,H,W), in the image's space.

    Raises
    ------
    MethodError
        if it is neither a finite number, one per channel, nor an image of that shape.
    """
    try:
        value = torch.as_tensor(fill, dtype=image.dtype, device=image.device)
    except (TypeError, ValueError) as error:
        raise MethodError(f"the occluder's fill is {fill!r}; {_FILLS}.") from error
    if not bool(torch.isfinite(value).all()):
        raise MethodError("the occluder's fill isn't finite; it must be in the image's space.")
    if value.shape == image.shape:
        return value
    if value.shape[1:] == (1, 1):
        value = value.flatten()
    if value.dim() > 1 or value.numel() not in (1, len(image)):
        raise MethodError(f"the occluder's fill has the shape {tuple(value.shape)}; {_FILLS}.")
    return value.expand(len(image))


_FILLS = "it takes one number, one per channel, or an image of the same shape"
