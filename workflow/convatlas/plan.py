"""What a run will make, as a table: jobs, memory, time and bytes, and whether they fit here."""

from __future__ import annotations

import heapq
import json
import math
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import psutil

from convatlas.sizing import MB, Need

_COLUMNS = (
    "rule",
    "to run",
    "done",
    "memory each",
    "time each",
    "time in all",
    "to write",
    "there",
)

_SEVERAL = 10  # rules that tell how fast a machine is


@dataclass(frozen=True)
class Planned:
    """A job of a run.

    Attributes
    ----------
    rule : the script that it runs.
    need : what it needs, as estimated.
    memory : MB that Snakemake is asked for.
    cores : that it uses.
    to_run : whether it is still to run; else what it makes is up to date.
    outputs : the files and folders that it makes.
    waits : the places in the list of jobs of those that it waits for.
    took : seconds that it took here, if it is up to date and that is known.
    """

    rule: str
    need: Need
    memory: int
    cores: int
    to_run: bool
    outputs: Sequence[str]
    waits: Sequence[int]
    took: float | None = None


@dataclass(frozen=True)
class Machine:
    """What there is here.

    Attributes
    ----------
    cores : to be used.
    free : bytes of the disk.
    memory : bytes.
    limit : MB that jobs may ask for at once, as ``--resources mem_mb=`` says.
    """

    cores: int
    free: float
    memory: float
    limit: float = math.inf

    @classmethod
    def here(
        cls, cores: int, folder: str | os.PathLike[str], limit: float | None = None
    ) -> Machine:
        """Return this machine; the disk is that of a folder, which needn't be there yet."""
        there = next(
            p for p in (Path(folder).absolute(), *Path(folder).absolute().parents) if p.exists()
        )
        free, memory = shutil.disk_usage(there).free, psutil.virtual_memory().total
        return cls(cores, free, memory, math.inf if limit is None else limit)


def read_seconds(path: str | os.PathLike[str]) -> float | None:
    """Return the seconds that a job took by its benchmark file; None if that isn't to be had."""
    with suppress(OSError, ValueError, KeyError, IndexError, TypeError):
        return float(json.loads(Path(path).read_text().splitlines()[-1])["s"])
    return None


def speeds(jobs: Iterable[Planned]) -> dict[str, float]:
    """Return for each rule how many times as long as estimated its jobs took here, the median.

    Jobs count that are up to date: their size is today's. Rules without one aren't there;
    under "" is the median of all rules, which stands for them where there are several.
    """
    found: dict[str, list[float]] = {}
    for job in jobs:
        if job.took is not None and not job.to_run:
            found.setdefault(job.rule, []).append(job.took / _wall(job))
    by_rule = {rule: median(ratios) for rule, ratios in found.items()}
    several = len(by_rule) >= _SEVERAL
    return by_rule | ({"": median(by_rule.values())} if several else {})


def _wall(job: Planned) -> float:
    return job.need.seconds / job.cores


def seconds_of(job: Planned, speed: Mapping[str, float]) -> float:
    """Return how long a job will take, by past runs where there were any."""
    return _wall(job) * speed.get(job.rule, speed.get("", 1.0))


def run_through(
    jobs: Sequence[Planned], seconds: Sequence[float], cores: int, limit: float = math.inf
) -> tuple[float, float]:
    """Return how long the jobs take that are still to run, and the most MB they ask for at once.

    Each begins when what it waits for is done and its cores and memory are free, of several
    that could the first in the list: as Snakemake's greedy scheduler does, roughly. What
    asks for more than there is gets all.
    """
    left = {i: {j for j in job.waits if jobs[j].to_run} for i, job in enumerate(jobs) if job.to_run}
    after: dict[int, list[int]] = {i: [] for i in left}
    for i, waits in left.items():
        for j in waits:
            after[j].append(i)
    ready = [i for i, waits in left.items() if not waits]
    heapq.heapify(ready)
    running: list[tuple[float, int]] = []
    now, free = 0.0, cores
    memory = most = 0.0
    while ready or running:
        passed = []
        while ready:
            i = heapq.heappop(ready)
            needed, more = min(jobs[i].cores, cores), min(jobs[i].memory, limit)
            if needed > free or memory + more > limit:
                passed.append(i)
                continue
            free -= needed
            memory += more
            heapq.heappush(running, (now + seconds[i], i))
        most = max(most, memory)
        ready = passed
        heapq.heapify(ready)
        now, done = heapq.heappop(running)
        free += min(jobs[done].cores, cores)
        memory -= min(jobs[done].memory, limit)
        for i in after[done]:
            left[i].discard(done)
            if not left[i]:
                heapq.heappush(ready, i)
    return now, most


