"""Digests of code and of files: what Snakemake can't see, made visible to it.

Snakemake tracks a rule's script by its time and the modules that the script imports
not at all, and a file by its time rather than its content once it is larger than a
megabyte. These digests enter the rules as parameters, so that a change of content,
and nothing else, makes a rule run again.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import logging
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from pathlib import Path

from convatlas.errors import ConvatlasError, ModelError
from convatlas.files import read_json, write_json

log = logging.getLogger(__name__)

Finder = Callable[[str], Path | None]

_BLOCK = 1 << 20
_AHEAD = 1024  # files that are given to the readers at once
_SETTLED = 2 * 10**9  # nanoseconds after which a file's times tell of each change
_LARGE = 2 * 10**9  # bytes that take so long to read that it is told
_SHORT = 16  # hex digits: 64 bits tell any number of files apart that a study could have


def _read(path: str | os.PathLike[str]) -> str:
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


@cache
def _digest_at(path: str, size: int, modified: int) -> str:
    return _read(path)


def file_digest(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file's content, in hex."""
    state = Path(path).stat()
    return _digest_at(os.fspath(path), state.st_size, state.st_mtime_ns)


def files_digest(
    paths: Sequence[str | os.PathLike[str]],
    folder: str | os.PathLike[str],
    memory: str | os.PathLike[str] | None = None,
) -> str:
    """Return a short digest of files: their paths and contents, in their order.

    A path counts as seen from `folder`: an image's own folder may be its class, but where
    all of them lie means nothing.

    Parameters
    ----------
    memory : a file to keep the digest in. As long as none of the files is another one, or
        has another size or time than when it was written there, they aren't read.
    """
    if memory is None:
        return _contents_digest(paths, folder)
    settled = time.time_ns() - _SETTLED
    state, newest, size = _state(paths)
    with suppress(OSError, ConvatlasError, LookupError, TypeError):
        kept = read_json(memory)
        if kept["state"] == state:
            return str(kept["digest"])
    if size > _LARGE:
        what = f"{len(paths):,} files in {folder}, {size / 1e9:,.1f} GB"
        log.warning("reading %s, to know them again; until one changes this is done once", what)
    found = _contents_digest(paths, folder)
    if newest < settled:  # else it might be written once more without another time
        with suppress(OSError, ConvatlasError):
            write_json(memory, {"state": state, "digest": found})
    return found


def _state(paths: Iterable[str | os.PathLike[str]]) -> tuple[str, int, int]:
    """Return a digest of what changes whenever a file does, when one last did, and all sizes."""
    newest = size = 0

    def parts() -> Iterator[str]:
        nonlocal newest, size
        for path in paths:
            state = Path(path).stat()
            newest = max(newest, state.st_ctime_ns)
            size += state.st_size
            numbers = (state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns)
            yield " ".join(map(str, (os.fspath(path), *numbers)))

    return text_digest(parts()), newest, size


def _contents_digest(
    paths: Sequence[str | os.PathLike[str]], folder: str | os.PathLike[str]
) -> str:
    def parts() -> Iterator[str]:
        with ThreadPoolExecutor() as readers:  # a disk far away answers late
            for first in range(0, len(paths), _AHEAD):
                some = paths[first : first + _AHEAD]
                for path, content in zip(some, readers.map(_read, some), strict=True):
                    yield from (os.path.relpath(path, folder), content)

    return text_digest(parts())


