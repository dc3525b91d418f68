"""Draw what excites units next to the patches it was found in (Zeiler & Fergus 2014, Fig. 2)."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from convatlas import store
from convatlas.figures import style
from convatlas.figures.patches import block_columns, draw_dead, name_block, rows_of
from convatlas.files import known, write_csv

_PAIRS = 2  # of blocks beside each other on a page
_BETWEEN = 0.2  # pairs, in inches
_WITHIN = 0.06  # a pair
_NAME = 0.25  # height of the two lines above a pair
_BORDER = {"edgecolor": style.COLOURS[1], "linewidth": 1.0}  # round what wins by the padding


def plot_projections(
    projections: str | os.PathLike[str],
    patches: str | os.PathLike[str],
    images: str | os.PathLike[str],
    *,
    output: str | os.PathLike[str],
    units: Sequence[int] | None = None,
    formats: Sequence[str] = (),
    dpi: float = style.DPI,
    about: Mapping[str, str] | None = None,
) -> None:
    """Draw, for each unit, a block of projections and beside it the block of their patches.

    Both blocks have one order, scale and box. Zero is mid-grey; full black and white
    are reached at the 99th percentile of the absolute signal over all of a unit's
    projections, so a few extreme pixels don't make the rest pale, and patches of one
    unit can be compared. A patch that is among the strongest only because of the padding
    beyond the image's border is framed. The CSV holds the scale with every projection's
    activation, what that would be had the maps gone on, its extremes and norm.

    Parameters
    ----------
    units : which of the units in `projections` to draw; all of them if None.
    """
    found = store.read(store.Projections, projections)
    ranked = store.read(store.Patches, patches)
    rows = rows_of(
        [int(u) for u in found.unit] if units is None else units, found.unit, found.layer
    )
    dead = dict(zip(ranked.unit.tolist(), ranked.dead.astype(bool).tolist(), strict=True))
    scales = [style.signal_scale(found.projection[row][found.image[row] >= 0]) for row in rows]

    count = found.value.shape[1]
    across = math.ceil(math.sqrt(count))
    down = -(-count // across)
    pairs = block_columns(len(rows), _PAIRS)
    pair = (style.PAGE - 2 * style.MARGIN - (_PAIRS - 1) * _BETWEEN) / _PAIRS
    block = (pair - _WITHIN) / 2
    side = (block - (across - 1) * style.GUTTER) / across
    tall = down * (side + style.GUTTER) - style.GUTTER
    step = (pair + _BETWEEN, _NAME + tall + 0.12)
    size = (
        max(style.PAGE, 2 * style.MARGIN + pairs * step[0] - _BETWEEN),
        style.HEADING + -(-len(rows) // pairs) * step[1],
    )
    title = f"Projections and patches of {found.layer}"
    with (
        store.Images(images) as source,
        style.page(output, size=size, title=title, formats=formats, dpi=dpi, about=about) as figure,
    ):
        paper = style.paper(figure)
        style.head(
            paper,
            title,
            f"left {found.rule} projections, right the patches; one contrast a unit: grey is 0, "
            "black and white ± the scale, the signal's 99th percentile"
            f"{_of_borders(found, rows)}",
        )
        for place, (row, scale) in enumerate(zip(rows, scales, strict=True)):
            left = style.MARGIN + place % pairs * step[0]
            top = style.HEADING + place // pairs * step[1]
            unit = int(found.unit[row])
            if dead.get(unit, False):
                name_block(paper, left, top, pair, unit, "dead")
                draw_dead(paper, left, top + _NAME, pair, tall)
                continue
            name_block(paper, left, top, pair, unit, _range(found, row, scale))
            beside = left + block + _WITHIN
            for rank, image in enumerate(found.image[row]):
                x = rank % across * (side + style.GUTTER)
                y = top + _NAME + rank // across * (side + style.GUTTER)
                box = found.box[row, rank]
                if image < 0:
                    _draw_empty(paper, (left + x, beside + x), y, side)
                    continue
                height, width = int(box[2] - box[0]), int(box[3] - box[1])
                signal = found.projection[row, rank].transpose(1, 2, 0)[:height, :width]
                patch = style.crop(source.rows([image])[0], box)
                drawn = style.signed_rgb(signal, scale)
                style.draw_patch(paper, drawn, box, source.size, left + x, y, side)
                style.draw_patch(paper, patch, box, source.size, beside + x, y, side)
                if found.border[row, rank]:
                    style.draw_rectangle(paper, beside + x, y, side, side, **_BORDER)
    _write_numbers(Path(output).with_suffix(".csv"), found, rows, scales)


def _of_borders(found: store.Projections, rows: Sequence[int]) -> str:
    """Say what a mark stands for, if there is one."""
    return "; framed: wins by the padding" if found.border[rows].any() else ""


def _range(found: store.Projections, row: int, scale: float) -> str:
    value = found.value[row][found.image[row] >= 0]
    if not value.size:
        return "no image"
    low, high = style.number(float(value.min())), style.number(float(value.max()))
    told = high if low == high else f"{high} to {low}"
    return f"activation {told}; scale ±{style.number(scale)}"


def _draw_empty(paper: Axes, lefts: Sequence[float], top: float, side: float) -> None:
    for left in lefts:
        style.draw_rectangle(paper, left, top, side, side)


def _write_numbers(
    path: Path, found: store.Projections, rows: Sequence[int], scales: Sequence[float]
) -> None:
    real = [
        (row, int(rank), scale)
        for row, scale in zip(rows, scales, strict=True)
        for rank in np.flatnonzero(found.image[row] >= 0)
    ]
    signals = [found.projection[row, rank] for row, rank, _ in real]
    boxes = [found.box[row, rank] for row, rank, _ in real]
    columns = {
        "unit": [int(found.unit[row]) for row, _, _ in real],
        "rank": [rank for _, rank, _ in real],
        "value": [found.value[row, rank] for row, rank, _ in real],
        "image": [int(found.image[row, rank]) for row, rank, _ in real],
        "continued": known([found.continued[row, rank] for row, rank, _ in real]),
        "border": [int(found.border[row, rank]) for row, rank, _ in real],
        "scale": [scale for _, _, scale in real],
        "minimum": [signal.min() for signal in signals],
        "maximum": [signal.max() for signal in signals],
        "norm": [np.linalg.norm(signal.astype(np.float64)) for signal in signals],
    }
    for i, name in enumerate(("top", "left", "bottom", "right")):
        columns[name] = [int(box[i]) for box in boxes]
    write_csv(path, columns)
