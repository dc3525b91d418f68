"""What every job needs around its work: a log, its outputs as a whole, plain errors, provenance."""

from __future__ import annotations

import errno
import logging
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import psutil

from convatlas.errors import ConvatlasError, DamagedFile, StoreError
from convatlas.files import DISK_FULL, abandon, claiming
from convatlas.startup import sentence
from convatlas.store import Recipe

T = TypeVar("T")

HEAD = "CONVATLAS_HEAD"
"""The environment variable that holds the process number of the run that a job belongs to."""

log = logging.getLogger("convatlas")

_WATCH_EVERY = 2.0  # seconds

_READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)
# HDF5 says what the system told it in the text alone; torch has no error of its own for the CPU.
_SYSTEM_ERROR = re.compile(r"errno = (\d+)")
_NO_MEMORY = re.compile(r"can't allocate memory|not enough memory|out of memory", re.IGNORECASE)


class Job:
    """A job of the workflow, as a context manager.

    Inside the block everything logged goes to `log`; warnings go to the terminal
    too. What the job makes appears at the end of the block, all of it or nothing. A
    `ConvatlasError` ends the process with its message and no traceback, and so does what
    the system refuses (memory, room on the disk, permissions); any other exception is
    written to the log with its traceback and passed on. A job whose run is gone ends too.

    Parameters
    ----------
    log : path of the log file, made anew.
    parameters : what the result depends on; `code`, if among them, is the digest
        of the code that makes it.
    inputs : name -> path (or paths) of the artifacts that the result is made from.
    outputs : paths of the files and folders that the job makes.
    subject : what the job is about, e.g. the study and the layer.
    rule : name of the rule that the job is of; of several for one script, the script's.
    cores : how many the job was given.
    """

    def __init__(
        self,
        *,
        log: str | os.PathLike[str],
        parameters: Mapping[str, Any] | None = None,
        inputs: Mapping[str, Any] | None = None,
        outputs: Iterable[str | os.PathLike[str]] = (),
        subject: Mapping[str, str] | None = None,
        rule: str = "",
        cores: int = 1,
    ) -> None:
        self._log = Path(log)
        self._rule = rule
        self._cores = cores
        self._subject = dict(subject or {})
        self._parameters = dict(parameters or {})
        self._inputs = dict(inputs or {})
        self._outputs = list(outputs)
        self._claims: AbstractContextManager[None] | None = None

    @classmethod
    def of(cls, rule: Any) -> Job:
        """Make a job from an object as Snakemake gives it to a script."""
        parameters = dict(rule.params.items())
        parameters.pop("tracked", None)  # the others once more
        name = parameters.pop("script", rule.rule)
        return cls(
            log=rule.log[0],
            parameters=parameters,
            inputs=dict(rule.input.items()),
            outputs=list(rule.output),
            subject=dict(rule.wildcards.items()),
            rule=name,
            cores=rule.threads,
        )

    @property
    def recipe(self) -> Recipe:
        """What the job's artifacts are made from, for their attributes."""
        return Recipe.of(self._parameters, self._inputs, self._rule, self._subject)

    @property
    def about(self) -> dict[str, str]:
        """What a figure's metadata says: its subject, and its recipe with the digest."""
        return _about(self.recipe)

    def recipes(self, exhibits: Iterable[str | os.PathLike[str]], *own: str) -> list[Recipe]:
        """Return a recipe for each exhibit of a job that makes something of several.

        It is the one that a job for this exhibit alone would have.

        Parameters
        ----------
        exhibits : a file of each, that bears its number.
        own : the inputs and parameters that have one item an exhibit.
        """
        whole = self.recipe
        shared = {k: v for k, v in whole.inputs.items() if k.partition("[")[0] not in own}
        return [
            replace(
                whole,
                parameters={
                    name: value[i] if name in own else value
                    for name, value in whole.parameters.items()
                },
                inputs=shared
                | {k: whole.inputs[f"{k}[{i}]"] for k in own if f"{k}[{i}]" in whole.inputs},
                subject={**whole.subject, "exhibit": Path(path).stem},
            )
            for i, path in enumerate(exhibits)
        ]

    def abouts(self, exhibits: Iterable[str | os.PathLike[str]], *own: str) -> list[dict[str, str]]:
        """Return what the metadata of each exhibit's figure says; see `recipes`."""
        return list(map(_about, self.recipes(exhibits, *own)))

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
        self._startup = max(time.time() - psutil.Process().create_time(), 0)
        try:
            _check_head()
            _watch_head()
            claims = claiming(self._outputs)
            claims.__enter__()
            self._claims = claims
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            error = self._end(error, traceback)
            if error is None:
                log.info("%s", sentence(time.monotonic() - self._began, self._startup, self._cores))
            elif (message := self._explain(error)) is not None:
                log.error("%s", message)
                if not isinstance(error, ConvatlasError):
                    log.info("where it happened", exc_info=error)
                sys.exit(1)
            elif isinstance(error, Exception):
                log.error("an error of ours, please report it with %s: %s", self._log, error)
                log.info("where it happened", exc_info=error)
                raise error
        finally:
            for handler in (self._file, self._terminal):
                log.removeHandler(handler)
                handler.close()

    def _end(
        self, error: BaseException | None, traceback: TracebackType | None
    ) -> BaseException | None:
        """Put the outputs in place, or after an error away; return what went wrong, if anything."""
        try:
            if error is None:
                _check_head()
            if self._claims is not None:
                claims, self._claims = self._claims, None
                claims.__exit__(type(error) if error else None, error, traceback)
        except BaseException as failure:
            return error or failure
        return error

    def _explain(self, error: BaseException) -> str | None:
        """Return what a user needs to know of an error; None if it is one of ours."""
        if isinstance(error, DamagedFile) and (aside := self._put_aside(error.path)):
            return (
                f"{error.path} {error.what}. It is now {aside}; run the workflow again to make it "
                "anew."
            )
        if isinstance(error, ConvatlasError):
            return str(error)
        number = getattr(error, "errno", None)
        if number is None and (found := _SYSTEM_ERROR.search(str(error))):
            number = int(found[1])
        place = getattr(error, "filename", None) or ", ".join(map(str, self._outputs))
        if number in DISK_FULL:
            return (
                f"the disk is full, so {place} wasn't written. What is finished is kept: make "
                "room and run the workflow again."
            )
        if number in _READ_ONLY:
            return f"{place} can't be written or read ({os.strerror(number)}). Change who may."
        if isinstance(error, MemoryError) or (
            isinstance(error, RuntimeError) and _NO_MEMORY.search(str(error))
        ):
            return (
                "the memory is full. Set a smaller batch_size in the config, run fewer jobs at "
                "once, or ask for more memory, and run the workflow again."
            )
        if isinstance(error, OSError) and number is not None:
            return f"{os.strerror(number)}: {place}"
        return None

    def _put_aside(self, path: Path) -> Path | None:
        """Move a damaged input away, so that the next run makes it anew; return where to."""
        given = [p for paths in self._inputs.values() for p in _listed(paths)]
        if path.absolute() in [p.absolute() for p in given]:
            with suppress(OSError):
                return path.replace(path.with_name(f"{path.name}.damaged"))
        return None


