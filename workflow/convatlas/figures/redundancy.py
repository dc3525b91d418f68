"""Draw which filters of a layer do the same work: how alike all are, and the most similar pairs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from convatlas import store
from convatlas.figures import style
from convatlas.files import write_csv

_SIDE = 3.1  # of the matrix, in inches
_LEFT = 0.36  # of the matrix: room for unit numbers
_RIGHT = _LEFT + _SIDE + 0.34  # where the pairs begin
_TOP = style.HEADING + 0.2
_BELOW = 0.62  # the matrix: its scale
_PAIRS = 12  # drawn below each other
_NUMBERED = 40  # units up to which the matrix bears their numbers
_TEXT = 0.72  # width of a pair's numbers
_ROW = 0.05  # between pairs
_LARGEST = 0.42  # side of a kernel
_CHANNELS = 8  # drawn of a filter
_CELL = 0.12  # of a kernel that is a single weight
_MOST_ROWS = 100_000  # pairs in the table


def plot_redundancy(
    filters: str | os.PathLike[str],
    *,
    similar: float,
    output: str | os.PathLike[str],
    formats: Sequence[str] = (),
    dpi: float = style.DPI,
    about: Mapping[str, str] | None = None,
) -> None:
    """Draw the similarity of a layer's filters (`store.Filters`), and the most similar pairs.

    Left every filter with every other, those that are alike together. Right the pairs that
    have anything in common side by side, the two of a pair on one contrast: in colour if
    they are over three channels, else the channels in which the two have the largest
    weights, in grey. Numbers of pairs less alike than `similar` are pale. The CSV has the
    pairs from `similar` up (100,000 of them at most), the most similar first, and each
    unit's nearest.
    """
    found = store.read(store.Filters, filters)
    first, second, alike = pairs_of(found)
    count = int(np.sum(alike >= similar))
    zero = int(np.sum(found.rms == 0))
    title = f"Similar filters of {found.layer}"
    told = f"{count:,} of {len(alike):,} pairs have a cosine similarity of {similar:g} or more"
    told += f"; {found.groups} groups, filters of different ones are no pairs" * (found.groups > 1)
    told += f"; {zero} all zero" * bool(zero)
    across = 2 if found.weight.shape[1] in (1, 3) else 1
    shown = min(int(np.sum(alike > 0)), across * _PAIRS)
    with style.page(
        output,
        size=(style.PAGE, _TOP + _SIDE + _BELOW),
        title=title,
        formats=formats,
        dpi=dpi,
        about=about,
    ) as figure:
        paper = style.paper(figure)
        style.head(paper, title, told)
        style.write(paper, _LEFT, _TOP - 0.07, "all filters, relatives together", bold=True)
        _draw_matrix(figure, found)
        style.write(paper, _RIGHT, _TOP - 0.07, "the most similar pairs", bold=True)
        step = (_SIDE + _BELOW - 0.1) / _PAIRS
        wide = (style.PAGE - style.MARGIN - _RIGHT) / across
        for place in range(shown):
            pair = int(first[place]), int(second[place])
            left, top = _RIGHT + place // _PAIRS * wide, _TOP + place % _PAIRS * step
            colour = style.INK if alike[place] >= similar else style.SOFT
            style.write(
                paper,
                left,
                top + 0.15,
                f"{pair[0]}, {pair[1]}",
                width=_TEXT,
                colour=colour,
                bold=bool(alike[place] >= similar),
            )
            style.write(
                paper,
                left,
                top + 0.25,
                style.number(float(alike[place])),
                size=style.SMALL,
                colour=colour,
            )
            room = wide - _TEXT
            _draw_pair(paper, found.weight, pair, left + _TEXT, top, room, step - _ROW)
    _write_numbers(Path(output).with_suffix(".csv"), found, first, second, alike, count)


def pairs_of(found: store.Filters) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return the pairs of filters that read the same channels, the most similar first.

    Returns
    -------
    (P,) the lower unit, (P,) the higher one, (P,) their similarity.
    """
    units = len(found.similarity)
    first, second = np.triu_indices(units, 1)
    each = units // found.groups
    same = first // each == second // each
    first, second = first[same], second[same]
    alike = found.similarity[first, second]
    order = np.argsort(-alike, kind="stable")
    return first[order], second[order], alike[order]


