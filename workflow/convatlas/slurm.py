"""Find, await or cancel the jobs that other runs in a folder have in SLURM's queue.

A job of a run that was killed goes on, on a machine where it can't see that its run is
gone. It is known by the file that its output goes to: Snakemake has the jobs of all runs
in a folder write below `.snakemake/slurm_logs` there.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

from convatlas.errors import StoreError

GPUS = "CONVATLAS_GPUS"
"""The environment variable that tells the jobs of a run how many GPUs there are, if it was said."""

LOGS = Path(".snakemake") / "slurm_logs"

_WIDTHS = {"JobID": 32, "State": 32, "StdOut": 4096}  # characters of squeue's columns
_ANSWER = 60.0  # seconds that SLURM may take to answer
_POLL = 1.0  # seconds between two questions
_ENDING = "COMPLETING"


def jobs_of(folder: str | os.PathLike[str]) -> dict[str, str] | None:
    """Return the jobs in the queue that runs in `folder` have submitted: number -> state.

    None where there is no SLURM, or no answer from it.
    """
    if shutil.which("squeue") is None:
        return None
    columns = ",".join(f"{name}:{width}" for name, width in _WIDTHS.items())
    answer = _ask("squeue", "--me", "--noheader", f"--Format={columns}")
    if answer is None:
        return None
    logs = (Path(folder) / LOGS).resolve()
    found = {}
    for line in answer.splitlines():
        cells, start = [], 0
        for width in _WIDTHS.values():
            cells.append(line[start : start + width].strip())
            start += width
        number, state, output = cells
        if logs in Path(output).resolve().parents:
            found[number] = state
    return found


def cancel_jobs(folder: str | os.PathLike[str], patience: float = 120.0) -> list[str]:
    """Cancel what runs in `folder` have in the queue, and wait until it has ended.

    Returns
    -------
    numbers of the jobs.

    Raises
    ------
    StoreError
        if a job is still there after `patience` seconds.
    """
    jobs = jobs_of(folder)
    if not jobs:
        return []
    _ask("scancel", *jobs)
    _wait_for(folder, jobs, patience)
    return list(jobs)


def await_jobs(folder: str | os.PathLike[str], patience: float = 120.0) -> None:
    """See that no other run in `folder` has jobs in the queue; wait for those that are just ending.

    Raises
    ------
    StoreError
        if one has.
    """
    jobs = jobs_of(folder) or {}
    if any(state != _ENDING for state in jobs.values()):
        raise StoreError(
            f"another run in this folder has jobs in SLURM's queue ({', '.join(jobs)}). If it is "
            "still going, wait for its end. If it was killed, `snakemake --unlock` cancels them."
        )
    _wait_for(folder, jobs, patience)


def _wait_for(folder: str | os.PathLike[str], jobs: dict[str, str], patience: float) -> None:
    end = time.monotonic() + patience
    left = set(jobs)
    while left and time.monotonic() < end:
        time.sleep(_POLL)
        if (now := jobs_of(folder)) is not None:  # else it can't be told
            left &= now.keys()
    if left:
        raise StoreError(
            f"jobs of a former run are still ending in SLURM's queue ({', '.join(sorted(left))}). "
            "Wait until squeue shows them no more."
        )


def _ask(*command: str) -> str | None:
    """Return what a program of SLURM's says; None if it fails or doesn't answer."""
    try:
        answer = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=_ANSWER
        )
    except subprocess.TimeoutExpired:
        return None
    return answer.stdout if answer.returncode == 0 else None
