"""Write files and folders so that nobody ever sees half of one, or a mixture of two.

What is made grows in a folder of its own beside its place, the claim, and is moved to
its place once it is whole. Who claims a place takes away the claims that others have
on it. So of two processes that make the same thing (an orphan of a killed run and the
job of the next one, on one machine or on two that share a disk) only the one that
began last can put it there; moving what is no longer there fails.
"""

from __future__ import annotations

import csv
import errno
import json
import math
import os
import shutil
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from convatlas.errors import DamagedFile, StoreError

AnyPath = str | os.PathLike[str]

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
"""The numbers of the system's errors that say so."""

_SUFFIX = ".part"
_ROOM = 1 << 18  # bytes that there must be on a disk: for what Snakemake writes of itself


# -------------------------------------------------------------------------- claims


class _Claim:
    """The right to put a file or folder at a place."""

    def __init__(self, target: Path) -> None:
        self.target = target
        target.parent.mkdir(parents=True, exist_ok=True)
        prefix = f".{target.name}."
        self._folder = Path(tempfile.mkdtemp(dir=target.parent, prefix=prefix, suffix=_SUFFIX))
        self.content = self._folder / target.name
        # After ours is there: of two at the same moment, at least one sees the other.
        for path in target.parent.iterdir():
            ours = path.name.startswith(prefix) and path.name.endswith(_SUFFIX)
            if ours and path != self._folder:
                _remove(path)

    def find(self, path: Path) -> Path | None:
        """Return where `path` is to be written, if it is the target or lies in it."""
        if path == self.target:
            return self.content
        if self.target in path.parents:
            return self.content / path.relative_to(self.target)
        return None

    def check(self) -> None:
        """Raise a StoreError if another process has claimed the place since."""
        if not self._folder.is_dir():
            raise StoreError(
                f"{self.target} is being made by another process that began later, so this result "
                "was thrown away. If no other run is going, run the workflow again."
            )

    def fulfil(self) -> None:
        """Move what was made to its place."""
        self.check()
        if self.target.is_dir():
            _remove(self.target)
        try:
            self.content.replace(self.target)
        except FileNotFoundError:
            self.check()
            raise

    def release(self) -> None:
        """Remove the claim with what is still in it."""
        shutil.rmtree(self._folder, ignore_errors=True)


def _remove(folder: Path) -> None:
    """Remove a folder, gone for everybody before its files are."""
    away = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".old-"))
    with suppress(FileNotFoundError):  # somebody else was faster
        folder.replace(away / folder.name)
    shutil.rmtree(away, ignore_errors=True)


_claims: list[_Claim] = []  # of this process


@contextmanager
def claiming(paths: Iterable[AnyPath]) -> Iterator[None]:
    """Claim files and folders; put what `replacing` made of them in place once the block ends well.

    All appear together at the end. After an exception none does, and what was there
    before is untouched.

    Raises
    ------
    StoreError
        at the end, if another process has claimed one of them since.
    """
    claims: list[_Claim] = []
    before = list(_claims)
    try:
        for path in paths:
            claims.append(_Claim(Path(path).absolute()))
            _claims.append(claims[-1])
        yield
        made = [claim for claim in claims if claim.content.exists()]
        for claim in claims:
            claim.check()
        for claim in made:
            claim.fulfil()
    finally:
        _claims[:] = before
        for claim in claims:
            claim.release()


def abandon() -> None:
    """Give up all claims of this process, which is about to end."""
    for claim in _claims:
        claim.release()


@contextmanager
def replacing(path: AnyPath) -> Iterator[Path]:
    """Yield where to write what is to become `path`, a file or a folder.

    Once the block ends well it is moved to `path`, or, if this process has claimed
    `path` or a folder around it, waits for that claim's end. After an exception nothing
    is left behind and a former `path` is untouched.
    """
    target = Path(path).absolute()
    place = next((found for claim in _claims if (found := claim.find(target))), None)
    if place is None:
        with claiming([target]):
            yield _claims[-1].content
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield place
    except BaseException:
        if place.is_file():
            place.unlink()
        raise


def make_folder(path: AnyPath) -> None:
    """Make an empty folder in the place of whatever is there."""
    with replacing(path) as folder:
        folder.mkdir()


def files_in(folder: AnyPath) -> list[Path]:
    """Return what lies in a folder, by name; not what is hidden, as Snakemake's own marks are."""
    return sorted(path for path in Path(folder).iterdir() if not path.name.startswith("."))


