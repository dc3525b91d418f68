"""Files and folders appear whole, together, and from the process that began last."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from convatlas import files
from convatlas.errors import DamagedFile, StoreError
from convatlas.files import (
    abandon,
    check_writable,
    claiming,
    keep_inside,
    make_folder,
    read_csv,
    read_json,
    read_rows,
    replacing,
    write_csv,
    write_text,
)


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_what_is_claimed_appears_together_at_the_end(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "old")
    with claiming([tmp_path / "a", tmp_path / "deep" / "b"]):
        write_text(tmp_path / "a", "new")
        write_text(tmp_path / "deep" / "b", "new")
        assert (tmp_path / "a").read_text() == "old"
        assert not (tmp_path / "deep" / "b").exists()
    assert (tmp_path / "a").read_text() == (tmp_path / "deep" / "b").read_text() == "new"
    assert names(tmp_path) == ["a", "deep", "deep/b"]


def test_after_a_failure_nothing_appears(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "old")

    def fail() -> None:
        with claiming([tmp_path / "a", tmp_path / "b"]):
            write_text(tmp_path / "a", "new")
            write_text(tmp_path / "b", "new")
            raise ValueError("x")

    with pytest.raises(ValueError, match="x"):
        fail()
    assert (tmp_path / "a").read_text() == "old"
    assert names(tmp_path) == ["a"]


def test_a_folder_takes_the_place_of_another_as_a_whole(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    make_folder(folder)
    (folder / "stale").write_text("")
    with claiming([folder]):
        make_folder(folder)
        write_text(folder / "deep" / "new", "1")
        assert names(folder) == ["stale"]
    assert names(folder) == ["deep", "deep/new"]
    assert names(tmp_path) == ["folder", "folder/deep", "folder/deep/new"]


def test_a_claim_that_was_taken_away_puts_nothing_in_place(tmp_path: Path) -> None:
    """As of an orphan of yesterday's run, once today's job makes the same file."""
    path = tmp_path / "a"
    others = []

    def work() -> None:
        with claiming([path, tmp_path / "b"]):
            write_text(tmp_path / "b", "first")
            write_text(path, "first")
            others.append(files._Claim(path))
            others[0].content.write_text("second")

    with pytest.raises(StoreError, match="by another process that began later"):
        work()
    assert not path.exists()
    assert not (tmp_path / "b").exists()  # what belongs together isn't torn apart
    others[0].fulfil()
    others[0].release()
    assert path.read_text() == "second"
    assert names(tmp_path) == ["a"]


def test_what_a_killed_process_has_left_is_cleared_away(tmp_path: Path) -> None:
    program = (
        "import os, sys\nfrom convatlas.files import replacing\n"
        "with replacing(sys.argv[1]) as place:\n"
        "    place.write_text('half')\n    os.kill(os.getpid(), 9)\n"
    )
    path = tmp_path / "a[1].h5"
    done = subprocess.run([sys.executable, "-c", program, path], check=False)
    assert done.returncode == -9
    assert not path.exists()
    assert len(names(tmp_path)) == 2  # its claim, and the half in it
    write_text(path, "whole")
    assert names(tmp_path) == ["a[1].h5"]


def test_names_that_begin_alike_are_not_mixed_up(tmp_path: Path) -> None:
    with claiming([tmp_path / "a"]):
        write_text(tmp_path / "a", "1")
        write_text(tmp_path / "a.b", "2")
        write_text(tmp_path / "a.b", "3")
    assert names(tmp_path) == ["a", "a.b"]


def test_files_have_the_usual_permissions(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "1")
    make_folder(tmp_path / "b")
    plain = tmp_path / "c"
    plain.write_text("")
    assert (tmp_path / "a").stat().st_mode == plain.stat().st_mode
    assert (tmp_path / "b").stat().st_mode & 0o777 == 0o777 & ~umask()


def umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_giving_up_leaves_nothing(tmp_path: Path) -> None:
    def give_up() -> None:
        with claiming([tmp_path / "a"]), replacing(tmp_path / "a") as place:
            place.write_text("half")
            abandon()

    with pytest.raises(StoreError, match="thrown away"):
        give_up()
    assert names(tmp_path) == []


def test_records_move_into_the_results_and_go_where_they_go(tmp_path: Path) -> None:
    outer, inner = tmp_path / ".snakemake" / "metadata", tmp_path / "results" / "metadata"
    outer.mkdir(parents=True)
    inner.mkdir(parents=True)
    (outer / "one").write_text("new")
    (inner / "one").write_text("old")
    (inner / "two").write_text("old")
    for _ in range(2):
        keep_inside(outer, inner)
    assert outer.is_symlink()
    assert {path.name: path.read_text() for path in outer.iterdir()} == {"one": "new", "two": "old"}
    moved = tmp_path.rename(tmp_path.with_name("moved"))
    assert (moved / ".snakemake/metadata/one").read_text() == "new"
    moved.rename(tmp_path)


def test_a_link_to_results_that_were_deleted(tmp_path: Path) -> None:
    keep_inside(tmp_path / "a" / "m", tmp_path / "results" / "m")
    (tmp_path / "results" / "m").rmdir()
    keep_inside(tmp_path / "a" / "m", tmp_path / "results" / "m")
    assert (tmp_path / "a" / "m").is_dir()


def test_a_folder_that_is_not_there_cannot_be_written(tmp_path: Path) -> None:
    check_writable(tmp_path)
    assert names(tmp_path) == []
    with pytest.raises(StoreError, match="no file can be written there"):
        check_writable(tmp_path / "none")


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n3", "a,b\n1,2,3\n"])
def test_half_a_table(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(text)
    with pytest.raises(DamagedFile, match="is not a whole table"):
        read_csv(path)
    with pytest.raises(DamagedFile, match="is not a whole table"):
        list(read_rows(path))


def test_a_table_by_columns_and_by_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    write_csv(path, {"a": [1, 2], "b": ["x", 'y, "z"'], "c": [0.5, ""]})
    assert read_csv(path, only=["c", "a"]) == {"c": ["0.5", ""], "a": ["1", "2"]}
    assert list(read_rows(path))[1] == {"a": "2", "b": 'y, "z"', "c": ""}
    with pytest.raises(DamagedFile, match="lacks the columns d"):
        read_csv(path, only=["d", "a"])


def test_some_columns_of_a_table(tmp_path: Path) -> None:
    write_csv(tmp_path / "t.csv", {"a": range(3), "b": iter("xyz"), "c": [0] * 3})
    assert read_csv(tmp_path / "t.csv", ["c", "a"]) == {"a": ["0", "1", "2"], "c": ["0"] * 3}
    (tmp_path / "t.csv").write_text("a,b\n1,2\n3\n")
    with pytest.raises(DamagedFile):
        read_csv(tmp_path / "t.csv", ["a"])


def test_half_a_json_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"a": [1, 2]})[:-3])
    with pytest.raises(DamagedFile, match="is not JSON"):
        read_json(path)