def _draw_matrix(figure: Figure, found: store.Filters) -> None:
    axes = style.panel(figure, _LEFT, _TOP, _SIDE, _SIDE)
    units = len(found.order)
    matrix = found.similarity[np.ix_(found.order, found.order)]
    image = axes.imshow(
        matrix,
        cmap=style.SIGNED,
        norm=Normalize(-1, 1),
        interpolation="nearest" if units <= 600 else "antialiased",
        aspect="equal",
    )
    axes.spines[:].set_visible(True)
    if units <= _NUMBERED:
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_ticks(range(units), [str(unit) for unit in found.order])
        size = min(style.TINY, 0.75 * 72 * _SIDE / units)
        axes.tick_params(length=0, labelsize=size)
        axes.tick_params(axis="x", rotation=90)
    else:
        axes.set_xticks([])
        axes.set_yticks([])
    scale = style.panel(figure, _LEFT, _TOP + _SIDE + 0.26, _SIDE, 0.07)
    bar = figure.colorbar(image, cax=scale, orientation="horizontal", ticks=[-1, -0.5, 0, 0.5, 1])
    bar.outline.set_linewidth(0.5)  # type: ignore[operator]
    bar.set_label("cosine similarity", size=style.SMALL, labelpad=1)


def _draw_pair(
    paper: Axes,
    weight: NDArray[np.floating],
    pair: tuple[int, int],
    left: float,
    top: float,
    room: float,
    tall: float,
) -> None:
    """Draw two filters side by side within `room` and `tall` inches."""
    both = weight[list(pair)]
    channels, rows, columns = both.shape[1:]
    scale = float(np.abs(both).max())
    if channels == 3:
        kernels = style.signed_rgb(both, scale).transpose(0, 2, 3, 1)[:, None]
    else:
        strongest = np.argsort(-np.square(both).sum((0, 2, 3)), kind="stable")
        side = _CELL if rows == columns == 1 else min(tall, _LARGEST)
        beside = int((room / 2 - 0.1) / (side + style.GUTTER / 2))
        kept = np.sort(
            strongest[: max(1, beside if rows == columns == 1 else min(beside, _CHANNELS))]
        )
        grey = style.signed_rgb(both[:, kept], scale)
        kernels = np.repeat(grey[..., None], 3, axis=-1)
    count = kernels.shape[1]
    gutter = style.GUTTER / 2 if count > 1 else 0.0
    side = min(tall, _LARGEST, (room / 2 - 0.1) / count - gutter)
    side = min(side, _CELL) if rows == columns == 1 and count > 1 else side
    width, height = (side * length / max(rows, columns) for length in (columns, rows))
    for place in range(2):
        x = left + place * (count * (width + gutter) + 0.1)
        for kernel in kernels[place]:
            y = top + (tall - height) / 2
            style.draw_image(paper, kernel, x, y, width, height, pixels=True)
            style.draw_rectangle(paper, x, y, width, height, linewidth=0.3)
            x += width + gutter


def _write_numbers(
    path: Path,
    found: store.Filters,
    first: NDArray[Any],
    second: NDArray[Any],
    alike: NDArray[Any],
    count: int,
) -> None:
    units = len(found.order)
    kept = slice(min(count, _MOST_ROWS))
    others = np.full((units, units), -np.inf, np.float32)
    others[first, second] = others[second, first] = alike
    nearest = others.argmax(1)
    known = (found.rms > 0) & np.isfinite(others.max(1))  # a filter that is zero is like none
    mine = np.flatnonzero(known)
    write_csv(
        path,
        {
            "group": ["pair"] * len(first[kept]) + ["nearest"] * len(mine),
            "unit": [*first[kept].tolist(), *mine.tolist()],
            "other": [*second[kept].tolist(), *nearest[mine].tolist()],
            "similarity": [*alike[kept].tolist(), *others[mine, nearest[mine]].tolist()],
        },
    )
