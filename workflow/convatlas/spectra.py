"""At which spatial frequencies a filter lets an image pass.

The spectrum of a kernel w (h,w) is F(f) = sum over its cells of w(p) exp(-2 pi i f p), f in
cycles a pixel, |f_y| and |f_x| at most 1/2. The energy of a region of frequencies is the
integral of |F|^2 over it; over all of them it is the sum of the squared weights (Parseval).
With a(d), the kernel's autocorrelation, that integral is the sum over all shifts d of a(d)
times the region's own Fourier transform, which is known for a disk (a Bessel function,
Bracewell, "The Fourier Transform and Its Applications", ch. 12) and for a rectangle (sinc):
no grid, and no error but rounding.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.fft import irfft2, next_fast_len, rfft2
from scipy.special import j1

Array = NDArray[np.float64]

MIDDLE, HIGH = 1 / 8, 1 / 4  # cycles a pixel: where the middle and the high band begin
# What white noise has in the three: the areas, in a square of one cycle by one.
NOISE = (math.pi * MIDDLE**2, math.pi * (HIGH**2 - MIDDLE**2), 1 - math.pi * HIGH**2)
_GRID = 128  # at least; of the transform in which peaks are looked for


def band_shares(weight: Array) -> Array:
    """Return the shares of filters' energy in low, middle and high frequencies, summing to 1.

    Parameters
    ----------
    weight : (U,C,h,w), on the pixels' own grid.

    Returns
    -------
    (U,3) energy of all channels below 1/8, below 1/4 and above, by the distance from zero
    frequency; nan for a filter without any.
    """
    correlation, y, x = autocorrelation(weight)
    below = [
        np.tensordot(correlation, _disk(np.hypot(y, x), radius), 2) for radius in (MIDDLE, HIGH)
    ]
    total = _energy(correlation)
    low, both = (_share(part, total) for part in below)
    # Rounding may take a share a little below zero, or the low one above both.
    both = np.maximum(low, both)
    return np.stack([low, both - low, 1 - both], axis=1)


def share_beyond(weight: Array, stride: tuple[int, int]) -> Array:
    """Return the share of filters' energy that a stride folds onto lower frequencies, (U,).

    A map that is sampled at every `stride`-th pixel holds frequencies up to half a cycle a
    sample: 1 / (2 stride) cycles a pixel on each axis. What lies beyond is aliased. Zero at
    stride one; nan for a filter without energy.
    """
    correlation, y, x = autocorrelation(weight)
    total = _energy(correlation)
    if stride == (1, 1):
        return np.where(total > 0, 0, np.nan)  # exactly
    inside = np.sinc(y / stride[0]) / stride[0] * np.sinc(x / stride[1]) / stride[1]
    return 1 - _share(np.tensordot(correlation, inside, 2), total)


def noise_beyond(stride: tuple[int, int]) -> float:
    """Return what `share_beyond` is for white noise."""
    return 1 - 1 / (stride[0] * stride[1])


def peaks(weight: Array) -> Array:
    """Return the frequency at which each filter answers most, (U,) in cycles a pixel.

    The distance from zero frequency, at most the root of 1/2, of the largest power, summed
    over channels, on a grid of at least 128 by 128; nan for a filter without energy.
    """
    rows, columns = (next_fast_len(max(_GRID, 4 * side)) for side in weight.shape[2:])
    radius = np.hypot(np.fft.fftfreq(rows)[:, None], np.fft.rfftfreq(columns))
    found = np.full(len(weight), np.nan)
    for unit, kernels in enumerate(weight):  # one by one: a transform is large
        if kernels.any():
            power = np.square(np.abs(rfft2(kernels, (rows, columns)))).sum(0)
            found[unit] = radius.flat[int(power.argmax())]
    return found


def autocorrelation(weight: Array) -> tuple[Array, Array, Array]:
    """Return filters' autocorrelation, summed over channels, and the shifts it is at.

    Returns
    -------
    (U,2h-1,2w-1) with shift zero in the middle, (2h-1,1) and (1,2w-1).
    """
    shifts = [np.arange(1 - side, side) for side in weight.shape[2:]]
    size = [len(axis) for axis in shifts]
    power = np.square(np.abs(rfft2(weight, size))).sum(1)
    correlation = np.fft.fftshift(irfft2(power, size), axes=(1, 2))
    return correlation, shifts[0][:, None].astype(float), shifts[1][None].astype(float)


def _disk(distance: Array, radius: float) -> Array:
    """Return the Fourier transform of a disk of frequencies at a shift's length."""
    result: Array = np.full(distance.shape, np.pi * radius**2)
    far = distance[distance > 0]
    result[distance > 0] = radius * j1(2 * np.pi * radius * far) / far
    return result


def _energy(correlation: Array) -> Array:
    rows, columns = (side // 2 for side in correlation.shape[1:])
    return np.asarray(correlation[:, rows, columns])


def _share(part: Array, total: Array) -> Array:
    shares = np.full(len(total), np.nan)
    np.divide(part, total, out=shares, where=total > 0)
    return np.asarray(np.clip(shares, 0, 1))
