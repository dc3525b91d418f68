"""Draw what an occluder changes: the five panels of Zeiler & Fergus (2014), Fig. 7."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from convatlas import store
from convatlas.classes import read_classes
from convatlas.figures import style
from convatlas.figures.labels import class_name, shape_text
from convatlas.files import write_csv

_PANEL = 1.7  # longer side of a panel's image in inches
_LOWEST = 1.2  # a row of panels, for the legend's sake
_STEP = 2.37  # from one column of panels to the next
_TITLE = 0.3  # height of the two lines above a panel
_LEFT, _BELOW = 0.24, 0.3  # room for the axes' numbers
_CLASSES = 8  # in the legend; with more, the last line is for all others
_OTHER = "#b0b0b0"


def plot_occlusion(
    exhibit: str | os.PathLike[str],
    occlusion: str | os.PathLike[str],
    *,
    output: str | os.PathLike[str],
    strongest: str | os.PathLike[str] | None = None,
    reason: str = "",
    classes: str | os.PathLike[str] | None = None,
    formats: Sequence[str] = (),
    dpi: float = style.DPI,
    about: Mapping[str, str] | None = None,
) -> None:
    """Draw an occlusion sweep over one image in five panels.

    (a) the image, with the occluder where the probability of panel d is lowest; (b)
    the sum over the strongest feature map for each place of the occluder; (c) this
    map's projections for the image and for others; (d) the probability of the true
    class; (e) the most probable class. A cell of b, d and e is one place of the
    occluder, drawn about the centre of its part on the image. Without a label, panel d
    shows the class that the network gives the whole image, and says so. The CSV holds
    the numbers of b, d and e for every place.

    Parameters
    ----------
    strongest : the `store.Strongest` of panel c, or None where it isn't defined.
    reason : why it isn't, printed in its place.
    """
    shown = store.read(store.Exhibit, exhibit)
    swept = store.read(store.Occlusion, occlusion)
    sweep = _Sweep(swept, shown.image.shape[:2], read_classes(classes))
    answers = None if strongest is None else store.read(store.Strongest, strongest)
    inch = _PANEL / max(sweep.size)
    tall, wide = (side * inch for side in sweep.size)
    row = _TITLE + max(tall, _LOWEST) + _BELOW
    title = f"Occlusion of {shown.name}"
    page = (style.PAGE, style.HEADING + 2 * row + style.MARGIN)
    with style.page(
        output, size=page, title=title, formats=formats, dpi=dpi, about=about
    ) as figure:
        paper = style.paper(figure)
        style.head(paper, title, sweep.told)
        slots = [
            _Slot(
                figure,
                paper,
                i % 3 * _STEP + style.MARGIN,
                style.HEADING + i // 3 * row,
                wide,
                tall,
            )
            for i in range(5)
        ]
        _draw_input(slots[0], shown.image, sweep)
        _draw_sums(slots[1], sweep)
        _draw_projections(slots[2], answers, reason)
        _draw_chances(slots[3], sweep, shown.mask)
        _draw_classes(slots[4], sweep)
    _write_numbers(Path(output).with_suffix(".csv"), sweep)


@dataclass(frozen=True)
class _Sweep:
    """An occlusion sweep with what its panels have in common."""

    swept: store.Occlusion
    size: tuple[int, int]  # height and width of the image
    classes: Sequence[str]

    @property
    def occluder(self) -> tuple[int, int]:
        """Height and width of the occluder."""
        height, width = np.ravel(self.swept.size)
        return int(height), int(width)

    @property
    def label(self) -> int:
        """The class whose probability is drawn: the true one, else the predicted one."""
        if self.swept.label >= 0:
            return int(self.swept.label)
        return int(self.swept.clean_probability.argmax())

    @property
    def chance(self) -> NDArray[Any]:
        """Probability of that class at each place, (R,C)."""
        chance: NDArray[Any] = self.swept.probability[..., self.label]
        return chance

    @cached_property
    def predicted(self) -> NDArray[Any]:
        """Most probable class at each place, (R,C)."""
        return np.asarray(self.swept.probability.argmax(-1))

    @property
    def lowest(self) -> tuple[int, int]:
        """Row and column of the place where that probability is lowest; the first such."""
        row, column = np.unravel_index(int(self.chance.argmin()), self.chance.shape)
        return int(row), int(column)

    @property
    def told(self) -> str:
        """What was done, in a line."""
        vertical, horizontal = (int(step) for step in np.ravel(self.swept.stride))
        step = str(vertical) if vertical == horizontal else f"{vertical} × {horizontal}"
        rows, columns = self.predicted.shape
        return (
            f"an occluder of {shape_text(self.occluder)} pixels, {self.look}, at {rows} × "
            f"{columns} places {step} pixels apart; cut at the far borders"
        )

    @property
    def look(self) -> str:
        """What the occluder shows, in words."""
        if self.blurs:
            return "the image blurred"
        return f"RGB ({', '.join(f'{value:.0f}' for value in np.ravel(self.swept.fill))})"

    @property
    def blurs(self) -> bool:
        """Whether the occluder shows the image itself blurred."""
        return bool(np.isnan(self.swept.fill).any())

    def centres(self, axis: int) -> NDArray[Any]:
        """Return the centres of the occluder's parts on the image, in pixels."""
        first = (self.swept.row, self.swept.column)[axis]
        last = np.minimum(first + self.occluder[axis], self.size[axis])
        centres: NDArray[Any] = (first + last) / 2
        return centres

    def edges(self, axis: int) -> NDArray[Any]:
        """Return the borders of the cells: halfway between centres."""
        centres = self.centres(axis)
        if len(centres) == 1:
            return np.array([0.0, self.size[axis]])
        between = (centres[1:] + centres[:-1]) / 2
        return np.concatenate(
            [[2 * centres[0] - between[0]], between, [2 * centres[-1] - between[-1]]]
        )