def describe_plan(jobs: Sequence[Planned], machine: Machine, notes: Sequence[str] = ()) -> str:
    """Return the plan of a run as text: a table by rule, sums, where the numbers are from.

    Parameters
    ----------
    notes : what else a reader has to know of the estimates.
    """
    speed = speeds(jobs)
    seconds = [seconds_of(job, speed) for job in jobs]
    rows: list[Sequence[str]] = [_COLUMNS]
    for rule in dict.fromkeys(job.rule for job in jobs):
        of = [i for i, job in enumerate(jobs) if job.rule == rule]
        rows.append(_row(rule, [jobs[i] for i in of], [seconds[i] for i in of]))
    waiting = [i for i, job in enumerate(jobs) if job.to_run]
    rows.append(_row("in all", list(jobs), seconds))
    lines = [*_table(rows), ""]
    if not waiting:
        lines.append("Nothing to be done: all is up to date.")
        return "\n".join(lines)
    todo = [jobs[i] for i in waiting]
    largest = max(todo, key=lambda job: job.memory)
    written = sum(job.need.stored for job in todo)
    took, most = run_through(jobs, seconds, machine.cores, machine.limit)
    cores = f"{machine.cores} core{'' if machine.cores == 1 else 's'}"
    lines += [
        f"To run: {len(todo):,} of {len(jobs):,} jobs, about {_time(took)} on {cores}. "
        + _source(todo, speed),
        f"To write: about {_bytes(written)}; {_bytes(machine.free)} are free.",
        f"The largest job, {largest.rule}, asks for {_bytes(largest.memory * MB)} of memory; "
        f"those that run at once for up to {_bytes(most * MB)}; "
        f"this machine has {_bytes(machine.memory)}.",
        *(f"Note: {note}." for note in notes),
    ]
    if written > machine.free:
        lines.append(
            f"WARNING: the disk can't hold it: about {_bytes(written - machine.free)} are missing. "
            "Make room, or store less: fewer layers (`extract`), or fewer images."
        )
    if largest.memory * MB > machine.memory:
        lines.append(
            f"WARNING: {largest.rule} needs more memory than this machine has. Set a smaller "
            "batch_size, choose fewer layers, or run it on a larger machine."
        )
    elif most * MB > machine.memory:
        lines.append(
            "WARNING: the jobs that run at once may need more memory than this machine has. With "
            f"--resources mem_mb={machine.memory / MB:.0f} no more are started than fit."
        )
    return "\n".join(lines)


def _source(todo: Sequence[Planned], speed: Mapping[str, float]) -> str:
    rules = {job.rule for job in todo}
    known = rules & speed.keys()
    if known == rules:
        return "The times are those of past runs here."
    others = "estimates, scaled by past runs here" if "" in speed else "estimates"
    if not known:
        return f"The times are {others}."
    return (
        f"The times of {len(known)} of {len(rules)} rules are those of past runs here; the others "
        f"are {others}."
    )


def _row(rule: str, jobs: Sequence[Planned], seconds: Sequence[float]) -> tuple[str, ...]:
    todo = [(job, took) for job, took in zip(jobs, seconds, strict=True) if job.to_run]
    there = sum(_size(path) for job in jobs if not job.to_run for path in job.outputs)
    longest = max((took for _, took in todo), default=0.0)
    return (
        rule,
        f"{len(todo):,}" if todo else "",
        f"{len(jobs) - len(todo):,}" if len(jobs) > len(todo) else "",
        _bytes(max(job.memory for job, _ in todo) * MB) if todo else "",
        _time(longest) if todo else "",
        _time(sum(took for _, took in todo)) if todo else "",
        _bytes(sum(job.need.stored for job, _ in todo)) if todo else "",
        _bytes(there) if there else "",
    )


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    rule = "-" * max(map(len, lines))
    return [lines[0], rule, *lines[1:-1], rule, lines[-1]]


def _size(path: str | os.PathLike[str]) -> int:
    found = Path(path)
    if found.is_dir():
        return sum(file.stat().st_size for file in found.rglob("*") if file.is_file())
    return found.stat().st_size if found.is_file() else 0


def _bytes(number: float) -> str:
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if number >= size:
            return f"{number / size:,.1f} {unit}"
    return f"{number / 1e3:,.0f} kB"


def _time(seconds: float) -> str:
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    if seconds < 99.5 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:,.1f} h"
