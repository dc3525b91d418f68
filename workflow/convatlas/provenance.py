"""What everything in a study was made from, in one file.

Each file of a study is named there with its digest, and with the rule, code, parameters
and inputs that made it where it says so itself: HDF5 files in their attributes, figures
in their metadata, a model in its card. An input is named by its digest (that of an HDF5
file stands in its attributes, of any other it is the SHA-256), so that a figure can be
followed to the images and weights that it came from.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from convatlas import __version__
from convatlas.digest import file_digest, module_digests, packages_of
from convatlas.figures.metadata import read_about
from convatlas.files import AnyPath, files_in, read_json, write_json
from convatlas.store import reading

_READING = "convatlas.data.prepare"  # imports readers by their names
_JSON = ("subject", "parameters", "inputs")
_KEYS = ("made_by", "subject", "code", "parameters", "inputs", "digest")


def record_provenance(
    files: Iterable[AnyPath],
    *,
    output: AnyPath,
    config: Mapping[str, Any],
    sources: Mapping[str, str],
    scripts: AnyPath,
    readers: Sequence[str] = (),
) -> None:
    """Write what a study was made from, as JSON.

    Parameters
    ----------
    files : everything that was made for it, images and model among it. A folder stands for
        the files in it.
    output : lies in the study's folder. Paths in it are relative to the folder around that.
    config : the part of the config that the study depends on, with all defaults.
    sources : digests of what wasn't made here, such as image files and a checkpoint.
    scripts : the folder with a script for each rule.
    readers : the modules that read the data sets, which are imported by name.

    The keys are ``convatlas_version``, ``python``, ``config``, ``sources``, ``rules`` (of
    each rule the digests of the modules that it runs, and the versions of the packages
    that these use) and ``files`` (of each ``sha256``, and ``made_by``, ``subject``,
    ``code``, ``parameters``, ``inputs``, ``digest`` where it says them).
    """
    root = Path(output).parent.parent
    entries = {
        Path(os.path.relpath(path, root)).as_posix(): _describe(path)
        for path in chain.from_iterable(map(_files, files))
    }
    rules = sorted({entry["made_by"] for entry in entries.values() if entry.get("made_by")})
    record = {
        "convatlas_version": __version__,
        "python": platform.python_version(),
        "config": config,
        "sources": dict(sorted(sources.items())),
        "rules": {rule: _code(Path(scripts) / f"{rule}.py", readers) for rule in rules},
        "files": dict(sorted(entries.items())),
    }
    write_json(output, record)


def _files(path: AnyPath) -> list[Path]:
    return files_in(path) if Path(path).is_dir() else [Path(path)]


def _describe(path: Path) -> dict[str, Any]:
    made = _made(path)
    said = {key: str(made[key]) for key in _KEYS if key in made}
    told = {key: json.loads(value) if key in _JSON else value for key, value in said.items()}
    return {"sha256": file_digest(path)} | told


def _made(path: Path) -> Mapping[str, Any]:
    if path.suffix == ".h5":
        with reading(path) as file:
            return {key: file.attrs[key] for key in _KEYS if key in file.attrs}
    if path.suffix == ".png":
        return read_about(path)
    if path.name == "model.json":
        return dict(read_json(path).get("made", {}))
    return {}


def _code(script: Path, readers: Sequence[str]) -> dict[str, Any]:
    modules = [str(script)]
    if _READING in module_digests(*modules):
        modules += readers
    return {"modules": module_digests(*modules), "packages": packages_of(*modules)}
