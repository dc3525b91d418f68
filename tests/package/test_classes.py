"""Files of class names: no line break but the file's own ever moves a name to another output."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convatlas.classes import one_line, read_classes
from convatlas.data.prepare import list_classes
from convatlas.errors import DataError

BREAKS = ["\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029"]
EDGES = st.sampled_from(["", " ", "\t", "\n", "\r", "\u3000", "\ufeff", "\0", "\ud800", *BREAKS])
NAMES = st.builds("".join, st.tuples(EDGES, st.text(max_size=6), EDGES, st.text(max_size=2), EDGES))


@pytest.mark.parametrize("character", BREAKS, ids=[f"U+{ord(c):04X}" for c in BREAKS])
def test_only_an_end_of_line_separates_names(tmp_path: Path, character: str) -> None:
    path = tmp_path / "classes.txt"
    path.write_text(f"tench\nfly{character}catcher\nshark\n", encoding="utf-8")
    assert read_classes(path) == ["tench", f"fly{character}catcher", "shark"]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_every_editors_file_reads_alike(tmp_path: Path, end: str, mark: str) -> None:
    path = tmp_path / "classes.txt"
    path.write_bytes(f"{mark}tench {end}{end}\tgold fish{end}{end}".encode())
    assert read_classes(path) == ["tench", "", "gold fish"]


@settings(max_examples=300, deadline=None, derandomize=True)
@given(names=st.lists(NAMES.filter(bool), max_size=6))
def test_what_is_written_a_name_a_line_is_read_again(
    tmp_path_factory: pytest.TempPathFactory, names: list[str]
) -> None:
    path = tmp_path_factory.getbasetemp() / "classes.txt"
    lines = [one_line(name) for name in names]
    path.write_bytes("".join(f"{line}\n" for line in lines).encode())
    assert read_classes(path) == lines
    assert [one_line(line) for line in lines] == lines  # nothing is escaped twice


def test_a_plain_name_stays_as_it_is() -> None:
    for name in ("gold fish", "C:\\x", "Größe", "写真", "👩‍🔬", "می‌خواهم", "<script>", "a\u00a0b"):
        assert one_line(name) == name
    assert one_line(" a\nb\u2028") == "\\x20a\\nb\\u2028"


def test_class_folders_with_line_breaks_keep_their_outputs(tmp_path: Path) -> None:
    for name in ("a\nb", "c\rd", "e\x85f", " g", "h ", "\u2028"):
        (tmp_path / "photos" / name).mkdir(parents=True)
    source = {"source": "folder", "path": str(tmp_path / "photos"), "labels": None}
    names = list_classes(source | {"classes": None})
    assert len(names) == 6
    path = tmp_path / "classes.txt"
    path.write_text("".join(f"{name}\n" for name in names), encoding="utf-8", newline="\n")
    assert read_classes(path) == names
    assert names == ["\\x20g", "a\\nb", "c\\rd", "e\\x85f", "h\\x20", "\\u2028"]


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "classes.txt"
    with pytest.raises(DataError, match=r"classes\.txt.* is not there"):
        read_classes(path)
    path.write_text("caf\xe9\n", encoding="utf-16")
    with pytest.raises(DataError, match=r"classes\.txt.* is not UTF-8"):
        read_classes(path)
    with pytest.raises(DataError, match="is not there"):
        read_classes(path / "below")
