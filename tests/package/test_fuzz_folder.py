"""Hostile tables and folders: taken as an independent reader sees them, or refused by name."""

from __future__ import annotations

import csv
import io
import os
import posixpath
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_data_folder import config, failing, prepare, put, table

from convatlas.data.folder import open_part
from convatlas.data.prepare import list_classes, source_digest
from convatlas.errors import DataError
from convatlas.files import read_csv

NFC, NFD = (unicodedata.normalize(form, "é.png") for form in ("NFC", "NFD"))
FILES = ["a.png", "sub/c.png", NFC, 'comma, quote".png', "line\nbreak.png", "=1+2.png"]

# ---------------------------------------------------------------------- tables

CELLS = st.one_of(
    st.sampled_from(
        [
            "",
            " ",
            "0",
            "1",
            "7",
            "-1",
            "+1",
            " 2 ",
            "1.5",
            "1e3",
            "1e999",
            "nan",
            "inf",
            "1_0",
            "１",
        ]
    ),
    st.sampled_from(["007", str(2**53 + 1), str(2**63), "9" * 5000, "0x1", "é", "x" * 200, '"']),
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=5),
)
NAMES = st.one_of(
    st.sampled_from(FILES),
    st.sampled_from(
        ["./a.png", "sub//c.png", "sub/./c.png", "none.png", NFD, "/a.png", "../a.png"]
    ),
    st.sampled_from(["sub\\c.png", "", ".", "x" * 300 + ".png"]),
)
HEADERS = st.lists(
    st.sampled_from(["x", " x", "y", "", "label", "attributes", "index", "w/h", "."]), max_size=3
)
BYTES = [b"\0", b'"', b"\r", b"\n", b"\r\n", b",", b"\xff", b"\xef\xbb\xbf", b";", b"\x1c", b" "]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tables") / "photos"
    for value, name in enumerate(FILES):
        put(folder / name, value, size=(2, 2))
    return folder


@st.composite
def tables(draw: st.DrawFn) -> bytes:
    """Draw a CSV file: as often as not a good one, else with odd names, labels or bytes."""
    odd = draw(st.sets(st.sampled_from(["header", "name", "label", "bytes"]), max_size=2))
    extra = draw(HEADERS if "header" in odd else st.sampled_from([[], ["x"], ["y ", "x"]]))
    header = draw(st.permutations(["file", "class_index", *extra]))
    names = draw(st.lists(NAMES if "name" in odd else st.sampled_from(FILES), unique=True))
    rows = []
    for name in names[:4]:
        label = draw(CELLS if "label" in odd else st.sampled_from(["0", "2", "", "-1", " 1 "]))
        cells = {"file": name, "class_index": label}
        rows.append([cells[key] if key in cells else draw(CELLS) for key in header])
    text = io.StringIO(newline="")
    end = draw(st.sampled_from(["\n", "\r\n", "\r"]))
    csv.writer(text, lineterminator=end).writerows([header, *rows])
    content = draw(st.sampled_from([b"", b"\xef\xbb\xbf"])) + text.getvalue().encode()
    for _ in range(draw(st.integers(1, 2)) if "bytes" in odd else 0):
        at = draw(st.integers(0, len(content)))
        after = content[at + draw(st.integers(0, 2)) :]
        content = content[:at] + draw(st.sampled_from(BYTES)) + after
    return content


def told(content: bytes) -> dict[str, tuple[int, dict[str, str]]]:
    """Read a table with `csv.DictReader`: file -> label and the other cells."""
    lines = io.StringIO(content.decode("utf-8-sig"), newline="")
    found = {}
    for row in csv.DictReader(lines, restval=""):
        cells = {name.strip(): cell for name, cell in row.items()}
        if any(cell.strip() for cell in cells.values()):
            name = posixpath.normpath(cells.pop("file"))
            label = cells.pop("class_index").strip()
            cells.pop("", None)
            found[name] = (int(label or -1), cells)
    return found


def is_as_written(value: Any, cell: str) -> bool:
    """Tell whether an attribute is what stands in its cell, as a number or as the text itself."""
    if isinstance(value, str):
        return value == cell
    if isinstance(value, np.int64):
        return cell.strip().isascii() and int(value) == int(cell)
    if not cell.strip() or cell.strip().lower() == "nan":
        return bool(np.isnan(value))
    whole = not cell.strip("+- 0123456789")
    exact = int(cell) if whole else float(cell)
    return bool(value == exact) and cell.strip().isascii() and "_" not in cell


