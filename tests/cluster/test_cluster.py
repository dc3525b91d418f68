"""The workflow on a real Slurm of one node, with the profile that users get.

One Slurm is shared by all. Each job of it costs the start of two more Snakemakes, so what
can be seen in one run is.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections import Counter
from datetime import datetime
from pathlib import Path

import pytest
from conftest import Ended, Folder, end_of
from running import differing, digests
from slurm import Slurm

ACTIVATIONS = "results/tiny/activations.h5"
RANKED = "results/tiny/patches/relu2.h5"

LIMITS = """\
rule all:
    input:
        "long.txt",
        "large.txt",

rule long:
    output:
        "long.txt",
    resources:
        runtime=lambda wildcards, attempt: attempt,
    shell:
        "sleep $(( {resources.runtime} > 1 ? 0 : 600 )); touch {output}"

rule large:
    output:
        "large.txt",
    resources:
        mem_mb=lambda wildcards, attempt: attempt * 800,
    shell:
        "python3 -c 'import time; x = bytearray(900 << 20); time.sleep(4)'; touch {output}"
"""

GROWING = """\
from snakemake.dag import DAG

from convatlas.grouping import mend_groups

mend_groups(DAG)

DELAYS = {"a": 0, "b": 8, "c": 12}

def split_of(wildcards):
    return checkpoints.split.get(name=wildcards.name).output[0]

def parts(wildcards):
    with open(split_of(wildcards)) as file:
        return expand("{name}/{part}.txt", part=file.read().split(), name=wildcards.name)

rule all:
    input:
        expand("{name}/{end}.txt", name=DELAYS, end=["list", "all"]),

checkpoint split:
    output:
        "{name}/split.txt",
    params:
        delay=lambda wildcards: DELAYS[wildcards.name],
    shell:
        "sleep {params.delay}; echo 1 2 3 > {output}"

rule begin:
    output:
        "{name}/begin.txt",
    group:
        "gather"
    shell:
        "echo {output} >> runs.txt; touch {output}"

rule list:
    input:
        "{name}/begin.txt",
        split_of,
    output:
        "{name}/list.txt",
    group:
        "gather"
    shell:
        "echo {output} >> runs.txt; touch {output}"

rule part:
    output:
        "{name}/{part,[0-9]}.txt",
    group:
        "layers"
    shell:
        "echo {output} >> runs.txt; sleep 2; touch {output}"

rule end:
    input:
        parts,
    output:
        "{name}/all.txt",
    group:
        "plots"
    shell:
        "echo {output} >> runs.txt; touch {output}"
