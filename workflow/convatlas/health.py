"""How healthy a layer's units are: active on which share of the images, how sparse, dead or not.

A unit's answer to an image is its largest activation over the map, and it is active on
the image if that is above zero. For a layer whose values aren't rectified this asks
whether a rectifier behind it would let anything of the map through; after a sigmoid or a
softmax every unit is active on every image by definition.

Sparsity is that of Vinje & Gallant ("Sparse coding and decorrelation in primary visual
cortex during natural vision", Science 2000) after Treves & Rolls (1991):
``(1 - mean(r)^2 / mean(r^2)) / (1 - 1/n)`` of n rates r, here the answers cut off at
zero. It is 0 if all are alike and 1 if only one isn't zero. Over the images it is a
unit's lifetime sparsity, over the units an image's population sparsity.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from convatlas.store import Activations, Health, Recipe, write

Path = str | os.PathLike[str]
Floats = NDArray[np.float64]

_AT_ONCE = 1 << 17  # answers: with what is worked out of them they stay in the processor's cache

BINS = 200  # of the population sparsity, equal ones from 0 to 1
RARE = 0.01  # active on less than this share of the images, a unit is called rarely active

DEAD, CONSTANT, RARELY, ALWAYS = "dead", "constant", "rarely active", "always on"
REASONS = (DEAD, CONSTANT, RARELY, ALWAYS)  # what may be wrong with a unit, the worst first


class Activity:
    """Running statistics of the answers of a layer's units, block by block.

    Memory depends on the number of units, not of images. Sums are kept in float64, so that
    blocks of any size give the same to rounding.

    Attributes
    ----------
    images : number of images so far.
    population : (BINS,) int64, images by their population sparsity, in equal bins from 0
        to 1; those on which no unit is active aren't among them.
    silent : number of images on which no unit is active.
    """

    def __init__(self, units: int) -> None:
        self.images = 0
        self.silent = 0
        self.population = np.zeros(BINS, dtype=np.int64)
        self._population_sum = 0.0
        self._active = np.zeros(units, dtype=np.int64)
        self._mean = np.zeros(units)
        self._spread = np.zeros(units)  # sum of squared differences from the mean
        self._rate = np.zeros(units)  # sum of the rates, and of their squares
        self._square = np.zeros(units)
        self._low = np.full(units, np.inf)
        self._high = np.full(units, -np.inf)

    def add(self, answers: NDArray[np.floating]) -> None:
        """Add the answers to some more images, (n,U)."""
        step = max(1, _AT_ONCE // max(answers.shape[1], 1))
        for first in range(0, len(answers), step):
            self._add(answers[first : first + step].astype(np.float64))

    def _add(self, values: Floats) -> None:
        count, before = len(values), self.images
        self.images += count
        # Chan, Golub & LeVeque (1979): squares of differences don't cancel as sums of squares do.
        mean = values.mean(0)
        shift = mean - self._mean
        self._spread += np.square(values - mean).sum(0)
        self._spread += shift**2 * (before * count / self.images)
        self._mean += shift * (count / self.images)
        self._low = np.minimum(self._low, values.min(0))
        self._high = np.maximum(self._high, values.max(0))
        rates = np.maximum(values, 0)
        self._active += (values > 0).sum(0)
        self._rate += rates.sum(0)
        self._square += np.square(rates).sum(0)
        found = sparsity(rates.sum(1), np.square(rates).sum(1), rates.shape[1])
        self.silent += int((~rates.any(1)).sum())
        known = found[np.isfinite(found)]
        self._population_sum += float(known.sum())
        places = np.minimum((known * BINS).astype(np.int64), BINS - 1)
        self.population += np.bincount(places, minlength=BINS)

    @property
    def frequency(self) -> Floats:
        """(U,) share of the images on which a unit is active."""
        return np.asarray(self._active / max(self.images, 1))

    @property
    def mean(self) -> Floats:
        """(U,) mean answer."""
        return self._mean

    @property
    def std(self) -> Floats:
        """(U,) standard deviation of the answers, over the images as they are (not n - 1)."""
        spread = np.where(self.constant, 0, self._spread)
        return np.asarray(np.sqrt(spread / max(self.images, 1)))

    @property
    def minimum(self) -> Floats:
        """(U,) smallest answer."""
        return self._low

    @property
    def maximum(self) -> Floats:
        """(U,) largest answer."""
        return self._high

    @property
    def lifetime(self) -> Floats:
        """(U,) lifetime sparsity, 0 to 1; nan for a unit that is never active."""
        return sparsity(self._rate, self._square, self.images)

    @property
    def dead(self) -> NDArray[np.bool_]:
        """(U,) whether a unit is active on no image."""
        return np.asarray(self._active == 0)

    @property
    def constant(self) -> NDArray[np.bool_]:
        """(U,) whether a unit gives each of several images the same answer."""
        return np.asarray((self._low == self._high) & (self.images > 1))

    @property
    def always_on(self) -> NDArray[np.bool_]:
        """(U,) whether a unit is active on every image."""
        return np.asarray(self._active == self.images)

    @property
    def population_mean(self) -> float:
        """Mean population sparsity of the images on which a unit is active; nan if on none."""
        count = int(self.population.sum())
        return self._population_sum / count if count else float("nan")


def sparsity(total: Floats, squares: Floats, count: int) -> Floats:
    """Return the sparsity of rates of which the sum and the sum of squares are known.

    Parameters
    ----------
    total, squares : of the rates, each at least 0; any shape.
    count : how many rates there are.

    Returns
    -------
    0 (all alike) to 1 (only one isn't zero); nan where all are zero, or for a single rate.
    """
    if count < 2:
        return np.full(np.shape(total), np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        found = (1 - total**2 / (count * squares)) / (1 - 1 / count)
    return np.asarray(np.clip(found, 0, 1))


def histogram_quantiles(counts: NDArray[np.integer], levels: Sequence[float]) -> Floats:
    """Return quantiles of values of which only a histogram over 0 to 1 is known.

    `levels` are above 0 and at most 1. Values are taken to lie evenly in their bin, so a
    quantile is right to a bin's width; nan where there are no values.
    """
    total = counts.sum()
    if not total:
        return np.full(len(levels), np.nan)
    below = np.concatenate([[0], np.cumsum(counts) / total])
    edge = np.linspace(0, 1, len(counts) + 1)
    right = np.searchsorted(below, levels)  # the first edge with so many below it
    share = below[right] - below[right - 1]
    inside = (np.asarray(levels) - below[right - 1]) / share
    return np.asarray(edge[right - 1] + inside * (edge[right] - edge[right - 1]))


def measure_health(*, activations: Path, output: Path, recipe: Recipe, layer: str) -> None:
    """Write how healthy the units of a layer are, in one pass over the stored answers."""
    with Activations(activations) as stored:
        _, units = stored.shape(layer)
        activity = Activity(units)
        for _, block in stored.blocks(layer, ["max"]):
            activity.add(block["max"])
    write(
        output,
        Health(
            unit=np.arange(units),
            frequency=activity.frequency,
            mean=activity.mean,
            std=activity.std,
            minimum=activity.minimum,
            maximum=activity.maximum,
            lifetime=activity.lifetime,
            dead=activity.dead,
            constant=activity.constant,
            always_on=activity.always_on,
            population=activity.population,
            population_mean=activity.population_mean,
            images=activity.images,
            silent=activity.silent,
            layer=layer,
        ),
        recipe,
    )


def reasons(health: Health) -> list[str]:
    """Return for each unit what is wrong with it, one of `REASONS`; "" if nothing is."""
    found = np.full(len(health.unit), "", dtype=object)
    found[health.always_on.astype(bool)] = ALWAYS
    found[health.frequency < RARE] = RARELY
    found[health.constant.astype(bool)] = CONSTANT
    found[health.dead.astype(bool)] = DEAD
    return [str(reason) for reason in found]


def worst_first(health: Health) -> NDArray[np.int64]:
    """Return the rows of the units, the worst first.

    First the dead, then those that answer all images alike, those that are rarely active
    (the rarest first), those that are always on (the least varied first, by the standard
    deviation over the mean), and last the others, the rarest first. Ties go to the lower unit.
    """
    why = reasons(health)
    order = {reason: place for place, reason in enumerate((*REASONS, ""))}
    group = np.array([order[reason] for reason in why])
    varied = health.std / np.maximum(np.abs(health.mean), np.finfo(np.float64).tiny)
    within = np.where(group == order[ALWAYS], varied, health.frequency)
    return np.lexsort((health.unit, within, group))
