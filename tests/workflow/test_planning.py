"""What a plan says before a run, and how right it is after one."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest
from running import Outcome, Place

UNITS = {"kB": 1e3, "MB": 1e6, "GB": 1e9}


@dataclass(frozen=True)
class Row:
    """A row of the table: jobs, and bytes."""

    to_run: int
    done: int
    memory: float
    to_write: float
    there: float


def table(text: str) -> dict[str, Row]:
    """Read the table of a plan by the places of its columns."""
    lines = text.splitlines()
    (first,) = [i for i, line in enumerate(lines) if line.startswith("rule ")]
    ends = [m.end() for m in re.finditer(r"\S+(?: \S+)*", lines[first])]
    found = {}
    for line in lines[first + 2 :]:
        if not line:
            break
        if line.startswith("-"):
            continue
        name = line.split("  ")[0]
        rest = line[len(name) :].rjust(len(line))
        cells = [rest[a:b].strip() for a, b in pairwise(ends)]
        found[name] = Row(
            *(int(cells[i] or 0) for i in (0, 1)), *(in_bytes(cells[i]) for i in (2, 5, 6))
        )
    return found


def in_bytes(cell: str) -> float:
    number, _, unit = cell.partition(" ")
    return float(number.replace(",", "")) * UNITS[unit] if cell else 0.0


def planned(place: Place) -> str:
    outcome = place.run("--cores", "1", "--quiet", "--", "plan")
    assert outcome.code == 0, outcome.text
    return outcome.text


@pytest.fixture(scope="module")
def before(start: Place, tmp_path_factory: pytest.TempPathFactory) -> tuple[Place, str]:
    """The plan of the whole atlas, and where nothing but it was run."""
    place = start.copied(tmp_path_factory.mktemp("planned"))
    return place, planned(place)


@pytest.fixture(scope="module")
def after(atlas: Place) -> str:
    """The plan once all was made."""
    return planned(atlas)


def by_script(plan: dict[str, set[str]]) -> dict[str, int]:
    """Count a run's jobs; of blocks of exhibits by the rule that they stand for."""
    count: dict[str, int] = defaultdict(int)
    for rule, jobs in plan.items():
        count[re.sub(r"_\d+(_to_\d+)?$", "", rule)] += len(jobs)
    return dict(count)


def test_it_counts_the_jobs_that_a_run_does(
    before: tuple[Place, str], made: tuple[Place, Outcome]
) -> None:
    rows = table(before[1])
    total = rows.pop("in all")
    ran = by_script(made[1].planned)
    assert {name: row.to_run + row.done for name, row in rows.items()} == ran
    assert rows["describe_model"].done == total.done == ran["describe_model"]
    assert total.to_run == sum(ran.values()) - total.done
    assert "WARNING" not in before[1]


def test_it_makes_nothing_but_the_layers(before: tuple[Place, str]) -> None:
    results = before[0].results
    found = {
        path.relative_to(results).as_posix()
        for path in results.rglob("*")
        if path.is_file() and path.relative_to(results).parts[0] not in ("logs", "benchmarks")
    }
    own = {path for path in found if not path.startswith(".snakemake")}
    assert own == {"models/small/layers.json", "models/mine/layers.json"}


def test_after_a_run_nothing_is_to_be_done(after: str, made: tuple[Place, Outcome]) -> None:
    assert "Nothing to be done" in after
    total = table(after)["in all"]
    assert (total.to_run, total.done) == (0, sum(by_script(made[1].planned).values()))


@pytest.mark.usefixtures("made")
def test_memory_is_enough_and_not_far_too_much(before: tuple[Place, str], observed: Path) -> None:
    """By the most that each job held, as it says itself."""
    rows = table(before[1])
    peaks: dict[str, float] = defaultdict(float)
    for record in map(json.loads, (path.read_text() for path in observed.glob("*.json"))):
        peaks[record["rule"]] = max(peaks[record["rule"]], record["peak"])
    known = {rule: peak for rule, peak in peaks.items() if rule in rows and rows[rule].memory}
    assert len(known) > 40
    assert {rule for rule, peak in known.items() if peak > rows[rule].memory} == set()
    large = {rule: peak for rule, peak in known.items() if peak > 500e6}
    assert {rule for rule, peak in large.items() if 5 * peak < rows[rule].memory} == set()


@pytest.mark.parametrize(
    "rule",
    [
        *("prepare_images", "train_model", "extract_activations", "record_maps", "cut_filters"),
        *("project_patches", "sweep_occlusion", "record_saliency", "rank_patches"),
    ],
)
def test_what_is_written_is_as_much_as_estimated(
    rule: str, before: tuple[Place, str], after: str
) -> None:
    ratio = table(before[1])[rule].to_write / table(after)[rule].there
    assert 1 / 1.5 < ratio < 1.5


def test_a_broken_config_is_told_without_a_traceback(fresh: Place) -> None:
    fresh.change(lambda c: c["studies"]["scenes"].update(layers=["nowhere"]))
    outcome = fresh.run("--cores", "1", "--", "plan")
    assert outcome.code != 0
    assert "no layer 'nowhere'" in outcome.text
    assert "Traceback" not in outcome.text