def _about(recipe: Recipe) -> dict[str, str]:
    attributes = recipe.attributes()
    del attributes["subject"]
    return {**recipe.subject, **attributes}


def _listed(paths: Any) -> list[Path]:
    return [Path(p) for p in ([paths] if isinstance(paths, str | os.PathLike) else paths)]


# ------------------------------------------------------------- the run that a job is of


def _head_is_gone() -> bool:
    """Say whether the run that started this job has ended, killed without a word to its jobs."""
    number = os.environ.get(HEAD)
    if number is None:  # started by hand
        return False
    try:
        head = psutil.Process(int(number))
        # One that began after us has only got the number of the one that we are looking for.
        ours = head.create_time() <= psutil.Process().create_time()
        return not ours or head.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
    except psutil.AccessDenied:
        return False


def _check_head() -> None:
    if _head_is_gone():
        raise StoreError(
            "the run that this job belongs to is gone, so what it makes was thrown away. Run the "
            "workflow again."
        )


def _watch_head() -> None:
    """End this process soon after its run: nobody waits for what it makes."""

    def watch() -> None:
        while not _head_is_gone():
            time.sleep(_WATCH_EVERY)
        log.error("the run that this job belongs to is gone: it ends too")
        abandon()
        os._exit(1)

    if HEAD in os.environ:
        threading.Thread(target=watch, daemon=True).start()


# ------------------------------------------------------------------------ progress


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


@contextmanager
def reporting(what: str, every: float = 5.0) -> Iterator[Callable[[float], None]]:
    """Give a function that is told each share of the work that is done.

    Every few seconds it logs how much that is, and how long the rest takes if the work
    goes on at this pace.
    """
    began = last = time.monotonic()
    done = 0.0

    def advance(share: float) -> None:
        nonlocal last, done
        done += share
        now = time.monotonic()
        if now - last >= every:
            left = (now - began) / done * (1 - done)
            log.info("%s: %.0f %%, about %.0f s left", what, 100 * done, left)
            last = now

    yield advance
    log.info("%s: all in %.1f s", what, time.monotonic() - began)
