"""The errors that a user can cause.

Each message names the value, where it came from and what to do about it. A job
prints the message alone, without a traceback (see `convatlas.job`).
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path


class ConvatlasError(Exception):
    """Something that the user can mend; the message says what and how."""


class ConfigError(ConvatlasError):
    """A key or value in the config is wrong."""


class DataError(ConvatlasError):
    """An image, a label or a data set is missing or can't be read."""


class ModelError(ConvatlasError):
    """A network can't be built, or its weights don't fit."""


class LayerError(ConvatlasError):
    """A layer doesn't exist or doesn't fit the analysis."""


class MethodError(ConvatlasError):
    """A method isn't defined for this network."""


class StoreError(ConvatlasError):
    """An artifact is missing, damaged, not ours, or can't be written."""


class DamagedFile(StoreError):
    """An artifact isn't whole; `path` is where it lies."""

    def __init__(self, path: str | os.PathLike[str], what: str) -> None:
        super().__init__(f"{path} {what}. Delete it and run the workflow again.")
        self.path = Path(path)
        self.what = what


def did_you_mean(name: object, known: Iterable[object]) -> str:
    """Return `` Did you mean 'x'?`` for the nearest of `known`, or an empty text.

    Up to three names are offered, the nearest first.
    """
    close = get_close_matches(str(name), [str(k) for k in known], n=3, cutoff=0.5)
    if not close:
        return ""
    return f" Did you mean {' or '.join(repr(c) for c in close)}?"
