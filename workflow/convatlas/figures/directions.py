"""Draw the strongest patches along random directions of a layer beside those of its units."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from convatlas import store
from convatlas.classes import read_classes
from convatlas.figures import style
from convatlas.figures.labels import most_frequent
from convatlas.figures.patches import rows_of
from convatlas.files import known, write_csv

_BETWEEN = 0.3  # the two blocks, in inches
_NAME = 0.15  # height of the line above a row of patches
_TOP = style.HEADING + 0.14  # below the blocks' names
_TALL = 1.0  # of the panels with numbers
_GROUPS = {"unit": "units", "direction": "random directions", "shuffled": "shuffled"}
_MEASURES = {
    "purity": "share of a row with its commonest label",
    "similarity": "cosine similarity of a row's codes",
}
_MOST = 9  # patches of a row that are drawn


def plot_directions(
    directions: str | os.PathLike[str],
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
    """Draw rows of patches, of units on the left and of random directions on the right.

    Below, how alike the patches of all rows are, for all units, all directions, and the
    units' patches shuffled between their rows: a box from the lower to the upper
    quartile with the median, whiskers to the 5th and 95th percentile, and the mean as a
    dot. The CSV has every row's two numbers.
    """
    found = store.read(store.Directions, directions)
    ranked = store.read(store.Patches, patches)
    chosen = rows_of(units, ranked.unit, ranked.layer)[: len(found.vector)]
    names = read_classes(classes)
    count = min(found.image.shape[1], _MOST)
    block = (style.PAGE - 2 * style.MARGIN - _BETWEEN) / 2
    side = (block - (count - 1) * style.GUTTER) / count
    step = _NAME + side + 0.05
    below = _TOP + len(chosen) * step + 0.3
    title = f"Units of {found.layer} and random directions"
    with (
        store.Images(images) as source,
        style.page(
            output,
            size=(style.PAGE, below + _TALL + 0.4),
            title=title,
            formats=formats,
            dpi=dpi,
            about=about,
        ) as figure,
    ):
        labels = source.labels()
        paper = style.paper(figure)
        style.head(
            paper,
            title,
            f"in a row the {count} images that excite it most; {len(found.vector)} directions "
            f"in the space of {len(ranked.unit)} units",
        )
        lefts = {"unit": style.MARGIN, "direction": style.MARGIN + block + _BETWEEN}
        for group, left in lefts.items():
            style.write(paper, left, style.HEADING + 0.06, _GROUPS[group], bold=True)
        for place, row in enumerate(chosen):
            top = _TOP + place * step
            for group, left, of, number, name in (
                ("unit", lefts["unit"], ranked, row, f"unit {int(ranked.unit[row])}"),
                ("direction", lefts["direction"], found, place, f"direction {place}"),
            ):
                told = most_frequent(of.image[number], labels, names)
                score = getattr(found, f"{group}_similarity")[number]
                alike = f"similarity {score:.2f}" if np.isfinite(score) else ""
                line = "; ".join(x for x in (told, alike) if x)
                style.write(
                    paper, left, top + 0.1, f"{name}: {line}", width=block, size=style.SMALL
                )
                _draw_row(paper, source, of, number, count, left, top + _NAME, side)
        wide = (style.PAGE - 2 * 1.2 - 0.3) / 2
        for place, (measure, told) in enumerate(_MEASURES.items()):
            left = 1.2 + place * (wide + 1.2)
            panel = style.panel(figure, left, below, wide, _TALL)
            style.write(paper, left, below - 0.07, told)
            _draw_measure(panel, {g: getattr(found, f"{g}_{measure}") for g in _GROUPS})
    _write_numbers(Path(output).with_suffix(".csv"), found)


def _draw_row(
    paper: Axes,
    source: store.Images,
    of: store.Patches | store.Directions,
    row: int,
    count: int,
    left: float,
    top: float,
    side: float,
) -> None:
    for rank in range(count):
        x = left + rank * (side + style.GUTTER)
        image, box = int(of.image[row, rank]), of.box[row, rank]
        if image < 0:
            style.draw_rectangle(paper, x, top, side, side)
            continue
        patch = style.crop(source.rows([image])[0], box)
        style.draw_patch(paper, patch, box, source.size, x, top, side)


def _draw_measure(panel: Axes, groups: Mapping[str, NDArray[np.floating]]) -> None:
    panel.set_yticks(range(len(groups)), [_GROUPS[group] for group in groups])
    panel.set_ylim(len(groups) - 0.5, -0.5)
    panel.tick_params(axis="y", length=0)
    for place, (values, colour) in enumerate(zip(groups.values(), style.COLOURS, strict=False)):
        known = values[np.isfinite(values)]
        if not known.size:
            panel.text(0.02, place, "not known", transform=panel.get_yaxis_transform(), va="center")
            continue
        low, lower, median, upper, high = np.percentile(known, [5, 25, 50, 75, 95])
        panel.plot([low, high], [place, place], color=colour, linewidth=0.8)
        panel.barh(place, upper - lower, 0.5, lower, color=colour, alpha=0.35, linewidth=0)
        panel.plot([median, median], [place - 0.25, place + 0.25], color=colour, linewidth=1.2)
        panel.plot([known.mean()], [place], "o", color=style.INK, markersize=3)
    panel.set_xlim(left=min(0.0, panel.get_xlim()[0]), right=1.0)


def _write_numbers(path: Path, found: store.Directions) -> None:
    columns: dict[str, list[Any]] = {"group": [], "row": [], **{name: [] for name in _MEASURES}}
    for group in _GROUPS:
        values = {measure: getattr(found, f"{group}_{measure}") for measure in _MEASURES}
        rows = len(next(iter(values.values())))
        columns["group"] += [group] * rows
        columns["row"] += range(rows)
        for measure, numbers in values.items():
            columns[measure] += known(numbers)
    write_csv(path, columns)
