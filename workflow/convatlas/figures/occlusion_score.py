"""Draw how often, and how far, an occluder's effect lies on the object of a scene."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from convatlas.classes import read_classes
from convatlas.figures import style
from convatlas.figures.labels import class_name
from convatlas.files import read_csv, write_csv

_TALL = 2.0  # of the panels in inches
_TOP = style.HEADING + 0.32  # below the panels' titles
_LEFT = (0.5, 2.68, 5.75)  # of the panels
_WIDE = (1.3, 2.05, 1.3)
_BINS = 20
_CLASSES = 12  # drawn, those with most scenes


def plot_occlusion_score(
    scenes: str | os.PathLike[str],
    summary: str | os.PathLike[str],
    *,
    output: str | os.PathLike[str],
    classes: str | os.PathLike[str] | None = None,
    formats: Sequence[str] = (),
    dpi: float = style.DPI,
    about: Mapping[str, str] | None = None,
) -> None:
    """Draw the scores of a study's scenes, for the network and its control.

    (a) The rate of the pointing game, its interval, and its chance level; (b) how the
    share of the drop on the object is distributed, and the exhibits by number; (c) the
    rate for each class. The CSV holds a row a scene and network.

    Parameters
    ----------
    scenes, summary : the tables that `gather_scores` writes.
    """
    names = read_classes(classes)
    table, told = read_csv(scenes), read_csv(summary)
    networks = [
        _Network.of(name, table, {key: float(told[key][i]) for key in told if key != "network"})
        for i, name in enumerate(told["network"])
    ]
    title = "Occlusion score"
    size = (style.PAGE, _TOP + _TALL + 0.5)
    with style.page(
        output, size=size, title=title, formats=formats, dpi=dpi, about=about
    ) as figure:
        paper = style.paper(figure)
        accuracies = (f"{style.number(100 * x.told['accuracy'])} % {x.name}" for x in networks)
        style.head(
            paper,
            title,
            f"{networks[0].told['scenes']:.0f} scenes; accuracy without occluder: "
            f"{', '.join(accuracies)}",
        )
        panels = [
            style.panel(figure, left, _TOP, wide, _TALL)
            for left, wide in zip(_LEFT, _WIDE, strict=True)
        ]
        for letter, left, name in zip(
            "abc",
            _LEFT,
            ("largest drop on the object", "share of the drop on the object", "a, by class"),
            strict=True,
        ):
            style.write(paper, left - 0.38, _TOP - 0.14, letter, size=style.HEAD, bold=True)
            style.write(paper, left - 0.24, _TOP - 0.14, name)
        _draw_rates(panels[0], networks)
        _draw_shares(panels[1], networks)
        _draw_classes(panels[2], networks, names)
    _write_numbers(Path(output).with_suffix(".csv"), networks, names)


@dataclass(frozen=True)
class _Network:
    """The scores of one network, a value a scene, and their summary."""

    name: str
    told: Mapping[str, float]
    scene: NDArray[np.int64]
    image: NDArray[np.int64]
    exhibit: NDArray[np.int64]  # -1 where the scene isn't one
    label: NDArray[np.int64]
    hit: NDArray[np.int64]
    share: NDArray[np.float64]

    @classmethod
    def of(
        cls, name: str, table: Mapping[str, Sequence[str]], told: Mapping[str, float]
    ) -> _Network:
        """Take a network's rows of the table of all scenes."""
        mine = [i for i, network in enumerate(table["network"]) if network == name]

        def column(key: str, kind: Any) -> NDArray[Any]:
            return np.array([kind(table[key][i]) for i in mine])

        return cls(
            name,
            told,
            scene=column("scene", int),
            image=column("image", int),
            exhibit=column("exhibit", int),
            label=column("label", int),
            hit=column("hit", int),
            share=column("share", float),
        )

    def rate(self, label: int) -> float:
        """Return the rate of hits of one class, in per cent."""
        return float(100 * self.hit[self.label == label].mean())


def _draw_rates(axes: Axes, networks: Sequence[_Network]) -> None:
    for i, network in enumerate(networks):
        rate, low, high = (
            100 * network.told[key] for key in ("pointing", "pointing_low", "pointing_high")
        )
        axes.bar(i, rate, 0.56, color=style.COLOURS[i], linewidth=0)
        axes.plot([i, i], [low, high], color=style.INK, linewidth=0.9)
        axes.annotate(
            f"{style.number(rate)} %",
            (i, high),
            (0, 2.5),
            textcoords="offset points",
            ha="center",
            va="bottom",
        )
    chance = 100 * networks[0].told["chance"]
    axes.axhline(chance, color=style.INK, linewidth=0.7, linestyle=(0, (3, 2)))
    axes.annotate(
        f"random\nplace {style.number(chance)} %",
        (1.02, chance),
        xycoords=("axes fraction", "data"),
        size=style.TINY,
        color=style.SOFT,
        va="center",
        annotation_clip=False,
    )
    axes.set_xticks(range(len(networks)), [network.name for network in networks])
    axes.set_xlim(-0.5, len(networks) - 0.5)
    axes.set_ylim(0, 109)
    axes.set_yticks(range(0, 101, 20))
    axes.tick_params(axis="x", length=0, labelsize=style.TEXT)
    axes.set_ylabel("scenes (%)")


