"""Classes and shapes in words, as figures and the report show them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray


def class_name(classes: Sequence[str], label: int) -> str:
    """Return a class's name; its number where it has none, "" where there is no label."""
    if label < 0:
        return ""
    return classes[label] if label < len(classes) and classes[label] else f"class {label}"


def most_frequent(images: NDArray[Any], labels: NDArray[Any], classes: Sequence[str]) -> str:
    """Return the class of most of some images, as ``6 of 9: star``, or how many there are.

    `images` are rows of `labels`, -1 where there is none.
    """
    found = [int(labels[i]) for i in images if i >= 0]
    known = Counter(label for label in found if label >= 0)
    if not known:
        return ""
    label, times = min(known.items(), key=lambda item: (-item[1], item[0]))
    if times == 1 < len(found):
        return f"{len(known)} classes"
    return f"{times} of {len(found)}: {class_name(classes, label)}"


def sides_text(pair: Sequence[int]) -> str:
    """Return height and width as ``7 × 5``, or as ``7`` where they are the same."""
    return shape_text(pair[:1] if pair[0] == pair[1] else pair)


def shape_text(shape: Sequence[int]) -> str:
    """Return a shape as ``64 × 27 × 27``."""
    return " × ".join(str(int(side)) for side in shape)
