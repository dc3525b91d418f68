"""Draw what sends an image's prediction back to its pixels, three methods side by side."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from numpy.typing import NDArray

from convatlas import store
from convatlas.classes import read_classes
from convatlas.figures import style
from convatlas.figures.labels import class_name
from convatlas.files import write_csv

_BETWEEN = 0.1  # panels, in inches
_TALLEST = 2.6  # a panel
_NAME = 0.16  # height of the line above a panel
_TOLD = 0.34  # of those below
_METHODS = {
    "gradient": "data gradient",
    "guided": "guided backpropagation",
    "deconvnet": "deconvnet",
}


def plot_saliency(
    exhibit: str | os.PathLike[str],
    saliency: str | os.PathLike[str],
    *,
    output: str | os.PathLike[str],
    classes: str | os.PathLike[str] | None = None,
    formats: Sequence[str] = (),
    dpi: float = style.DPI,
    about: Mapping[str, str] | None = None,
) -> None:
    """Draw an exhibit beside its data gradient, guided backpropagation and deconvnet.

    The gradient is shown as its largest absolute value over the colours, black at zero
    and white at the scale; the others signed and in colour, grey at zero. Each has its
    own scale, the 99th percentile of its absolute signal. Where the object's mask is
    known, what share of the absolute signal lies on it is told beside the share of its
    area, which is what a signal without a place would have.
    """
    shown = store.read(store.Exhibit, exhibit)
    found = store.read(store.Saliency, saliency)
    names = read_classes(classes)
    rows, columns = shown.image.shape[:2]
    count = len(_METHODS) + 1
    wide = (style.PAGE - 2 * style.MARGIN - (count - 1) * _BETWEEN) / count
    tall = min(wide * rows / columns, _TALLEST)
    width = tall * columns / rows
    top = style.HEADING + _NAME
    title = f"What speaks for {_said(names, found)} in {shown.name}"
    with style.page(
        output,
        size=(style.PAGE, top + tall + _TOLD),
        title=title,
        formats=formats,
        dpi=dpi,
        about=about,
    ) as figure:
        paper = style.paper(figure)
        label = class_name(names, shown.label)
        style.head(
            paper,
            title,
            f"the predicted class{f'; labelled {label}' if label else ''}; sent back from its "
            f"score {style.number(found.score)}, probability {style.number(found.probability)}",
        )
        lefts = [style.MARGIN + i * (wide + _BETWEEN) for i in range(count)]
        style.write(paper, lefts[0], top - 0.05, "image")
        style.draw_image(paper, shown.image, lefts[0], top, width, tall)
        if shown.mask is not None:
            area = f"object: {style.number(100 * shown.mask.mean())} % of the area"
            _tell(paper, lefts[0], top + tall, wide, [area])
        for left, (method, name) in zip(lefts[1:], _METHODS.items(), strict=True):
            style.write(paper, left, top - 0.05, name)
            signal = getattr(found, method)
            if signal is None:
                style.draw_nothing(paper, left, top, width, tall)
                reason = getattr(found, f"why_not_{method}")
                _tell(paper, left, top + tall, wide, style.wrap(figure, reason, wide, style.TINY))
                continue
            _draw(paper, method, signal, left, top, width, tall)
            told = [f"scale {_sign(method)}{style.number(style.signal_scale(signal))}"]
            if shown.mask is not None:
                told.append(f"{style.number(100 * on_object(signal, shown.mask))} % on the object")
            _tell(paper, left, top + tall, wide, told)
    _write_numbers(Path(output).with_suffix(".csv"), found, shown.mask)


def _said(names: Sequence[str], found: store.Saliency) -> str:
    return class_name(names, found.predicted) or f"class {found.predicted}"


def _sign(method: str) -> str:
    return "" if method == "gradient" else "±"


def _draw(
    paper: Axes,
    method: str,
    signal: NDArray[np.floating],
    left: float,
    top: float,
    width: float,
    tall: float,
) -> None:
    scale = style.signal_scale(signal)
    if method == "gradient":
        norm = Normalize(0, scale or 1.0, clip=True)
        strongest = np.abs(signal).max(0)
        style.draw_image(paper, strongest, left, top, width, tall, cmap="gray", norm=norm)
        return
    picture = style.signed_rgb(signal.transpose(1, 2, 0), scale)
    style.draw_image(paper, picture, left, top, width, tall)


def _tell(paper: Axes, left: float, top: float, width: float, lines: Sequence[str]) -> None:
    for number, line in enumerate(lines):
        place = top + 0.1 + 0.1 * number
        style.write(paper, left, place, line, width=width, size=style.SMALL, colour=style.SOFT)


def on_object(signal: NDArray[np.floating], mask: NDArray[np.integer]) -> float:
    """Return the share of the absolute signal (3,H,W) that lies on a mask (H,W); nan for none."""
    strength = np.abs(signal.astype(np.float64)).sum(0)
    total = strength.sum()
    return float(strength[mask > 0].sum() / total) if total else float("nan")


def _write_numbers(path: Path, found: store.Saliency, mask: NDArray[np.integer] | None) -> None:
    columns: dict[str, list[object]] = {
        name: []
        for name in (
            *("method", "predicted", "score", "probability", "scale", "minimum", "maximum"),
            *("norm", "on_object", "object_area", "reason"),
        )
    }
    area = "" if mask is None else float(mask.mean())
    for method in _METHODS:
        signal = getattr(found, method)
        drawn = signal is not None
        values: list[object] = [method, found.predicted, found.score, found.probability]
        values += (
            [style.signal_scale(signal), signal.min(), signal.max()] if drawn else ["", "", ""]
        )
        values.append(np.linalg.norm(signal.astype(np.float64)) if drawn else "")
        values.append(on_object(signal, mask) if drawn and mask is not None else "")
        values += [area, getattr(found, f"why_not_{method}")]
        for column, value in zip(columns.values(), values, strict=True):
            column.append(value)
    write_csv(path, columns)
