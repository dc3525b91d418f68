"""Files of class names: one name a line, in the order of the network's outputs.

A user writes one, or the workflow does for a data set without one; all that reads
class names reads them here, so that no two readers count the lines differently.
"""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

from convatlas.errors import DataError

_UNWRITABLE = ("Cc", "Cs", "Zl", "Zp")  # Unicode's controls, lone surrogates, line breaks
_NO_CHARACTERS = "\ufffe\uffff"  # which XML, and so an SVG, may not have
_BYTE_ORDER_MARK = "\ufeff"


def read_classes(path: str | os.PathLike[str] | None) -> list[str]:
    """Return the class names in the order of the network's outputs; none without a file.

    Only an end of line separates names, not what else Unicode calls a line break. Space
    around a name, empty lines at the end and a byte order mark don't belong to it; an
    empty line between names stays, as a class without a name.

    Raises
    ------
    DataError
        if the file isn't there or isn't UTF-8 text.
    """
    if path is None:
        return []
    text = read_text(Path(path), "file of classes").replace("\r\n", "\n").replace("\r", "\n")
    names = [line.strip() for line in text.split("\n")]
    while names and not names[-1]:
        names.pop()
    return names


def one_line(name: str) -> str:
    r"""Return a name as a line that `read_classes` gives back, whatever is in it.

    Line breaks, controls, what is no character, and space at its ends are written as
    escapes such as ``\n``.
    """
    start, stop = len(name) - len(name.lstrip()), len(name.rstrip())
    return "".join(
        c if start <= i < stop and _is_writable(c, first=i == 0) else _escaped(c)
        for i, c in enumerate(name)
    )


def _is_writable(character: str, first: bool) -> bool:
    if first and character == _BYTE_ORDER_MARK:
        return False
    return unicodedata.category(character) not in _UNWRITABLE and character not in _NO_CHARACTERS


def _escaped(character: str) -> str:
    escape = character.encode("unicode_escape").decode("ascii")
    return escape if escape != character else f"\\x{ord(character):02x}"


def read_text(path: Path, what: str) -> str:
    """Return what a text file holds that a user wrote, without a byte order mark.

    `what` names it in messages.

    Raises
    ------
    DataError
        if the file isn't there, may not be read or isn't UTF-8.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}, the {what}, is not UTF-8 text. Save it as UTF-8.") from error
    except PermissionError as error:
        raise DataError(f"{path}, the {what}, may not be read. Give it permission.") from error
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise DataError(f"{path}, the {what}, is not there. Give its path.") from error
