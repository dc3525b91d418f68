"""What makes a unit fire: images from all over its firing range, their classes, its selectivity.

The strongest images alone make most units look more selective than they are. Here a unit
fires on an image if its answer, the largest activation over the map, is above zero and at
least a share of its largest answer to any image; and the images shown are taken from all
of that range, as whole images, in the manner of Girshick et al. (R-CNN, CVPR 2014, Fig. 4).

The selectivity index is that of Morcos et al. ("On the importance of single directions for
generalization", ICLR 2018): ``(best - rest) / (best + rest)``, where `best` is the largest
of the class means of a unit's activity, and `rest` the mean of the other classes' means. The
activity is the mean over the map, as there, cut off at zero.
"""

from __future__ import annotations

import os

import numpy as np
from numpy.typing import NDArray

from convatlas.layers import find_layer, read_layers
from convatlas.patches import longer_and_longer
from convatlas.store import Activations, Firing, Health, Images, Recipe, read, write

Path = str | os.PathLike[str]
Floats = NDArray[np.float64]
Whole = NDArray[np.int64]

FREQUENT = 8  # classes kept of each unit


class RangeSample:
    """For each of many units, an image from each of equal parts of its firing range.

    The range is from the threshold to the largest answer. Of a part the image is taken
    whose answer is nearest to the part's centre, of the topmost part the strongest; of
    equally near ones the first. Which blocks the images come in doesn't matter.

    Parameters
    ----------
    maximum : (U,) the largest answer of each unit to any image.
    threshold : share of that from which a unit fires, 0 to 1, 1 excluded.
    parts : how many.

    Attributes
    ----------
    value, image, location : (U,P), (U,P), (U,P,2), from the topmost part down; nan and -1
        where a part is empty.
    """

    def __init__(self, maximum: Floats, threshold: float, parts: int) -> None:
        units = len(maximum)
        self._low = maximum * threshold
        self._width = (maximum - self._low) / parts
        self._parts = parts
        step = np.arange(parts - 1, -1, -1) + 0.5
        self._target = self._low[:, None] + step * self._width[:, None]
        self._target[:, 0] = maximum
        self._distance = np.full((units, parts), np.inf)
        self.value = np.full((units, parts), np.nan, dtype=np.float32)
        self.image = np.full((units, parts), -1, dtype=np.int64)
        self.location = np.full((units, parts, 2), -1, dtype=np.int64)

    def add(
        self, start: int, answers: NDArray[np.floating], location: NDArray[np.integer]
    ) -> NDArray[np.bool_]:
        """Add the images from `start` on: `answers` (n,U), `location` (n,U,2).

        Returns which units fire on which of them, (n,U).
        """
        # In single precision as they are stored: comparing with double is exact, and no copy.
        fires = (answers > 0) & (answers >= self._low)
        for part in longer_and_longer(len(answers)):
            self._merge(start + part.start, answers[part], location[part], fires[part])
        return fires

    def _merge(
        self,
        start: int,
        answers: NDArray[np.floating],
        location: NDArray[np.integer],
        fires: NDArray[np.bool_],
    ) -> None:
        """Take those of some images that are nearer than what was found before."""
        row, unit = np.divmod(np.flatnonzero(fires), answers.shape[1])
        value = answers[row, unit].astype(np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            height = np.nan_to_num((value - self._low[unit]) / self._width[unit])
        part = self._parts - 1 - np.clip(height, 0, self._parts - 1).astype(np.int64)
        distance = np.abs(value - self._target[unit, part])
        closer = np.flatnonzero(distance < self._distance[unit, part])
        # Of each unit's part the nearest, of equals the first: they come by image.
        order = closer[np.lexsort((distance[closer], part[closer], unit[closer]))]
        _, first = np.unique(unit[order] * self._parts + part[order], return_index=True)
        best = order[first]
        row, unit, part = row[best], unit[best], part[best]
        self._distance[unit, part] = distance[best]
        self.value[unit, part] = answers[row, unit]
        self.image[unit, part] = row + start
        self.location[unit, part] = location[row, unit]


class ClassSums:
    """Running sums of the units' activity, and counts of where they fire, for each class.

    Images without a label (-1) don't count.

    Parameters
    ----------
    labels : (N,) of all images.
    units : how many.
    """

    def __init__(self, labels: NDArray[np.integer], units: int) -> None:
        self._labels = labels
        self.classes, self.images = np.unique(labels[labels >= 0], return_counts=True)
        self.total = np.zeros((len(self.classes), units))  # of the activity cut off at zero
        self.firing = np.zeros((len(self.classes), units), dtype=np.int64)

    def add(self, start: int, activity: NDArray[np.floating], fires: NDArray[np.bool_]) -> None:
        """Add the images from `start` on, both (n,U)."""
        labels = self._labels[start : start + len(activity)]
        order = np.argsort(labels, kind="stable")
        order = order[labels[order] >= 0]
        if not len(order):
            return
        found, first = np.unique(labels[order], return_index=True)
        rows = np.searchsorted(self.classes, found)
        rates = np.maximum(activity[order], 0)
        self.total[rows] += np.add.reduceat(rates, first, dtype=np.float64)
        self.firing[rows] += np.add.reduceat(fires[order], first, dtype=np.int64)

    def selectivity(self) -> tuple[Floats, Whole, Floats, Floats]:
        """Return the index of each unit, its best class, that class's mean, the mean of the rest.

        Each (U,). The index is nan, and the class -1, for a unit that is never active and
        where fewer than two classes have images. Of equal means the lower class is the best.
        """
        units = self.total.shape[1]
        unknown = np.full(units, np.nan)
        if len(self.classes) < 2:
            return unknown, np.full(units, -1), unknown.copy(), unknown.copy()
        means = self.total / self.images[:, None]
        row = means.argmax(0)
        best = means[row, np.arange(units)]
        # A difference of sums may leave a trace where nothing is left.
        alone = (means > 0).sum(0) <= 1
        rest = np.where(alone, 0, means.sum(0) - best) / (len(self.classes) - 1)
        active = best > 0
        index = np.divide(best - rest, best + rest, out=unknown, where=active)
        return index, np.where(active, self.classes[row], -1), best, rest

    def images_of(self, classes: Whole) -> Whole:
        """Return how many images each of some classes has, none for class -1."""
        number = np.concatenate([self.images, [0]])
        rows = np.searchsorted(self.classes, classes)
        return np.asarray(np.where(classes < 0, 0, number[rows]), dtype=np.int64)

    def frequent(self, count: int) -> tuple[Whole, Whole]:
        """Return the `count` commonest classes of the images on which each unit fires.

        Both (U,count): the classes, -1 where there are no more, and the numbers of images.
        Ties go to the lower class.
        """
        units = self.firing.shape[1]
        classes = np.full((units, count), -1, dtype=np.int64)
        times = np.zeros((units, count), dtype=np.int64)
        order = np.argsort(-self.firing, axis=0, kind="stable")[:count].T
        found = np.take_along_axis(self.firing.T, order, 1)
        shown = found.shape[1]
        times[:, :shown] = found
        if shown:
            classes[:, :shown] = np.where(found > 0, self.classes[order], -1)
        return classes, times


def sample_firing(
    *,
    activations: Path,
    health: Path,
    layers: Path,
    images: Path,
    output: Path,
    recipe: Recipe,
    threshold: float,
    parts: int,
) -> None:
    """Write what makes each unit of a layer fire, in one pass over the stored answers.

    The layer, and the largest answer of each unit, are those of `health`.
    """
    known = read(Health, health)
    described = find_layer(read_layers(layers), known.layer)
    with Images(images) as data:
        labels = data.labels()
    maximum = known.maximum.astype(np.float64)
    sample = RangeSample(maximum, threshold, parts)
    sums = ClassSums(labels, len(maximum))
    firing = np.zeros(len(maximum), dtype=np.int64)
    with Activations(activations) as stored:
        for start, block in stored.blocks(known.layer, ["max", "argmax", "mean"]):
            fires = sample.add(start, block["max"], block["argmax"])
            sums.add(start, block["mean"], fires)
            firing += fires.sum(0)
    index, best, best_mean, rest_mean = sums.selectivity()
    frequent, times = sums.frequent(FREQUENT)
    box = described.boxes(np.maximum(sample.location, 0))
    box[sample.image < 0] = 0
    write(
        output,
        Firing(
            unit=known.unit,
            maximum=maximum,
            firing=firing,
            labelled=sums.firing.sum(0),
            distinct=(sums.firing > 0).sum(0),
            frequent=frequent,
            times=times,
            selectivity=index,
            best=best,
            best_images=sums.images_of(best),
            best_mean=best_mean,
            rest_mean=rest_mean,
            value=sample.value,
            image=sample.image,
            location=sample.location,
            box=box,
            threshold=threshold,
            images=len(labels),
            labelled_images=int((labels >= 0).sum()),
            exact=int(described.exact),
            layer=known.layer,
        ),
        recipe,
    )


def well_founded(found: Firing, enough: int) -> NDArray[np.bool_]:
    """Return whether each unit fires on so many images that its index means something, (U,).

    On `enough` of them, or on as many as its class has, if that has several.
    """
    needed = np.where(found.best_images > 1, np.minimum(found.best_images, enough), enough)
    return np.asarray(found.firing >= needed)


def most_selective(found: Firing) -> Whole:
    """Return the rows of the units, the most selective first.

    Of equals those that fire on more labelled images come first, then the lower unit. Those
    without an index are last, the dead after the others.
    """
    index = np.where(np.isfinite(found.selectivity), found.selectivity, -1)
    return np.lexsort((found.unit, -found.labelled, found.maximum <= 0, -index))
