"""What every source of images yields."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Sample:
    """One image of a data set, or one that had to be skipped.

    Attributes
    ----------
    name : the file's path under its folder, or a name of our own; unique in its part.
    label : the network's output that is right, or -1.
    image : (H,W,3) uint8 RGB; None if skipped.
    attributes : numbers, texts or small arrays; the same keys in all of a data set.
    mask : (H,W), 1 on the object, where known.
    reason : why it was skipped.
    """

    name: str
    label: int
    image: NDArray[np.uint8] | None
    attributes: Mapping[str, Any] = field(default_factory=dict)
    mask: NDArray[np.bool_] | None = None
    reason: str = ""


@dataclass(frozen=True)
class Part:
    """A part of a data set: how many samples it has, and the samples, made one by one."""

    count: int
    samples: Iterator[Sample]
