"""Draw how healthy units are: every layer's distributions, and the patches of its worst units."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from convatlas import store
from convatlas.figures import style
from convatlas.figures.patches import Blocks, draw_block, rows_of
from convatlas.files import known, write_csv
from convatlas.health import (
    ALWAYS,
    DEAD,
    RARE,
    RARELY,
    histogram_quantiles,
    reasons,
    worst_first,
)

AnyPath = str | os.PathLike[str]

_ROW = 0.62  # height of a layer, in inches
_TALL = 0.36  # of its bar and its histograms
_TOP = style.HEADING + 0.34  # below the columns' names
_BELOW = 0.24  # for the axis of the last row
_NAME = (style.MARGIN, 1.25)  # left and width of each column
_BAR = (1.45, 2.1)
_HISTOGRAMS = ((3.8, 0.95), (4.98, 0.95), (6.16, 0.95))
_DRAWN_BINS = 20
_GROUPS = {  # the whole of a layer's units, and in which colour
    DEAD: style.INK,
    RARELY: style.COLOURS[1],
    "others": "#c3d9e6",
    ALWAYS: style.COLOURS[2],
}
_MEASURES = ("frequency", "mean", "std", "minimum", "maximum", "lifetime")
_MARKS = ("dead", "constant", "always_on")
_LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)
_WORST = 12  # units whose patches are drawn
_MOST_LINES, _LINE = 3, 0.11  # of the list of units that have none, and the height of one


# ------------------------------------------------------------------- of all layers


def plot_health(
    health: Sequence[AnyPath],
    *,
    output: AnyPath,
    summary: AnyPath,
    population: AnyPath,
    formats: Sequence[str] = (),
    dpi: float = style.DPI,
    about: Mapping[str, str] | None = None,
) -> None:
    """Draw a row for each layer: what becomes of its units, and three distributions.

    A bar says how many of the units are dead, rarely active, always on, or none of these.
    Histograms show the share of images on which a unit is active and its lifetime sparsity,
    over the units, and the population sparsity, over the images, each with its median.

    Parameters
    ----------
    health : the layers' artifacts, in the order of drawing.
    output : the PNG; the CSV beside it has all numbers of each unit.
    summary : a CSV with a row for each layer.
    population : a CSV with the bins of each layer's population sparsity.
    """
    layers = [store.read(store.Health, path) for path in health]
    images = max((found.images for found in layers), default=0)
    size = (style.PAGE, _TOP + len(layers) * _ROW + _BELOW)
    title = "Health of the units"
    with style.page(
        output, size=size, title=title, formats=formats, dpi=dpi, about=about
    ) as figure:
        paper = style.paper(figure)
        style.head(
            paper,
            title,
            f"{images} images; a unit is active on an image where its largest activation is "
            "above zero; lines: medians",
        )
        _draw_legend(figure, paper)
        for place, found in enumerate(layers):
            _draw_layer(figure, paper, found, _TOP + place * _ROW, place == len(layers) - 1)
    _write_units(Path(output).with_suffix(".csv"), layers)
    _write_summary(summary, layers)
    _write_population(population, layers)


def groups_of(found: store.Health) -> dict[str, int]:
    """Return how many units are dead, rarely active, always on, and none of these."""
    dead, always = found.dead.astype(bool), found.always_on.astype(bool)
    rare = (found.frequency < RARE) & ~dead
    counts = {DEAD: dead.sum(), RARELY: rare.sum(), ALWAYS: always.sum()}
    counts["others"] = len(found.unit) - sum(counts.values())
    return {name: int(counts[name]) for name in _GROUPS}


def _draw_legend(figure: Figure, paper: Axes) -> None:
    soft: dict[str, Any] = {"size": style.SMALL, "colour": style.SOFT}
    line = style.HEADING + 0.08
    style.write(paper, _BAR[0], line, "units that are", **soft)
    left = _BAR[0]
    for name, colour in _GROUPS.items():
        told = f"rare (<{100 * RARE:.0f} %)" if name == RARELY else name
        style.draw_rectangle(paper, left, line + 0.075, 0.07, 0.07, facecolor=colour, linewidth=0)
        style.write(paper, left + 0.09, line + 0.14, told, size=style.TINY)
        left += 0.15 + style.text_width(figure, told, style.TINY)
    for (place, width), (first, second) in zip(
        _HISTOGRAMS,
        (
            ("active on a share", "of the images"),
            ("lifetime sparsity", "of the units"),
            ("population sparsity", "of the images"),
        ),
        strict=True,
    ):
        style.write(paper, place, line, first, width=width + 0.2, **soft)
        style.write(paper, place, line + 0.11, second, width=width + 0.2, **soft)


def _draw_layer(figure: Figure, paper: Axes, found: store.Health, top: float, last: bool) -> None:
    units = len(found.unit)
    left, width = _NAME
    style.write(paper, left, top + 0.17, found.layer, width=width, bold=True)
    told = f"{units} unit{'s' if units > 1 else ''}"
    style.write(paper, left, top + 0.29, told, size=style.SMALL, colour=style.SOFT)
    left, width = _BAR
    counts = groups_of(found)
    start = left
    for name, count in counts.items():
        wide = width * count / units
        style.draw_rectangle(
            paper, start, top + 0.08, wide, 0.17, facecolor=_GROUPS[name], linewidth=0
        )
        start += wide
    style.draw_rectangle(paper, left, top + 0.08, width, 0.17)
    line = ", ".join(f"{count} {_called(name, count)}" for name, count in counts.items())
    style.write(paper, left, top + 0.36, line, width=width, size=style.SMALL)
    lifetime = found.lifetime[np.isfinite(found.lifetime)]
    for (place, wide), heights, median in zip(
        _HISTOGRAMS,
        (_histogram(found.frequency), _histogram(lifetime), _coarse(found.population)),
        (
            float(np.median(found.frequency)),
            float(np.median(lifetime)) if lifetime.size else np.nan,
            float(histogram_quantiles(found.population, [0.5])[0]),
        ),
        strict=True,
    ):
        axes = style.panel(figure, place, top + 0.04, wide, _TALL)
        _draw_histogram(axes, heights, median, last)


def _called(name: str, count: int) -> str:
    if name == RARELY:
        return "rare"
    return "other" if name == "others" and count == 1 else name


def _histogram(values: NDArray[Any]) -> NDArray[Any]:
    return np.histogram(values, bins=_DRAWN_BINS, range=(0, 1))[0]


def _coarse(population: NDArray[Any]) -> NDArray[Any]:
    """Return the counts of fine bins in the bins that are drawn."""
    return np.asarray(population.reshape(_DRAWN_BINS, -1).sum(1))


def _draw_histogram(axes: Axes, heights: NDArray[Any], median: float, last: bool) -> None:
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.05 * max(1, heights.max()))
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"] if last else [""] * 3)
    if not heights.any():
        axes.text(0.5, 0.4, "not defined", size=style.TINY, color=style.SOFT, ha="center",
                  transform=axes.transAxes)  # fmt: skip
        return
    edges = np.linspace(0, 1, len(heights) + 1)
    axes.stairs(heights, edges, fill=True, color=style.COLOURS[4])
    axes.axvline(median, color=style.INK, linewidth=0.8, clip_on=False)


def _unit_columns(found: store.Health) -> dict[str, Any]:
    columns: dict[str, Any] = {"unit": found.unit, "reason": reasons(found)}
    for name in _MEASURES:
        columns[name] = known(getattr(found, name))
    for name in _MARKS:
        columns[name] = getattr(found, name).astype(int)
    return columns


def _write_units(path: AnyPath, layers: Sequence[store.Health]) -> None:
    columns: dict[str, list[Any]] = {}
    for found in layers:
        named = {"layer": [found.layer] * len(found.unit)} | _unit_columns(found)
        for name, values in named.items():
            columns.setdefault(name, []).extend(values)
    write_csv(path, columns)


def _write_summary(path: AnyPath, layers: Sequence[store.Health]) -> None:
    rows = []
    for found in layers:
        counts = groups_of(found)
        row: dict[str, Any] = {
            "layer": found.layer,
            "units": len(found.unit),
            "images": found.images,
            "dead": counts[DEAD],
            "rarely_active": counts[RARELY],
            "others": counts["others"],
            "always_on": counts[ALWAYS],
            "constant": int(found.constant.sum()),
        }
        lifetime = found.lifetime[np.isfinite(found.lifetime)]
        nothing = [np.nan] * len(_LEVELS)
        quantiles = {
            "frequency": np.quantile(found.frequency, _LEVELS),
            "lifetime": np.quantile(lifetime, _LEVELS) if lifetime.size else nothing,
            "population": histogram_quantiles(found.population, _LEVELS),
        }
        for name, values in quantiles.items():
            for level, value in zip(_LEVELS, known(values), strict=True):
                row[f"{name}_{100 * level:.0f}"] = value
        (row["population_mean"],) = known(found.population_mean)
        row["silent_images"] = found.silent
        rows.append(row)
    write_csv(path, {name: [row[name] for row in rows] for name in rows[0]})


def _write_population(path: AnyPath, layers: Sequence[store.Health]) -> None:
    columns: dict[str, list[Any]] = {"layer": [], "from": [], "to": [], "images": []}
    edges = np.linspace(0, 1, _DRAWN_BINS + 1)
    for found in layers:
        columns["layer"] += [found.layer] * _DRAWN_BINS
        columns["from"] += list(edges[:-1])
        columns["to"] += list(edges[1:])
        columns["images"] += list(_coarse(found.population))
    write_csv(path, columns)


# --------------------------------------------------------------- the worst of a layer


def plot_worst(
    health: AnyPath,
    patches: AnyPath,
    images: AnyPath,
    *,
    output: AnyPath,
    formats: Sequence[str] = (),
    dpi: float = style.DPI,
    about: Mapping[str, str] | None = None,
) -> None:
    """Draw the strongest patches of a layer's worst units, and say what is wrong with each.

    The order is that of `convatlas.health.worst_first`. Units that answer every image alike
    have no strongest patches; their numbers are listed above the others. Nor has a unit
    more patches than there are images on which it is active. The CSV has all
    units in that order: rank, unit, reason, and all numbers.
    """
    found = store.read(store.Health, health)
    ranked = store.read(store.Patches, patches)
    order = worst_first(found)
    why = reasons(found)
    alike = found.constant.astype(bool)
    drawn = [int(row) for row in order if not alike[row]][:_WORST]
    # Of a unit that is active anywhere, only what excites it.
    silent = (ranked.value <= 0) & (ranked.value.max(1, keepdims=True) > 0)
    excited = replace(ranked, image=np.where(silent, -1, ranked.image))
    rows = rows_of([int(unit) for unit in found.unit[drawn]], ranked.unit, ranked.layer)
    listed = np.sort(found.unit[alike])
    strip = 0.1 + _MOST_LINES * _LINE if len(listed) else 0.0
    blocks = Blocks.of(len(rows), ranked.value.shape[1], style.HEADING + strip)
    title = f"Worst units of {found.layer}"
    with (
        store.Images(images) as source,
        style.page(
            output, size=blocks.page, title=title, formats=formats, dpi=dpi, about=about
        ) as figure,
    ):
        paper = style.paper(figure)
        style.head(paper, title, _worst_subtitle(found, [why[row] for row in drawn]))
        if len(listed):
            _list_alike(figure, paper, listed, blocks.page[0])
        for place, (own, row) in enumerate(zip(drawn, rows, strict=True)):
            draw_block(paper, source, excited, row, blocks, place, _told(found, own, why[own]))
    columns = _unit_columns(found)
    sorted_columns = {name: [values[i] for i in order] for name, values in columns.items()}
    write_csv(Path(output).with_suffix(".csv"), {"rank": range(len(order)), **sorted_columns})


def _worst_subtitle(found: store.Health, drawn: Sequence[str]) -> str:
    counts = groups_of(found)
    wrong = ", ".join(f"{counts[name]} {name}" for name in (DEAD, RARELY, ALWAYS))
    parts = [f"{wrong} of {len(found.unit)} units", "the worst first"]
    if "" in drawn and any(drawn):
        parts.append(f"nothing is wrong from the {_ordinal(drawn.index('') + 1)} on")
    elif drawn and not any(drawn):
        parts = [parts[0], "nothing is wrong with these, the most rarely active"]
    return "; ".join(parts)


def _list_alike(figure: Figure, paper: Axes, units: NDArray[Any], width: float) -> None:
    """List the units that answer every image alike, as many as fit."""
    many = f"{len(units)} units" if len(units) > 1 else "a unit"
    told = f"The same answer to every image, of {many}: {_ranges(units)}"
    lines = style.wrap(figure, told, width - 2 * style.MARGIN - 0.1, style.SMALL)
    if len(lines) > _MOST_LINES:
        lines = [*lines[: _MOST_LINES - 1], f"{lines[_MOST_LINES - 1].rstrip(',')} …"]
    for place, line in enumerate(lines):
        top = style.HEADING + 0.07 + place * _LINE
        style.write(paper, style.MARGIN, top, line, size=style.SMALL)


def _ranges(units: NDArray[Any]) -> str:
    """Return ascending numbers as text, ``0-3, 7``."""
    breaks = np.flatnonzero(np.diff(units) > 1) + 1
    runs = np.split(units, breaks)
    return ", ".join(str(r[0]) if len(r) == 1 else f"{r[0]}\u2013{r[-1]}" for r in runs)


def _ordinal(number: int) -> str:
    ending = {1: "st", 2: "nd", 3: "rd"}.get(number, "th")
    return f"{number}{ending}"


def _told(found: store.Health, row: int, reason: str) -> str:
    """Return what is wrong with a unit in a few words."""
    active = round(float(found.frequency[row]) * found.images)
    if reason == DEAD:
        return f"dead: at most {style.number(float(found.maximum[row]))}"
    if reason == ALWAYS:
        low, high = (style.number(float(x[row])) for x in (found.minimum, found.maximum))
        return f"always on: {low} to {high}"
    return f"{'rare: ' if reason == RARELY else ''}active on {active} of {found.images}"
