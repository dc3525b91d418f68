"""Draw a map of the images several times: by class, by answer, by every attribute.

And maps beside each other: of several layers, of several perplexities.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from convatlas import store
from convatlas.classes import read_classes
from convatlas.errors import DataError, did_you_mean
from convatlas.figures import style
from convatlas.figures.embedding import dots, draw_groups, embedded, frame, look, mapped
from convatlas.figures.labels import class_name
from convatlas.files import read_csv, write_csv, write_rows

Paths = Sequence[str | os.PathLike[str]]

_ACROSS = 3  # maps beside each other
_BETWEEN = 0.22
_SIDE = (style.PAGE - 2 * style.MARGIN - (_ACROSS - 1) * _BETWEEN) / _ACROSS
_NAME = 0.16  # height of the line above a map
_GROUPS = 24  # that colour and marker tell apart
_ROW = 0.1  # height of a line of a legend
_COLUMN = 1.05  # least width of a legend's column
_DOT = 0.5  # area of a point, beside that in a map over the whole page
_FEW_NUMBERS = 2  # values of a whole number that are groups rather than a quantity
_COMPONENTS = 3  # of a vector that get a map each
_CURVES = 1.9  # height of the panel with the numbers


# --------------------------------------------------------------------- colourings


@dataclass(frozen=True)
class _Groups:
    """Images told apart by what they belong to."""

    name: str
    member: NDArray[np.int64]  # (N,) number of the group, -1 for none
    groups: Sequence[str]  # their names
    nothing: str = "none"  # what -1 is called
    looks: Mapping[int, tuple[str, str]] = field(default_factory=dict)  # colour and marker

    @property
    def entries(self) -> list[tuple[str, str, str, int]]:
        """The lines of the legend: colour, marker, name, how many."""
        counts = [(group, int((self.member == group).sum())) for group in self.looks]
        lines = [(*self.looks[group], self.groups[group], n) for group, n in counts if n]
        left = int((self.member < 0).sum())
        return [*lines, (style.RULE, "o", self.nothing, left)] if left else lines

    def below(self, width: float) -> float:
        """Return the height that a legend of some width takes."""
        return -(-len(self.entries) // _columns(width)) * _ROW + 0.05

    def draw(self, axes: Axes, position: NDArray[Any]) -> None:
        draw_groups(axes, position, self.member, {-1: (style.RULE, "o"), **self.looks}, _DOT)

    def explain(self, figure: Figure, paper: Axes, left: float, top: float, width: float) -> None:
        column = width / _columns(width)
        rows = -(-len(self.entries) // _columns(width))
        for place, (colour, marker, name, count) in enumerate(self.entries):
            x, y = left + place // rows * column, top + 0.09 + place % rows * _ROW
            mark = Line2D([x + 0.04], [y - 0.025], color=colour, marker=marker, markersize=3, mew=0)
            paper.add_line(mark)
            told = f"{name} ({count})"
            style.write(paper, x + 0.11, y, told, width=column - 0.15, size=style.TINY)


@dataclass(frozen=True)
class _Quantity:
    """Images told apart by a number each; grey where it isn't known."""

    name: str
    value: NDArray[np.float64]  # (N,)
    ends: tuple[str, str] | None = None  # what stands at the scale's ends, if not the numbers

    def below(self, width: float) -> float:
        return 0.3

    @property
    def norm(self) -> Normalize:
        known = self.value[np.isfinite(self.value)]
        low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
        return Normalize(low, high if high > low else low + 1)

    def draw(self, axes: Axes, position: NDArray[Any]) -> None:
        colours = mpl.colormaps[style.QUANTITY](self.norm(np.nan_to_num(self.value)))
        colours[~np.isfinite(self.value)] = mpl.colors.to_rgba(style.RULE)
        dots(axes, position, colour=colours, share=_DOT)

    def explain(self, figure: Figure, paper: Axes, left: float, top: float, width: float) -> None:
        norm = self.norm
        bar = style.panel(figure, left, top + 0.06, width, 0.06)
        figure.colorbar(ScalarMappable(norm, style.QUANTITY), cax=bar, orientation="horizontal")
        bar.set_xticks([])
        bar.set_frame_on(False)
        low, high = self.ends or (style.number(norm.vmin or 0), style.number(norm.vmax or 0))
        room: dict[str, Any] = {"size": style.TINY, "width": width / 2 - 0.05}
        style.write(paper, left, top + 0.21, low, **room)
        style.write(paper, left + width, top + 0.21, high, align="right", **room)


_Colouring = _Groups | _Quantity


def _columns(width: float) -> int:
    """Return how many columns a legend of some width has."""
    return max(1, int(width / _COLUMN))


