"""What runs in a folder have in SLURM's queue, by programs that answer as SLURM's do."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from convatlas.errors import StoreError
from convatlas.slurm import LOGS, await_jobs, cancel_jobs, jobs_of


class Queue:
    """A queue kept in a file: a line a job, its number, state and output; scancel empties it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "queue"
        self.program("squeue", f'cat "{self.file}"')
        self.program("scancel", f'echo "$@" > "{folder}/cancelled"; : > "{self.file}"')

    def program(self, name: str, text: str) -> None:
        path = self.folder / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)

    def hold(self, *jobs: tuple[str, str, Path]) -> None:
        lines = [f"{number:32}{state:32}{output!s:4096}\n" for number, state, output in jobs]
        self.file.write_text("".join(lines))

    @property
    def cancelled(self) -> list[str]:
        path = self.folder / "cancelled"
        return path.read_text().split() if path.exists() else []


@pytest.fixture
def queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Queue:
    """A queue whose programs come first on the PATH."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setattr("convatlas.slurm._POLL", 0.01)
    return Queue(tmp_path / "bin")


def test_jobs_are_known_by_the_folder_of_their_output(queue: Queue, tmp_path: Path) -> None:
    mine, other = tmp_path / "my work", tmp_path / "my work 2"
    queue.hold(
        ("7", "RUNNING", mine / LOGS / "rule_a" / "7.log"),
        ("8", "PENDING", mine / LOGS / "rule_b" / "x y" / "%j.log"),
        ("9", "RUNNING", other / LOGS / "rule_a" / "9.log"),
        ("10", "RUNNING", mine / "slurm-10.out"),
        ("11", "RUNNING", Path("/dev/null")),
    )
    assert jobs_of(mine) == {"7": "RUNNING", "8": "PENDING"}
    assert jobs_of(other) == {"9": "RUNNING"}
    (tmp_path / "link").symlink_to(mine)
    assert jobs_of(tmp_path / "link") == jobs_of(mine)
    assert cancel_jobs(mine) == ["7", "8"]
    assert queue.cancelled == ["7", "8"]
    assert cancel_jobs(mine) == []


def test_another_runs_jobs_stop_a_run(queue: Queue, tmp_path: Path) -> None:
    queue.hold(("7", "PENDING", tmp_path / LOGS / "7.log"))
    with pytest.raises(StoreError, match=r"jobs in SLURM's queue \(7\).* --unlock"):
        await_jobs(tmp_path)
    assert queue.cancelled == []
    await_jobs(tmp_path / "elsewhere")


def test_jobs_that_are_ending_are_waited_for(queue: Queue, tmp_path: Path) -> None:
    queue.hold(("7", "COMPLETING", tmp_path / LOGS / "7.log"))
    with pytest.raises(StoreError, match=r"still ending in SLURM's queue \(7\)"):
        await_jobs(tmp_path, patience=0.05)
    # Shown once more, then no longer.
    queue.program("squeue", f'cat "{queue.file}"; : > "{queue.file}"')
    await_jobs(tmp_path)


def test_a_job_that_cannot_be_cancelled(queue: Queue, tmp_path: Path) -> None:
    queue.hold(("7", "RUNNING", tmp_path / LOGS / "7.log"))
    queue.program("scancel", "exit 1")
    with pytest.raises(StoreError, match="Wait until squeue shows them no more"):
        cancel_jobs(tmp_path, patience=0.05)


def test_without_an_answer(queue: Queue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    queue.program("squeue", "exit 1")
    assert jobs_of(tmp_path) is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert jobs_of(tmp_path) is None
    assert cancel_jobs(tmp_path) == []
    await_jobs(tmp_path)
