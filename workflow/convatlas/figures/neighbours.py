"""Draw an exhibit's nearest images by pixels and layer by layer, and how well they classify."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from convatlas import store
from convatlas.classes import read_classes
from convatlas.codes import PIXELS
from convatlas.figures import style
from convatlas.figures.labels import class_name
from convatlas.files import known, read_csv, write_csv

_SAME, _OTHER = style.COLOURS[2], style.COLOURS[1]
_LEFT = 1.15  # of the neighbours, right of the exhibit's or the layer's name, in inches
_CELL = 0.85  # largest width of a neighbour
_TEXT = 0.19  # height of the two lines under an image
_TALL = 2.3  # of the curve
_MOST = "the commonest class"


def plot_nearest(
    nearest: str | os.PathLike[str],
    images: str | os.PathLike[str],
    *,
    output: str | os.PathLike[str],
    classes: str | os.PathLike[str] | None = None,
    formats: Sequence[str] = (),
    dpi: float = style.DPI,
    about: Mapping[str, str] | None = None,
) -> None:
    """Draw an exhibit and, a row for its pixels and each layer, the images nearest to it.

    Under each stand its class and its distance; a frame tells, where both labels are known
    and others have that of the exhibit, whether it is of the same class. The CSV has a row
    for each.
    """
    found = store.read(store.Nearest, nearest)
    names = read_classes(classes)
    spaces, count = found.image.shape
    with store.Images(images) as source:
        labels, size = source.labels(), source.size
        room = style.PAGE - _LEFT - style.MARGIN
        cell = min(_CELL, (room + style.GUTTER) / max(count, 1) - 2 * style.GUTTER)
        tall = cell * size[0] / size[1]
        step = tall + _TEXT + 0.06
        files = {i: source.name(i) for i in np.unique([found.index, *found.image.ravel()]).tolist()}
        title = f"Nearest images to {files[found.index]}"
        with style.page(
            output,
            size=(style.PAGE, style.HEADING + (spaces + 1) * step + style.MARGIN),
            title=title,
            formats=formats,
            dpi=dpi,
            about=about,
        ) as figure:
            paper = style.paper(figure)
            style.head(
                paper,
                title,
                "nearest first, by the Euclidean distance of the pixels and of each layer's codes, "
                "which stands under an image",
            )
            shown = _Cell(paper, cell, tall, names)
            own = int(labels[found.index])
            shown.draw(source.rows([found.index])[0], own, "the exhibit", _LEFT, style.HEADING)
            compared = own if (labels == own).sum() > 1 else -1  # or no frame could be another
            _explain(paper, _LEFT + cell + 0.25, style.HEADING + 0.1, own, compared)
            for row in range(spaces):
                top = style.HEADING + (row + 1) * step
                name = str(found.compared[row])
                style.write(
                    paper,
                    style.MARGIN,
                    top + 0.1,
                    name,
                    width=_LEFT - style.MARGIN - 0.08,
                    bold=True,
                )
                for rank, index in enumerate(found.image[row]):
                    x = _LEFT + rank * (cell + 2 * style.GUTTER)
                    told = style.number(float(found.distance[row, rank]))
                    label = int(labels[index])
                    shown.draw(source.rows([index])[0], label, told, x, top, compared)
    space, place = (axis.ravel() for axis in np.indices(found.image.shape))
    image = found.image.ravel()
    alike: list[Any] = [int(labels[i] == own) if min(own, labels[i]) >= 0 else "" for i in image]
    columns: dict[str, Any] = {
        "layer": found.compared[space],
        "rank": place,
        "image": image,
        "name": [files[i] for i in image.tolist()],
        "label": labels[image],
        "class": [class_name(names, int(labels[i])) for i in image],
        "same_class": alike,
        "distance": found.distance.ravel(),
    }
    write_csv(Path(output).with_suffix(".csv"), columns)


@dataclass(frozen=True)
class _Cell:
    """Where images are drawn one by one with two lines under each."""

    paper: Axes
    width: float
    height: float
    classes: Sequence[str]

    def draw(
        self,
        image: NDArray[np.uint8],
        label: int,
        told: str,
        left: float,
        top: float,
        own: int = -1,
    ) -> None:
        """Draw an image, framed where its label and that of the exhibit, `own`, are known."""
        style.draw_image(self.paper, image, left, top, self.width, self.height)
        if min(own, label) >= 0:
            colour = _SAME if label == own else _OTHER
            look: dict[str, Any] = {"linewidth": 1.4, "edgecolor": colour}
            if label != own:
                look["linestyle"] = (0, (2.5, 1.2))  # told apart in grey print, too
            style.draw_rectangle(self.paper, left, top, self.width, self.height, **look)
        line = top + self.height + 0.085
        name = class_name(self.classes, label)
        style.write(self.paper, left, line, name, width=self.width, size=style.TINY)
        style.write(
            self.paper,
            left,
            line + 0.08,
            told,
            width=self.width,
            size=style.TINY,
            colour=style.SOFT,
        )


def _explain(paper: Axes, left: float, top: float, own: int, compared: int) -> None:
    """Say what the frames mean, or why there are none."""
    if compared < 0:
        told = "the exhibit has no label" if own < 0 else "no other image is of its class"
        style.write(paper, left, top, told, colour=style.SOFT)
        return
    for place, (told, colour, line) in enumerate(
        (("of the exhibit's class", _SAME, "-"), ("of another class", _OTHER, (0, (2.5, 1.2))))
    ):
        y = top + place * 0.17
        look: dict[str, Any] = {"edgecolor": colour, "linewidth": 1.4, "linestyle": line}
        style.draw_rectangle(paper, left, y - 0.08, 0.14, 0.1, **look)
        style.write(paper, left + 0.2, y, told, size=style.SMALL)


# --------------------------------------------------------------------- the curve


def plot_accuracy(
    votes: Sequence[str | os.PathLike[str]],
    predictions: str | os.PathLike[str],
    *,
    output: str | os.PathLike[str],
    formats: Sequence[str] = (),
    dpi: float = style.DPI,
    about: Mapping[str, str] | None = None,
) -> None:
    """Draw how often the vote of the nearest images is right, by pixels and over the layers.

    Beside the curve stand, over the same images, the network itself and the answer that is
    always the commonest class. Only images of which another has the same label count: no
    other's vote can be right. The CSV has a row for each point and these two.

    Parameters
    ----------
    votes : `store.Votes` of the pixels and the layers, in the order of drawing.
    predictions : what the network says of each image, as `score_predictions` writes it.
    """
    rates = [store.read(store.Votes, path) for path in votes]
    first = rates[0]  # all are of the same images
    asked = first.image[first.twin > 0]
    told = read_csv(predictions, only=["correct"])["correct"]
    network = sum(told[i] == "1" for i in asked)
    voters = first.neighbour.shape[1]
    title = "Classification by the nearest images"
    wide = style.PAGE - 0.55 - 1.3
    room = style.tick_room([rate.layer for rate in rates], wide)
    below = 0.1 + _TALL + room if len(asked) else 0.0
    size = (style.PAGE, style.HEADING + below + style.MARGIN)
    with style.page(
        output, size=size, title=title, formats=formats, dpi=dpi, about=about
    ) as figure:
        paper = style.paper(figure)
        if not len(asked):
            style.head(paper, title, "not known: no two images have the same label")
        else:
            nearest = "the nearest one" if voters == 1 else f"the {voters} nearest"
            style.head(
                paper,
                title,
                f"share of {len(asked)} images that a vote of {nearest} gets right, the image "
                f"itself left out; {first.labelled} images vote; bars: 95 % interval",
            )
            panel = style.panel(figure, 0.55, style.HEADING + 0.1, wide, _TALL)
            _draw_curve(panel, rates, {"the network": network / len(asked), _MOST: first.most})
    counted = len(asked) or np.nan
    columns: dict[str, Sequence[Any]] = {
        "layer": [*(rate.layer for rate in rates), "the network", _MOST],
        "images": [len(asked)] * (len(rates) + 2),
        "right": [*(rate.right for rate in rates), network, ""],
        "accuracy": known(
            [*(rate.right / counted for rate in rates), network / counted, first.most]
        ),
        "low": [*known([rate.low for rate in rates]), "", ""],
        "high": [*known([rate.high for rate in rates]), "", ""],
        "neighbours": [*([voters] * len(rates)), "", ""],
    }
    write_csv(Path(output).with_suffix(".csv"), columns)


def _draw_curve(panel: Axes, rates: Sequence[store.Votes], constant: Mapping[str, float]) -> None:
    """Draw the accuracies, those of layers joined, and what is the same for all as lines."""
    share = [rate.right / rate.counted for rate in rates]
    for place, (rate, right) in enumerate(zip(rates, share, strict=True)):
        colour = style.SOFT if rate.layer == PIXELS else style.COLOURS[0]
        bars = [[right - rate.low], [rate.high - right]]
        panel.errorbar(place, right, bars, fmt="o", color=colour, markersize=4, linewidth=0.8)
        panel.annotate(
            style.number(100 * right),
            (place, right),
            xytext=(-4, 4),
            textcoords="offset points",
            ha="right",
            size=style.TINY,
            color=colour,
        )
    first = int(rates[0].layer == PIXELS)
    panel.plot(range(first, len(rates)), share[first:], color=style.COLOURS[0], zorder=1)
    for value, line in zip(constant.values(), ("-", (0, (4, 3))), strict=True):
        panel.axhline(value, color=style.RULE, linewidth=0.9, linestyle=line, zorder=0)
    ends = [(x, f"{told} {style.number(100 * x)}", style.SOFT) for told, x in constant.items()]
    style.name_ends(panel, ends)
    panel.set_xlim(-0.4, len(rates) - 0.6)
    panel.set_ylim(0, 1.04)
    panel.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", "25", "50", "75", "100 %"])
    panel.set_ylabel("right")
    style.name_ticks(panel, [rate.layer for rate in rates])