"""


@pytest.fixture(scope="module")
def background(empty: Folder, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """Two runs begun at once, because one computes and the other waits.

    The whole study on this machine, and jobs that come to their limits on the cluster.
    """
    local = empty.copied(tmp_path_factory.mktemp("local"))
    limits = empty.copied(tmp_path_factory.mktemp("limits"))
    (limits.path / "Snakefile").write_text(LIMITS)
    return {
        "folder": local,
        "local": local.start("--cores=2", cluster=False),
        "limits": limits.start(snakefile=limits.path / "Snakefile"),
    }


@pytest.fixture(scope="module")
def reference(background: dict[str, object]) -> tuple[Folder, Ended]:
    """The whole study, made on this machine alone; and that run."""
    outcome = end_of(background["local"])
    assert outcome.code == 0, outcome.text
    return background["folder"], outcome


@pytest.fixture(scope="module")
def made(
    empty: Folder, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Folder, Ended, list[dict[str, str]]]:
    """The whole study, made by jobs of a cluster without GPUs; that run, and its jobs."""
    folder = empty.copied(tmp_path_factory.mktemp("made"))
    outcome = folder.run("--resources", "gpu=0")
    assert outcome.code == 0, outcome.text
    return folder, outcome, jobs_in(folder)


@pytest.fixture(scope="module")
def begun(empty: Folder, tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """A study that was begun on this machine: the first of two shards is there."""
    folder = empty.copied(tmp_path_factory.mktemp("begun"))
    outcome = folder.locally("results/tiny/activations/0.h5")
    assert outcome.finished["extract_activations"] == 1, outcome.text
    return folder


def jobs_in(folder: Folder) -> list[dict[str, str]]:
    """Return what Slurm knows of the jobs that were submitted in a folder."""
    return [job for job in folder.slurm.jobs() if job["WorkDir"] == str(folder.path)]


def of_rule(jobs: list[dict[str, str]], name: str) -> list[dict[str, str]]:
    return [job for job in jobs if f"/{name}/" in job["StdOut"] or f"_{name}_" in job["StdOut"]]


def span(job: dict[str, str]) -> tuple[datetime, datetime]:
    """Return when a job ran."""
    return datetime.fromisoformat(job["StartTime"]), datetime.fromisoformat(job["EndTime"])


def wait_for_jobs(run: subprocess.Popen[str], folder: Folder) -> None:
    """Wait until a run has a job on the node that has begun to work."""

    def works() -> bool:
        assert run.poll() is None, end_of(run).text
        logs = folder.results / "logs/tiny/extract_activations/1.log"
        return bool(folder.slurm.queue("RUNNING")) and logs.exists()

    folder.slurm.wait_until(works, patience=300)


# ------------------------------------------------------------ limits, and a lost scheduler


def test_limits_and_a_lost_scheduler(background: dict[str, object], slurm: Slurm) -> None:
    """Over its time or its memory a job is retried with more, and the head bears with an outage."""
    run = background["limits"]
    slurm.wait_until(lambda: {j["JobState"] for j in large(slurm)} & {"COMPLETED"}, patience=300)
    slurm.stop_controller()
    time.sleep(20)  # the plugin by itself loses its jobs after five questions without an answer
    slurm.start_controller()
    outcome = end_of(run)
    assert outcome.code == 0, outcome.text
    first, second = large(slurm)
    assert [first["JobState"], second["JobState"]] == ["FAILED", "COMPLETED"]
    assert [first["MinMemoryNode"], second["MinMemoryNode"]] == ["800M", "1600M"]
    first, second = of_rule(slurm.jobs(), "rule_long")
    assert [first["JobState"], second["JobState"]] == ["TIMEOUT", "COMPLETED"]
    assert [first["TimeLimit"], second["TimeLimit"]] == ["00:01:00", "00:02:00"]
    assert "TIMEOUT" in outcome.text


def large(slurm: Slurm) -> list[dict[str, str]]:
    return of_rule(slurm.jobs(), "rule_large")


# ------------------------------------------------------------------------ a whole study


def test_the_bytes_are_those_of_a_local_run(
    made: tuple[Folder, Ended, list[dict[str, str]]], reference: tuple[Folder, Ended]
) -> None:
    folder, outcome, _ = made
    local, expected = reference
    assert outcome.finished == expected.finished
    found, whole = digests(folder.results), digests(local.results)
    assert {".h5", ".png", ".csv", ".json", ".html", ".pt"} <= {Path(x).suffix for x in whole}
    assert differing(found, whole) == []


def test_shards_ran_beside_each_other(made: tuple[Folder, Ended, list[dict[str, str]]]) -> None:
    (start, end), (other_start, other_end) = map(span, of_rule(made[2], "rule_extract_activations"))
    assert max(start, other_start) < min(end, other_end)


def test_a_cluster_without_gpus_isnt_asked_for_one(
    made: tuple[Folder, Ended, list[dict[str, str]]],
) -> None:
    assert [job for job in made[2] if "gpu" in job.get("TresPerJob", "")] == []


def test_short_jobs_are_submitted_together(
    made: tuple[Folder, Ended, list[dict[str, str]]],
) -> None:
    """And ask for what two of them need, who run beside each other, not for the sum."""
    _, outcome, jobs = made
    plots = sum(n for rule, n in outcome.finished.items() if rule.startswith("plot_"))
    groups = of_rule(jobs, "group_plots")
    assert len(groups) <= plots / 8
    assert len(jobs) < outcome.finished.total() / 2
    largest = max(map(int, re.findall(r"mem_mb=(\d+)", outcome.text)))
    for job in jobs:
        assert int(job["NumCPUs"]) <= 2
        assert int(job["MinMemoryNode"].rstrip("M")) <= 2 * largest


def test_the_records_are_plain_files(made: tuple[Folder, Ended, list[dict[str, str]]]) -> None:
    """A data base wouldn't do on shared file systems."""
    files = [path for path in made[0].path.rglob("*") if path.is_file()]
    assert any(path.parts[-3:-1] == (".snakemake", "metadata") for path in files)
    assert [path for path in files if path.read_bytes()[:15] == b"SQLite format 3"] == []


def test_nothing_is_left_to_do_on_another_machine(
    made: tuple[Folder, Ended, list[dict[str, str]]],
) -> None:
    outcome = made[0].locally()
    assert outcome.code == 0
    assert "Nothing to be done" in outcome.text


def test_groups_stay_whole_while_the_workflow_grows(empty: Folder, tmp_path: Path) -> None:
    """No job is lost, or done twice, when checkpoints end while groups run."""
    folder = empty.copied(tmp_path)
    (tmp_path / "Snakefile").write_text(GROWING)
    outcome = end_of(folder.start(snakefile=tmp_path / "Snakefile"))
    assert outcome.code == 0, outcome.text
    runs = (tmp_path / "runs.txt").read_text().split()
    kinds = ("begin", "list", "1", "2", "3", "all")
    assert sorted(runs) == sorted(f"{name}/{kind}.txt" for name in "abc" for kind in kinds)
    assert outcome.finished.total() == len(runs) + 3


