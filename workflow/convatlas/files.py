"""Write files so that a reader never sees half of one."""

from __future__ import annotations

import csv
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`; move it there once the block ends well.

    The temporary name is this process's own, so an orphaned process that still
    writes the same artifact can't mix with us. After an exception nothing is
    left behind and a former `path` is untouched.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp's 0600 would hide results from the group
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write `text` as UTF-8, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False, default=_plain)
    write_text(path, text + "\n")


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read a JSON file."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def write_csv(path: str | os.PathLike[str], columns: Mapping[str, Sequence[Any]]) -> None:
    """Write equally long `columns` under their names, whole or not at all.

    Floats are written with 9 significant digits, which tells every float32 apart.
    """
    write_rows(path, list(columns), zip(*columns.values(), strict=True))


def write_rows(
    path: str | os.PathLike[str], header: Sequence[str], rows: Iterable[Iterable[Any]]
) -> None:
    """Write rows under a header as they come, as `write_csv` writes columns."""
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(map(_cell, row) for row in rows)


def read_csv(path: str | os.PathLike[str]) -> dict[str, list[str]]:
    """Read a CSV file with a header into one list of texts a column."""
    with Path(path).open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file)
        header = next(reader, [])
        rows = list(reader)
    return {name: [row[i] if i < len(row) else "" for row in rows] for i, name in enumerate(header)}


def _cell(value: Any) -> Any:
    if isinstance(value, float | np.floating):
        return f"{float(value):.9g}"
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} has no JSON form")