def _grouped(name: str, member: NDArray[np.int64], groups: Sequence[str], nothing: str) -> _Groups:
    present = np.unique(member[member >= 0])
    looks = {int(group): look(place, len(member)) for place, group in enumerate(present)}
    return _Groups(name, member, groups, nothing, looks)


def _by_class(
    name: str, label: NDArray[np.int64], present: NDArray[np.int64], classes: Sequence[str]
) -> _Colouring:
    """Colour by class: few by colour and marker, many by their order in the outputs.

    `present` are the classes that get a look, so that several maps have the same ones.
    """
    if len(present) <= _GROUPS:
        names = [class_name(classes, i) for i in range(int(present.max(initial=-1)) + 1)]
        looks = {int(group): look(place, len(label)) for place, group in enumerate(present)}
        return _Groups(name, label, names, "no label", looks)
    ends = (class_name(classes, int(present[0])), class_name(classes, int(present[-1])))
    return _Quantity(f"{name}, by output number", np.where(label < 0, np.nan, label), ends)


def _by_attribute(name: str, value: NDArray[Any]) -> list[_Colouring]:
    """Return the colourings by an attribute (N,...): none if it is too much for colours."""
    if value.ndim == 2 and value.shape[1] <= _COMPONENTS:
        return [
            one for i in range(value.shape[1]) for one in _by_attribute(f"{name}[{i}]", value[:, i])
        ]
    if value.ndim > 1:
        return []
    if value.dtype.kind in "iuf":
        distinct = np.unique(value)
        if value.dtype.kind in "iu" and len(distinct) <= _FEW_NUMBERS:
            places = np.searchsorted(distinct, value)
            return [_grouped(name, places, [str(x) for x in distinct], "none")]
        return [_Quantity(name, value.astype(np.float64))]
    told = np.array([str(text).strip() for text in value])
    texts, places = np.unique(told, return_inverse=True)
    if len(texts) > _GROUPS:
        return []
    return [_grouped(name, np.where(told == "", -1, places), texts.tolist(), "not known")]


# -------------------------------------------------------------------------- views


def plot_views(
    embedding: str | os.PathLike[str],
    images: str | os.PathLike[str],
    predictions: str | os.PathLike[str],
    *,
    output: str | os.PathLike[str],
    attributes: str | Sequence[str] = "all",
    classes: str | os.PathLike[str] | None = None,
    formats: Sequence[str] = (),
    dpi: float = style.DPI,
    about: Mapping[str, str] | None = None,
) -> None:
    """Draw one map by class, by predicted class, by whether that is right, by each attribute.

    Numbers run through a scale, texts of up to 24 kinds have a colour and marker each; a
    vector of up to three components gets a map for each. Attributes that colours can't
    show are named in the second line. The CSV has them all.

    Parameters
    ----------
    attributes : names of the data set's attributes, or ``all``.

    Raises
    ------
    DataError
        if the data set has no such attribute.
    """
    placed = store.read(store.Embedding, embedding)
    names = read_classes(classes)
    with store.Images(images) as source:
        label, known = source.labels(), source.attributes()
    chosen = sorted(known) if attributes == "all" else list(attributes)
    for name in chosen:
        if name not in known:
            raise DataError(
                f"the data set has no attribute {name!r}.{did_you_mean(name, known)} It has "
                f"{', '.join(sorted(known)) or 'none'}: correct the embedding's `attributes`."
            )
    told = read_csv(predictions, ["predicted", "correct"])
    predicted = np.fromiter(map(int, told["predicted"]), np.int64, len(label))
    right = np.fromiter((int(value or -1) for value in told["correct"]), np.int64, len(label))
    present = np.unique(np.concatenate([label[label >= 0], predicted]))
    _, cross = look(style.MARKERS.index("X"), len(label))  # a dot where it couldn't be seen
    views: list[_Colouring] = [
        _by_class("class", label, present, names),
        _by_class("the network's answer", predicted, present, names),
        _Groups(
            "right or wrong",
            right,
            ("wrong", "right"),
            "no label",
            {1: (style.COLOURS[0], "o"), 0: (style.COLOURS[1], cross)},
        ),
    ]
    shown = {name: _by_attribute(name, known[name]) for name in chosen}
    views += [view for found in shown.values() for view in found]
    missing = [name for name, found in shown.items() if not found]
    lines = [views[i : i + _ACROSS] for i in range(0, len(views), _ACROSS)]
    heights = [_NAME + _SIDE + max(view.below(_SIDE) for view in line) + 0.1 for line in lines]
    title = f"Views of the map by {placed.layer}"
    size = (style.PAGE, style.HEADING + sum(heights) + style.MARGIN)
    with style.page(
        output, size=size, title=title, formats=formats, dpi=dpi, about=about
    ) as figure:
        paper = style.paper(figure)
        left_out = f"; not drawn: {', '.join(missing)} (see the CSV)" if missing else ""
        style.head(paper, title, f"{mapped(placed)}, one map in several colourings{left_out}")
        top = style.HEADING
        for line, height in zip(lines, heights, strict=True):
            for place, view in enumerate(line):
                left = style.MARGIN + place * (_SIDE + _BETWEEN)
                style.write(paper, left, top + 0.11, view.name, width=_SIDE, bold=True)
                axes = style.panel(figure, left, top + _NAME, _SIDE, _SIDE)
                frame(axes, placed.position)
                view.draw(axes, placed.position)
                view.explain(figure, paper, left, top + _NAME + _SIDE, _SIDE)
            top += height
    with store.Images(images) as source:
        columns: dict[str, Any] = {
            "image": range(len(label)),
            "name": source.each_name(),
            "x": placed.position[:, 0],
            "y": placed.position[:, 1],
            "embedded": embedded(placed),
            "label": label,
            "class": (class_name(names, int(i)) for i in label),
            "predicted": predicted,
            "correct": told["correct"],
        }
        for name in chosen:
            flat = known[name].reshape(len(label), -1)
            for i in range(flat.shape[1]):
                columns[f"{name}[{i}]" if known[name].ndim > 1 else name] = flat[:, i]
        write_csv(Path(output).with_suffix(".csv"), columns)


