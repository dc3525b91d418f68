"""Take the filters of a convolution out of a network's weights, and tell what they say.

Noisy filters hint at too little training or regularisation. Zeiler & Fergus ("Visualizing
and Understanding Convolutional Networks", ECCV 2014, sections 3 and 4.1) scaled filters down
whose root mean square passed 0.1, with inputs in about -128 to 128, and found AlexNet's first
layer to be a mix of very high and very low frequencies with little in between, and its
stride of 4 to alias. Filters that are alike do one filter's work.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import leaves_list, linkage

from convatlas.errors import LayerError
from convatlas.files import AnyPath, read_json
from convatlas.layers import find_layer, first_filters, has_spectrum, read_layers
from convatlas.models.checkpoints import read_weights
from convatlas.spectra import HIGH, MIDDLE, band_shares, peaks, share_beyond
from convatlas.store import Filters, Recipe, write

_OPTIMAL_UP_TO = 512  # units; the best order of the leaves takes time that grows with their square


def cut_filters(
    *, weights: AnyPath, layers: AnyPath, card: AnyPath, output: AnyPath, recipe: Recipe, layer: str
) -> None:
    """Write the filters of a convolution, (U,C/groups,h,w), and the numbers of `store.Filters`.

    Frequencies are told of the network's first convolution alone, where a weight lies on a
    pixel: if it reads the image itself and its kernels are no smaller than 3 x 3.

    Raises
    ------
    LayerError
        if the layer is no convolution, or its weights aren't kept as such (but as factors, say).
    """
    described = read_layers(layers)
    found = find_layer(described, layer)
    if found.kind != "conv":
        raise LayerError(f"{layer!r} is no convolution, so it has no filters that could be shown.")
    state = read_weights(Path(weights))
    key = found.weight or ""
    if key not in state:
        raise LayerError(
            f"the weights hold no {key!r}, the filters of {layer!r}: they are computed on the way."
        )
    weight = state[key].float().numpy()
    units = len(weight)
    exact = weight.astype(np.float64)
    first = layer == first_filters(described)
    on_pixels = np.full(units, np.nan)
    if first and not found.inputs:
        std = np.asarray(read_json(card)["normalize"]["std"])
        if len(std) == weight.shape[1]:
            on_pixels = rms(exact / (255 * std[:, None, None]))
    shares, peak, beyond = (
        np.full((units, 3), np.nan),
        np.full(units, np.nan),
        np.full(units, np.nan),
    )
    stride = (1, 1)
    if first and has_spectrum(described, layer):
        spread = dilated(exact, found.size)
        stride = (max(found.stride[0], 1), max(found.stride[1], 1))
        shares, peak = band_shares(spread), peaks(spread)
        beyond = share_beyond(spread, stride)
    alike = similarities(exact, found.groups)
    known = peak[np.isfinite(peak)]
    write(
        output,
        Filters(
            weight=weight,
            rms=rms(exact),
            rms_pixels=on_pixels,
            low=shares[:, 0],
            middle=shares[:, 1],
            high=shares[:, 2],
            peak=peak,
            aliased=beyond,
            order=order_by_similarity(alike),
            similarity=alike.astype(np.float32),
            layer=layer,
            groups=found.groups,
            stride=stride,
            middle_peaks=float(np.mean((known >= MIDDLE) & (known < HIGH)))
            if known.size
            else np.nan,
            mean_aliased=float(np.nanmean(beyond)) if known.size else np.nan,
        ),
        recipe,
    )


def rms(weight: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the root mean square of each filter's weights, (U,)."""
    return np.asarray(np.sqrt(np.square(weight).mean((1, 2, 3))))


def dilated(weight: NDArray[np.float64], size: Sequence[int]) -> NDArray[np.float64]:
    """Return filters with zeros between their weights, as far as `size` pixels ask for it."""
    steps = [(side - 1) // max(k - 1, 1) for side, k in zip(size, weight.shape[2:], strict=True)]
    result = np.zeros((*weight.shape[:2], *size))
    result[:, :, :: max(steps[0], 1), :: max(steps[1], 1)] = weight
    return result


def similarities(weight: NDArray[np.float64], groups: int = 1) -> NDArray[np.float64]:
    """Return the cosine similarity of each filter with each other, (U,U), from -1 to 1.

    Filters of different groups read different channels: over all channels, where those that
    a filter doesn't read count as zero, their similarity is zero. So is that of a filter
    which is zero itself, but for the one on the diagonal.
    """
    flat = weight.reshape(len(weight), -1)
    lengths = np.linalg.norm(flat, axis=1, keepdims=True)
    unit = np.divide(flat, lengths, out=np.zeros_like(flat), where=lengths > 0)
    group = np.arange(len(flat)) // (len(flat) // groups)
    result = np.clip(unit @ unit.T, -1, 1)
    result[group[:, None] != group] = 0
    np.fill_diagonal(result, 1)
    return np.asarray(result)


def order_by_similarity(similarity: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the units so that those that are alike stand together, (U,).

    The leaves of a tree by average linkage of cosine distances. Up to 512 units, they are
    ordered so that neighbours are as near as the tree allows (Bar-Joseph et al., "Fast
    optimal leaf ordering for hierarchical clustering", 2001). Units that are like no other
    keep their order.
    """
    units = len(similarity)
    above = np.triu_indices(units, 1)
    if not similarity[above].any():
        return np.arange(units)
    tree = linkage(
        np.maximum(1 - similarity[above], 0), "average", optimal_ordering=units <= _OPTIMAL_UP_TO
    )
    return np.asarray(leaves_list(tree), dtype=np.int64)
