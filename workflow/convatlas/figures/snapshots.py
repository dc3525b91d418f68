"""Draw how the health of a layer's units changed while the network was trained."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from convatlas import store
from convatlas.figures import style
from convatlas.files import known, write_csv

_WIDE, _TALL = 2.25, 1.35  # of a panel, in inches
_LEFTS = (0.5, 3.3)
_STEP = _TALL + 0.55
_LEGEND = 5.75  # left of the layers' names
_LINE = 0.16  # height of a name


def plot_snapshots(
    history: str | os.PathLike[str],
    *,
    output: str | os.PathLike[str],
    formats: Sequence[str] = (),
    dpi: float = style.DPI,
    about: Mapping[str, str] | None = None,
) -> None:
    """Draw four curves of each layer over the epochs, from dark for the first to bright.

    Shares of its units that are dead and that are always on, their median lifetime sparsity
    with a band from the lower to the upper quartile, and the mean population sparsity. The
    CSV has a row for each epoch and layer, with more quantiles.
    """
    found = store.read(store.HealthHistory, history)
    names = [str(name) for name in found.layers]
    colours = mpl.colormaps["plasma"](np.linspace(0, 0.85, len(names)))
    middle, lower, upper = (_level(found, level) for level in (0.5, 0.25, 0.75))
    panels = {
        "dead units (%)": 100 * found.dead,
        "always-on units (%)": 100 * found.always_on,
        "lifetime sparsity": found.lifetime[..., middle],
        "population sparsity": found.population,
    }
    bottom = style.HEADING + 0.12 + 2 * _STEP
    size = (style.PAGE, max(bottom, style.HEADING + 0.35 + len(names) * _LINE) + style.MARGIN)
    before = " (before training)" if found.epoch[0] == 0 else ""
    title = "Health in the course of training"
    with style.page(
        output, size=size, title=title, formats=formats, dpi=dpi, about=about
    ) as figure:
        paper = style.paper(figure)
        style.head(
            paper,
            title,
            f"{len(found.epoch)} snapshots, from epoch {found.epoch[0]}{before} to "
            f"{found.epoch[-1]}, each with the same {found.images} images; bands: quartiles over "
            "the units",
        )
        for place, (what, curves) in enumerate(panels.items()):
            axes = style.panel(
                figure, _LEFTS[place % 2], style.HEADING + 0.12 + place // 2 * _STEP, _WIDE, _TALL
            )
            if place == 2:
                for i, colour in enumerate(colours):
                    band = found.lifetime[:, i]
                    axes.fill_between(
                        found.epoch, band[:, lower], band[:, upper], color=colour, alpha=0.12,
                        linewidth=0,
                    )  # fmt: skip
            _draw_curves(axes, found.epoch, curves, colours)
            axes.set_ylabel(what)
            _scale(axes, curves, whole=place < 2)
            axes.set_xlabel("epoch")
        _draw_names(figure, paper, names, found.units, colours)
    _write_numbers(Path(output).with_suffix(".csv"), found)


def _level(found: store.HealthHistory, level: float) -> int:
    return int(np.argmin(np.abs(found.level - level)))


def _draw_curves(
    axes: Axes, epoch: NDArray[Any], curves: NDArray[np.float64], colours: NDArray[Any]
) -> None:
    for i, colour in enumerate(colours):
        axes.plot(
            epoch,
            curves[:, i],
            color=colour,
            marker=style.MARKERS[i % len(style.MARKERS)],
            markersize=2.5,
            clip_on=False,
        )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if len(epoch) == 1:
        axes.set_xlim(epoch[0] - 1, epoch[0] + 1)


def _scale(axes: Axes, curves: NDArray[np.float64], whole: bool) -> None:
    """Set the limits of a panel: from zero, and for shares not closer than a few per cent."""
    if not whole:
        axes.set_ylim(0, 1)
        return
    known = curves[np.isfinite(curves)]
    axes.set_ylim(0, max(5.0, 1.08 * known.max(initial=0)))


def _draw_names(
    figure: Figure, paper: Axes, names: Sequence[str], units: NDArray[Any], colours: NDArray[Any]
) -> None:
    left, width = _LEGEND, style.PAGE - style.MARGIN - _LEGEND
    top = style.HEADING + 0.15
    style.write(paper, left, top, "layer (units)", size=style.SMALL, colour=style.SOFT)
    for i, (name, count, colour) in enumerate(zip(names, units, colours, strict=True)):
        line = top + (i + 1) * _LINE
        paper.plot(
            [left, left + 0.18], [line - 0.03] * 2, color=colour,
        )  # fmt: skip
        paper.plot(
            [left + 0.09], [line - 0.03], color=colour,
            marker=style.MARKERS[i % len(style.MARKERS)], markersize=3,
        )  # fmt: skip
        told = f" ({int(count)})"
        room = width - 0.24 - style.text_width(figure, told, style.SMALL)
        short = style.shorten(figure, name, room, style.SMALL)
        style.write(paper, left + 0.24, line, short + told, size=style.SMALL)


def _write_numbers(path: Path, found: store.HealthHistory) -> None:
    shape = found.dead.shape
    row, layer = (index.ravel() for index in np.indices(shape))
    columns: dict[str, Any] = {
        "epoch": found.epoch[row],
        "layer": [str(found.layers[i]) for i in layer],
        "units": found.units[layer],
        "dead": known(found.dead),
        "always_on": known(found.always_on),
    }
    for name in ("frequency", "lifetime"):
        values = getattr(found, name)
        for i, level in enumerate(found.level):
            columns[f"{name}_{100 * level:.0f}"] = known(values[..., i])
    columns["population_mean"] = known(found.population)
    write_csv(path, columns)
