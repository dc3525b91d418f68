"""Score occlusion sweeps where the truth is known: does the probability fall on the object?

Two numbers a scene. The pointing game (Zhang et al. 2016, "Top-down neural attention by
excitation backprop", section 4) asks whether the place of the largest drop lies on the
object. The share of the drop on the object is the energy-based pointing game of Wang et
al. (2020, "Score-CAM"), with the object's mask in the place of its box. Either has a chance
level: what a place or a map would get that knows nothing of the object.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convatlas.errors import DataError
from convatlas.exhibits import stratified_order
from convatlas.files import read_csv, write_rows
from convatlas.job import progress
from convatlas.models.load import LoadedModel, build, load_model
from convatlas.occlusion.occluders import Extent
from convatlas.occlusion.sweeps import Sweep, Sweeper, occluder
from convatlas.predictions import check_labels
from convatlas.scores import Score
from convatlas.store import Images

Path = str | os.PathLike[str]


# ----------------------------------------------------------------------- one scene


def score_sweep(sweep: Sweep, mask: NDArray[Any], label: int) -> Score:
    """Score the sweep of a scene by the object's mask, (H,W), nonzero on the object."""
    on_object = np.asarray(mask) > 0
    height, width = on_object.shape
    drop = sweep.drop[..., label].astype(np.float64)
    y = _centres(sweep.row, sweep.size[0], height)
    x = _centres(sweep.column, sweep.size[1], width)
    i, j = np.unravel_index(int(drop.argmax()), drop.shape)
    falls = np.maximum(spread_drop(drop, sweep, (height, width)), 0)
    total = float(falls.sum())
    return Score(
        label=label,
        predicted=int(sweep.clean_probability.argmax()),
        clean_probability=float(sweep.clean_probability[label]),
        lowest_probability=float(sweep.probability[i, j, label]),
        y=int(y[i]),
        x=int(x[j]),
        hit=int(drop[i, j] > 0 and on_object[y[i], x[j]]),
        share=float(falls[on_object].sum()) / total if total > 0 else float("nan"),
        chance=float(on_object[np.ix_(y, x)].mean()),
        area=float(on_object.mean()),
    )


def spread_drop(
    drop: NDArray[np.floating], sweep: Sweep, image: tuple[int, int]
) -> NDArray[np.float64]:
    """Spread the drop at each position, (R,C), over the pixels of an image, (H,W).

    A pixel gets the mean drop of the windows that cover it, as captum's `Occlusion` has
    it; zero where none does.
    """
    rows = _covered(sweep.row, sweep.size[0], image[0])
    columns = _covered(sweep.column, sweep.size[1], image[1])
    windows = np.outer(rows.sum(0), columns.sum(0))
    spread: NDArray[np.float64] = rows.T @ drop @ columns / np.maximum(windows, 1)
    return spread


def _covered(first: NDArray[np.int64], length: int, side: int) -> NDArray[np.float64]:
    """Return which pixels along an axis each window covers, (windows,side), 1 or 0."""
    pixel = np.arange(side)
    begin = first[:, None]
    return ((pixel >= begin) & (pixel < begin + length)).astype(np.float64)


def _centres(first: NDArray[np.int64], length: int, side: int) -> NDArray[np.int64]:
    """Return the pixel in the middle of each window's part on the image, of two the later."""
    return (first + np.minimum(first + length, side)) // 2


# --------------------------------------------------------------------- many scenes


def choose_scenes(
    exhibits: Sequence[int], labels: NDArray[np.integer], scenes: int, seed: int
) -> list[int]:
    """Return the images to score: all exhibits, then others up to `scenes` in all.

    The others go round the classes, see `stratified_order`. A larger number begins like a
    smaller one.
    """
    first = list(dict.fromkeys(exhibits))
    order = dict.fromkeys([*first, *stratified_order(labels, scenes, seed).tolist()])
    return list(order)[: max(scenes, len(first))]


def score_scenes(
    *,
    images: Path,
    exhibits: Path,
    card: Path,
    weights: Path,
    output: Path,
    size: Extent,
    stride: Extent,
    fill: str | Sequence[float],
    scenes: int,
    shard: int,
    shards: int,
    seed: int,
    control: bool = False,
) -> None:
    """Sweep one shard of the scenes and write a table, one row a scene.

    Its columns are the scene's number, its image, the number of the exhibit that it is
    (-1 for none), and those of `Score`. The shards take the scenes in turn.

    Parameters
    ----------
    exhibits : the study's exhibits.csv.
    size, stride, fill : of the occluder, as `sweep_occlusion` takes them.
    scenes, seed : see `choose_scenes`.
    control : whether to score the network before any training, see `untrained`.

    Raises
    ------
    DataError
        if a scene has no mask or no label, or a label is beyond the network's outputs.
    """
    model = load_model(card, weights)
    if control:
        model = untrained(model, seed)
    with Images(images) as data:
        numbers = _exhibits(exhibits)
        chosen = choose_scenes(list(numbers), data.labels(), scenes, seed)
        mine = list(enumerate(chosen))[shard::shards]
        scores = _scores(model, data, [row for _, row in mine], size, stride, fill)
        rows = (
            (scene, row, numbers.get(row, -1), *score)
            for (scene, row), score in zip(mine, scores, strict=True)
        )
        write_rows(output, ["scene", "image", "exhibit", *Score._fields], rows)


def untrained(model: LoadedModel, seed: int) -> LoadedModel:
    """Return the same network with random weights.

    For a network that was trained here they are the weights that its training began
    with; for any other they are drawn by `seed`.
    """
    card = model.card
    first = (card["training"] or {}).get("seed", seed)
    module = build(card["architecture"], card["options"], first)
    return replace(model, module=module.eval().requires_grad_(False)).to(model.mean.device)


def _exhibits(path: Path) -> dict[int, int]:
    """Return the number of the exhibit that an image is, of several the first."""
    table = read_csv(path)
    numbers: dict[int, int] = {}
    for number, image in zip(table["exhibit"], table["image"], strict=True):
        numbers.setdefault(int(image), int(number))
    return numbers


def _scores(
    model: LoadedModel,
    data: Images,
    rows: Sequence[int],
    size: Extent,
    stride: Extent,
    fill: str | Sequence[float],
) -> Iterator[Score]:
    """Sweep and score some images, one after the other."""
    if not rows:
        return
    labels = data.labels()
    sweeper = Sweeper(model.module, (3, *data.size))
    for row in progress(rows, len(rows), "scenes"):
        mask = data.mask(row)
        if mask is None or labels[row] < 0:
            lacking = "mask" if mask is None else "label"
            raise DataError(
                f"image {data.name(row)!r} has no {lacking}, so it can't be scored. "
                "Set the analysis `occlusion`'s `score.scenes` to 0."
            )
        image = model.prepare(data.rows([row]))[0]
        shown = occluder(fill, image, model, data.mean)
        swept = sweeper.sweep(image, size, stride, shown, progress=False)
        check_labels(labels, data, len(swept.clean_probability))
        yield score_sweep(swept, mask, int(labels[row]))
