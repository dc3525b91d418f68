"""What every job needs around its work: a log, plain errors, provenance."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from convatlas.errors import ConvatlasError
from convatlas.store import Recipe

T = TypeVar("T")

log = logging.getLogger("convatlas")


class Job:
    """A job of the workflow, as a context manager.

    Inside the block everything logged goes to `log`; warnings go to the terminal
    too. A `ConvatlasError` ends the process with its message and no traceback; any
    other exception is written to the log with its traceback and passed on.

    Parameters
    ----------
    log : path of the log file, made anew.
    parameters : what the result depends on; `code`, if among them, is the digest
        of the code that makes it.
    inputs : name -> path (or paths) of the artifacts that the result is made from.
    subject : what the job is about, e.g. the study and the layer.
    """

    def __init__(
        self,
        *,
        log: str | os.PathLike[str],
        parameters: Mapping[str, Any] | None = None,
        inputs: Mapping[str, Any] | None = None,
        subject: Mapping[str, str] | None = None,
    ) -> None:
        self._log = Path(log)
        self._subject = dict(subject or {})
        self._parameters = dict(parameters or {})
        self._inputs = dict(inputs or {})

    @classmethod
    def of(cls, rule: Any) -> Job:
        """Make a job from an object with `log`, `params`, `input` and `wildcards`."""
        return cls(
            log=rule.log[0],
            parameters=dict(rule.params.items()),
            inputs=dict(rule.input.items()),
            subject=dict(rule.wildcards.items()),
        )

    @property
    def recipe(self) -> Recipe:
        """What the job's artifacts are made from, for their attributes."""
        return Recipe.of(self._parameters, self._inputs)

    @property
    def about(self) -> dict[str, str]:
        """What a figure's metadata says: its subject, parameters and the recipe's digest."""
        recipe = self.recipe.attributes()
        return self._subject | {k: recipe[k] for k in ("parameters", "digest")}

    def __enter__(self) -> Job:
        self._log.parent.mkdir(parents=True, exist_ok=True)
        layout = logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S")
        self._file = logging.FileHandler(self._log, mode="w", encoding="utf-8")
        self._file.setFormatter(layout)
        self._terminal = logging.StreamHandler(sys.stderr)
        self._terminal.setLevel(logging.WARNING)
        self._terminal.setFormatter(logging.Formatter("convatlas: %(message)s"))
        log.setLevel(logging.INFO)
        log.addHandler(self._file)
        log.addHandler(self._terminal)
        self._began = time.monotonic()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                log.info("done in %.1f s", time.monotonic() - self._began)
            elif isinstance(error, ConvatlasError):
                log.error("%s", error)
                sys.exit(1)
            elif isinstance(error, OSError) and error.errno is not None and kind is not None:
                where = f": {error.filename}" if error.filename else ""
                log.error("%s%s", error.strerror, where)
                log.info("where it happened", exc_info=error)
                sys.exit(1)
            elif isinstance(error, Exception):
                log.error("an error of ours, please report it with %s: %s", self._log, error)
                log.info("where it happened", exc_info=error)
        finally:
            for handler in (self._file, self._terminal):
                log.removeHandler(handler)
                handler.close()


def progress(items: Iterable[T], total: int, what: str, every: float = 5.0) -> Iterator[T]:
    """Pass `items` on, logging every few seconds how many are done and how long the rest takes."""
    began = last = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - last >= every or done == total:
            left = (now - began) / done * (total - done)
            log.info("%s: %d of %d, about %.0f s left", what, done, total, left)
            last = now
