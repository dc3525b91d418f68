"""Draw the image patches that excite units most, a block of patches for each unit."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from convatlas import store
from convatlas.classes import read_classes
from convatlas.errors import LayerError
from convatlas.figures import style
from convatlas.figures.labels import class_name, most_frequent
from convatlas.files import write_csv

_BLOCKS = 4  # beside each other on a page
_BETWEEN = 0.16  # blocks, in inches
_NAME = 0.25  # height of the two lines above a block
_VALUE = 0.085  # height of the value under a patch


def plot_patches(
    patches: str | os.PathLike[str],
    images: str | os.PathLike[str],
    *,
    output: str | os.PathLike[str],
    units: Sequence[int],
    classes: str | os.PathLike[str] | None = None,
    formats: Sequence[str] = (),
    dpi: float = style.DPI,
    about: Mapping[str, str] | None = None,
) -> None:
    """Draw the strongest patches of each of `units` in a square block, read line by line.

    Under each patch stands its activation. What a patch's box covers outside the image
    is hatched. A unit that answers every image alike is called dead and shows nothing.
    The CSV holds unit, rank, value, image, label, location, box, and share of padding.
    """
    ranked = store.read(store.Patches, patches)
    rows = rows_of(units, ranked.unit, ranked.layer)
    count = ranked.value.shape[1]
    blocks = Blocks.of(len(rows), count)
    names = read_classes(classes)
    title = f"Strongest patches of {ranked.layer}"
    with (
        store.Images(images) as source,
        style.page(
            output, size=blocks.page, title=title, formats=formats, dpi=dpi, about=about
        ) as figure,
    ):
        labels = source.labels()
        paper = style.paper(figure)
        style.head(paper, title, _subtitle(ranked, rows, count))
        for place, row in enumerate(rows):
            dead = bool(ranked.dead[row])
            told = "dead" if dead else most_frequent(ranked.image[row], labels, names)
            draw_block(paper, source, ranked, row, blocks, place, told)
        _write_numbers(Path(output).with_suffix(".csv"), ranked, rows, labels, names)


# ------------------------------------------- shared with the projections and the worst


@dataclass(frozen=True)
class Blocks:
    """How square blocks of patches lie on a page, lengths in inches.

    Attributes
    ----------
    number : of blocks; `columns` of them lie beside each other.
    across, down : patches of a block beside and below each other.
    width, side : of a block and of a patch.
    step : from one block to the next, across and down.
    top : of the first blocks.
    """

    number: int
    columns: int
    across: int
    down: int
    width: float
    side: float
    step: tuple[float, float]
    top: float

    @classmethod
    def of(cls, number: int, patches: int, top: float = style.HEADING) -> Blocks:
        """Lay out `number` blocks of so many patches each."""
        across = math.ceil(math.sqrt(patches))
        down = -(-patches // across)
        columns = block_columns(number, _BLOCKS)
        scale = _BLOCKS if columns >= _BLOCKS else 3  # few units: larger, but not huge, patches
        width = (style.PAGE - 2 * style.MARGIN - (scale - 1) * _BETWEEN) / scale
        side = (width - (across - 1) * style.GUTTER) / across
        step = (width + _BETWEEN, _NAME + down * (side + _VALUE + style.GUTTER) + 0.06)
        return cls(number, columns, across, down, width, side, step, top)

    @property
    def page(self) -> tuple[float, float]:
        """Width and height of a page that holds all blocks."""
        return (
            max(style.PAGE, 2 * style.MARGIN + self.columns * self.step[0] - _BETWEEN),
            self.top + -(-self.number // self.columns) * self.step[1] + style.MARGIN,
        )

    def corner(self, place: int) -> tuple[float, float]:
        """Return left and top of a block."""
        return (
            style.MARGIN + place % self.columns * self.step[0],
            self.top + place // self.columns * self.step[1],
        )


def draw_block(
    paper: Axes,
    source: store.Images,
    ranked: store.Patches,
    row: int,
    blocks: Blocks,
    place: int,
    told: str,
) -> None:
    """Draw the patches of one unit in its block, under its number and what is told of it."""
    left, top = blocks.corner(place)
    side = blocks.side
    name_block(paper, left, top, blocks.width, int(ranked.unit[row]), told)
    if ranked.dead[row]:
        draw_dead(paper, left, top + _NAME, blocks.width, blocks.down * (side + _VALUE))
        return
    for rank, image in enumerate(ranked.image[row]):
        x = left + rank % blocks.across * (side + style.GUTTER)
        y = top + _NAME + rank // blocks.across * (side + _VALUE + style.GUTTER)
        if image < 0:
            style.draw_rectangle(paper, x, y, side, side)
            continue
        box = ranked.box[row, rank]
        patch = style.crop(source.rows([image])[0], box)
        style.draw_patch(paper, patch, box, source.size, x, y, side)
        style.write(
            paper,
            x + side / 2,
            y + side + 0.065,
            style.number(float(ranked.value[row, rank])),
            size=style.TINY,
            colour=style.SOFT,
            align="center",
        )


def rows_of(units: Sequence[int], known: NDArray[Any], layer: str) -> list[int]:
    """Return the rows of an artifact that hold `units`, in their order.

    Raises
    ------
    LayerError
        if a unit isn't among the `known` ones.
    """
    places = {int(unit): row for row, unit in enumerate(known)}
    missing = [unit for unit in units if unit not in places]
    if missing:
        raise LayerError(
            f"{layer} has no unit {missing[0]} to draw; there are {len(places)}, from "
            f"{min(places, default=0)} to {max(places, default=0)}. Name some of these."
        )
    return [places[unit] for unit in units]


def block_columns(count: int, usual: int) -> int:
    """Return how many blocks lie beside each other: more than `usual` only for posters."""
    return min(max(1, count), max(usual, math.ceil(math.sqrt(count / 2))))


def name_block(paper: Axes, left: float, top: float, width: float, unit: int, told: str) -> None:
    """Write a unit's number and one thing about it above its block."""
    style.write(paper, left, top + 0.09, f"unit {unit}", bold=True)
    style.write(paper, left, top + 0.195, told, width=width, size=style.SMALL, colour=style.SOFT)


