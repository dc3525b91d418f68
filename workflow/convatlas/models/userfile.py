"""Networks from the user's own Python file: `path/to/net.py:build`.

The one place where code of the user's is run.
"""

from __future__ import annotations

import importlib
import inspect
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from convatlas.digest import module_name
from convatlas.errors import ModelError, did_you_mean


def build_from_file(reference: str, options: Mapping[str, Any]) -> nn.Module:
    """Call a function of a Python file and return the network that it returns.

    While it runs, the file's folder can be imported from (and, where the file belongs
    to a package, the folder that the package lies in); afterwards the import path and
    the loaded modules are as before.

    Parameters
    ----------
    reference : path of the file, a colon, and the name of the function.
    options : keyword arguments for the function.

    Raises
    ------
    ModelError
        if the file or the function doesn't exist, fails, or returns something else.
    """
    path, name = _split(reference)
    with _importing_from(path) as module_name:
        try:
            module = importlib.import_module(module_name)
        except (Exception, SystemExit) as error:
            raise ModelError(f"{path} can't be imported: {_cause(error, path)}") from error
        function = _function(module, name, path)
        check_options(function, options, reference)
        try:
            network = function(**options)
        except (Exception, SystemExit) as error:
            raise ModelError(f"{reference} fails: {_cause(error, path)}") from error
    if not isinstance(network, nn.Module):
        raise ModelError(
            f"{reference} returns {_a(network)}. It must return a torch.nn.Module, "
            "the network itself."
        )
    return network


def _split(reference: str) -> tuple[Path, str]:
    file, _, name = reference.rpartition(":")
    path = Path(file)
    if not path.is_file():
        near = did_you_mean(path.name, (p.name for p in path.parent.glob("*.py")))
        raise ModelError(
            f"{file} doesn't exist (architecture: {reference}; looked in {Path.cwd()}).{near}"
        )
    return path.resolve(), name


def _function(module: ModuleType, name: str, path: Path) -> Any:
    function = getattr(module, name, None)
    if not callable(function):
        known = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
        raise ModelError(
            f"{path} has no function {name!r}.{did_you_mean(name, known)} "
            f"It has: {', '.join(known) or 'none'}."
        )
    return function


def check_options(function: Any, options: Mapping[str, Any], reference: str) -> None:
    """Raise a ModelError if a function can't be called with these keyword arguments."""
    try:
        signature = inspect.signature(function)
    except ValueError:  # some callables written in C have none; the call itself will tell
        return
    try:
        signature.bind(**options)
    except TypeError as error:
        raise ModelError(
            f"{reference} can't be called with the options {dict(options)}: {error}. "
            f"It takes {signature}; give what it needs under `options:`."
        ) from error


@contextmanager
def _importing_from(path: Path) -> Iterator[str]:
    """Yield the name to import `path` under; undo all that importing it has left behind."""
    name, root = module_name(path)
    if name.partition(".")[0] in sys.modules:
        raise ModelError(
            f"{path}: a module {name.partition('.')[0]!r} is already loaded, and Python keeps only "
            "one of a name. Rename the file (or, in a package, its outermost folder)."
        )
    if "." in path.stem:
        raise ModelError(f"{path}: Python can't import a file with a dot in its name. Rename it.")
    before = sys.path[:], set(sys.modules), sys.dont_write_bytecode
    sys.path[:0] = dict.fromkeys((str(root), str(path.parent)))
    sys.dont_write_bytecode = True  # an edit within the same second must count
    importlib.invalidate_caches()
    try:
        yield name
    finally:
        sys.path[:], known, sys.dont_write_bytecode = before
        known_packages = {module.partition(".")[0] for module in known} | sys.stdlib_module_names
        for new in set(sys.modules) - known:
            if new.partition(".")[0] not in known_packages and _is_of(sys.modules[new], root):
                del sys.modules[new]


def _is_of(module: ModuleType, folder: Path) -> bool:
    places = [getattr(module, "__file__", None), *getattr(module, "__path__", [])]
    return any(_lies_in(place, folder) for place in places if place)


def _lies_in(file: str, folder: Path) -> bool:
    """Say whether a file is the user's own: in the folder, but not an installed package's."""
    path = Path(file)
    return path.exists() and path.is_relative_to(folder) and "site-packages" not in path.parts


def _cause(error: BaseException, path: Path) -> str:
    """Say what went wrong and on which line of the user's code."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}: {error.msg}."
    message = f"{type(error).__name__}: {error}".rstrip(".: ")
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if _lies_in(frame.filename, path.parent)]
    return f"{own[-1].filename}:{own[-1].lineno}: {message}." if own else f"{message}."


def _a(value: object) -> str:
    name = type(value).__name__
    return "nothing" if value is None else f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