# ------------------------------------------------------------------- from here to there


def test_a_run_goes_on_on_the_cluster_and_back(
    begun: Folder, reference: tuple[Folder, Ended], tmp_path: Path
) -> None:
    folder = begun.copied(tmp_path)
    partitions = (folder.project / "workflow/profiles/slurm/README.md").read_text()
    partitions = partitions.split("```yaml\n")[1].split("```")[0]
    (tmp_path / "partitions.yaml").write_text(partitions)
    there = folder.run(ACTIVATIONS, "--slurm-partition-config=partitions.yaml")
    assert there.code == 0, there.text
    assert there.finished == Counter({"extract_activations": 1, "gather_activations": 1})
    extract, gather = jobs_in(folder)
    assert extract["TresPerJob"] == "gres:gpu:1"
    assert [extract["Partition"], gather["Partition"]] == ["gpu", "cpu"]
    back = folder.locally(RANKED)
    assert back.finished == Counter({"rank_patches": 1})
    assert same_as_in(reference[0], folder)


def same_as_in(reference: Folder, folder: Folder) -> bool:
    """Say whether all that was made in a folder is as it is in the whole study."""
    whole = digests(reference.results)
    return all(whole[name] == digest for name, digest in digests(folder.results).items())


# ------------------------------------------------------------------ what goes wrong


def test_a_failed_job(begun: Folder, tmp_path: Path) -> None:
    """The user reads which, why, and where its log is; what doesn't need it is made."""
    folder = begun.copied(tmp_path)
    (tmp_path / "photos/cats").mkdir(parents=True)
    (tmp_path / "photos/cats/torn.png").write_bytes(b"\x89PNG")
    config = (tmp_path / "config.yaml").read_text()
    photos = "  photos: {source: folder, path: photos, resize: 32, crop: 32}\nmodels:"
    (tmp_path / "config.yaml").write_text(config.replace("models:", photos))
    broken = "results/datasets/photos/images.h5"
    outcome = folder.run(broken, RANKED.replace("relu2", "relu1"))
    assert outcome.code == 1
    assert "rule prepare_images" in outcome.text
    assert "results/logs/datasets/photos/prepare_images/images.log" in outcome.text
    assert "torn.png" in outcome.text
    assert "Traceback" not in outcome.text
    assert len(of_rule(jobs_in(folder), "rule_prepare_images")) == 3
    assert not (tmp_path / broken).exists()
    assert outcome.finished["rank_patches"] == 1


def test_an_interruption_cancels_what_was_submitted(begun: Folder, tmp_path: Path) -> None:
    folder = begun.copied(tmp_path)
    run = folder.start(ACTIVATIONS)
    wait_for_jobs(run, folder)
    os.killpg(run.pid, signal.SIGINT)  # as Ctrl-C does
    outcome = end_of(run)
    assert outcome.code != 0
    assert {job["JobState"] for job in jobs_in(folder)} == {"CANCELLED"}
    assert folder.slurm.queue() == []
    assert not (tmp_path / ACTIVATIONS).exists()


def test_the_head_is_killed(begun: Folder, reference: tuple[Folder, Ended], tmp_path: Path) -> None:
    """Its jobs go on. No other run begins until unlocking has cancelled them; none is doubled."""
    folder = begun.copied(tmp_path)
    run = folder.start(ACTIVATIONS)
    wait_for_jobs(run, folder)
    os.killpg(run.pid, signal.SIGKILL)
    run.communicate()
    (orphan,) = folder.slurm.queue()
    folder.slurm.ask("scontrol", "suspend", orphan)  # else it might end before it is looked for
    locks = tmp_path / ".snakemake/locks"
    for lock in locks.iterdir():  # as another run that ends in this folder does
        lock.unlink()
    outcome = folder.run(ACTIVATIONS)
    assert outcome.code == 1
    assert f"has jobs in SLURM's queue ({orphan})" in outcome.text
    outcome = folder.locally("--unlock")
    assert outcome.code == 0, outcome.text
    assert f"cancelled what a killed run had in SLURM's queue: {orphan}" in outcome.text
    assert folder.slurm.queue() == []
    outcome = folder.run(ACTIVATIONS)
    assert outcome.code == 0, outcome.text
    assert [job["JobState"] for job in of_rule(jobs_in(folder), "rule_extract_activations")] == [
        "CANCELLED",
        "COMPLETED",
    ]
    assert same_as_in(reference[0], folder)
    assert list(folder.results.rglob(".*.part")) == []