# ------------------------------------------------------------ maps beside each other


def plot_perplexities(
    embeddings: Paths,
    quality: str | os.PathLike[str],
    images: str | os.PathLike[str],
    *,
    output: str | os.PathLike[str],
    classes: str | os.PathLike[str] | None = None,
    formats: Sequence[str] = (),
    dpi: float = style.DPI,
    about: Mapping[str, str] | None = None,
) -> None:
    """Draw maps of one layer at several perplexities side by side, by class.

    Above each stands its perplexity, under it how well it keeps neighbours (see
    `plot_quality`). The CSV has every point of every map.
    """
    read = (store.read(store.Embedding, path) for path in embeddings)
    # With few images several were lowered to the same one.
    placed = [x for _, x in sorted({x.perplexity: x for x in read}.items())]
    judged = store.read(store.Quality, quality)
    layer = placed[0].layer
    title = f"Perplexities of the map by {layer}"
    subtitle = (
        "the effective number of neighbours that t-SNE keeps together; few show clusters within "
        "clusters, many the whole"
    )
    if placed[0].sampled is not None:
        subtitle = (
            f"{mapped(placed[0])}; few neighbours show clusters within clusters, many the whole"
        )
    names = [f"perplexity {x.perplexity:.3g}" for x in placed]
    with _Sheet(output, title, placed, names, images, classes, formats, dpi, about) as sheet:
        sheet.draw(subtitle, [_judgement(judged, x.layer, x.perplexity) for x in placed])
    rows = (
        (x.perplexity, image, *place, by_tsne)
        for x in placed
        for image, (place, by_tsne) in enumerate(zip(x.position, embedded(x), strict=True))
    )
    header = ["perplexity", "image", "x", "y", "embedded"]
    write_rows(Path(output).with_suffix(".csv"), header, rows)


def plot_quality(
    embeddings: Paths,
    quality: str | os.PathLike[str],
    images: str | os.PathLike[str],
    *,
    output: str | os.PathLike[str],
    classes: str | os.PathLike[str] | None = None,
    formats: Sequence[str] = (),
    dpi: float = style.DPI,
    about: Mapping[str, str] | None = None,
) -> None:
    """Draw the maps by pixels and by each layer, and how well they keep neighbours.

    Below the maps: trustworthiness, the recall of the nearest, and the accuracy of a vote of
    the nearest in the map and before it, by the principal components of the codes that are
    mapped, each over the layers. The CSV has a row for every map that was judged, those at
    other perplexities among them.

    Parameters
    ----------
    embeddings : in the order of drawing.
    """
    placed = [store.read(store.Embedding, path) for path in embeddings]
    judged = store.read(store.Quality, quality)
    title = "Maps by pixels and by layers"
    names = [x.layer for x in placed]
    wide = style.PAGE - 0.55 - 1.75
    more = 0.15 + _CURVES + style.tick_room(names, wide)
    with _Sheet(output, title, placed, names, images, classes, formats, dpi, about, more) as sheet:
        subtitle = (
            f"each t-SNE at its own scale, judged by the components that it maps: trustworthiness "
            f"among {judged.trusted} images, the {judged.near} nearest of each"
        )
        if placed[0].sampled is not None:
            subtitle = (
                f"{mapped(placed[0])}; judged by {judged.images:,} of them, the {judged.near} "
                "nearest of each"
            )
        sheet.draw(
            subtitle,
            [_judgement(judged, x.layer, x.perplexity) for x in placed],
        )
        panel = style.panel(sheet.figure, 0.55, sheet.below + 0.15, wide, _CURVES)
        _draw_curves(panel, judged, [_row(judged, x.layer, x.perplexity) for x in placed])
    columns: dict[str, Any] = {
        "layer": judged.layer,
        "perplexity": judged.perplexity,
        "kl_divergence": judged.kl_divergence,
        **{key: getattr(judged, key) for key in _MEASURES},
        "near": [judged.near] * len(judged.layer),
        "images": [judged.images] * len(judged.layer),
        "trusted": [judged.trusted] * len(judged.layer),
    }
    write_csv(Path(output).with_suffix(".csv"), columns)


