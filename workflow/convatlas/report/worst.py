"""The table of a study's worst units, from the numbers beside the figures of each layer's."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from convatlas.files import read_csv
from convatlas.health import REASONS

MOST = 20  # lines of the table
_LISTED = 12  # units of a line
_ALIKE = ("dead", "constant")  # faults of which there is nothing to tell of a single unit


@dataclass(frozen=True)
class WorstUnits:
    """The worst units of some layers, and how many there are in all.

    Attributes
    ----------
    lines : of the table, each with `layer`, `units` (their numbers as a text), `reason`,
        `frequency`, `lifetime` (None where it isn't defined) and `figure`, that of its layer.
    listed, total : units with which something is wrong, in the lines and in all.
    """

    lines: list[dict[str, Any]]
    listed: int
    total: int


def worst_units(tables: Iterable[tuple[dict[str, Any], str | os.PathLike[str]]]) -> WorstUnits:
    """Return the worst units of all layers, the worst first.

    They are sorted by what is wrong, then by their rank among those of their layer with the
    same fault, so that one layer doesn't hide the others. A layer's dead units are one line,
    and so are those that answer every image alike.

    Parameters
    ----------
    tables : for each layer its figure, with a `layer`, and the CSV beside it.
    """
    found: list[tuple[int, int, int, list[int], dict[str, Any]]] = []
    total = 0
    for place, (figure, path) in enumerate(tables):
        table = read_csv(path)
        lines: dict[str, list[list[int]]] = {reason: [] for reason in REASONS}  # rows of each
        for row, reason in enumerate(table["reason"]):
            if not reason:
                continue
            total += 1
            if reason in _ALIKE and lines[reason]:
                lines[reason][0].append(row)
            else:
                lines[reason].append([row])
        for fault, (reason, groups) in enumerate(lines.items()):
            for rank, rows in enumerate(groups):
                units = [int(table["unit"][row]) for row in rows]
                lifetime = table["lifetime"][rows[0]]
                line = {
                    "layer": figure["layer"],
                    "units": _listed(units),
                    "reason": reason,
                    "frequency": float(table["frequency"][rows[0]]),
                    "lifetime": float(lifetime) if lifetime else None,
                    "figure": figure,
                }
                found.append((fault, rank, place, units, line))
    found.sort(key=lambda item: item[:3])
    shown = found[:MOST]
    return WorstUnits([item[4] for item in shown], sum(len(item[3]) for item in shown), total)


def _listed(units: list[int]) -> str:
    """Return some units' numbers as a text, of many the first ones and how many there are."""
    if len(units) <= _LISTED:
        return ", ".join(map(str, units))
    return f"{', '.join(map(str, units[:_LISTED]))}, … ({len(units)} in all)"
