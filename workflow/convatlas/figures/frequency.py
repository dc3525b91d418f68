"""Draw at which frequencies the filters of the first layer answer, and how strong they are."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator
from numpy.typing import NDArray

from convatlas import store
from convatlas.figures import style
from convatlas.figures.labels import sides_text
from convatlas.files import known, write_csv
from convatlas.spectra import HIGH, MIDDLE, NOISE, noise_beyond

_LEFT, _BETWEEN, _RIGHT = 0.5, 0.84, 0.46  # beside the panels, in inches
_TALL, _TITLE, _AXIS = 1.45, 0.26, 0.42  # of a panel, above it, below it
_BANDS = ("low", "middle", "high")
_STRONG = 0.1  # RMS from which Zeiler & Fergus scaled filters down, inputs in -128 to 128
_COLUMNS = ("rms", "rms_pixels", "low", "middle", "high", "peak", "aliased")


def plot_frequency(
    filters: str | os.PathLike[str],
    *,
    output: str | os.PathLike[str],
    formats: Sequence[str] = (),
    dpi: float = style.DPI,
    about: Mapping[str, str] | None = None,
) -> None:
    """Draw four panels of a layer's filters (`store.Filters`), and write their numbers to a CSV.

    In which band the filters have their peak; and, a dot a filter from the lowest to the
    highest: the share of energy in high frequencies, the root mean square, and the share
    that the layer's stride aliases. Dashed is what white noise has, and for the root mean
    square the limit of Zeiler & Fergus.
    """
    found = store.read(store.Filters, filters)
    title = f"Frequencies of the filters of {found.layer}"
    wide = (style.PAGE - _LEFT - _BETWEEN - _RIGHT) / 2
    step = _TITLE + _TALL + _AXIS
    with style.page(
        output,
        size=(style.PAGE, style.HEADING + 2 * step),
        title=title,
        formats=formats,
        dpi=dpi,
        about=about,
    ) as figure:
        paper = style.paper(figure)
        style.head(paper, title, _summary(found))
        panels = []
        for place, name in enumerate(
            (
                "peak frequency, in cycles a pixel",
                f"share of energy above {_fraction(HIGH)} cycles a pixel",
                "root mean square of the weights",
                f"share of energy beyond what stride {sides_text(found.stride)} can sample",
            )
        ):
            left = _LEFT + place % 2 * (wide + _BETWEEN)
            top = style.HEADING + place // 2 * step
            style.write(paper, left - 0.3, top + 0.12, name, width=wide + 0.3, bold=True)
            panels.append(style.panel(figure, left, top + _TITLE, wide, _TALL))
        _draw_peaks(panels[0], found.peak)
        _draw_sorted(panels[1], found.high, style.COLOURS[0])
        _draw_limit(panels[1], NOISE[2], "white\nnoise")
        _draw_rms(panels[2], found)
        _draw_sorted(panels[3], found.aliased, style.COLOURS[0])
        _draw_limit(
            panels[3], noise_beyond((int(found.stride[0]), int(found.stride[1]))), "white\nnoise"
        )
    numbers: dict[str, Any] = {"unit": range(len(found.weight))}
    for name in _COLUMNS:
        numbers[name] = known(getattr(found, name))
    write_csv(Path(output).with_suffix(".csv"), numbers)


def _summary(found: store.Filters) -> str:
    """Return the layer's numbers in words."""
    peak = found.peak[np.isfinite(found.peak)]
    if not peak.size:
        return "no filter has any energy"
    middle = int(np.sum((peak >= MIDDLE) & (peak < HIGH)))
    have = "has its peak" if middle == 1 else "have their peak"
    told = [
        f"{middle} of {len(peak)} filters {have} in the middle band (white noise: "
        f"{100 * NOISE[1]:.0f} %)",
        f"high frequencies hold {100 * np.nanmean(found.high):.0f} % of a filter's energy",
    ]
    if max(found.stride) > 1:
        told.append(f"the stride aliases {100 * found.mean_aliased:.0f} %")
    if len(peak) < len(found.peak):
        told.append(f"{len(found.peak) - len(peak)} all zero")
    return "; ".join(told)


