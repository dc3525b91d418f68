"""How much of the jobs' time was start-up: what passes before a job begins its own work.

Every job says in its log how long it took to start, its Python and what that imports, and
how long it worked. A cluster's queue and its own start of a job aren't in it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_SAYS = "done in {work:.2f} s on {cores}, after {startup:.2f} s of start-up"
_SAID = re.compile(r"done in ([\d.]+) s on (\d+) cores?, after ([\d.]+) s of start-up")


def sentence(work: float, startup: float, cores: int) -> str:
    """Return what a job says at its end; times in seconds."""
    said = f"{cores} core{'' if cores == 1 else 's'}"
    return _SAYS.format(work=work, cores=said, startup=startup)


@dataclass(frozen=True)
class Startup:
    """What some jobs took: how many they are, and their core-seconds in all and before work.

    A job of two cores that takes a second takes two core-seconds.
    """

    jobs: int
    seconds: float
    startup: float

    def __str__(self) -> str:
        share = self.startup / self.seconds if self.seconds else 0.0
        return (
            f"{self.jobs:,} jobs took {self.seconds:,.0f} core-seconds, {share:.0%} of them "
            "start-up (Python and its imports)"
        )


def read_startup(folders: Iterable[str | os.PathLike[str]], since: float = 0.0) -> Startup:
    """Return what the jobs took whose logs lie in some folders, each when it was last done.

    Parameters
    ----------
    since : only jobs that ended after this time, in seconds since the epoch.
    """
    jobs, seconds, startup = 0, 0.0, 0.0
    for path in sorted({file for folder in folders for file in Path(folder).rglob("*.log")}):
        if path.stat().st_mtime < since:
            continue
        if found := _SAID.search(_last_line(path)):
            work, cores, start = float(found[1]), int(found[2]), float(found[3])
            jobs += 1
            seconds += cores * (work + start)
            startup += cores * start
    return Startup(jobs, seconds, startup)


def _last_line(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - 500, 0))
        return (file.read().decode(errors="replace").splitlines() or [""])[-1]
