"""Image files on disk: a folder a class, or a flat folder with or without a CSV of labels."""

from __future__ import annotations

import csv
import io
import logging
import math
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any

import numpy as np

from convatlas.classes import one_line, read_classes, read_text
from convatlas.data.images import SUFFIXES, Sizing, UnreadableImage, is_file, read_image
from convatlas.data.sample import Part, Sample
from convatlas.digest import file_digest, files_digest, text_digest
from convatlas.errors import DataError, did_you_mean

log = logging.getLogger(__name__)

_UNLABELLED = -1
_FILE, _CLASS = "file", "class_index"
_NAMED = 5  # files named in a message about many
_MOST_CLASSES = 1_000_000  # a hundred times as many as ImageNet's whole tree has leaves
_MOST_ATTRIBUTES = 4000  # HDF5 lists all that lies on an axis in 64 KiB
_LONG = 40  # characters of a cell in a message
_WHOLE = re.compile(r"[+-]?[0-9]+")  # int() takes 1_000 and full-width digits too
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?|[+-]?inf|nan|", re.I)
_EXACT, _DIGITS = 2**53, 17  # whole numbers up to here are floats too


_NONE: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class _Entry:
    """An image file that belongs to a data set.

    `name` is its path under the folder, `where` the line of the CSV that lists it.
    """

    name: str
    path: Path
    label: int
    where: str = ""
    attributes: Mapping[str, Any] = field(default_factory=lambda: _NONE)


# ------------------------------------------------------------------ entry points


def open_part(source: Mapping[str, Any], part: str, preset: tuple[str, str] | None) -> Part:
    """Return the images of a folder, sorted by name, each read when it is asked for.

    `part` can only be ``images``. The size of the images is the source's own; where
    it has neither `resize` nor `crop`, that of `preset`, or else as they are.

    Raises
    ------
    DataError
        at once if labels or classes are wrong or there are no images; while reading,
        at an unreadable image unless the source says ``on_error: skip``.
    """
    if part != "images":
        raise DataError(
            f"The folder {source['path']} has no training part; all its images are one."
        )
    entries = _list_entries(source)
    if not entries:
        raise DataError(
            f"{source['path']} has no images. Images are files ending in "
            f"{' '.join(sorted(SUFFIXES))}, in the folder itself or in a folder a class."
        )
    skip = source["on_error"] == "skip"
    return Part(len(entries), _read_entries(entries, resolve_sizing(source, preset), skip))


def list_classes(source: Mapping[str, Any]) -> list[str]:
    """Return the class names in the order of the labels.

    They are the lines of the `classes` file; without one, the names of the folders
    in sorted order; without these either, the numbers up to the largest label.
    """
    if source["classes"]:
        return _known_classes(Path(source["classes"]))
    if not source["labels"]:
        return [_class_of(folder) for folder in _class_folders(Path(source["path"]))]
    largest = max((entry.label for entry in _list_entries(source)), default=_UNLABELLED)
    return [str(label) for label in range(largest + 1)]


def count_images(source: Mapping[str, Any]) -> int:
    """Return how many files there are to be read."""
    return len(_list_entries(source))


def source_digest(source: Mapping[str, Any], memory: Path | None = None) -> str:
    """Return a digest of all on disk that decides the images, labels and attributes.

    A file that is missing counts as missing; of the file of classes only what it makes of
    the labels. `memory` is where the digest of the images is kept, see `files_digest`.
    """
    entries = _list_entries(source)
    files = [entry.path for entry in entries if is_file(entry.path)]
    parts = [files_digest(files, source["path"], memory), *(str(entry.label) for entry in entries)]
    if source["labels"]:
        parts.append(file_digest(source["labels"]))
        parts.append(str(len(list_classes(source))))  # a label beyond them is an error
    return text_digest(parts)


def preset_side(preset: tuple[str, str]) -> int:
    """Return the height and width of images sized as belongs to torchvision's weights."""
    return _preset_sizing(preset).crop