def check_writable(folder: AnyPath) -> None:
    """See that files can be written in a folder, before any work is done for them.

    Raises
    ------
    StoreError
        if they can't, or if its disk is full.
    """
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(_ROOM))
            file.flush()
    except OSError as error:
        remedy = (
            "Make room on its disk"
            if error.errno in DISK_FULL
            else "Change who may write there, or run with --directory in a folder of your own"
        )
        raise StoreError(
            f"{Path(folder).absolute()}: no file can be written there ({error.strerror}). {remedy}."
        ) from error


def check_room(path: AnyPath, size: int) -> None:
    """Raise the system's error for a full disk if `size` more bytes aren't free beside a file.

    Before HDF5 finds out: after a write that failed it can't close its file, and crashes. The
    error names no file, as this one has a place of its own until it is whole.
    """
    if shutil.disk_usage(Path(path).parent).free < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def keep_inside(folder: AnyPath, home: AnyPath) -> None:
    """Make `folder` a link to the folder `home`, where what is in it moves.

    What lies in both is taken from `folder`. The link is relative, so that both can move
    together. Does nothing where it is that link already.
    """
    outer, inner = Path(folder).absolute(), Path(home).absolute()
    inner.mkdir(parents=True, exist_ok=True)
    target = os.path.relpath(inner, outer.parent)
    if outer.is_symlink() and str(outer.readlink()) == target:
        return
    if outer.is_dir() and not outer.is_symlink():
        shutil.copytree(outer, inner, dirs_exist_ok=True)
    if outer.exists() or outer.is_symlink():
        _remove(outer)
    outer.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):  # another start was faster
        outer.symlink_to(target, target_is_directory=True)


# -------------------------------------------------------------- texts, JSON and CSV


def write_text(path: AnyPath, text: str) -> None:
    """Write `text` as UTF-8, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: AnyPath, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False, default=_plain)
    write_text(path, text + "\n")


def read_json(path: AnyPath) -> Any:
    """Read a JSON file that `write_json` wrote.

    Raises
    ------
    DamagedFile
        if it isn't JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise DamagedFile(path, f"is not JSON ({error})") from error


def write_csv(path: AnyPath, columns: Mapping[str, Iterable[Any]]) -> None:
    """Write equally long `columns` under their names, whole or not at all.

    They are gone through once, row by row, so that long ones needn't be lists. Floats are
    written with 9 significant digits, which tells every float32 apart.
    """
    write_rows(path, list(columns), zip(*columns.values(), strict=True))


def known(values: ArrayLike) -> list[float | str]:
    """Return numbers as a column of a table, empty where they can't be told (nan)."""
    flat = np.ravel(np.asarray(values, dtype=np.float64))
    return [value if math.isfinite(value) else "" for value in flat.tolist()]


def write_rows(path: AnyPath, header: Sequence[str], rows: Iterable[Iterable[Any]]) -> None:
    """Write rows under a header as they come, as `write_csv` writes columns."""
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(map(_cell, row) for row in rows)


def read_csv(path: AnyPath, only: Collection[str] | None = None) -> dict[str, list[str]]:
    """Read a CSV file that `write_csv` wrote into one list of texts a column.

    Parameters
    ----------
    only : the columns to read, of a long table; all if left out.

    Raises
    ------
    DamagedFile
        if it has no header, lacks a column of `only`, or has a row that isn't whole.
    """
    with _table(path) as (header, rows):
        chosen = header if only is None else list(only)
        if not set(chosen) <= set(header):
            raise DamagedFile(path, f"lacks the columns {', '.join(set(chosen) - set(header))}")
        columns: dict[str, list[str]] = {name: [] for name in chosen}
        places = [(column, header.index(name)) for name, column in columns.items()]
        for row in rows:
            for column, place in places:
                column.append(row[place])
    return columns


def read_rows(path: AnyPath) -> Iterator[dict[str, str]]:
    """Read a CSV file as `read_csv` does, but row by row, each with its columns' names."""
    with _table(path) as (header, rows):
        for row in rows:
            yield dict(zip(header, row, strict=True))


@contextmanager
def _table(path: AnyPath) -> Iterator[tuple[list[str], Iterator[list[str]]]]:
    """Yield the header of a CSV file and its rows as they come."""
    with Path(path).open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file)
        header = next(reader, [])
        if not header:
            raise DamagedFile(path, "is not a whole table")
        yield header, _whole(path, len(header), reader)


def _whole(path: AnyPath, width: int, rows: Iterable[list[str]]) -> Iterator[list[str]]:
    for row in rows:
        if len(row) != width:
            raise DamagedFile(path, "is not a whole table")
        yield row


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
