"""How much of the jobs' time was start-up, from their logs."""

from __future__ import annotations

import os
from pathlib import Path

from convatlas.job import Job
from convatlas.startup import Startup, read_startup, sentence


def write_log(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(["12:00:00 INFO read", *(f"12:00:01 INFO {x}" for x in lines)]))
    return path


def test_jobs_count_by_their_cores_and_only_those_that_ended(tmp_path: Path) -> None:
    write_log(tmp_path / "demo/rank/a.log", sentence(3.0, 1.0, 1))
    write_log(tmp_path / "demo/train.log", sentence(10.0, 2.0, 2))
    write_log(tmp_path / "demo/failed.log", sentence(9.0, 9.0, 1), "done in no time")
    write_log(tmp_path / "other/b.log", sentence(5.0, 5.0, 1))
    (tmp_path / "demo/empty.log").touch()
    found = read_startup([tmp_path / "demo", tmp_path / "demo/rank"])
    assert found == Startup(jobs=2, seconds=28.0, startup=5.0)
    assert str(found).startswith("2 jobs took 28 core-seconds, 18% of them start-up")
    assert str(read_startup([tmp_path / "none"])).startswith("0 jobs took 0 core-seconds, 0%")


def test_jobs_of_a_former_run_dont_count(tmp_path: Path) -> None:
    os.utime(write_log(tmp_path / "a.log", sentence(3.0, 1.0, 1)), (1000, 1000))
    os.utime(write_log(tmp_path / "b.log", sentence(1.0, 1.0, 1)), (2000, 2000))
    assert read_startup([tmp_path], since=1500) == Startup(1, 2.0, 1.0)


def test_a_jobs_log_is_read(tmp_path: Path) -> None:
    with Job(log=tmp_path / "job.log", cores=3):
        pass
    found = read_startup([tmp_path])
    assert found.jobs == 1
    assert 0 < found.startup <= found.seconds  # of the process that runs the tests
