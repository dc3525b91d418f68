"""The table of a study's worst units, from the numbers beside the figures of each layer's."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from convatlas.files import read_csv
from convatlas.health import REASONS

MOST = 20  # lines of the table


@dataclass(frozen=True)
class WorstUnits:
    """The worst units of some layers, and how many there are in all.

    Attributes
    ----------
    lines : of the table, each with `layer`, `unit`, `reason`, `frequency`, `lifetime`
        (None where it isn't defined) and `figure`, that of its layer.
    total : units with which something is wrong.
    """

    lines: list[dict[str, Any]]
    total: int


def worst_units(tables: Iterable[tuple[dict[str, Any], str | os.PathLike[str]]]) -> WorstUnits:
    """Return the worst units of all layers, the worst first.

    They are sorted by what is wrong, then by their rank among those of their layer with the
    same fault, so that a layer with many dead units doesn't hide those of others.

    Parameters
    ----------
    tables : for each layer its figure, with a `layer`, and the CSV beside it.
    """
    found: list[tuple[int, int, int, dict[str, Any]]] = []
    for place, (figure, path) in enumerate(tables):
        table = read_csv(path)
        before = dict.fromkeys(REASONS, 0)
        for row, reason in enumerate(table["reason"]):
            if not reason:
                continue
            lifetime = table["lifetime"][row]
            line = {
                "layer": figure["layer"],
                "unit": int(table["unit"][row]),
                "reason": reason,
                "frequency": float(table["frequency"][row]),
                "lifetime": float(lifetime) if lifetime else None,
                "figure": figure,
            }
            found.append((REASONS.index(reason), before[reason], place, line))
            before[reason] += 1
    found.sort(key=lambda item: item[:3])
    return WorstUnits([item[3] for item in found[:MOST]], len(found))
