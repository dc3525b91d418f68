"""What a figure says of how it was made, in the metadata of its files."""

from __future__ import annotations

import os
from collections.abc import Mapping

from PIL import Image

from convatlas.errors import DamagedFile


def about_text(about: Mapping[str, str]) -> str:
    """Return what a figure's metadata says of it as text, a line each."""
    return "\n".join(f"{key}: {value}" for key, value in about.items())


def read_about(figure: str | os.PathLike[str]) -> dict[str, str]:
    """Return what the metadata of a PNG says of it; nothing if it isn't one of ours.

    Raises
    ------
    DamagedFile
        if it isn't a whole PNG.
    """
    try:
        with Image.open(figure, formats=("PNG",)) as picture:
            text = str(picture.info.get("Description", ""))
            picture.load()
    except (OSError, SyntaxError, ValueError) as error:
        raise DamagedFile(figure, "is not a whole PNG") from error
    pairs = (line.partition(": ") for line in text.split("\n"))
    return {key: value for key, _, value in pairs}