def _draw_shares(axes: Axes, networks: Sequence[_Network]) -> None:
    edges = np.linspace(0, 1, _BINS + 1)
    highest = 0.0
    for i, network in enumerate(networks):
        counts, _ = np.histogram(network.share, edges)  # without those that aren't numbers
        percent = 100 * counts / max(len(network.share), 1)
        highest = max(highest, float(percent.max()))
        look: dict[str, Any] = {"color": style.COLOURS[i], "zorder": 2 - i}
        axes.stairs(percent, edges, fill=True, alpha=0.25, linewidth=0, **look)
        axes.stairs(percent, edges, linewidth=1, **look)
    axes.set_ylim(0, 1.38 * highest or 1)
    axes.set_xlim(0, 1)
    for i, network in enumerate(networks):
        _name_mean(axes, network, style.COLOURS[i], 0.80 - 0.075 * i)
    area = networks[0].told["area"]
    axes.axvline(area, 0, 0.86, color=style.INK, linewidth=0.7, linestyle=(0, (3, 2)))
    axes.annotate(
        f"spread evenly {style.number(area)}",
        (area, 0.86 - 0.006),
        (3, 0),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        size=style.TINY,
        color=style.SOFT,
        va="top",
    )
    _draw_exhibits(axes, networks[0])
    axes.set_xlabel("share of the drop on the object")
    axes.set_ylabel("scenes (%)")


def _name_mean(axes: Axes, network: _Network, colour: str, height: float) -> None:
    mean, error = network.told["share"], network.told["share_error"]
    value = f"{mean:.2f} ± {error:.2f}" if np.isfinite(error) else style.number(mean)
    axes.text(
        0.985,
        height,
        f"{network.name} {value}",
        color=colour,
        ha="right",
        va="top",
        transform=axes.transAxes,
    )


def _draw_exhibits(axes: Axes, network: _Network) -> None:
    """Draw the exhibits in a row above the distribution, those next to each other in turns."""
    shown = np.flatnonzero((network.exhibit >= 0) & np.isfinite(network.share))
    if len(shown):
        axes.annotate(
            "exhibits",
            (1.04, 0.955),
            xycoords="axes fraction",
            size=style.TINY,
            color=style.SOFT,
            va="center",
        )
    for turn, i in enumerate(shown[np.argsort(network.share[shown], kind="stable")]):
        height = 0.975 - 0.04 * (turn % 2)
        axes.plot(
            network.share[i],
            height,
            transform=axes.get_xaxis_transform(),
            marker="o",
            markersize=6.5,
            markerfacecolor=style.COLOURS[0] if network.hit[i] else "white",
            markeredgecolor=style.COLOURS[0],
            markeredgewidth=0.6,
            clip_on=False,
        )
        axes.annotate(
            str(network.exhibit[i]),
            (network.share[i], height),
            xycoords=("data", "axes fraction"),
            size=4,
            color="white" if network.hit[i] else style.COLOURS[0],
            ha="center",
            va="center_baseline",
            annotation_clip=False,
        )


def _draw_classes(axes: Axes, networks: Sequence[_Network], names: Sequence[str]) -> None:
    labels, counts = np.unique(networks[0].label, return_counts=True)
    most = labels[np.argsort(-counts, kind="stable")][:_CLASSES]
    drawn = sorted(most.tolist(), key=lambda label: (-networks[0].rate(label), label))
    heights = np.arange(len(drawn))
    rates = np.array([[network.rate(label) for label in drawn] for network in networks])
    axes.hlines(heights, rates.min(0), rates.max(0), color=style.RULE, linewidth=0.8, zorder=1)
    for i, network in enumerate(networks):
        axes.plot(
            rates[i],
            heights,
            linestyle="none",
            marker=style.MARKERS[i],
            markersize=3.6,
            color=style.COLOURS[i],
            label=network.name,
            clip_on=False,
            zorder=3 - i,
        )
    figure = axes.get_figure(root=True)
    told = [class_name(names, label) for label in drawn]
    if figure is not None:
        told = [style.shorten(figure, name, 0.7, style.SMALL) for name in told]
    axes.set_yticks(heights, told)
    axes.set_ylim(len(drawn) - 0.5, -0.5)
    axes.set_xlim(0, 100)
    axes.set_xlabel("scenes (%)")


def _write_numbers(path: Path, networks: Sequence[_Network], names: Sequence[str]) -> None:
    def joined(key: str) -> NDArray[Any]:
        return np.concatenate([getattr(network, key) for network in networks])

    numbers: dict[str, Any] = {
        "network": [network.name for network in networks for _ in network.scene],
        **{key: joined(key) for key in ("scene", "image", "exhibit")},
        "class": [class_name(names, int(label)) for label in joined("label")],
        "hit": joined("hit"),
        "share": joined("share"),
    }
    write_csv(path, numbers)
