"""Two clean runs of the demo, on one core and on two, give the same bytes; takes ten minutes."""

from __future__ import annotations

from pathlib import Path

from running import Place, copy_workflow, differing, digests


def test_two_runs_of_the_demo_give_the_same_bytes(tmp_path: Path) -> None:
    copy_workflow(tmp_path / "project")
    made = []
    for cores in ("2", "1"):
        place = Place(tmp_path / "project", tmp_path / cores)
        place.folder.mkdir()
        outcome = place.run("--cores", cores, config=None)
        assert outcome.code == 0, outcome.text
        made.append(digests(place.results))
    assert len(made[0]) > 150
    assert differing(*made) == []
