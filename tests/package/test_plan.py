"""The plan of a run: how long it takes, what it says, and of what it warns."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from convatlas.plan import (
    Machine,
    Planned,
    describe_plan,
    read_seconds,
    run_through,
    seconds_of,
    speeds,
)
from convatlas.sizing import MB, Need

ROOMY = Machine(cores=2, free=1e12, memory=64e9)


def job(
    rule: str = "work",
    seconds: float = 10,
    waits: tuple[int, ...] = (),
    cores: int = 1,
    to_run: bool = True,
    took: float | None = None,
    outputs: tuple[str, ...] = (),
    memory: int = 1000,
    stored: float = 5 * MB,
) -> Planned:
    need = Need(500 * MB, seconds, stored)
    return Planned(rule, need, memory, cores, to_run, outputs, waits, took)


def row(text: str, rule: str) -> str:
    (found,) = [" ".join(x.split()) for x in text.splitlines() if x.startswith(f"{rule} ")]
    return found


# --------------------------------------------------------------------------- time


@pytest.mark.parametrize(
    ("jobs", "cores", "expected"),
    [
        ([job(), job(), job()], 1, 30),
        ([job(), job(), job()], 2, 20),
        ([job(), job(), job()], 8, 10),
        ([job(), job(waits=(0,)), job(waits=(1,))], 8, 30),  # a chain
        ([job(waits=(2,)), job(waits=(2,)), job(seconds=5)], 2, 15),  # a fork
        ([job(to_run=False), job(waits=(0,))], 1, 10),  # what is done is waited for no more
        ([job(cores=2), job(), job()], 2, 20),
        ([job(cores=4)], 2, 10),  # more cores than there are: all of them
        ([job(), job(cores=2), job(seconds=20)], 2, 30),  # the wide one comes when both are free
        ([], 1, 0),
    ],
)
def test_how_long_jobs_take(jobs: list[Planned], cores: int, expected: float) -> None:
    assert run_through(jobs, [x.need.seconds for x in jobs], cores)[0] == expected


@pytest.mark.parametrize(
    ("jobs", "cores", "expected"),
    [
        ([job(memory=100), job(memory=200), job(memory=400)], 1, 400),
        ([job(memory=100), job(memory=200), job(memory=400)], 2, 600),  # the third after the first
        ([job(memory=100), job(memory=200), job(memory=400)], 3, 700),
        ([job(memory=300), job(memory=200, waits=(0,))], 8, 300),
        ([job(memory=300, to_run=False), job(memory=200)], 8, 200),
        ([], 1, 0),
    ],
)
def test_how_much_jobs_ask_for_at_once(jobs: list[Planned], cores: int, expected: int) -> None:
    assert run_through(jobs, [x.need.seconds for x in jobs], cores)[1] == expected


def test_times_are_those_of_past_runs_scaled_by_size() -> None:
    done = job(seconds=10, to_run=False, took=30)
    jobs = [done, replace(done, took=20), replace(done, took=50), job(seconds=40)]
    speed = speeds(jobs)
    assert speed == {"work": 3}  # the median
    assert seconds_of(jobs[-1], speed) == 120
    assert seconds_of(job("other", seconds=40), speed) == 40


def test_many_rules_tell_how_fast_the_machine_is() -> None:
    speed = speeds(job(f"rule{i}", seconds=10, to_run=False, took=20) for i in range(10))
    assert seconds_of(job("other", seconds=40), speed) == 80


def test_jobs_that_are_to_run_again_tell_nothing() -> None:
    """They were of another size, perhaps."""
    assert speeds([job(took=30)]) == {}


def test_seconds_are_read_from_a_benchmark(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"s": 1.0}) + "\n" + json.dumps({"s": 2.5}) + "\n")
    assert read_seconds(path) == 2.5
    path.write_text("")
    assert read_seconds(path) is None
    path.write_text('{"s": "NA"}\n')
    assert read_seconds(path) is None
    assert read_seconds(tmp_path / "none.jsonl") is None


# --------------------------------------------------------------------------- text


def test_the_table_counts_and_adds(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for name in ("a", "folder/b"):
        (tmp_path / name).write_bytes(bytes(1_500_000))
    outputs = (str(tmp_path / "a"), str(tmp_path / "folder"))
    jobs = [
        job("rank", memory=400),
        job("rank", seconds=20, memory=700),
        job("rank", to_run=False, outputs=outputs),
        job("plot", seconds=200, stored=2.5e9),
    ]
    text = describe_plan(jobs, ROOMY)
    assert row(text, "rank") == "rank 2 1 700.0 MB 20 s 30 s 10.0 MB 3.0 MB"
    assert row(text, "plot") == "plot 1 1.0 GB 3 min 3 min 2.5 GB"
    assert row(text, "in all") == "in all 3 1 1.0 GB 3 min 4 min 2.5 GB 3.0 MB"
    assert "3 of 4 jobs" in text
    assert "about 4 min on 2 cores" in text
    assert "1.0 GB of memory" in text
    assert "WARNING" not in text
    lines = text.splitlines()
    assert max(map(len, lines[: lines.index("")])) <= 100


def test_it_says_where_the_times_are_from() -> None:
    done = job(to_run=False, took=30)
    assert "The times are estimates." in describe_plan([job()], ROOMY)
    assert "The times are those of past runs here." in describe_plan([done, job()], ROOMY)
    mixed = describe_plan([done, job(), job("other")], ROOMY)
    assert "The times of 1 of 2 rules are those of past runs here" in mixed


def test_it_warns_of_a_disk_that_is_too_small() -> None:
    small = replace(ROOMY, free=8e6)
    text = describe_plan([job(), job()], small)
    assert "WARNING: the disk can't hold it: about 2.0 MB are missing." in text
    assert "WARNING" not in describe_plan([job(), job(to_run=False)], small)


def test_it_warns_of_a_memory_that_is_too_small() -> None:
    text = describe_plan([job(), job("large", memory=70_000)], ROOMY)
    assert "WARNING: large needs more memory than this machine has." in text


def test_it_warns_of_a_memory_that_is_too_small_for_all_at_once() -> None:
    jobs = [job(memory=40_000), job(memory=40_000)]
    text = describe_plan(jobs, ROOMY)
    assert "those that run at once for up to 80.0 GB" in text
    assert "With --resources mem_mb=64000 no more are started than fit." in text
    assert "WARNING" not in describe_plan(jobs, replace(ROOMY, cores=1))


def test_a_limit_of_memory_is_kept() -> None:
    jobs = [job(memory=40_000), job(memory=40_000), job(memory=20_000), job(memory=90_000)]
    seconds = [x.need.seconds for x in jobs]
    assert run_through(jobs, seconds, 8, limit=64_000) == (30, 64_000)
    assert run_through(jobs[:3], seconds[:3], 8, limit=64_000) == (20, 60_000)
    text = describe_plan(jobs[:2], replace(ROOMY, limit=64_000))
    assert "about 20 s" in text
    assert "WARNING" not in text


def test_nothing_to_be_done() -> None:
    text = describe_plan([job(to_run=False, took=3)], replace(ROOMY, free=0, memory=0))
    assert text.endswith("Nothing to be done: all is up to date.")


def test_notes_are_printed() -> None:
    assert "Note: a guess." in describe_plan([job()], ROOMY, ["a guess"])


def test_the_disk_of_a_folder_that_is_not_there_yet(tmp_path: Path) -> None:
    here = Machine.here(3, tmp_path / "not" / "there")
    assert here.cores == 3
    assert here.free > 0
    assert here.memory > 0