@dataclass(frozen=True)
class _Slot:
    """The place of a panel, its corner and its image's size in inches."""

    figure: Figure
    paper: Axes
    left: float
    top: float
    wide: float
    tall: float

    def name(self, letter: str, first: str, then: str) -> None:
        """Write the panel's letter, its title, and a line about it."""
        style.write(self.paper, self.left, self.top + 0.1, letter, size=style.HEAD, bold=True)
        room = _STEP - 0.28
        style.write(self.paper, self.left + 0.14, self.top + 0.1, first, width=room)
        style.write(
            self.paper,
            self.left + 0.14,
            self.top + 0.22,
            then,
            width=room,
            size=style.SMALL,
            colour=style.SOFT,
        )

    def axes(self, size: tuple[int, int]) -> Axes:
        """Return axes in the pixels of the image, alike in every panel."""
        axes = style.panel(self.figure, self.left + _LEFT, self.top + _TITLE, self.wide, self.tall)
        axes.set_xlim(0, size[1])
        axes.set_ylim(size[0], 0)
        axes.set_xticks([0, size[1] // 2, size[1]])
        axes.set_yticks([0, size[0] // 2, size[0]])
        axes.set_facecolor(style.NOTHING)
        for spine in axes.spines.values():
            spine.set(visible=True, color=style.RULE)
        return axes

    def bar(self, norm: Normalize, colours: str, ends: Sequence[float], clean: float) -> None:
        """Draw the colour bar right of the panel, with a mark at the value without occluder."""
        left = self.left + _LEFT + self.wide + 0.06
        bar = style.panel(self.figure, left, self.top + _TITLE, 0.07, self.tall)
        self.figure.colorbar(ScalarMappable(norm, colours), cax=bar)
        bar.set_yticks(ends, [style.number(value) for value in ends])
        bar.tick_params(length=0, labelsize=style.TINY)
        bar.set_frame_on(False)
        bar.plot([-0.8, 1], [clean, clean], color=style.INK, linewidth=1, clip_on=False)


def _draw_cells(axes: Axes, values: NDArray[Any], sweep: _Sweep, **colouring: Any) -> None:
    axes.pcolormesh(
        sweep.edges(1), sweep.edges(0), values, rasterized=True, antialiased=False, **colouring
    )
    axes.set_xlabel("centre of the occluder (pixels)", size=style.TINY, labelpad=1, loc="left")


def _draw_input(slot: _Slot, image: NDArray[Any], sweep: _Sweep) -> None:
    row, column = sweep.lowest
    top, left = int(sweep.swept.row[row]), int(sweep.swept.column[column])
    slot.name("a", "image and occluder", "drawn where d is lowest")
    axes = slot.axes(sweep.size)
    style.draw_image(axes, image, 0, 0, sweep.size[1], sweep.size[0])
    height, width = sweep.occluder
    bottom, right = min(top + height, sweep.size[0]), min(left + width, sweep.size[1])
    if sweep.blurs:
        hidden = _blurred(image)[top:bottom, left:right]
        style.draw_image(axes, hidden, left, top, right - left, bottom - top)
        fill: Any = "none"
    else:
        fill = np.clip(np.ravel(sweep.swept.fill) / 255, 0, 1)
    for colour, thick in (("white", 1.6), (style.INK, 0.7)):  # seen on any image
        axes.add_patch(
            Rectangle((left, top), width, height, facecolor=fill, edgecolor=colour, linewidth=thick)
        )
    axes.set_xlabel("pixels", size=style.TINY, labelpad=1, loc="left")


def _draw_sums(slot: _Slot, sweep: _Sweep) -> None:
    clean = float(sweep.swept.clean_map_sum)
    slot.name(
        "b",
        f"sum of map {sweep.swept.unit} of {sweep.swept.layer}",
        f"its strongest map; mark: {style.number(clean)} without occluder",
    )
    sums = sweep.swept.map_sum
    low, high = min(float(sums.min()), clean), max(float(sums.max()), clean)
    norm = Normalize(low, high if high > low else low + 1)
    _draw_cells(slot.axes(sweep.size), sums, sweep, cmap=style.QUANTITY, norm=norm)
    slot.bar(norm, style.QUANTITY, sorted({low, high}), clean)


def _draw_chances(slot: _Slot, sweep: _Sweep, mask: NDArray[Any] | None) -> None:
    clean = float(sweep.swept.clean_probability[sweep.label])
    name = class_name(sweep.classes, sweep.label)
    which = "true class" if sweep.swept.label >= 0 else "predicted class (no label)"
    slot.name(
        "d",
        f"probability of {name}",
        f"the {which}; mark: {style.number(clean)} without occluder",
    )
    high = max(float(sweep.chance.max()), clean) or 1.0
    norm = Normalize(0, high)
    axes = slot.axes(sweep.size)
    _draw_cells(axes, sweep.chance, sweep, cmap=style.CHANCE, norm=norm)
    if mask is not None and 0 < mask.mean() < 1:
        _draw_outline(axes, mask)
    slot.bar(norm, style.CHANCE, [0, high], clean)


def _draw_outline(axes: Axes, mask: NDArray[Any]) -> None:
    """Draw the outline of the object, where it is known, as seen on any colour."""
    y, x = (np.arange(side) + 0.5 for side in mask.shape)
    for colour, thick in (("white", 1.6), (style.INK, 0.7)):
        axes.contour(x, y, mask, levels=[0.5], colors=[colour], linewidths=thick)


def _blurred(image: NDArray[Any]) -> NDArray[Any]:
    """Return an image (H,W,3) blurred as the sweep's occluder shows it."""
    sigma = min(image.shape[:2]) / 16
    blurred = gaussian_filter(image.astype(float), (sigma, sigma, 0), mode="mirror", truncate=3)
    return np.asarray(blurred.round().clip(0, 255), np.uint8)


def _draw_classes(slot: _Slot, sweep: _Sweep) -> None:
    found, counts = np.unique(sweep.predicted, return_counts=True)
    slot.name(
        "e",
        "most probable class",
        f"{len(found)} of {sweep.swept.probability.shape[2]} classes, share of the places",
    )
    order = sorted(
        zip(found.tolist(), counts.tolist(), strict=True),
        key=lambda pair: (pair[0] != sweep.label, -pair[1], pair[0]),
    )
    named = order if len(order) <= _CLASSES else order[: _CLASSES - 1]
    rest = sum(count for _, count in order[len(named) :])
    place = np.full(int(found.max()) + 1, len(named))
    for i, (label, _) in enumerate(named):
        place[label] = i
    colours = [*style.COLOURS[: len(named)], _OTHER]
    norm = Normalize(-0.5, len(colours) - 0.5)
    cells = place[sweep.predicted]
    _draw_cells(slot.axes(sweep.size), cells, sweep, cmap=ListedColormap(colours), norm=norm)

    lines = [(class_name(sweep.classes, label), count) for label, count in named]
    if rest:
        lines.append((f"{len(order) - len(named)} other classes", rest))
    left = slot.left + _LEFT + slot.wide + 0.15
    right = min(left + 1.9, style.PAGE - style.MARGIN)
    for i, (name, count) in enumerate(lines):
        top = slot.top + _TITLE + i * 0.135
        colour = colours[i]
        style.draw_rectangle(slot.paper, left, top, 0.09, 0.09, facecolor=colour, linewidth=0)
        weight = named[i][0] == sweep.label if i < len(named) else False
        told: dict[str, Any] = {"size": style.SMALL, "bold": weight}
        style.write(slot.paper, left + 0.14, top + 0.08, name, width=right - left - 0.5, **told)
        share = f"{percent:.0f} %" if (percent := 100 * count / cells.size) >= 1 else "< 1 %"
        style.write(
            slot.paper, right, top + 0.08, share, size=style.SMALL, colour=style.SOFT, align="right"
        )


def _draw_projections(slot: _Slot, answers: store.Strongest | None, reason: str) -> None:
    left, top = slot.left + 0.14, slot.top + _TITLE
    room, tall = _STEP - 0.3, max(slot.tall, _LOWEST)
    if answers is None:
        slot.name("c", "projections of this map", "not drawn")
        style.draw_rectangle(slot.paper, left, top, room, tall, linestyle=(0, (3, 3)))
        lines = style.wrap(slot.figure, reason or "not computed", room - 0.2, style.SMALL)
        for i, line in enumerate(lines[: int((tall - 0.2) / 0.12)]):
            style.write(
                slot.paper,
                left + 0.1,
                top + 0.18 + 0.12 * i,
                line,
                size=style.SMALL,
                colour=style.SOFT,
            )
        return
    scale = style.signal_scale(answers.projection)
    slot.name(
        "c",
        "projections of this map",
        f"framed: this image; grey 0, contrast ±{style.number(scale)}",
    )
    gap = style.GUTTER
    large = min((room - gap) / 2, 0.58 * tall)
    small = (tall - large - 3 * gap) / 2
    fit = int((room + gap) / (small + gap))
    for rank in range(min(len(answers.image), 1 + fit)):
        drawn = style.signed_rgb(answers.projection[rank].transpose(1, 2, 0), scale)
        patch = answers.patch[rank]
        if rank == 0:
            spots = [(left, top, large), (left + large + gap, top, large)]
        else:
            x, y = left + (rank - 1) * (small + gap), top + large + 2 * gap
            spots = [(x, y, small), (x, y + small + gap, small)]
        for tile, (x, y, side) in zip((drawn, patch), spots, strict=True):
            style.draw_tile(slot.paper, tile, x, y, side)
    style.draw_rectangle(
        slot.paper, left, top, 2 * large + gap, large, edgecolor=style.INK, linewidth=0.9
    )


def _write_numbers(path: Path, sweep: _Sweep) -> None:
    rows, columns = (i.ravel() for i in np.indices(sweep.predicted.shape))
    predicted = sweep.predicted.ravel()
    numbers: dict[str, Any] = {
        "row": np.asarray(sweep.swept.row)[rows],
        "column": np.asarray(sweep.swept.column)[columns],
        "centre_y": sweep.centres(0)[rows],
        "centre_x": sweep.centres(1)[columns],
        "map_sum": sweep.swept.map_sum.ravel(),
        "class": [class_name(sweep.classes, sweep.label)] * len(rows),
        "probability": sweep.chance.ravel(),
        "predicted": predicted,
        "predicted_class": [class_name(sweep.classes, int(i)) for i in predicted],
        "predicted_probability": sweep.swept.probability.max(-1).ravel(),
    }
    write_csv(path, numbers)
