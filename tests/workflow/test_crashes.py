"""Whatever is killed, and whenever: the next run ends with the bytes of an undisturbed one."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import h5py
import psutil
import pytest
from running import REPOSITORY, Outcome, Place, differing, digests

KILLS = 21
GO_ON = ("--cores", "2", "--rerun-incomplete")
PICTURE = "results/pictures/figures/occlusion/0.png"
ON_DISK = (PICTURE, "results/models/small/weights.pt")  # more than two megabytes


def jobs_of(run: subprocess.Popen[str]) -> list[psutil.Process]:
    """Return the processes of the jobs that a run has going."""
    try:
        children = psutil.Process(run.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    found = []
    for child in children:
        try:
            line = child.cmdline()
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
        if line and ".snakemake/scripts/" in line[-1] and "bash" not in line[0]:
            found.append(child)
    return found


def kill(run: subprocess.Popen[str], what: str, dice: random.Random) -> None:
    """Kill a whole run, its head alone, or one of its jobs, with SIGKILL."""
    if what == "job" and (jobs := jobs_of(run)):
        dice.choice(jobs).kill()
    elif what == "head":
        os.kill(run.pid, signal.SIGKILL)
    else:
        os.killpg(run.pid, signal.SIGKILL)


def finished(outcome: Outcome) -> Counter[str]:
    """Count the jobs that a run said were finished, as ``rule: wildcards``."""
    names = {}
    for block in re.split(r"\n(?=\[)", outcome.text):
        head = re.search(r"^(?:local)?(?:rule|checkpoint) (\w+):$", block, re.MULTILINE)
        number = re.search(r"^    jobid: (\d+)$", block, re.MULTILINE)
        if head and number:
            wildcards = re.search(r"^    wildcards: (.*)$", block, re.MULTILINE)
            names[number[1]] = f"{head[1]}: {wildcards[1] if wildcards else ''}"
    done = re.findall(r"^Finished jobid: (\d+) ", outcome.text, re.MULTILINE)
    return Counter(names[number] for number in done if number in names)


def test_killed_at_random_moments(fresh: Place, atlas: Place) -> None:
    """The whole run, its head, or a job, in turn; then as the README says.

    All of one study; all of the other is made again in test_bytes.
    """
    go_on = (*GO_ON, "results/scenes/report/index.html")
    dice = random.Random(3)
    done: Counter[str] = Counter()
    kills: Counter[str] = Counter()
    while kills.total() < KILLS:
        run = fresh.start(*go_on)
        time.sleep(dice.uniform(1.5, 5))
        what = ("all", "head", "job")[kills.total() % 3]
        if run.poll() is None:
            kill(run, what, dice)
            kills[what] += 1
        text, _ = run.communicate()
        done += finished(Outcome(run.returncode, text))
        assert "Traceback" not in text
        unlocked = fresh.run("--unlock")
        assert unlocked.code == 0, unlocked.text
        if run.returncode == 0:
            break
    last = fresh.run(*go_on)
    assert last.code == 0, last.text
    done += finished(last)
    assert kills.total() >= 20, f"only {dict(kills)} kills, then it was done"
    made, whole = digests(fresh.results), digests(atlas.results)
    assert {name for name in whole if name.startswith("scenes/")} <= set(made)
    assert differing({name: whole[name] for name in made}, made) == []
    assert {job: count for job, count in done.items() if count > 1} == {}
    assert fresh.plan("--", go_on[-1]) == {}
    assert unfinished(fresh) == []


def unfinished(place: Place) -> list[Path]:
    """Return what is left of claims on files."""
    return [*place.results.rglob(".*.part"), *place.results.rglob(".old-*")]


# ------------------------------------------------------------------ two runs at once


def wait_for_jobs(run: subprocess.Popen[str]) -> None:
    while run.poll() is None and not jobs_of(run):
        time.sleep(0.1)
    assert run.poll() is None


def test_a_second_run_is_told_what_to_do(fresh: Place, atlas: Place) -> None:
    first = fresh.start("--cores", "2", PICTURE)
    wait_for_jobs(first)
    # Without the option, it may be told of a file that is finished but not yet recorded.
    second = fresh.run("--cores", "1", "--rerun-incomplete", PICTURE)
    assert second.code == 1
    assert "--unlock" in second.text
    assert "Traceback" not in second.text
    text, _ = first.communicate()
    assert first.returncode == 0, text
    assert same_as_in(atlas, fresh)


def test_two_runs_let_loose_on_each_other(fresh: Place, atlas: Place) -> None:
    """Unlocked while the first is going: jobs may fail, but no file is mixed or half."""
    first = fresh.start("--cores", "1", PICTURE)
    wait_for_jobs(first)
    assert fresh.run("--unlock", PICTURE).code == 0
    second = fresh.start("--cores", "1", "--rerun-incomplete", PICTURE)
    for run in (first, second):
        text, _ = run.communicate()
        assert "Traceback" not in text
    assert fresh.run("--unlock", PICTURE).code == 0
    last = fresh.run(*GO_ON, PICTURE)
    assert last.code == 0, last.text
    assert same_as_in(atlas, fresh)
    assert unfinished(fresh) == []


def test_an_orphan_cannot_put_yesterdays_result_over_todays(finished: Place) -> None:
    """The head is killed while it sweeps, the occluder changed, and the sweep made anew."""
    target = "results/pictures/occlusion/0.h5"
    finished.change(lambda c: c["analyses"]["occlusion"].update(stride=4))
    run = finished.start("--cores", "1", target)
    wait_for_jobs(run)
    orphans = jobs_of(run)
    os.kill(run.pid, signal.SIGKILL)
    assert orphans
    finished.change(lambda c: c["analyses"]["occlusion"].update(stride=16))
    assert finished.run("--unlock", target).code == 0
    outcome = finished.run(*GO_ON, target)
    assert outcome.code == 0, outcome.text
    run.communicate()
    psutil.wait_procs(orphans, timeout=60)
    with h5py.File(finished.folder / target) as file:
        assert list(file.attrs["stride"]) == [16, 16]
        assert file["row"].shape == (2,)
    assert unfinished(finished) == []


def test_the_readme_says_how_to_go_on(fresh: Place, atlas: Place) -> None:
    section = (REPOSITORY / "README.md").read_text().split("### When a run was killed")[1]
    block = re.search(r"```console\n(.*?)```", section, re.DOTALL)
    assert block is not None
    commands = re.findall(r"^\$ uv run snakemake (.*)$", block[1], re.MULTILINE)
    assert len(commands) == 2
    run = fresh.start("--cores", "2", PICTURE)
    wait_for_jobs(run)
    os.killpg(run.pid, signal.SIGKILL)
    run.communicate()
    assert fresh.run("--cores", "2", PICTURE).code == 1  # not by itself
    for command in commands:
        outcome = fresh.run(*command.split(), PICTURE)
        assert outcome.code == 0, outcome.text
    assert same_as_in(atlas, fresh)


def test_after_an_interruption_nothing_needs_unlocking(fresh: Place, atlas: Place) -> None:
    run = fresh.start("--cores", "2", PICTURE)
    wait_for_jobs(run)
    os.killpg(run.pid, signal.SIGINT)  # as Ctrl-C does
    run.communicate()
    outcome = fresh.run(*GO_ON, PICTURE)
    assert outcome.code == 0, outcome.text
    assert same_as_in(atlas, fresh)


# --------------------------------------------------------- disks, damage, lost files


@contextmanager
def small_disk(place: Place, size: str) -> Iterator[Place]:
    """Yield a place whose working directory is a disk of its own."""
    folder = place.folder.with_name("disk")
    folder.mkdir()
    if not remount(folder, f"size={size}", first=True):
        pytest.skip("no disk can be mounted here (it takes root)")
    try:
        shutil.copytree(place.folder, folder, dirs_exist_ok=True)
        yield Place(place.project, folder)
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def remount(folder: Path, options: str, first: bool = False) -> bool:
    options = options if first else f"remount,{options}"
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_a_full_disk(fresh: Place, atlas: Place) -> None:
    with small_disk(fresh, "2m") as place:
        outcome = place.run("--cores", "2", *ON_DISK)
        assert outcome.code == 1
        assert "convatlas: the disk is full" in outcome.text
        made = digests(place.results)
        assert made
        assert set(made.items()) <= set(digests(atlas.results).items())
        (place.folder / "more").write_bytes(b"")
        with suppress(OSError), (place.folder / "more").open("wb") as file:
            while True:
                file.write(bytes(1 << 10))
        outcome = place.run("--cores", "2", *ON_DISK)
        assert outcome.code == 1
        assert "No space left on device" in outcome.text
        assert "Traceback" not in outcome.text
        (place.folder / "more").unlink()
        assert remount(place.folder, "size=100m")
        assert place.run("--unlock", *ON_DISK).code == 0
        outcome = place.run(*GO_ON, *ON_DISK)
        assert outcome.code == 0, outcome.text
        assert same_as_in(atlas, place)


def test_a_folder_that_cannot_be_written(fresh: Place) -> None:
    with small_disk(fresh, "2m") as place:
        place.results.mkdir()
        assert remount(place.folder, "ro")
        outcome = place.run("--cores", "1")
        assert outcome.code == 1
        assert "no file can be written there" in outcome.text
        assert "Traceback" not in outcome.text


@pytest.mark.parametrize(
    ("path", "consumer"),
    [
        ("pictures/patches/first.1.h5", "figures/patches/first.1.png"),
        ("pictures/activations/1.h5", "patches/first.1.h5"),
        ("models/mine/model.json", "maps/0.h5"),
        ("pictures/figures/maps/0.png", "provenance.json"),
        ("pictures/predictions.csv", "figures/embedding/scatter/mean.png"),
    ],
)
def test_a_damaged_file_is_put_aside_and_made_anew(
    finished: Place, atlas: Place, path: str, consumer: str
) -> None:
    whole = (finished.results / path).read_bytes()
    (finished.results / path).write_bytes(whole[: len(whole) // 2 - 1])
    (finished.results / "pictures" / consumer).unlink()
    first = finished.run("--cores", "2", f"results/pictures/{consumer}")
    assert first.code == 1
    assert f"{path} is not" in first.text
    assert f"It is now results/{path}.damaged; run the workflow again" in first.text
    assert "Traceback" not in first.text
    again = finished.run("--cores", "2", f"results/pictures/{consumer}")
    assert again.code == 0, again.text
    (finished.results / f"{path}.damaged").unlink()
    assert differing(digests(atlas.results), digests(finished.results)) == []


def test_files_without_a_record_are_not_trusted(finished: Place) -> None:
    """Snakemake alone would say that there is nothing to be done."""
    shutil.rmtree(finished.results / ".snakemake")
    outcome = finished.run("--dry-run")
    assert outcome.code == 1
    assert "--rerun-incomplete" in outcome.text
    plan = finished.plan("--rerun-incomplete")
    assert {"prepare_images", "import_model", "train_model", "describe_model"} <= set(plan)


def test_only_the_main_process_looks_after_the_records(finished: Place) -> None:
    """On a cluster each job starts a Snakemake of its own, while others end and are recorded."""
    for record in (finished.results / ".snakemake/metadata").iterdir():
        shutil.rmtree(record) if record.is_dir() else record.unlink()
    marks = finished.results / ".snakemake/incomplete"
    outcome = finished.run("--dry-run", "--mode", "remote", "--ignore-incomplete")
    assert outcome.code == 0, outcome.text
    assert [path for path in marks.rglob("*") if path.is_file()] == []
    finished.run("--dry-run")
    assert [path for path in marks.rglob("*") if path.is_file()] != []


def test_a_damaged_description_of_the_layers(finished: Place) -> None:
    path = finished.results / "models/mine/layers.json"
    path.write_bytes(path.read_bytes()[:300])
    outcome = finished.run("--dry-run")
    assert outcome.code == 1
    assert "models/mine/layers.json is not JSON" in outcome.text
    assert "Delete it and run the workflow again" in outcome.text
    assert "Traceback" not in outcome.text


def test_files_deleted_by_hand_are_made_again(finished: Place, atlas: Place) -> None:
    lost = [
        "datasets/pictures/classes.txt",
        "models/mine/layers.json",
        "pictures/activations/0.h5",
        "pictures/exhibits.csv",
        "pictures/embedding/mean.h5",
        "pictures/figures/patches/first.1.csv",
        "pictures/figures/occlusion/1.svg",
        "pictures/provenance.json",
        "pictures/report/index.html",
        "scenes/figures/training/curves.png",
    ]
    for path in lost:
        (finished.results / path).unlink()
    shutil.rmtree(finished.results / "pictures/projections")
    outcome = finished.run("--cores", "2")
    assert outcome.code == 0, outcome.text
    assert differing(digests(atlas.results), digests(finished.results)) == []
    assert finished.plan() == {}


def same_as_in(atlas: Place, place: Place) -> bool:
    """Say whether everything that was made in a place is as it is in the whole atlas."""
    whole = digests(atlas.results)
    return PICTURE.removeprefix("results/") in (made := digests(place.results)) and all(
        whole[name] == digest for name, digest in made.items()
    )