def test_a_table_says_what_another_reader_sees_or_is_refused(photos: Path) -> None:
    labels = photos.parent / "labels.csv"
    source = config(photos, labels=labels, on_error="skip")
    taken: list[int] = []
    refused: list[str] = []

    @settings(max_examples=500, deadline=None, derandomize=True)
    @given(content=tables())
    def check(content: bytes) -> None:
        labels.write_bytes(content)
        try:
            samples = list(open_part(source, "images", None).samples)
        except DataError as error:
            refused.append(str(error))
            return
        expected = told(content)
        assert {s.name: s.label for s in samples} == {k: v[0] for k, v in expected.items()}
        assert [s.name for s in samples] == sorted(expected)
        assert len(list_classes(source)) == 1 + max(s.label for s in samples)
        for sample in samples:
            spelt = unicodedata.normalize("NFC", sample.name)
            if spelt in FILES:
                assert sample.image is not None
                assert (sample.image == FILES.index(spelt)).all()
                attributes = expected[sample.name][1]
                assert sample.attributes.keys() == attributes.keys()
                for name, value in sample.attributes.items():
                    assert is_as_written(value, attributes[name]), (value, attributes[name])
            else:
                assert sample.image is None
        taken.append(len(samples))

    check()
    assert len(taken) > 100, "hardly a table was taken, so hardly anything was compared"
    assert all(str(photos.parent) in message and len(message) < 1500 for message in refused)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("file,class_index\na.png,1\0\n", ["line 2", "byte 0", "UTF-8"]),
        ("file,class_index\na.png,99999999999999999999\n", ["line 2", "99999999999999999999"]),
        ("file,class_index\na.png,1000000\n", ["line 2", "1000000", "counted from 0"]),
        (f"file,class_index\na.png,{'9' * 5000}\n", ["line 2", "99999..."]),
        ("file,class_index\na.png,１\n", ["line 2", "'１'", "whole number"]),
        ("file,class_index\na.png,1_0\n", ["line 2", "'1_0'"]),
        (f"file,class_index\n{NFC},1\n{NFD},2\n", ["line 3", "second time"]),
        ("file,class_index\na.png,1\n./a.png,2\n", ["line 3", "second time"]),
        ("file,class_index\nsub/c.png,1\nsub//c.png,1\n", ["line 3", "second time"]),
        ("file,class_index\nsub\\c.png,1\n", ["line 2", "sub\\c.png", "with / between"]),
        ("file,class_index\nC:\\photos\\a.png,1\n", ["line 2", "with / between"]),
        (f"file,class_index\n{'x' * 200_000},1\n", ["line 2", "not CSV", "limit"]),
        ('file,class_index\n"a.png"x,1\n', ["line 2", "not CSV", "double quote"]),
        ("file,class_index, x,x \na.png,1,2,3\n", ["two columns 'x'"]),
        ("\nfile,class_index\na.png,1\n", ["'file'", "none"]),
        ("file,class_index" + ",a" * 5000, ["5002 columns"]),
    ],
)
def test_a_table_that_cannot_be_right_names_the_line(
    photos: Path, tmp_path: Path, text: str, parts: list[str]
) -> None:
    message = failing(config(photos, labels=table(tmp_path / "labels.csv", text)), tmp_path)
    for part in [str(tmp_path / "labels.csv"), *parts]:
        assert part in message
    assert "\n" not in message


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32"])
def test_a_table_in_another_encoding(photos: Path, tmp_path: Path, encoding: str) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_bytes("file,class_index\na.png,1\n".encode(encoding))
    assert "UTF-8" in failing(config(photos, labels=labels), tmp_path)


def test_a_file_name_too_long_for_the_disk_is_a_missing_file(photos: Path, tmp_path: Path) -> None:
    labels = table(tmp_path / "labels.csv", f"file,class_index\n{'x' * 999}.png,1\n")
    assert "line 2" in failing(config(photos, labels=labels), tmp_path)
    assert source_digest(config(photos, labels=labels))


@pytest.mark.parametrize(
    ("cells", "kept"),
    [
        (["1", "-2"], [1, -2]),
        (["1", " 2.5"], [1.0, 2.5]),
        (["1_0", "2"], ["1_0", "2"]),
        (["１", "2"], ["１", "2"]),
        (["12345678901234567891", "1"], ["12345678901234567891", "1"]),
        ([str(2**53 + 1), "0.5"], [str(2**53 + 1), "0.5"]),
        ([str(2**63 - 1), "0"], [2**63 - 1, 0]),
        (["1e999", "1"], ["1e999", "1"]),
        (["-inf", "1"], [-np.inf, 1.0]),
        (["", ""], ["", ""]),
    ],
)
def test_no_number_becomes_another(
    photos: Path, tmp_path: Path, cells: list[str], kept: list[Any]
) -> None:
    text = f"file,class_index,x\na.png,0,{cells[0]}\nsub/c.png,0,{cells[1]}\n"
    source = config(photos, labels=table(tmp_path / "labels.csv", text))
    with prepare(source, tmp_path) as images:
        assert images.attributes()["x"].tolist() == kept


