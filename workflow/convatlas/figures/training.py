"""Draw how a network learned: loss and accuracy, epoch by epoch."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from convatlas.figures import style
from convatlas.files import read_csv, write_csv

_COLUMNS = ("epoch", "loss", "train_accuracy", "test_loss", "test_accuracy")
_TALL = 2.1  # of the axes in inches


def plot_training(
    history: str | os.PathLike[str],
    *,
    output: str | os.PathLike[str],
    formats: Sequence[str] = (),
    dpi: float = style.DPI,
    about: Mapping[str, str] | None = None,
) -> None:
    """Draw loss and accuracy on training and test images over the epochs.

    `history` is the model's training.csv; its accuracies are shares in 0..1 and are
    drawn in per cent. Columns that are empty aren't drawn.
    """
    table = read_csv(history)
    told: dict[str, Any] = {name: _numbers(table[name]) for name in _COLUMNS if name in table}
    epoch = told["epoch"]
    size = (style.PAGE, style.HEADING + _TALL + 0.5)
    with style.page(
        output, size=size, title="Training", formats=formats, dpi=dpi, about=about
    ) as figure:
        paper = style.paper(figure)
        last = told.get("test_accuracy", np.full(len(epoch), np.nan))[-1:]
        reached = (
            "" if np.isnan(last).all() else f"; {100 * last[0]:.1f} % on test images at the end"
        )
        style.head(paper, "Training", f"{len(epoch)} epochs{reached}")
        for place, (what, curves) in enumerate(
            {
                "cross-entropy loss": {"training": "loss", "test": "test_loss"},
                "accuracy (%)": {"training": "train_accuracy", "test": "test_accuracy"},
            }.items()
        ):
            axes = style.panel(figure, 0.5 + 3.55 * place, style.HEADING + 0.05, 2.3, _TALL)
            factor = 100 if place else 1
            known = {name: factor * told[key] for name, key in curves.items() if key in told}
            _draw_curves(axes, epoch, known)
            axes.set_xlabel("epoch")
            axes.set_ylabel(what)
            if place == 0:
                axes.set_ylim(bottom=0)
    write_csv(Path(output).with_suffix(".csv"), told)


def _numbers(texts: Sequence[str]) -> NDArray[np.float64]:
    return np.array([float(text) if text.strip() else np.nan for text in texts])


def _draw_curves(
    axes: Axes, epoch: NDArray[np.float64], curves: Mapping[str, NDArray[np.float64]]
) -> None:
    """Draw curves with their names at their ends, pushed apart where they would touch."""
    ends: list[tuple[float, str, str]] = []
    for i, (name, values) in enumerate(curves.items()):
        known = np.isfinite(values)
        if not known.any():
            continue
        colour = style.COLOURS[i]
        axes.plot(
            epoch[known], values[known], color=colour, marker=style.MARKERS[i], markersize=2.5
        )
        ends.append((float(values[known][-1]), name, colour))
    axes.margins(x=0.03, y=0.06)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    low, high = axes.get_ylim()
    apart = 0.06 * (high - low)
    ends.sort()
    heights = [end[0] for end in ends]
    if len(heights) == 2 and heights[1] - heights[0] < apart:
        middle = sum(heights) / 2
        heights = [middle - apart / 2, middle + apart / 2]
    for height, (value, name, colour) in zip(heights, ends, strict=True):
        axes.annotate(
            f"{name} {style.number(value)}",
            (1.02, height),
            xycoords=("axes fraction", "data"),
            color=colour,
            va="center",
            annotation_clip=False,
        )