def _draw_peaks(axes: Axes, peak: NDArray[np.floating]) -> None:
    known = peak[np.isfinite(peak)]
    counts = np.histogram(known, [0, MIDDLE, HIGH, 1])[0]
    share = 100 * counts / max(len(known), 1)
    axes.bar(range(3), share, 0.56, color=style.COLOURS[0], linewidth=0)
    for place, (count, height) in enumerate(zip(counts, share, strict=True)):
        noise = 100 * NOISE[place]
        axes.plot(
            [place - 0.4, place + 0.4],
            [noise, noise],
            color=style.INK,
            linewidth=0.7,
            linestyle=(0, (3, 2)),
            label="white noise" if place == 0 else None,
        )
        # Above the bar, and above the dashed line where that is just there.
        base = noise if height <= noise < height + 14 else height
        axes.annotate(
            str(count), (place, base), (0, 2), textcoords="offset points", ha="center", va="bottom"
        )
    edges = (f"below {_fraction(MIDDLE)}", f"{_fraction(MIDDLE)} to {_fraction(HIGH)}")
    spans = (*edges, f"above {_fraction(HIGH)}")
    axes.set_xticks(range(3), [f"{n}\n{s}" for n, s in zip(_BANDS, spans, strict=True)])
    axes.tick_params(axis="x", length=0)
    axes.set_xlim(-0.5, 2.5)
    axes.set_ylim(0, 128)  # with room for the number above a whole bar, and the legend
    axes.legend(loc="upper left", borderpad=0, handlelength=1.8)
    axes.set_yticks(range(0, 101, 20))
    axes.set_ylabel("filters (%)")


def _draw_sorted(
    axes: Axes, values: NDArray[np.floating], colour: str, marker: str = "o", **look: Any
) -> None:
    """Draw the values, a dot a filter from the lowest to the highest."""
    known = np.sort(values[np.isfinite(values)])
    axes.plot(
        np.arange(1, len(known) + 1),
        known,
        marker,
        color=colour,
        markersize=2.4,
        markeredgewidth=0,
        clip_on=False,
        zorder=3,
        **look,
    )
    axes.set_xlim(0, len(values) + 1)
    axes.set_ylim(0, 1)
    axes.set_xlabel("filters from low to high")


def _draw_limit(axes: Axes, value: float, name: str) -> None:
    """Draw a dashed line, and its name to the right of the panel, where no dot is."""
    axes.axhline(value, color=style.INK, linewidth=0.7, linestyle=(0, (3, 2)), zorder=1)
    axes.annotate(
        f"{name} {value:.2g}",
        (1.0, value),
        (2, 0),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        size=style.TINY,
        color=style.SOFT,
        va="center",
        annotation_clip=False,
    )


def _draw_rms(axes: Axes, found: store.Filters) -> None:
    scales = {"as the weights are": found.rms, "for inputs of 0 to 255": found.rms_pixels}
    if np.allclose(found.rms, found.rms_pixels):  # the network reads the pixels as they are
        scales.pop("as the weights are")
    scales = {name: values[values > 0] for name, values in scales.items()}
    scales = {name: values for name, values in scales.items() if values.size}
    for place, (name, values) in enumerate(scales.items()):
        _draw_sorted(axes, values, style.COLOURS[place], style.MARKERS[place], label=name)
    every = np.concatenate([*scales.values(), [_STRONG]])
    decades = max(np.log10(every.max() / every.min()), 1)
    axes.set_yscale("log")  # with room above, where the legend is
    axes.set_ylim(every.min() / 1.3 ** (2 * decades), every.max() * 2**decades)
    labels = FuncFormatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 2 else (1,), numticks=12))
    axes.yaxis.set_major_formatter(labels)
    axes.minorticks_off()
    axes.set_xlim(0, len(found.rms) + 1)
    axes.set_xlabel("filters from low to high")
    _draw_limit(axes, _STRONG, "limit of\nZeiler &\nFergus")
    if scales:
        axes.legend(loc="upper left", ncols=2, handletextpad=0.2, columnspacing=1.0, borderpad=0)


def _fraction(value: float) -> str:
    return f"1/{round(1 / value)}"
