"""Draw the kernels of some of a deeper layer's units, one for each input channel."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convatlas import store
from convatlas.errors import LayerError
from convatlas.figures import style
from convatlas.figures.labels import shape_text
from convatlas.files import write_csv

_TEXT = 0.56  # width of the unit's number and RMS
_TALL = 8.5  # the page, in inches, if the kernels can be made to fit
_LARGEST = 0.36  # side of a kernel, in inches
_SMALLEST = 2  # side of a weight in dots, at the style's dots an inch
_NEARLY = 0.8  # of the largest kernels
_GAP = 2  # dots between kernels; none between single weights
_BETWEEN = 0.09  # two units
_LEAST = 0.24  # height of a unit's two lines of text


def plot_kernels(
    filters: str | os.PathLike[str],
    *,
    units: Sequence[int],
    output: str | os.PathLike[str],
    formats: Sequence[str] = (),
    dpi: float = style.DPI,
    about: Mapping[str, str] | None = None,
) -> None:
    """Draw for some units of a layer (`store.Filters`) a grey kernel for each input channel.

    All kernels share one contrast: zero is mid-grey, and the 99th percentile of the drawn
    absolute weights is full black or white. Channels run from the left to the right and
    on in the next line. The CSV has a row for each kernel, with its RMS and its weights.

    Raises
    ------
    LayerError
        if the layer lacks one of the units.
    """
    found = store.read(store.Filters, filters)
    if max(units, default=0) >= len(found.weight):
        raise LayerError(f"layer {found.layer!r} has no unit {max(units)}.")
    weight = found.weight[list(units)]
    scale = style.signal_scale(weight)
    channels, rows, columns = weight.shape[1:]
    room = round((style.PAGE - 2 * style.MARGIN - _TEXT) * style.DPI)
    each, gap, across = _layout(len(weight), channels, (rows, columns), room)
    blocks = [_assemble(kernels, scale, each, gap, across) for kernels in weight]
    tall = blocks[0].shape[0] / style.DPI
    step = max(tall, _LEAST) + _BETWEEN
    wide = _TEXT + blocks[0].shape[1] / style.DPI + 0.12
    beside = max(1, int((style.PAGE - 2 * style.MARGIN + 0.12) / wide))  # as in a depthwise layer
    title = f"Kernels of {found.layer}"
    with style.page(
        output,
        size=(style.PAGE, style.HEADING + -(-len(blocks) // beside) * step + style.MARGIN),
        title=title,
        formats=formats,
        dpi=dpi,
        about=about,
    ) as figure:
        paper = style.paper(figure)
        per = "input channel" if found.groups == 1 else "input channel of its group"
        style.head(
            paper,
            title,
            f"{len(units)} of {len(found.weight)} units; a kernel of {shape_text((rows, columns))} "
            f"for each {per} ({channels}), line by line; grey is 0, black and white are "
            f"±{style.number(scale)}",
        )
        for place, (unit, block) in enumerate(zip(units, blocks, strict=True)):
            left = style.MARGIN + place % beside * wide
            top = style.HEADING + place // beside * step
            style.write(paper, left, top + 0.09, f"unit {unit}", width=_TEXT, bold=True)
            style.write(
                paper,
                left,
                top + 0.2,
                f"RMS {style.number(float(found.rms[unit]))}",
                width=_TEXT - 0.04,
                size=style.TINY,
                colour=style.SOFT,
            )
            style.draw_image(
                paper,
                block,
                left + _TEXT,
                top,
                block.shape[1] / style.DPI,
                tall,
                pixels=True,
            )
            if gap == 0:  # else a strip wouldn't end where its last weights are white
                for line in range(-(-channels // across)):
                    count = min(across, channels - line * across)
                    style.draw_rectangle(
                        paper,
                        left + _TEXT,
                        top + line * each / style.DPI,
                        count * each / style.DPI,
                        each / style.DPI,
                        linewidth=0.3,
                    )
    _write_numbers(Path(output).with_suffix(".csv"), units, weight)


def _layout(units: int, channels: int, kernel: tuple[int, int], room: int) -> tuple[int, int, int]:
    """Return the dots of a weight's side, those between kernels, and how many kernels a line has.

    The largest kernels with which the page isn't too tall; a little smaller ones if that
    takes fewer lines.
    """
    rows, columns = kernel
    gap = _GAP if max(kernel) > 1 else 0
    largest = max(2, int(_LARGEST * style.DPI) // max(kernel))
    found: list[tuple[int, int]] = []
    for lines in range(1, channels + 1):
        across = -(-channels // lines)
        each = min(largest, ((room + gap) // across - gap) // columns)
        tall = (lines * (rows * each + gap) - gap) / style.DPI
        if each >= _SMALLEST and units * (max(tall, _LEAST) + _BETWEEN) <= _TALL:
            found.append((each, across))
    if not found:
        return _SMALLEST, gap, max(1, (room + gap) // (columns * _SMALLEST + gap))
    best = max(each for each, _ in found)
    each, across = next(one for one in found if one[0] >= _NEARLY * best)
    return each, gap, across


def _assemble(
    kernels: NDArray[np.floating], scale: float, each: int, gap: int, across: int
) -> NDArray[np.uint8]:
    """Return a unit's kernels (C,h,w) side by side in lines, as an image (H,W,3), white between."""
    channels, rows, columns = kernels.shape
    high, wide = rows * each + gap, columns * each + gap
    lines = -(-channels // across)
    page = np.full((lines * high, across * wide), 255, np.uint8)
    grey = style.signed_rgb(kernels, scale).repeat(each, axis=1).repeat(each, axis=2)
    for channel, kernel in enumerate(grey):
        top, left = channel // across * high, channel % across * wide
        page[top : top + high - gap, left : left + wide - gap] = kernel
    cut = page[: page.shape[0] - gap, : page.shape[1] - gap]
    return np.repeat(cut[..., None], 3, axis=-1)


def _write_numbers(path: Path, units: Sequence[int], weight: NDArray[np.floating]) -> None:
    drawn, channels, rows, columns = weight.shape
    each = np.sqrt(np.square(weight, dtype=np.float64).mean((2, 3)))
    numbers: dict[str, Any] = {
        "unit": np.repeat(np.asarray(units), channels).tolist(),
        "channel": list(range(channels)) * drawn,
        "rms": each.ravel().tolist(),
    }
    for row in range(rows):
        for column in range(columns):
            numbers[f"weight_{row}_{column}"] = weight[:, :, row, column].ravel().tolist()
    write_csv(path, numbers)
