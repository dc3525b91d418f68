"""Digests change with what matters and with nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from convatlas import digest
from convatlas.digest import code_digest, file_digest, files_digest, module_digests, text_digest

NET = '''"""A network."""

from helper import width


def build(x):
    """Build it."""
    return x * width  # times
'''


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "net.py").write_text(NET)
    (tmp_path / "helper.py").write_text("from deep.er import width\n")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "__init__.py").write_text("")
    (tmp_path / "deep" / "er.py").write_text("from . import also\n\nwidth = 3\n")
    (tmp_path / "deep" / "also.py").write_text("y = 1\n")
    (tmp_path / "unrelated.py").write_text("z = 1\n")
    return tmp_path


def fresh(path: Path | str) -> str:
    """Return a code digest as a new process would."""
    for cached in vars(digest).values():
        if hasattr(cached, "cache_clear"):
            cached.cache_clear()
    return code_digest(str(path))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("  # times", "  # multiplied"),
        ('"""Build it."""', '"""Another\n    text."""'),
        ('"""A network."""', ""),
        ("x * width", "(x*width)"),
        ("def build", "\n\n\ndef build"),
    ],
)
def test_comments_docstrings_and_layout_dont_count(old: str, new: str, folder: Path) -> None:
    before = fresh(folder / "net.py")
    assert old in NET
    (folder / "net.py").write_text(NET.replace(old, new))
    assert fresh(folder / "net.py") == before


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("net.py", NET.replace("x * width", "x + width")),
        ("helper.py", "from deep.er import width\nwidth += 1\n"),
        ("deep/er.py", "from . import also\n\nwidth = 4\n"),
        ("deep/also.py", "y = 2\n"),
        ("deep/__init__.py", "import os\n"),
    ],
)
def test_code_counts_also_of_what_is_imported(name: str, content: str, folder: Path) -> None:
    before = fresh(folder / "net.py")
    (folder / name).write_text(content)
    assert fresh(folder / "net.py") != before


def test_what_isnt_imported_doesnt_count(folder: Path) -> None:
    before = fresh(folder / "net.py")
    (folder / "unrelated.py").write_text("z = 2\n")
    assert fresh(folder / "net.py") == before


def test_files_of_one_name_in_two_folders_both_count(folder: Path) -> None:
    (folder / "deep" / "net.py").write_text("a = 1\n")
    paths = (str(folder / "net.py"), str(folder / "deep" / "net.py"))
    before = code_digest(*paths)
    (folder / "deep" / "net.py").write_text("a = 2\n")
    fresh(folder / "net.py")
    assert code_digest(*paths) != before


@pytest.mark.parametrize("name", ["net.v2.py", "my-net.py"])
def test_odd_file_names(name: str, folder: Path) -> None:
    path = folder / name
    path.write_text("a = 1\n")
    before = fresh(path)
    path.write_text("a = 2\n")
    assert fresh(path) != before


def test_a_faulty_file_has_a_digest_too(folder: Path) -> None:
    path = folder / "net.py"
    path.write_text("def build(:\n")
    before = fresh(path)
    path.write_text("def build(x:\n")
    assert fresh(path) != before


def test_a_file_in_a_package_counts_what_it_imports_from_there(tmp_path: Path) -> None:
    package = tmp_path / "pkg" / "nets"
    package.mkdir(parents=True)
    for place in (package, package.parent):
        (place / "__init__.py").write_text("")
    (package / "net.py").write_text("from pkg.parts import a\nfrom ..more import b\n")
    (package.parent / "parts.py").write_text("a = 1\n")
    (package.parent / "more.py").write_text("b = 1\n")
    seen = {fresh(package / "net.py")}
    (package.parent / "parts.py").write_text("a = 2\n")
    seen.add(fresh(package / "net.py"))
    (package.parent / "more.py").write_text("b = 2\n")
    seen.add(fresh(package / "net.py"))
    assert len(seen) == 3


def test_a_users_file_counts_what_it_imports_from_us(tmp_path: Path) -> None:
    path = tmp_path / "net.py"
    path.write_text("from convatlas.models.architectures import small_zf\n")
    assert {"net", "convatlas.models.architectures"} <= set(module_digests(str(path)))


def test_code_on_the_import_path_counts_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, library = tmp_path / "nets" / "net.py", tmp_path / "lib" / "mine.py"
    for path, text in ((net, "from mine import scale\n"), (library, "scale = 1\n")):
        path.parent.mkdir()
        path.write_text(text)
    monkeypatch.syspath_prepend(library.parent)
    before = fresh(net)
    library.write_text("scale = 2\n")
    assert fresh(net) != before


def test_versions_of_installed_packages_count(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "helper.py").write_text("import json\nimport torch.nn\nfrom PIL import Image\n")
    before = fresh(folder / "net.py")
    named = [package.partition(" ")[0] for package in digest.packages_of(str(folder / "net.py"))]
    assert named == ["pillow", "torch"]
    known = digest.metadata.version
    monkeypatch.setattr(digest.metadata, "version", lambda name: known(name) + "+cpu")
    assert fresh(folder / "net.py") == before  # another build of the same
    monkeypatch.setattr(digest.metadata, "version", lambda name: known(name) + ".1")
    assert fresh(folder / "net.py") != before


def test_module_digests_the_package() -> None:
    found = module_digests("convatlas.patches")
    assert {"convatlas", "convatlas.patches", "convatlas.store", "convatlas.files"} <= set(found)
    assert not {"convatlas.embedding", "convatlas.graph.tracing"} & set(found)
    assert "convatlas.graph.geometry" in module_digests("convatlas.activations")
    assert "convatlas.graph" in module_digests("convatlas.projection")


def test_another_process_gives_the_same() -> None:
    command = "from convatlas.digest import code_digest; print(code_digest('convatlas.patches'))"
    found = subprocess.run(
        [sys.executable, "-c", command], capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == code_digest("convatlas.patches")


def test_an_unknown_package_is_an_error() -> None:
    with pytest.raises(ModuleNotFoundError):
        code_digest("nopackage.module")


def test_files_count_by_content_and_place(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    first, second = tmp_path / "cat" / "1.png", tmp_path / "2.png"
    first.write_bytes(b"a")
    second.write_bytes(b"b")
    before = files_digest([first, second], tmp_path)
    assert files_digest([second, first], tmp_path) != before
    (tmp_path / "cat").rename(tmp_path / "dog")
    assert files_digest([tmp_path / "dog" / "1.png", second], tmp_path) != before
    whole = file_digest(second)
    second.write_bytes(b"c")
    assert file_digest(second) != whole
    assert text_digest(["ab", "c"]) != text_digest(["a", "bc"])


@pytest.fixture
def remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], tuple[str, int]]:
    """Three files; a function that returns their digest, and how many were read for it."""
    monkeypatch.setattr(digest, "_SETTLED", -(10**12))  # as if they were old
    paths = [tmp_path / "photos" / f"{number}.png" for number in range(3)]
    paths[0].parent.mkdir()
    for path in paths:
        path.write_bytes(path.name.encode())
    read: list[object] = []
    real = digest._read
    monkeypatch.setattr(digest, "_read", lambda path: (read.append(path), real(path))[1])

    def ask() -> tuple[str, int]:
        read.clear()
        found = files_digest(paths, paths[0].parent, tmp_path / "kept" / "photos.json")
        return found, len(read)

    return ask


def test_files_are_read_once(remembered: Callable[[], tuple[str, int]], tmp_path: Path) -> None:
    first, count = remembered()
    assert count == 3
    assert first == files_digest(sorted((tmp_path / "photos").iterdir()), tmp_path / "photos")
    assert remembered() == (first, 0)
    (tmp_path / "kept/photos.json").write_text("torn{")
    assert remembered() == (first, 3)
    assert remembered() == (first, 0)
    (tmp_path / "kept/photos.json").write_text("[]")
    assert remembered() == (first, 3)


def test_a_long_reading_is_told(
    remembered: Callable[[], tuple[str, int]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(digest, "_LARGE", 14)  # of 15 bytes
    remembered()
    assert [r.levelname for r in caplog.records] == ["WARNING"]
    assert "reading 3 files in" in caplog.text
    remembered()
    assert len(caplog.records) == 1


def test_a_change_that_keeps_size_and_time_is_seen(
    remembered: Callable[[], tuple[str, int]], tmp_path: Path
) -> None:
    first, _ = remembered()
    path = tmp_path / "photos/1.png"
    before = path.stat()
    path.write_bytes(b"!.png")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    changed, count = remembered()
    assert (changed != first, count) == (True, 3)
    path.write_bytes(b"1.png")  # as it was, at another time
    assert remembered() == (first, 3)
    other = tmp_path / "photos/other"
    other.write_bytes(b"1.png")
    other.replace(path)
    assert remembered() == (first, 3)


def test_what_was_written_just_now_is_read_again(
    remembered: Callable[[], tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digest, "_SETTLED", 10**12)
    first, _ = remembered()
    assert remembered() == (first, 3)


def test_nothing_can_be_kept_where_nothing_can_be_written(
    remembered: Callable[[], tuple[str, int]], tmp_path: Path
) -> None:
    (tmp_path / "kept").write_text("a file")
    first, _ = remembered()
    assert remembered() == (first, 3)
