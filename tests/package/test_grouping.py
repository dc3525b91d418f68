"""Snakemake's groups of jobs, made anew while some of them run, on its own code for them."""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import snakemake.api
from snakemake.jobs import GroupJobFactory

from convatlas.grouping import mend_groups

DAG = snakemake.dag.DAG  # which can't be imported before the API


class Mended(DAG):
    """Snakemake's, whose own stays as it is for other tests."""


mend_groups(Mended)


class Job:
    """As much of a job as grouping asks for."""

    def __init__(self, name: str, dag: DAG, group: str | None, *needs: Job) -> None:
        self.name, self.dag, self.group = name, dag, group
        self.rule = SimpleNamespace(name=name)
        self.pipe_group = None
        dag._needrun.add(self)
        dag._dependencies[self].update({job: set() for job in needs})
        for job in needs:
            dag.depending[job][self] = set()

    def __repr__(self) -> str:
        return self.name


@pytest.fixture
def dag() -> DAG:
    """A DAG without jobs, whose short ones go by twos."""
    dag: Any = DAG.__new__(Mended)
    dag._needrun, dag._finished, dag._running = set(), set(), set()
    dag._group, dag.group_job_factory = {}, GroupJobFactory()
    dag._dependencies, dag.depending = defaultdict(dict), defaultdict(dict)
    dag.workflow = SimpleNamespace(
        global_resources=None,
        parent_groupids={},
        group_settings=SimpleNamespace(group_components={"short": 2}),
        execution_settings=SimpleNamespace(attempt=1),
    )
    return dag


def remove(dag: DAG, job: Job) -> None:
    for needed in dag._dependencies.pop(job):
        del dag.depending[needed][job]
    dag._needrun.discard(job)


def groups_of(dag: DAG) -> set[frozenset[str]]:
    return {frozenset(job.name for job in group) for group in dag._group.values()}


def replaced(dag: DAG) -> list[str]:
    """Return who is in a group of two whose second job a checkpoint has replaced."""
    first = Job("first", dag, "gather")
    former = Job("second", dag, "gather", first)
    dag.update_groups()
    remove(dag, former)
    second = Job("second", dag, "gather", first)
    dag.update_groups()
    found = [job.name for job in dag._group[first] if dag._group.get(job) is dag._group[first]]
    found += ["lost"] * (second not in dag._group)
    remove(dag, second)
    remove(dag, first)
    return found


def test_a_job_that_a_checkpoint_replaced_stays_with_its_group(dag: DAG) -> None:
    """In either order in which the two happen to be looked at: they lie in a set."""
    for _ in range(30):
        assert replaced(dag) == ["first", "second"]


def test_snakemake_alone_loses_it(dag: DAG) -> None:
    """Once this fails, Snakemake may have mended it, and the module can go."""
    dag.__class__ = DAG
    assert any("lost" in replaced(dag) for _ in range(100))


def test_it_is_mended_once(dag: DAG) -> None:
    mended = Mended.update_groups
    mend_groups(Mended)
    assert Mended.update_groups is mended is not DAG.update_groups


def test_groups_that_run_stay_as_they_are(dag: DAG) -> None:
    jobs = [Job(str(number), dag, "short") for number in range(3)]
    dag.update_groups()
    assert sorted(map(len, groups_of(dag))) == [1, 2]
    pair = next(group for group in dag._group.values() if len(group) == 2)
    (single,) = set(jobs) - set(pair)
    before = set(pair), hash(pair)
    dag._running.add(pair)
    more = [Job(str(number), dag, "short") for number in range(3, 6)]
    for _ in range(10):
        dag.update_groups()
        assert (set(pair), hash(pair)) == before
        assert {job for job in dag._group if dag._group[job] is pair} == set(pair)
        assert set(dag._group) == {*jobs, *more}
        assert all(pair.jobs.isdisjoint(dag._group[job]) for job in [single, *more])
        assert dag._needrun == {*jobs, *more}
    dag._running.remove(pair)
    dag._finished.update(pair)
    dag.update_groups()
    assert set(dag._group) == {single, *more}


def test_jobs_without_a_group_are_left_alone(dag: DAG) -> None:
    alone, waiting = Job("alone", dag, None), Job("waiting", dag, "short")
    alone.is_group = lambda: False  # type: ignore[attr-defined]
    dag._running.add(alone)
    dag.update_groups()
    assert set(dag._group) == {waiting}
    assert dag._needrun == {alone, waiting}


def test_the_order_in_a_group_is_that_of_its_needs(dag: DAG) -> None:
    last: list[Job] = []
    for number in range(5):
        last = [Job(str(number), dag, "chain", *last)]
    dag.update_groups()
    assert [job.name for job in dag._group[last[0]]] == list("01234")
