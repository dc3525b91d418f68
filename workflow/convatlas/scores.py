"""What the scores of occlusion sweeps come to, see `convatlas.occlusion.score`.

A module of its own because it needs no torch.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from convatlas.files import read_csv, write_csv, write_rows
from convatlas.rates import interval

Path = str | os.PathLike[str]


class Score(NamedTuple):
    """How well the drop of the true class's probability finds the object of a scene.

    Attributes
    ----------
    label, predicted : the true class, and the most probable one without occluder.
    clean_probability, lowest_probability : of the true class, without occluder and under
        the occluder where it is lowest.
    y, x : the pixel at the centre of that occluder's part on the image, of equals the first.
    hit : 1 if that pixel lies on the object, else 0; 0 too where nothing falls anywhere.
    share : of all that falls, the share on the object, in 0..1; NaN where nothing falls.
    chance : share of all places of the occluder whose centre lies on the object: how
        often a place picked at random is a hit.
    area : share of the image that the object covers: the `share` of a drop that is the
        same everywhere.
    """

    label: int
    predicted: int
    clean_probability: float
    lowest_probability: float
    y: int
    x: int
    hit: int
    share: float
    chance: float
    area: float


def gather_scores(shards: Mapping[str, Sequence[Path]], *, scenes: Path, summary: Path) -> None:
    """Join the shards of each network into one table, and write a summary of it.

    Parameters
    ----------
    shards : the tables of each network by its name.
    scenes : where the table of all scenes appears.
    summary : where a table with one row a network appears, see `summarise`.
    """
    tables = {network: _joined(paths) for network, paths in shards.items()}
    columns = next(iter(tables.values()))
    write_rows(
        scenes,
        ["network", *columns],
        (
            (network, *row)
            for network, table in tables.items()
            for row in zip(*table.values(), strict=True)
        ),
    )
    rows = [{"network": network} | summarise(table) for network, table in tables.items()]
    write_csv(summary, {name: [row[name] for row in rows] for name in rows[0]})


def _joined(paths: Sequence[Path]) -> dict[str, list[str]]:
    """Return the rows of several tables in the order of the scenes."""
    parts = [read_csv(path) for path in paths]
    table = {name: [text for part in parts for text in part[name]] for name in parts[0]}
    order = sorted(range(len(table["scene"])), key=lambda i: int(table["scene"][i]))
    return {name: [texts[i] for i in order] for name, texts in table.items()}


def summarise(table: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """Return what the scores of a network come to.

    `accuracy` without occluder and `pointing`, the rate of hits with its 95 % interval
    after Wilson, are shares of the scenes; `share` is a mean over those scenes where
    anything falls, with its standard error; `chance` and `area` are means.
    """
    number = {name: np.array(table[name], dtype=np.float64) for name in Score._fields}
    scenes, hits = len(number["hit"]), int(number["hit"].sum())
    low, high = interval(hits, scenes)
    share = number["share"][np.isfinite(number["share"])]
    nothing = float("nan")
    return {
        "scenes": scenes,
        "accuracy": float((number["predicted"] == number["label"]).mean()),
        "pointing": hits / scenes,
        "pointing_low": low,
        "pointing_high": high,
        "chance": float(number["chance"].mean()),
        "share": float(share.mean()) if len(share) else nothing,
        "share_error": float(share.std(ddof=1) / len(share) ** 0.5) if len(share) > 1 else nothing,
        "area": float(number["area"].mean()),
    }