def _preset_sizing(preset: tuple[str, str]) -> Sizing:
    # Here, because importing torchvision takes seconds that other folders needn't spend.
    from convatlas.data.presets import preset_sizing

    return preset_sizing(*preset)


def resolve_sizing(source: Mapping[str, Any], preset: tuple[str, str] | None) -> Sizing | None:
    """Return how a folder's images are sized; None if they stay as they are.

    One of `resize` and `crop` stands for both. Without either it is the size that
    belongs to the weights named by `preset`, (architecture, weights) of torchvision.
    """
    resize, crop = source["resize"], source["crop"]
    if resize is None and crop is None:
        if preset is None:
            return None
        return _preset_sizing(preset)
    return Sizing(resize or crop, crop or resize, source["interpolation"])


def _read_entries(entries: Iterable[_Entry], sizing: Sizing | None, skip: bool) -> Iterator[Sample]:
    for entry in entries:
        try:
            image = read_image(entry.path, sizing)
        except UnreadableImage as error:
            if not skip:
                listed = f" It is listed in {entry.where}." if entry.where else ""
                raise DataError(
                    f"{error}{listed} Mend or remove it, or set on_error: skip to go on without "
                    "such files."
                ) from error
            yield Sample(entry.name, entry.label, None, reason=error.reason)
        else:
            yield Sample(entry.name, entry.label, image, entry.attributes)


# ------------------------------------------------------------------------- files


def _list_entries(source: Mapping[str, Any]) -> list[_Entry]:
    """Return the files of a data set with their labels, sorted by name."""
    try:
        return _entries_of(Path(source["path"]), source)
    except OSError as error:  # a folder that may not be read, or that the disk can't give
        raise DataError(
            f"{error.filename or source['path']} can't be read ({error.strerror or error}). "
            "Mend that, or take it out of the data set."
        ) from error


def _entries_of(folder: Path, source: Mapping[str, Any]) -> list[_Entry]:
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder. Set path to the folder of the images.")
    if source["labels"]:
        entries = _entries_of_table(folder, source)
    elif folders := _class_folders(folder):
        entries = _entries_of_classes(folder, folders, source["classes"])
    else:
        entries = [_Entry(_text(p.name), p, _UNLABELLED) for p in _images_in(folder)]
    return sorted(entries, key=lambda entry: entry.name)


def _entries_of_table(folder: Path, source: Mapping[str, Any]) -> list[_Entry]:
    classes = _known_classes(Path(source["classes"])) if source["classes"] else None
    entries = _read_labels(Path(source["labels"]), folder, classes)
    listed = {entry.path for entry in entries}
    rest = [path for path in _images_under(folder) if path not in listed]
    _warn_of_left_out(f"not in {source['labels']}", folder, rest)
    return entries


def _entries_of_classes(folder: Path, folders: list[Path], classes: str | None) -> list[_Entry]:
    labels = _labels_of_folders(folders, Path(classes) if classes else None)
    _warn_of_left_out("not in the folder of a class", folder, _images_in(folder))
    entries = []
    for class_folder, label in zip(folders, labels, strict=True):
        paths = _images_under(class_folder)
        if not paths:
            log.warning("%s has no images", class_folder)
        entries += [_Entry(_name_under(folder, path), path, label) for path in paths]
    return entries


def _labels_of_folders(folders: Sequence[Path], classes: Path | None) -> list[int]:
    """Return each folder's line in the classes file, or its rank."""
    if classes is None:
        return list(range(len(folders)))
    names = _known_classes(classes)
    labels = []
    for folder in folders:
        name = _class_of(folder)
        if names.count(name) != 1:
            how = "twice" if name in names else "not"
            raise DataError(
                f"The folder {folder} is a class, but {name!r} is {how} among the names in "
                f"{classes}.{did_you_mean(name, set(names) - {name})} Rename the folder, or give "
                "the labels in a CSV file."
            )
        labels.append(names.index(name))
    return labels


def _class_folders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def _images_in(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if _is_image(p.name) and not p.is_dir())


