"""Draw the filters of the layer that reads the image, as small images."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from convatlas import store
from convatlas.figures import style
from convatlas.figures.labels import shape_text
from convatlas.files import write_csv

_SMALLEST_TYPE = 4.2  # points, so that the measures fit below the smallest filter
_LARGEST, _SMALLEST = 0.8, 0.3  # side of a kernel in inches
_CHANNEL = 0.4  # largest side of a kernel where a filter is a row of grey ones
_GAP = 2 * style.GUTTER
_NUMBER = 0.1  # height of the lines with the unit's number and its measures


def plot_filters(
    filters: str | os.PathLike[str],
    *,
    output: str | os.PathLike[str],
    formats: Sequence[str] = (),
    dpi: float = style.DPI,
    about: Mapping[str, str] | None = None,
) -> None:
    """Draw a layer's filters (`store.Filters`) side by side under one contrast.

    Zero is mid-grey, and the largest absolute weight of all filters is full black or
    white, so weak filters look weak. Filters over three channels are drawn in colour,
    with red, green and blue the three weights of a place; others in grey, a kernel
    per channel. Filters that are alike stand together (`order`), each between its number
    and its RMS with the share of its energy in high frequencies. The CSV holds every weight.
    """
    artifact = store.read(store.Filters, filters)
    weight = np.asarray(artifact.weight, dtype=np.float32)
    units, channels, rows, columns = weight.shape
    scale = float(np.abs(weight).max())
    drawn = style.signed_rgb(weight, scale)
    if channels == 3:
        kernels = drawn.transpose(0, 2, 3, 1)[:, None]  # (unit, one, row, column, colour)
    else:
        kernels = np.repeat(drawn[..., None], 3, axis=-1)

    room = style.PAGE - 2 * style.MARGIN
    beside = kernels.shape[1]
    if beside == 1:
        across = style.grid_columns(units, 8, 16)
        side = np.clip((room - _GAP * (across - 1)) / across, _SMALLEST, _LARGEST)
    else:
        side = np.clip(room / beside - style.GUTTER, _SMALLEST, _CHANNEL)
        across = min(units, max(1, int((room + _GAP) / (beside * (side + style.GUTTER) + _GAP))))
    width, height = (float(side * length / max(rows, columns)) for length in (columns, rows))
    step = (beside * (width + style.GUTTER) - style.GUTTER + _GAP, height + 2 * _NUMBER + _GAP)
    size = (
        max(style.PAGE, 2 * style.MARGIN + across * step[0] - _GAP),
        style.HEADING + -(-units // across) * step[1] + style.MARGIN,
    )
    title = f"Filters of {artifact.layer}"
    with style.page(
        output, size=size, title=title, formats=formats, dpi=dpi, about=about
    ) as figure:
        paper = style.paper(figure)
        style.head(
            paper,
            title,
            f"{units} filters of {shape_text((channels, rows, columns))}, those that are alike "
            f"together; grey is 0, black and white are ±{style.number(scale)}; below, the RMS"
            + ("" if np.isnan(artifact.high).all() else " and the share in high frequencies"),
        )
        for place, unit in enumerate(artifact.order):
            left = style.MARGIN + place % across * step[0]
            top = style.HEADING + place // across * step[1]
            style.write(paper, left, top + 0.075, str(unit), size=style.TINY)
            for channel, kernel in enumerate(kernels[unit]):
                x = left + channel * (width + style.GUTTER)
                style.draw_image(paper, kernel, x, top + _NUMBER, width, height, pixels=True)
            style.write(
                paper,
                left,
                top + _NUMBER + height + 0.075,
                _measures(float(artifact.rms[unit]), float(artifact.high[unit])),
                width=step[0] - style.GUTTER,
                size=_SMALLEST_TYPE,
                colour=style.SOFT,
            )
    places = np.indices(weight.shape).reshape(4, -1)
    names = ("unit", "channel", "row", "column")
    numbers: dict[str, Any] = dict(zip(names, places.tolist(), strict=True))
    write_csv(Path(output).with_suffix(".csv"), numbers | {"weight": weight.ravel()})


def _measures(rms: float, high: float) -> str:
    told = f"{rms:.2g}" if rms < 1e-3 or rms >= 10 else f"{rms:.{2 if rms >= 0.1 else 3}f}"
    return told if np.isnan(high) else f"{told} · {100 * high:.0f} %"
