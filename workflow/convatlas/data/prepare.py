"""Write a data set, whatever its source, as the images that a network sees."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast

from convatlas.classes import one_line
from convatlas.data.sample import Part
from convatlas.errors import DataError
from convatlas.files import write_csv, write_text
from convatlas.job import progress
from convatlas.store import ImageWriter, Recipe

log = logging.getLogger(__name__)

Preset = tuple[str, str]


class _Source(Protocol):
    """What a module that reads one kind of source offers."""

    def open_part(self, source: Mapping[str, Any], part: str, preset: Preset | None) -> Part: ...

    def list_classes(self, source: Mapping[str, Any]) -> list[str]: ...

    # Of a folder only:

    def source_digest(self, source: Mapping[str, Any], memory: Path | None = None) -> str: ...

    def preset_side(self, preset: Preset) -> int: ...


_SIZE_KEYS = {"folder": "resize and crop"}


def source_module(source: Mapping[str, Any]) -> str:
    """Return the name of the module that reads a source.

    It is imported by name, so that neither a start nor a code digest of this module
    carries what other sources need: add this module to the digest.
    """
    return f"convatlas.data.{source['source'].partition(':')[0]}"


def _load(source: Mapping[str, Any]) -> _Source:
    return cast(_Source, import_module(source_module(source)))


def prepare_images(
    source: Mapping[str, Any],
    part: str,
    output: Path,
    manifest: Path,
    recipe: Recipe,
    preset: Preset | None = None,
) -> None:
    """Write a part of a data set to `output`, and what became of each sample to `manifest`.

    Parameters
    ----------
    source : the data set's config, with all defaults.
    part : ``images``, which a study looks at, or ``train``.
    output : an HDF5 file as `store.ImageWriter` writes it, in the source's order.
    manifest : a CSV file with the columns file, label, status (kept or skipped), reason.
    recipe : what the images are made from.
    preset : architecture and weights of torchvision's whose image size a folder
        without one of its own takes.

    Raises
    ------
    DataError
        if the source is missing, inconsistent or empty, or has an unreadable image
        that isn't to be skipped.
    """
    opened = _load(source).open_part(source, part, preset)
    log.info("%s of %s: %d to prepare", part, source["source"], opened.count)
    rows: list[tuple[str, int, str, str]] = []
    with ExitStack() as stack:
        writer: ImageWriter | None = None
        size: tuple[int, int] = (0, 0)
        for sample in progress(opened.samples, opened.count, "images"):
            if sample.image is None:
                log.info("skipped %s: %s", one_line(sample.name), sample.reason)
                rows.append((sample.name, sample.label, "skipped", sample.reason))
                continue
            height, width, _ = sample.image.shape
            if writer is None:
                size = (height, width)
                writer = stack.enter_context(ImageWriter(output, recipe, size))
            if (height, width) != size:
                keys = _SIZE_KEYS.get(source["source"], "size")
                raise DataError(
                    f"Image {one_line(sample.name)} has {height} x {width} pixels, the first one "
                    f"{size[0]} x {size[1]}. Set the data set's {keys} to bring all to one size."
                )
            writer.append(sample.image, sample.label, sample.name, sample.attributes, sample.mask)
            rows.append((sample.name, sample.label, "kept", ""))
        if writer is None:
            raise _no_images(opened.count, source)
    skipped = sum(row[2] == "skipped" for row in rows)
    if skipped:
        log.warning("skipped %d of %d images; %s lists them", skipped, len(rows), manifest)
    columns = ("file", "label", "status", "reason")
    write_csv(manifest, {name: [row[i] for row in rows] for i, name in enumerate(columns)})


def _no_images(count: int, source: Mapping[str, Any]) -> DataError:
    return DataError(
        f"None of the {count} images of this data set (source: {source['source']}) can be used; "
        "the log of prepare_images says why for each."
    )


def list_classes(source: Mapping[str, Any]) -> list[str]:
    """Return the names of a data set's classes, in the order of their labels.

    Each fits on a line of a file, from which `classes.read_classes` reads it again.

    Raises
    ------
    DataError
        if they can't be found out.
    """
    return [one_line(name) for name in _load(source).list_classes(source)]


def write_classes(
    names: Sequence[str] | None, source: Mapping[str, Any] | None, output: Path
) -> None:
    """Write the names of a data set's classes, a line each, in the order of their labels.

    Parameters
    ----------
    names : as `known_classes` returns them.
    source : the data set's config, where `names` is None.
    """
    if names is None:
        names = list_classes(source or {})
    write_text(output, "".join(f"{name}\n" for name in names))


def known_classes(source: Mapping[str, Any]) -> list[str] | None:
    """Return the names of a data set's classes if they can be had at once, else None.

    torchvision's need torchvision, whose import takes seconds, and often the data.
    """
    return None if _is_torchvision(source) else list_classes(source)


def source_digest(source: Mapping[str, Any], memory: Path | None = None) -> str:
    """Return a digest of the files on disk that decide a data set's images and labels.

    Empty for sources that come with a package, and for those that torchvision keeps and
    checks itself. `memory` is a file in which the images' digest is kept until one changes.
    """
    return "" if source["source"] != "folder" else _load(source).source_digest(source, memory)


def size_keys(source: Mapping[str, Any], content: Callable[[], str]) -> dict[str, Any]:
    """Return what decides the height and width of a data set's images, for `image_size`.

    These are a few keys of its config; all, and the `content` of its files (see
    `source_digest`), where the images stay as they are.
    """
    keys = ("source", "size", "resize", "crop", "preset")
    found = {key: source[key] for key in keys if source.get(key) is not None}
    return found if len(found) > 1 else {**source, "content": content()}


def size_is_read(keys: Mapping[str, Any]) -> bool:
    """Say whether the size isn't among `size_keys`, but has to be looked up."""
    return not any(keys.get(key) for key in ("size", "crop", "resize"))


def image_size(keys: Mapping[str, Any]) -> tuple[int, int]:
    """Return the height and width that a data set's images will have.

    Parameters
    ----------
    keys : as `size_keys` returns them.

    Raises
    ------
    DataError
        if there is no image that can be used.
    """
    side = keys.get("size") or keys.get("crop") or keys.get("resize")
    if side is None and keys.get("preset"):
        side = _load(keys).preset_side(keys["preset"])
    if side is not None:
        return side, side
    opened = _load(keys).open_part(keys, "images", None)
    for sample in opened.samples:
        if sample.image is not None:
            height, width, _ = sample.image.shape
            return height, width
    raise _no_images(opened.count, keys)


def _is_torchvision(source: Mapping[str, Any]) -> bool:
    return str(source["source"]).startswith("torchvision:")
