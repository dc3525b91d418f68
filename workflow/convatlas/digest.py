"""Digests of code and of files: what Snakemake can't see, made visible to it.

Snakemake tracks a rule's script but not the modules that the script imports, and
a file by its time rather than its content once it is larger than a megabyte. These
digests enter the rules as parameters, so that a change of content, and nothing
else, makes a rule run again.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import os
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

Finder = Callable[[str], Path | None]

_BLOCK = 1 << 20
_SHORT = 16  # hex digits: 64 bits tell any number of files apart that a study could have


@cache
def _digest_at(path: str, size: int, modified: int) -> str:
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def file_digest(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file's content, in hex."""
    state = Path(path).stat()
    return _digest_at(os.fspath(path), state.st_size, state.st_mtime_ns)


def files_digest(paths: Iterable[str | os.PathLike[str]]) -> str:
    """Return a short digest of files: their paths and contents, in their order.

    The whole path counts, seen from the working directory: an image's folder may be its class.
    """
    return text_digest(
        part for path in paths for part in (os.path.relpath(path), file_digest(path))
    )


def text_digest(parts: Iterable[str]) -> str:
    """Return a short digest of some texts, in their order."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode(errors="surrogateescape") + b"\0")
    return digest.hexdigest()[:_SHORT]


# -------------------------------------------------------------------------- code


@cache
def code_digest(*modules: str) -> str:
    """Return a digest of modules and of all that they import from the same place.

    The same place is the top-level package (``convatlas``), or for a module given
    as the path of a Python file, that file's folder. Only what can change what the
    code does counts: not comments, docstrings, or layout.
    """
    parts: list[str] = []
    for module in modules:
        found = _closure(module)
        parts += [part for name in sorted(found) for part in (name, _meaning(found[name]))]
    return text_digest(parts)


def modules_of(*modules: str) -> list[str]:
    """Return the names of the modules that `code_digest` covers, sorted."""
    return sorted({name for module in modules for name in _closure(module)})


def _closure(module: str) -> dict[str, Path]:
    """Return the file of a module and of all that it imports from the same place, by name."""
    found: dict[str, Path] = {}
    if module.endswith(".py"):
        path = Path(module)
        find = _folder_finder(path.parent)
        _collect(path.stem, lambda name: path if name == path.stem else find(name), found)
    else:
        _collect(module, _package_finder(module.partition(".")[0]), found)
    return found


def _package_finder(package: str) -> Finder:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"no package {package!r}")
    root = Path(spec.submodule_search_locations[0])

    def find(name: str) -> Path | None:
        head, *rest = name.split(".")
        if head != package:
            return None
        path = root.joinpath(*rest)
        if (path / "__init__.py").is_file():
            return path / "__init__.py"
        path = path.with_suffix(".py") if rest else path
        return path if path.is_file() else None

    return find


def _folder_finder(folder: Path) -> Finder:
    def find(name: str) -> Path | None:
        path = folder.joinpath(*name.split("."))
        for candidate in (path / "__init__.py", path.with_suffix(".py")):
            if candidate.is_file():
                return candidate
        return None

    return find


def _collect(name: str, find: Finder, found: dict[str, Path]) -> None:
    path = find(name)
    if path is None or name in found:
        return
    found[name] = path
    parts = name.split(".")
    for i in range(1, len(parts)):  # importing a.b.c runs a and a.b first
        _collect(".".join(parts[:i]), find, found)
    for imported in _imports(path, name):
        _collect(imported, find, found)


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
    found: list[str] = []
    for node in ast.walk(_parse(path)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            found.append(source)
            found += [f"{source}.{alias.name}" if source else alias.name for alias in node.names]
    return found


@cache
def _meaning(path: Path) -> str:
    """Return a module's syntax tree without docstrings, as text."""
    tree = _parse(path)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                node.body = node.body[1:]
    return ast.dump(tree)
