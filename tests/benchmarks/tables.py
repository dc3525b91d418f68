"""What all benchmarks share that needs no torch: tables, and the processor's name."""

from __future__ import annotations

import platform
import statistics
from collections.abc import Sequence
from pathlib import Path


def spread(ratios: Sequence[float]) -> str:
    return f"{statistics.median(ratios):.1f} ({min(ratios):.1f}-{max(ratios):.1f})"


def line(cells: Sequence[str], headings: Sequence[tuple[str, int]]) -> str:
    """Return a line of a table, whose headings tell the widths of its columns."""
    padded = [
        cell.rjust(width) if column else cell.ljust(width)
        for column, (cell, (_, width)) in enumerate(zip(cells, headings, strict=True))
    ]
    return "  ".join(padded)


def numbers(numbers: Sequence[int]) -> str:
    return " ".join(map(str, numbers))


def processor() -> str:
    """Return the processor's name, as well as the system knows it."""
    listed = Path("/proc/cpuinfo")
    if listed.exists():
        for entry in listed.read_text(encoding="utf-8").splitlines():
            if entry.startswith("model name"):
                return entry.partition(":")[2].strip()
    return platform.processor() or platform.machine()