def test_attributes_may_be_called_like_parts_of_the_file(photos: Path, tmp_path: Path) -> None:
    names = ["attributes", "image", "label", "name", "mask", "index", "row", "..", "é", "#", " x "]
    with (tmp_path / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        rows = [["file", "class_index", *names]]
        rows += [[f, "0", *(f"{name}{i}" for name in names)] for i, f in enumerate(FILES[:2])]
        csv.writer(file).writerows(rows)
    with prepare(config(photos, labels=tmp_path / "labels.csv"), tmp_path) as images:
        found = images.attributes()
        assert images.names() == FILES[:2]
        assert images.labels().tolist() == [0, 0]
    assert found.keys() == {name.strip() for name in names}
    for name in names:
        assert found[name.strip()].tolist() == [f"{name}0", f"{name}1"]


# --------------------------------------------------------------------- folders

HOSTILE = [
    *(NFC, "tab\there.png", "new\nline.png", "quote'\".png", "-rf.png", "{wildcard}.png"),
    *("100%s.png", "=cmd|'C calc'!A0.png", "<script>alert(1).png", "$HOME.png", "*.png"),
    *("a" * 251 + ".png", "\u202egnp.png", "👩‍🔬.png", "con.png", " .png", "\x1b[31m.png"),
]


def test_hostile_file_names_come_through_unchanged(tmp_path: Path) -> None:
    for value, name in enumerate(HOSTILE):
        put(tmp_path / "photos" / name, value, size=(2, 2))
    source = config(tmp_path / "photos")
    with prepare(source, tmp_path) as images:
        assert images.names() == sorted(HOSTILE)
        shades = images.block(0, len(HOSTILE))[:, 0, 0, 0].tolist()
        assert shades == [HOSTILE.index(name) for name in sorted(HOSTILE)]
    assert read_csv(tmp_path / "out" / "manifest.csv")["file"] == sorted(HOSTILE)
    before = source_digest(source)
    put(tmp_path / "photos" / HOSTILE[-1], 99, size=(2, 2))
    assert source_digest(source) != before


def test_hostile_class_names_come_through(tmp_path: Path) -> None:
    names = [name.removesuffix(".png") for name in HOSTILE if not name.startswith(" ")]
    for name in names:
        put(tmp_path / "photos" / name / "0.png")
    found = list_classes(config(tmp_path / "photos"))
    assert len(found) == len(names)
    plain = {name for name in names if name.isprintable()}
    assert plain < set(found)
    assert {"new\\nline", "tab\\there", "\\x1b[31m"} < set(found)


def test_links_pipes_and_folders_named_as_images(tmp_path: Path) -> None:
    """None of them makes us wait, and no image that was meant to be there is lost in silence."""
    folder = tmp_path / "photos"
    put(folder / "a.png")
    (folder / "loop.png").symlink_to(folder / "loop.png")
    (folder / "nowhere.png").symlink_to(folder / "gone")
    (folder / "zero.png").symlink_to("/dev/zero")
    os.mkfifo(folder / "pipe.png")
    (folder / "deep.png").mkdir()
    labels = table(tmp_path / "labels.csv", "file,class_index\ndeep.png,0\na.png,1\n")
    with prepare(config(folder, labels=labels, on_error="skip"), tmp_path) as images:
        assert images.names() == ["a.png"]
    (folder / "deep.png").rmdir()
    assert "loop.png" in failing(config(folder), tmp_path / "other")
    with prepare(config(folder, on_error="skip"), tmp_path) as images:
        assert images.names() == ["a.png"]
    manifest = read_csv(tmp_path / "out" / "manifest.csv")
    skipped = ["loop.png", "nowhere.png", "pipe.png", "zero.png"]
    assert manifest["file"] == ["a.png", *skipped]
    assert manifest["status"] == ["kept", *["skipped"] * 4]
    assert source_digest(config(folder))  # and none of them is read for it


def test_a_folder_that_may_not_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / "cat" / "a.png")
    put(tmp_path / "cat" / "closed" / "b.png")
    scandir = os.scandir

    def refuse(path: Any) -> Any:
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)  # root, whom nothing is closed to, may test too
    message = failing(config(tmp_path), tmp_path / "other")
    assert str(tmp_path / "cat" / "closed") in message
    assert "Permission denied" in message
