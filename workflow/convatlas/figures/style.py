"""The one style of all figures: page, type, colours, image tiles, and how a figure is saved.

Figures are laid out in inches from the top left corner of the page, so that gutters
and letters have one size in every figure, whatever it shows. Colours of categories
are those of Okabe & Ito (2008, "Color Universal Design"), which colour-blind readers
tell apart; quantities use perceptually uniform maps, which survive grey printing.
"""

from __future__ import annotations

import logging
import math
import os
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, cast

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from numpy.typing import NDArray

from convatlas.classes import one_line
from convatlas.figures.metadata import about_text
from convatlas.files import replacing

log = logging.getLogger(__name__)

Array = NDArray[Any]

# Lengths in inches, letters in points.
PAGE = 7.2  # width: two columns of a journal (183 mm)
MARGIN = 0.08
GUTTER = 0.03  # between tiles that belong together
HEADING = 0.46  # height of the two lines at the top
HEAD, TEXT, SMALL, TINY = 9.0, 7.0, 6.0, 5.0
DPI = 240
_SIGNAL_PERCENTILE = 99.0
_MOST_PIXELS = 100e6  # a larger page gets fewer dots to the inch
_FAMILY = "DejaVu Sans"  # comes with matplotlib, so every machine has it
_TICK = 1.1  # inches of a name at an axis
_LONGEST = 400  # letters of a line; more don't fit on any page, and measuring takes its time

INK = "#1a1a1a"
SOFT = "#666666"
RULE = "#bdbdbd"
NOTHING = "#ececec"  # where there is no image
COLOURS = (  # Okabe & Ito, before their yellow, which is faint on white, two of Tol's muted ones
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#e69f00",
    "#56b4e9",
    "#cc79a7",
    "#000000",
    "#882255",
    "#999933",
    "#f0e442",
)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
QUANTITY = "viridis"
CHANCE = "cividis"  # probabilities
SIGNED = "RdBu_r"  # white at zero

_NOT_STYLE = (
    "backend",
    "backend_fallback",
    "interactive",
    "toolbar",
    "webagg",
    "tk",
    "savefig.dir",
)
_STYLE: dict[str, Any] = {
    "axes.edgecolor": SOFT,
    "axes.labelcolor": INK,
    "axes.labelsize": TEXT,
    "axes.linewidth": 0.5,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": TEXT,
    "axes.unicode_minus": True,
    "font.family": _FAMILY,
    "font.size": TEXT,
    "hatch.linewidth": 0.35,
    "image.interpolation": "auto",
    "legend.fontsize": SMALL,
    "legend.frameon": False,
    "lines.linewidth": 1.2,
    "pdf.fonttype": 42,  # letters stay letters in an editor
    "svg.fonttype": "path",  # looks the same where the font is missing
    "svg.hashsalt": "convatlas",
    "text.color": INK,
    "text.hinting": "none",
    "text.parse_math": False,  # a class may be called "US$ bill"
    "xtick.color": SOFT,
    "xtick.labelsize": SMALL,
    "xtick.major.pad": 2.0,
    "xtick.major.size": 2.0,
    "xtick.major.width": 0.5,
    "ytick.color": SOFT,
    "ytick.labelsize": SMALL,
    "ytick.major.pad": 2.0,
    "ytick.major.size": 2.0,
    "ytick.major.width": 0.5,
}


# ------------------------------------------------------------------------- page


@contextmanager
def page(
    output: str | os.PathLike[str],
    *,
    size: tuple[float, float],
    title: str,
    formats: Sequence[str] = (),
    dpi: float = DPI,
    about: Mapping[str, str] | None = None,
) -> Iterator[Figure]:
    """Yield a figure in the style; save it once the block ends well.

    Parameters
    ----------
    output : the PNG; other formats lie beside it.
    size : width and height in inches.
    title : what the figure shows, for the files' metadata.
    formats : what to write besides PNG: ``svg``, ``pdf``.
    dpi : pixels an inch of the PNG; lowered where the page would become too large.
    about : what the figure was made from, for the files' metadata.
    """
    plain: dict[str, Any] = {
        k: v for k, v in mpl.rcParamsDefault.items() if not k.startswith(_NOT_STYLE)
    }
    with mpl.rc_context():
        mpl.rcParams.update(cast(Any, plain | _STYLE))  # whatever the user's matplotlibrc says
        figure = Figure(figsize=size)
        FigureCanvasAgg(figure)
        yield figure
        _save(figure, Path(output), formats, dpi, title, about or {})