def draw_dead(paper: Axes, left: float, top: float, width: float, height: float) -> None:
    """Draw the block of a unit that answers every image alike."""
    style.draw_rectangle(paper, left, top, width, height, linestyle=(0, (3, 3)))
    style.write(
        paper,
        left + width / 2,
        top + height / 2,
        "the same answer to every image",
        width=width - 0.1,
        size=style.SMALL,
        colour=style.SOFT,
        align="center",
    )


# ---------------------------------------------------------------------------------


def _subtitle(ranked: store.Patches, rows: Sequence[int], count: int) -> str:
    heights = ranked.box[..., 2] - ranked.box[..., 0]
    widths = ranked.box[..., 3] - ranked.box[..., 1]
    real = ranked.image >= 0
    size = ""
    if real.any():
        size = f"; patches of {int(heights[real].max())} × {int(widths[real].max())} pixels"
    hatched = "; hatched: outside the image" if (ranked.outside[rows] > 0).any() else ""
    return (
        f"{len(rows)} of {len(ranked.unit)} units; the {count} images that excite each most, "
        f"with the activation{size}{hatched}"
    )


def _write_numbers(
    path: Path,
    ranked: store.Patches,
    rows: Sequence[int],
    labels: NDArray[Any],
    classes: Sequence[str],
) -> None:
    real = [(row, rank) for row in rows for rank in np.flatnonzero(ranked.image[row] >= 0)]
    at = tuple(np.array(real, dtype=int).reshape(-1, 2).T)
    image = ranked.image[at]
    label = labels[image]
    columns: dict[str, Any] = {
        "unit": ranked.unit[at[0]],
        "rank": at[1],
        "value": ranked.value[at],
        "image": image,
        "label": label,
        "class": [class_name(classes, int(i)) for i in label],
    }
    for i, name in enumerate(("row", "column")):
        columns[name] = ranked.location[at][:, i]
    for i, name in enumerate(("top", "left", "bottom", "right")):
        columns[name] = ranked.box[at][:, i]
    columns["outside"] = ranked.outside[at]
    columns["dead"] = ranked.dead[at[0]]
    write_csv(path, columns)