def _images_under(folder: Path) -> list[Path]:
    """Return the image files in a folder and its subfolders, links to folders not followed.

    Links that lead nowhere are among them, so that they are missed aloud.
    """
    return sorted(
        Path(parent, name)
        for parent, _, names in os.walk(folder, onerror=_raise)
        if not any(part.startswith(".") for part in Path(parent).relative_to(folder).parts)
        for name in names
        if _is_image(name)
    )


def _raise(error: OSError) -> None:
    raise error


def _is_image(name: str) -> bool:
    # Hidden files are not photographs: macOS puts a ._photo.jpg beside each photo.jpg.
    return not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES


def _warn_of_left_out(why: str, folder: Path, paths: Sequence[Path]) -> None:
    if paths:
        named = ", ".join(one_line(_name_under(folder, path)) for path in paths[:_NAMED])
        more = ", ..." if len(paths) > _NAMED else ""
        log.warning("left out %d images of %s, %s: %s%s", len(paths), folder, why, named, more)


def _name_under(folder: Path, path: Path) -> str:
    return _text(path.relative_to(folder).as_posix())


def _class_of(folder: Path) -> str:
    return one_line(_text(folder.name))


def _text(name: str) -> str:
    """Return a file name as text that can be written, were its bytes not UTF-8."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


# -------------------------------------------------------------- classes and labels


def _known_classes(path: Path) -> list[str]:
    names = read_classes(path)
    if not names:
        raise DataError(f"{path}, the file of classes, is empty. Write a class name a line.")
    if "" in names:
        raise DataError(
            f"{path}, line {names.index('') + 1} is empty, but the line numbers are the network's "
            "outputs. Write the name of that class, or take the line out if there is none."
        )
    return names


def _read_labels(path: Path, folder: Path, classes: Sequence[str] | None) -> list[_Entry]:
    """Return the files that a CSV file lists, with labels and attributes.

    Raises
    ------
    DataError
        naming the line, if a row isn't as it should be. That a file exists isn't
        checked here.
    """
    header, rows = _read_table(path)
    attributes = _read_attributes(path, header, rows)
    count = len(classes) if classes is not None else None
    entries: list[_Entry] = []
    spelt: dict[str, list[Path]] = {}
    for i, (line, row) in enumerate(rows):
        where = f"{path}, line {line}"
        name = _check_name(row[_FILE], where)
        file = _find(folder, name)
        if "\\" in name and not is_file(file):
            raise DataError(
                f"{where}: there is no file {name}. Write the path with / between folders."
            )
        others = spelt.setdefault(unicodedata.normalize("NFC", name), [])
        if any(_is_same(file, other) for other in others):
            raise DataError(f"{where}: {name} is listed a second time. Keep one of the lines.")
        others.append(file)
        label = _read_label(row[_CLASS], where, count)
        values = {key: column[i] for key, column in attributes.items()}
        entries.append(_Entry(name, file, label, where, values))
    return entries


def _is_same(one: Path, other: Path) -> bool:
    """Return whether two paths, alike but for how accents are spelt, are one file's."""
    return one == other or (is_file(one) and is_file(other) and one.samefile(other))