def text_digest(parts: Iterable[str]) -> str:
    """Return a short digest of some texts, in their order."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode(errors="surrogateescape") + b"\0")
    return digest.hexdigest()[:_SHORT]


# -------------------------------------------------------------------------- code

_PACKAGE = __name__.partition(".")[0]


@dataclass(frozen=True)
class _Closure:
    """A module and all that it imports, directly or not."""

    files: dict[str, Path] = field(default_factory=dict)  # our own and the user's, by module name
    installed: set[str] = field(default_factory=set)  # top-level names of everything else


@cache
def code_digest(*modules: str) -> str:
    """Return a digest of modules and of all that they import, directly or not.

    A module is given by its dotted name or as the path of a Python file. Files of this
    package count, and those in the folder of a file given by its path (or, where that
    belongs to a package, in the folder that the package lies in). Only what can change
    what the code does counts: not comments, docstrings, or layout. Of installed packages
    the version counts.
    """
    parts: list[str] = []
    for module in modules:
        closure = _closure(module)
        for name, path in sorted(closure.files.items()):
            parts += [name, _meaning(path)]
        parts += versions_of(closure.installed)
    return text_digest(parts)


def check_syntax(path: str | os.PathLike[str]) -> None:
    """See that a user's Python file, and what it imports of the user's, is Python.

    Raises
    ------
    ModelError
        naming file and line.
    """
    for file in _closure(os.fspath(path)).files.values():
        try:
            ast.parse(file.read_bytes(), os.fspath(file))
        except (SyntaxError, ValueError) as error:
            line = f":{error.lineno}" if isinstance(error, SyntaxError) else ""
            reason = error.msg if isinstance(error, SyntaxError) else error
            raise ModelError(f"{file}{line}: {reason}. Mend the file.") from error


def module_digests(*modules: str) -> dict[str, str]:
    """Return a digest of each of the modules that `code_digest` covers, by name."""
    files = {name: path for module in modules for name, path in _closure(module).files.items()}
    return {name: text_digest([_meaning(files[name])]) for name in sorted(files)}


def packages_of(*modules: str) -> list[str]:
    """Return ``name version`` of the installed packages that `code_digest` covers, sorted."""
    return versions_of(name for module in modules for name in _closure(module).installed)


def versions_of(imports: Iterable[str]) -> list[str]:
    """Return ``name version`` of the installed packages behind top-level imports, sorted.

    What comes after a ``+``, as in torch's ``2.15.0+cpu``, is left out: it names the build.
    """
    distributions = {d for name in imports for d in _distributions().get(name, ())}
    return sorted({f"{d.lower().replace('_', '-')} {_version(d)}" for d in distributions})


@cache
def _version(distribution: str) -> str:
    return metadata.version(distribution).partition("+")[0]


@cache
def _distributions() -> dict[str, Sequence[str]]:
    """Return the names of the installed distributions by the names that one imports."""
    return dict(metadata.packages_distributions())


@cache
def _closure(module: str) -> _Closure:
    closure = _Closure()
    if module.endswith(".py"):
        path = Path(module).resolve()
        own, root = module_name(path)
        find = _folder_finder(root, path.parent, *_import_folders())
        _collect(own, lambda name: path if name == own else find(name), closure)
    else:
        _collect(module, _package_finder(module.partition(".")[0]), closure)
    return closure


def _import_folders() -> list[Path]:
    """Return the folders on the import path in which code lies that isn't installed."""
    installed = {"site-packages", "dist-packages"}
    library = Path(os.__file__).parent
    return [
        folder
        for folder in map(Path, filter(None, sys.path))
        if folder.is_dir()
        and not installed & set(folder.parts)
        and folder != library
        and library not in folder.parents
    ]


def module_name(path: Path) -> tuple[str, Path]:
    """Return an absolute path's full module name and the folder that this name starts from."""
    parts, folder = [path.stem], path.parent
    while folder.name and (folder / "__init__.py").is_file():
        parts.insert(0, folder.name)
        folder = folder.parent
    return ".".join(parts), folder


def _package_finder(package: str) -> Finder:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"no package {package!r}")
    root = Path(spec.submodule_search_locations[0])
    find = _folder_finder(root.parent)
    return lambda name: find(name) if name.partition(".")[0] == package else None


def _folder_finder(*folders: Path) -> Finder:
    """Return what finds modules in folders, and this package's wherever it lies."""

    def find(name: str) -> Path | None:
        found = _find(folders, name)
        if found is None and name.partition(".")[0] == _PACKAGE:
            return _find((_OURS,), name)
        return found

    return find


@cache
def _find(folders: tuple[Path, ...], name: str) -> Path | None:
    for folder in folders:
        path = folder.joinpath(*name.split("."))
        for candidate in (path / "__init__.py", path.with_suffix(".py")):
            if candidate.is_file():
                return candidate
    return None


_OURS = Path(__file__).resolve().parents[1]  # the folder that this package lies in


def _collect(name: str, find: Finder, closure: _Closure) -> None:
    if name in closure.files:
        return
    path = find(name)
    if path is None:
        top = name.partition(".")[0]
        if top not in sys.stdlib_module_names and find(top) is None:
            closure.installed.add(top)
        return
    closure.files[name] = path
    parts = name.split(".")
    for i in range(1, len(parts)):  # importing a.b.c runs a and a.b first
        _collect(".".join(parts[:i]), find, closure)
    for imported in _imports(path, name):
        if imported not in closure.files:
            _collect(imported, find, closure)


@cache
def _parse(path: Path) -> ast.Module:
    """Return a module's syntax tree; of one that isn't Python (yet), its bytes as a constant.

    The job that imports a faulty file says what is wrong with it, better than we could.
    """
    source = path.read_bytes()
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError):
        return ast.Module([ast.Expr(ast.Constant(source))], [])


@cache
def _imports(path: Path, name: str) -> list[str]:
    """Return the dotted names that a module may import, relative ones made absolute."""
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    found: dict[str, None] = {}
    for node in _statements(_parse(path)):
        if isinstance(node, ast.Import):
            found.update((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            found[source] = None
            found.update(
                (f"{source}.{alias.name}" if source else alias.name, None) for alias in node.names
            )
    return list(found)


def _statements(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield a tree's root and all statements in it: a tenth of the nodes that it has."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        for block in ("body", "orelse", "finalbody", "handlers", "cases"):
            inner = getattr(node, block, None)
            if isinstance(inner, list):  # not the one expression of a lambda or a conditional
                waiting += inner


@cache
def _meaning(path: Path) -> str:
    """Return a module's syntax tree without docstrings, as text."""
    tree = _parse(path)
    for node in _statements(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                node.body = node.body[1:]
    return ast.dump(tree)