_MEASURES = {
    "trustworthiness": "trustworthiness",
    "recall": "recall of the nearest",
    "map_accuracy": "right by vote in the map",
    "code_accuracy": "right by vote before it",
}


def _row(judged: store.Quality, layer: str, perplexity: float) -> int:
    same = (judged.layer == layer) & np.isclose(judged.perplexity, perplexity)
    return int(np.flatnonzero(same)[0])


def _judgement(judged: store.Quality, layer: str, perplexity: float) -> str:
    """Say in a line how good a map is."""
    row = _row(judged, layer, perplexity)
    return (
        f"trustworthiness {judged.trustworthiness[row]:.3f}, recall {judged.recall[row]:.2f}, "
        f"divergence {judged.kl_divergence[row]:.2f}"
    )


class _Sheet:
    """A page of maps beside each other, with one legend of the classes below them."""

    def __init__(
        self,
        output: str | os.PathLike[str],
        title: str,
        placed: Sequence[store.Embedding],
        names: Sequence[str],
        images: str | os.PathLike[str],
        classes: str | os.PathLike[str] | None,
        formats: Sequence[str],
        dpi: float,
        about: Mapping[str, str] | None,
        more: float = 0.0,
    ) -> None:
        with store.Images(images) as source:
            label = source.labels()
        present = np.unique(label[label >= 0])
        self._title, self._placed, self._names = title, placed, names
        self._colours = _by_class("class", label, present, read_classes(classes))
        lines = -(-len(placed) // _ACROSS)
        self._legend = style.HEADING + lines * (_NAME + _SIDE + 0.2)
        self.below = self._legend + self._colours.below(style.PAGE - 2 * style.MARGIN) + 0.1
        self._page = style.page(
            output,
            size=(style.PAGE, self.below + more + style.MARGIN),
            title=title,
            formats=formats,
            dpi=dpi,
            about=about,
        )

    def __enter__(self) -> _Sheet:
        self.figure = self._page.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._page.__exit__(*error)

    def draw(self, subtitle: str, told: Sequence[str]) -> None:
        """Draw all maps, each with a line `told` under it."""
        paper = style.paper(self.figure)
        style.head(paper, self._title, subtitle)
        for i, (embedding, name, line) in enumerate(
            zip(self._placed, self._names, told, strict=True)
        ):
            left = style.MARGIN + i % _ACROSS * (_SIDE + _BETWEEN)
            top = style.HEADING + i // _ACROSS * (_NAME + _SIDE + 0.2)
            style.write(paper, left, top + 0.11, name, width=_SIDE, bold=True)
            axes = style.panel(self.figure, left, top + _NAME, _SIDE, _SIDE)
            frame(axes, embedding.position)
            self._colours.draw(axes, embedding.position)
            below = top + _NAME + _SIDE + 0.1
            style.write(paper, left, below, line, width=_SIDE, size=style.TINY, colour=style.SOFT)
        width = style.PAGE - 2 * style.MARGIN
        self._colours.explain(self.figure, paper, style.MARGIN, self._legend, width)


def _draw_curves(panel: Axes, judged: store.Quality, rows: Sequence[int]) -> None:
    """Draw each measure over the layers, its name at its end, names that meet moved apart."""
    ends: list[tuple[float, str, str]] = []
    for (key, told), colour, marker in zip(
        _MEASURES.items(), style.COLOURS, style.MARKERS, strict=False
    ):
        values = getattr(judged, key)[list(rows)]
        if not np.isfinite(values).any():
            continue
        panel.plot(range(len(rows)), values, color=colour, marker=marker, markersize=3.5)
        last = float(values[np.isfinite(values)][-1])
        ends.append((last, f"{told} {style.number(last)}", colour))
    panel.set_ylim(0, 1.04)
    panel.set_xlim(-0.3, len(rows) - 0.7)
    panel.set_yticks([0, 0.25, 0.5, 0.75, 1])
    style.name_ends(panel, ends)
    style.name_ticks(panel, [str(judged.layer[row]) for row in rows])
