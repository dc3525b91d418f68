"""Two clean runs give the same bytes, whatever the number of cores."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from running import Place, differing, digests


def test_another_run_on_one_core_gives_the_same_bytes(atlas: Place, fresh: Place) -> None:
    """The atlas itself was made on two. All of one study, and what was trained for the other.

    (All of the other, on two cores, is compared in test_crashes.)
    """
    trained = "results/scenes/figures/training/curves.png"
    outcome = fresh.run("--cores", "1", "results/pictures/report/index.html", trained)
    assert outcome.code == 0, outcome.text
    made, whole = digests(fresh.results), digests(atlas.results)
    kinds = Counter(Path(name).suffix for name in made)
    assert {".h5", ".png", ".svg", ".csv", ".json", ".html", ".pt", ".txt"} == set(kinds)
    assert {name for name in whole if name.startswith("pictures/")} <= set(made)
    assert differing({name: whole[name] for name in made}, made) == []


def test_nothing_made_names_this_machine(atlas: Place) -> None:
    """Neither its paths nor its clock nor its user."""
    words = (str(atlas.folder), str(atlas.project), str(Path.home() / "."), "2026-", "/tmp/")
    for path in sorted(atlas.results.rglob("*")):
        parts = path.relative_to(atlas.results).parts
        if path.is_file() and parts[0] not in ("logs", "benchmarks", ".snakemake"):
            content = path.read_bytes()
            assert [word for word in words if word.encode() in content] == [], path