def _read_table(path: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """Return the header of a CSV file, and its rows with their line numbers."""
    text = read_text(path, "file of labels")
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise DataError(
            f"{path}, line {line}: there is a byte 0, which text has none of. Save it as UTF-8."
        )
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        _check_header(path, header)
        rows = []
        for cells in reader:
            if len(cells) > len(header):
                raise DataError(
                    f"{path}, line {reader.line_num}: {len(cells)} cells under {len(header)} "
                    "column names. Put texts with commas into double quotes."
                )
            if any(cell.strip() for cell in cells):
                padded = cells + [""] * (len(header) - len(cells))
                rows.append((reader.line_num, dict(zip(header, padded, strict=True))))
    except csv.Error as error:
        raise DataError(
            f"{path}, line {reader.line_num}: not CSV ({error}). Close every double quote, and "
            "write one that belongs to a text twice."
        ) from error
    return header, rows


def _check_header(path: Path, header: Sequence[str]) -> None:
    for name in (_FILE, _CLASS):
        if name not in header:
            raise DataError(
                f"{path} has no column {name!r}; its first line must name the columns, separated "
                f"by commas, and names {', '.join(map(repr, header)) or 'none'}."
                f"{did_you_mean(name, header)}"
            )
    if len(header) > _MOST_ATTRIBUTES:
        raise DataError(
            f"{path} has {len(header)} columns; {_MOST_ATTRIBUTES} is the most. Take out some."
        )
    for name in header:
        if name and header.count(name) > 1:
            raise DataError(f"{path} has two columns {name!r}. Rename one of them.")
        if "/" in name or name == ".":
            raise DataError(
                f"{path}: the column {name!r} can't become an attribute of that name. "
                "Rename it, without slashes."
            )


def _check_name(name: str, where: str) -> str:
    parts = PurePosixPath(name)
    if not name:
        raise DataError(f"{where}: the file is missing. Write its path under the folder.")
    if parts.is_absolute() or ".." in parts.parts:
        raise DataError(f"{where}: {name} must be a path under the folder of the data set.")
    return parts.as_posix()


def _find(folder: Path, name: str) -> Path:
    """Return the path of a file, which may spell its accents otherwise than the CSV does.

    Unicode has two ways to write é; a file made on macOS often has the other one.
    """
    spellings = [name, *(unicodedata.normalize(form, name) for form in ("NFC", "NFD"))]
    return next((p for p in (folder / s for s in spellings) if is_file(p)), folder / name)


def _read_label(text: str, where: str, classes: int | None) -> int:
    if not text.strip():
        return _UNLABELLED
    if not re.fullmatch(r"\s*[+-]?[0-9]+\s*", text):
        raise DataError(
            f"{where}: class_index {text!r} is not a whole number. Give the number of the "
            "network's output, counted from 0, or leave it empty if unknown."
        )
    digits = text.strip().lstrip("+-0")
    if len(digits) >= len(str(_MOST_CLASSES)):
        shown = digits if len(digits) < _LONG else f"{digits[:_LONG]}..."
        raise DataError(
            f"{where}: class_index {shown} can't be a network's output. Give the number of the "
            "right one, counted from 0."
        )
    label = int(text)
    if label < _UNLABELLED or (classes is not None and label >= classes):
        allowed = f"0 to {classes - 1}" if classes is not None else "0 or more"
        raise DataError(f"{where}: class_index {label} must be {allowed}, or -1 if unknown.")
    return label


def _read_attributes(
    path: Path, header: Sequence[str], rows: Sequence[tuple[int, Mapping[str, str]]]
) -> dict[str, list[Any]]:
    """Return the other columns, as numbers where every cell is one (empty is NaN)."""
    columns = [name for name in header if name not in (_FILE, _CLASS, "")]
    return {name: _as_numbers([row[name] for _, row in rows]) for name in columns}


def _as_numbers(cells: list[str]) -> list[Any]:
    """Return a column as whole numbers, else as numbers, else as the texts it consists of.

    It stays as it is where a number would become another one, as the last digits of a
    long serial number would.
    """
    texts = [cell.strip() for cell in cells]
    if not any(texts):
        return cells
    if all(map(_WHOLE.fullmatch, texts)):
        with suppress(ValueError, OverflowError):  # beyond 64 bits
            return [np.int64(text) for text in texts]
    if all(map(_NUMBER.fullmatch, texts)) and not any(map(_is_rounded, texts)):
        return [float(text or "nan") for text in texts]
    return cells


def _is_rounded(text: str) -> bool:
    """Return whether a number isn't a float's: too long a whole number, or too large."""
    if not text or text.lstrip("+-")[0] in "iInN":
        return False
    if _WHOLE.fullmatch(text):
        return len(text) > _DIGITS or abs(int(text)) > _EXACT
    return math.isinf(float(text))