def _save(
    figure: Figure,
    output: Path,
    formats: Sequence[str],
    dpi: float,
    title: str,
    about: Mapping[str, str],
) -> None:
    """Write the figure in every format, without dates or versions in the bytes."""
    title = one_line(title)
    text = about_text(about)
    metadata: dict[str, dict[str, Any]] = {
        "png": {"Software": None, "Title": title, "Description": text},
        "svg": {"Date": None, "Creator": None, "Title": title, "Description": text},
        "pdf": {
            "CreationDate": None,
            "Creator": None,
            "Producer": None,
            "Title": title,
            "Subject": text,
        },
    }
    width, height = figure.get_size_inches()
    dpi = min(dpi, math.sqrt(_MOST_PIXELS / (width * height)))
    for kind in dict.fromkeys(["png", *formats]):
        with replacing(output.with_suffix(f".{kind}")) as temporary:
            figure.savefig(temporary, format=kind, dpi=dpi, metadata=metadata[kind])


def paper(figure: Figure) -> Axes:
    """Return axes over the whole page, in inches from its top left corner."""
    width, height = figure.get_size_inches()
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    return axes


def panel(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Return axes at a place on the page, in inches from its top left corner."""
    whole, tall = figure.get_size_inches()
    return figure.add_axes((left / whole, 1 - (top + height) / tall, width / whole, height / tall))


# ------------------------------------------------------------------------- type


def drawable(text: str) -> str:
    """Return `text` on one line, in letters that the figures' font has.

    A letter that it lacks becomes □, as a font would show it, and the log says so; the
    CSV beside a figure and the report have the text itself. Controls become escapes, and
    a line too long for any page loses its middle.
    """
    line = one_line(" ".join(text.split()))
    if len(line) > _LONGEST:
        line = f"{line[: _LONGEST // 2]}…{line[-(_LONGEST // 2) :]}"
    return "".join(map(_drawable, line))


@cache
def _drawable(letter: str) -> str:
    if ord(letter) in _letters():
        return letter
    if unicodedata.category(letter) in ("Cf", "Mn"):  # joins or changes the letter before it
        return ""
    name = unicodedata.name(letter, "without a name")
    log.info("the figures' font has no letter U+%04X (%s); □ stands for it", ord(letter), name)
    return "□"


@cache
def _letters() -> frozenset[int]:
    fonts = (FontProperties(family=_FAMILY, weight=weight) for weight in ("normal", "bold"))
    normal, bold = (frozenset(get_font(findfont(font)).get_charmap()) for font in fonts)
    return normal & bold


def text_width(figure: Figure, text: str, size: float, bold: bool = False) -> float:
    """Return the width of `text` in inches."""
    text = drawable(text)
    font = FontProperties(family=mpl.rcParams["font.family"], size=size)
    font.set_weight("bold" if bold else "normal")
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    return float(renderer.get_text_width_height_descent(text, font, False)[0] / figure.dpi)


def shorten(figure: Figure, text: str, width: float, size: float, bold: bool = False) -> str:
    """Return `text`, its middle left out where it is wider than `width` inches.

    Both ends stay, because the names of layers differ there.
    """
    text = drawable(text)
    if text_width(figure, text, size, bold) <= width:
        return text
    fits, too_many = 0, len(text)  # letters kept
    while too_many - fits > 1:
        kept = (fits + too_many) // 2
        if text_width(figure, _without_middle(text, kept), size, bold) <= width:
            fits = kept
        else:
            too_many = kept
    return _without_middle(text, fits)


def _without_middle(text: str, kept: int) -> str:
    return text[: (kept + 1) // 2].rstrip() + "…" + text[len(text) - kept // 2 :].lstrip()


def wrap(figure: Figure, text: str, width: float, size: float) -> list[str]:
    """Return `text` in lines of at most `width` inches, broken between words."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and text_width(figure, longer, size) <= width:
            lines[-1] = longer
        else:
            lines.append(shorten(figure, word, width, size))
    return lines


def write(
    axes: Axes,
    left: float,
    top: float,
    text: str,
    *,
    width: float | None = None,
    size: float = TEXT,
    colour: str = INK,
    bold: bool = False,
    align: str = "left",
    vertical: str = "baseline",
    **rest: Any,
) -> Text:
    """Write a line at a place on the paper, shortened to `width` inches where given."""
    figure = axes.get_figure(root=True)
    text = drawable(text)
    if width is not None and figure is not None:
        text = shorten(figure, text, width, size, bold)
    return axes.text(
        left,
        top,
        text,
        size=size,
        color=colour,
        weight="bold" if bold else "normal",
        ha=align,
        va=vertical,
        **rest,
    )


def head(axes: Axes, title: str, subtitle: str) -> None:
    """Write a figure's title and the line under it at the top of the paper."""
    width = axes.get_xlim()[1] - 2 * MARGIN
    write(axes, MARGIN, 0.17, title, width=width, size=HEAD, bold=True)
    write(axes, MARGIN, 0.33, subtitle, width=width, size=SMALL, colour=SOFT)


def slanted(names: Sequence[str], width: float) -> bool:
    """Say whether names beside each other on a horizontal axis need more room than there is."""
    letter = 0.052  # inches, of the small type, at a guess
    return any(min(len(n), _TICK / letter) * letter > 0.9 * width / len(names) for n in names)


def tick_room(names: Sequence[str], width: float) -> float:
    """Return the height that the names below a horizontal axis of some width take."""
    longest = max((min(len(name) * 0.052, _TICK) for name in names), default=0.0)
    return 0.2 + (0.5 * longest if slanted(names, width) else 0)


def name_ticks(axes: Axes, names: Sequence[str]) -> None:
    """Name the places 0, 1, ... of a horizontal axis, slanted where the names need the room."""
    figure = axes.get_figure(root=True)
    if figure is None:
        raise ValueError("these axes are on no figure")
    slant = slanted(names, axes.get_position().width * figure.get_size_inches()[0])
    axes.set_xticks(
        range(len(names)),
        [shorten(figure, name, _TICK, SMALL) for name in names],
        rotation=30 if slant else 0,
        ha="right" if slant else "center",
        rotation_mode="anchor",
    )


def name_ends(axes: Axes, ends: Sequence[tuple[float, str, str]]) -> None:
    """Write names right of a panel, each at its height or as far below as others leave room.

    `ends` are height (in data units of a linear axis), text and colour of each.
    """
    figure = axes.get_figure(root=True)
    if figure is None:
        raise ValueError("these axes are on no figure")
    low, high = axes.get_ylim()
    tall = axes.get_position().height * figure.get_size_inches()[1]
    apart = (high - low) * 0.12 / tall  # a line of the small type
    place = high + apart
    for value, told, colour in sorted(ends, reverse=True):
        place = min(value, place - apart)
        axes.annotate(
            drawable(told),
            (1, place),
            xycoords=("axes fraction", "data"),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            size=SMALL,
            color=colour,
            annotation_clip=False,
        )


def number(value: float) -> str:
    """Return a value with three significant digits, short enough for a label."""
    if value == 0 or not math.isfinite(value):
        return f"{value:.0f}"
    if 1e-3 <= abs(value) < 1e5:
        digits = max(0, 2 - math.floor(math.log10(abs(value))))
        return f"{value:.{digits}f}".replace("-", "−")
    return f"{value:.1e}".replace("-", "−")


# ------------------------------------------------------------------------ tiles


def grid_columns(count: int, low: int, high: int, ratio: float = 1.5) -> int:
    """Return how many columns show `count` tiles with few gaps, about `ratio` times the rows."""
    if count <= low:
        return max(1, count)
    ideal = math.sqrt(count * ratio)
    return min(range(low, high + 1), key=lambda c: (-count % c / c + abs(c - ideal) / ideal, c))


def draw_image(
    axes: Axes,
    image: Array,
    left: float,
    top: float,
    width: float,
    height: float,
    *,
    pixels: bool = False,
    **colouring: Any,
) -> AxesImage:
    """Draw an image at a place on the paper, its pixels as squares if `pixels`.

    `image` is (H,W,3) uint8, or (H,W) with a `cmap` and `norm` among `colouring`.
    """
    drawn = AxesImage(
        axes,
        extent=(left, left + width, top + height, top),
        origin="upper",
        interpolation="nearest" if pixels else "auto",
        zorder=1,  # as rectangles have it, so that what is drawn later lies on top
        **colouring,
    )
    drawn.set_data(image)
    drawn.set_clip_path(axes.patch)
    axes.add_image(drawn)
    return drawn


def draw_rectangle(
    axes: Axes, left: float, top: float, width: float, height: float, **look: Any
) -> Rectangle:
    """Draw a rectangle at a place on the paper; without a `look`, a thin frame."""
    plain: dict[str, Any] = {"facecolor": "none", "edgecolor": RULE, "linewidth": 0.5}
    rectangle = Rectangle((left, top), width, height, **(plain | look))
    axes.add_patch(rectangle)
    return rectangle


def draw_nothing(axes: Axes, left: float, top: float, width: float, height: float) -> None:
    """Hatch a place where there is no image, in a grey that no photograph is mistaken for."""
    draw_rectangle(
        axes,
        left,
        top,
        width,
        height,
        facecolor=NOTHING,
        edgecolor=RULE,
        linewidth=0,
        hatch="/" * 7,
    )


def crop(image: Array, box: Array) -> Array:
    """Return the part `box` of an image, (h,w,...), zero where the box reaches outside.

    `box` is top, left, bottom, right in pixels, the last two not included.
    """
    top, left, bottom, right = (int(edge) for edge in box)
    part = np.zeros((bottom - top, right - left, *image.shape[2:]), dtype=image.dtype)
    rows, columns = inside(box, image.shape[:2])
    part[rows, columns] = image[
        rows.start + top : rows.stop + top, columns.start + left : columns.stop + left
    ]
    return part


def inside(box: Array, size: Sequence[int]) -> tuple[slice, slice]:
    """Return the rows and columns of a box, counted from its corner, that lie in the image."""
    top, left, bottom, right = (int(edge) for edge in box)
    found = []
    for first, last, length in ((top, bottom, size[0]), (left, right, size[1])):
        start = min(max(first, 0), length)
        found.append(slice(start - first, max(start, min(last, length)) - first))
    return found[0], found[1]


def draw_patch(
    axes: Axes, patch: Array, box: Array, size: Sequence[int], left: float, top: float, side: float
) -> None:
    """Draw a patch in a square cell of the paper, its share outside the image hatched.

    Parameters
    ----------
    patch : (h,w,3) uint8, aligned with `box`.
    box : top, left, bottom, right in pixels; may reach outside.
    size : height and width of the image.
    side : of the cell, in inches; the patch's longer side fills it.
    """
    height, width = int(box[2] - box[0]), int(box[3] - box[1])
    pixel = side / max(height, width, 1)
    left += (side - width * pixel) / 2
    top += (side - height * pixel) / 2
    rows, columns = inside(box, size)
    shown = patch[rows, columns]
    if shown.shape[:2] != (height, width):
        draw_nothing(axes, left, top, width * pixel, height * pixel)
    if shown.size:
        draw_image(
            axes,
            shown,
            left + columns.start * pixel,
            top + rows.start * pixel,
            shown.shape[1] * pixel,
            shown.shape[0] * pixel,
        )


def draw_tile(axes: Axes, tile: Array, left: float, top: float, side: float) -> None:
    """Draw a (h,w,3) uint8 tile in the middle of a square cell of the paper."""
    height, width = tile.shape[:2]
    inch = side / max(height, width)
    wide, tall = width * inch, height * inch
    draw_image(axes, tile, left + (side - wide) / 2, top + (side - tall) / 2, wide, tall)


def signed_rgb(signal: Array, scale: float) -> Array:
    """Return a signed signal as uint8: mid-grey at zero, black and white at ±`scale`.

    Values beyond the scale are clipped; a scale of zero gives mid-grey throughout.
    """
    unit = signal / scale if scale > 0 else np.zeros_like(signal)
    rounded: Array = np.rint(127.5 + 127.5 * np.clip(unit, -1, 1)).astype(np.uint8)
    return rounded


def signal_scale(signals: Array) -> float:
    """Return the absolute signal to draw as full black or white; 0 if all of it is zero.

    It is the 99th percentile of what isn't zero: a few extreme pixels would make
    the rest pale, and padding would dilute it.
    """
    signal = np.abs(signals[signals != 0])
    return float(np.percentile(signal, _SIGNAL_PERCENTILE)) if signal.size else 0.0
