"""Classes and shapes in words, as figures and the report show them."""

from __future__ import annotations

from collections.abc import Sequence


def class_name(classes: Sequence[str], label: int) -> str:
    """Return a class's name; its number where it has none, "" where there is no label."""
    if label < 0:
        return ""
    return classes[label] if label < len(classes) and classes[label] else f"class {label}"


def shape_text(shape: Sequence[int]) -> str:
    """Return a shape as ``64 × 27 × 27``."""
    return " × ".join(str(int(side)) for side in shape)
