"""Image folders: labels, classes, order, sizes, and files that can't be read."""

from __future__ import annotations

import csv
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from convatlas.data.images import Sizing
from convatlas.data.prepare import (
    image_size,
    list_classes,
    prepare_images,
    size_keys,
    source_digest,
)
from convatlas.errors import DataError
from convatlas.files import read_csv
from convatlas.store import Images, Recipe


def config(path: Path, **settings: Any) -> dict[str, Any]:
    defaults = {
        "source": "folder",
        "path": str(path),
        "labels": None,
        "classes": None,
        "resize": 16,
        "crop": 16,
        "interpolation": "bilinear",
        "on_error": "fail",
    }
    return defaults | {k: str(v) if isinstance(v, Path) else v for k, v in settings.items()}


def put(path: Path, value: int = 0, size: tuple[int, int] = (20, 30)) -> Path:
    """Write an image of one grey value."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size, 3), value, np.uint8)).save(path)
    return path


def table(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def prepare(source: dict[str, Any], folder: Path, **options: Any) -> Images:
    output = folder / "out" / "images.h5"
    manifest = folder / "out" / "manifest.csv"
    prepare_images(source, "images", output, manifest, Recipe(), **options)
    return Images(output)


def failing(source: dict[str, Any], folder: Path) -> str:
    """Return the message of the error, and see that nothing half-made is left."""
    with pytest.raises(DataError) as caught:
        prepare(source, folder)
    assert not list((folder / "out").glob("*")) if (folder / "out").exists() else True
    return str(caught.value)


# ------------------------------------------------------------------ a folder a class


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    for value, name in enumerate(["cat/b.png", "cat/a.PNG", "ant/z.png", "dog/deep/er/x.png"]):
        put(root / name, value)
    put(root / "dog" / ".hidden.png")
    put(root / ".cache" / "y.png")
    (root / "cat" / "notes.txt").write_text("not an image")
    return root


def test_rank_of_the_folder_is_the_label(classes: Path, tmp_path: Path) -> None:
    source = config(classes)
    with prepare(source, tmp_path) as images:
        assert images.names() == ["ant/z.png", "cat/a.PNG", "cat/b.png", "dog/deep/er/x.png"]
        assert images.labels().tolist() == [0, 1, 1, 2]
        assert images.block(0, 4)[:, 0, 0, 0].tolist() == [2, 1, 0, 3]
        assert images.size == (16, 16)
    assert list_classes(source) == ["ant", "cat", "dog"]
    manifest = read_csv(tmp_path / "out" / "manifest.csv")
    assert list(manifest) == ["file", "label", "status", "reason"]
    assert manifest["status"] == ["kept"] * 4


def test_line_in_the_classes_file_is_the_label(classes: Path, tmp_path: Path) -> None:
    names = table(tmp_path / "classes.txt", "wolf\ndog\ncat\nbee\nant\n\n")
    source = config(classes, classes=names)
    with prepare(source, tmp_path) as images:
        assert images.labels().tolist() == [4, 2, 2, 1]
    assert list_classes(source) == ["wolf", "dog", "cat", "bee", "ant"]


def test_unknown_class_folder_suggests_a_name(classes: Path, tmp_path: Path) -> None:
    names = table(tmp_path / "classes.txt", "ant\ncats\ndog\n")
    message = failing(config(classes, classes=names), tmp_path)
    assert "'cat'" in message
    assert "Did you mean 'cats'" in message


def test_class_folder_named_twice_in_the_classes_file(classes: Path, tmp_path: Path) -> None:
    names = table(tmp_path / "classes.txt", "ant\ncat\ncat\ndog\n")
    assert "twice" in failing(config(classes, classes=names), tmp_path)


def test_empty_line_among_the_classes(classes: Path, tmp_path: Path) -> None:
    names = table(tmp_path / "classes.txt", "ant\n\ncat\n")
    assert "line 2" in failing(config(classes, classes=names), tmp_path)


def test_images_beside_class_folders_are_left_out_aloud(
    classes: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put(classes / "stray.png")
    with prepare(config(classes), tmp_path) as images:
        assert len(images) == 4
    assert "stray.png" in caplog.text


def test_linked_class_folder_counts_and_a_circle_of_links_ends(
    classes: Path, tmp_path: Path
) -> None:
    (classes / "elk").symlink_to(classes / "ant")
    (classes / "ant" / "circle").symlink_to(classes)
    with prepare(config(classes), tmp_path) as images:
        assert images.names()[-1] == "elk/z.png"
        assert len(images) == 5


@pytest.mark.parametrize(
    ("edit", "counts"),
    [
        (lambda folder: put(folder / "cat/c.png"), True),
        (lambda folder: put(folder / "cat/b.png", value=9), True),
        (lambda folder: (folder / "cat/b.png").unlink(), True),
        (lambda folder: (folder / "cat/b.png").rename(folder / "cat/bb.png"), True),
        (lambda folder: (folder / "cat/b.png").rename(folder / "ant/b.png"), True),
        (lambda folder: (folder / "bee").mkdir(), True),  # the classes after it move up
        (lambda folder: (folder / "zebra").mkdir(), False),
        (lambda folder: (folder / "cat/b.png").touch(), False),
        (lambda folder: (folder / "cat/notes.txt").write_text("not an image"), False),
        (lambda folder: put(folder / "outside.png"), False),
    ],
    ids=["more", "changed", "less", "renamed", "moved", "class", "last", "touch", "text", "stray"],
)
def test_what_counts_of_class_folders(classes: Path, edit: Any, counts: bool) -> None:
    before = source_digest(config(classes))
    edit(classes)
    assert (source_digest(config(classes)) != before) is counts


def test_of_class_names_counts_what_they_make_of_the_labels(classes: Path, tmp_path: Path) -> None:
    names = table(tmp_path / "classes.txt", "ant\ncat\ndog\nemu\n")
    in_folders = config(classes, classes=names)
    photos = put(tmp_path / "flat" / "a.png").parent
    in_table = config(photos, labels=labels_of(photos, "a.png"), classes=names)
    before = source_digest(in_folders), source_digest(in_table)
    table(names, "ant\ncat\ndog\nemu\nfly\n")
    assert source_digest(in_folders) == before[0]
    assert source_digest(in_table) != before[1]  # one label more would be allowed
    table(names, "bat\ncow\ndog\nelk\n")
    assert source_digest(in_table) == before[1]
    table(names, "ant\nemu\ndog\ncat\n")
    assert source_digest(in_folders) != before[0]


def test_where_the_folder_lies_does_not_count(classes: Path, tmp_path: Path) -> None:
    before = source_digest(config(classes))
    assert source_digest(config(classes.rename(tmp_path / "elsewhere"))) == before


def keys_of(source: dict[str, Any]) -> dict[str, Any]:
    return size_keys(source, lambda: source_digest(source))


def test_what_decides_the_size(classes: Path) -> None:
    fixed = {"preset": None} | config(classes)
    free = fixed | {"resize": None, "crop": None}
    before = keys_of(fixed), keys_of(free)
    assert image_size(before[0]) == (16, 16)
    assert image_size(before[1]) == (20, 30)
    put(classes / "ant/a.png", size=(40, 50))
    assert keys_of(fixed) == before[0]
    assert keys_of(free) != before[1]
    assert image_size(keys_of(free)) == (40, 50)
    assert image_size(keys_of(fixed | {"crop": 8})) == (8, 8)


# ------------------------------------------------------------------------- flat


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    for value, name in enumerate(["a.png", "b.png", "sub/c.png"]):
        put(root / name, value)
    return root


def test_flat_folder_without_labels(tmp_path: Path) -> None:
    root = tmp_path / "photos"
    put(root / "b.png", 1)
    put(root / "a.png", 0)
    with prepare(config(root), tmp_path) as images:
        assert images.names() == ["a.png", "b.png"]
        assert images.labels().tolist() == [-1, -1]
    assert list_classes(config(root)) == []


def test_table_gives_labels_and_attributes(flat: Path, tmp_path: Path) -> None:
    text = (
        "\ufefffile,class_index,name,weight,legs,\r\n"
        'sub/c.png,7,"bird, small",1.5,2,x\r\n'
        "b.png,,cat,,4,y\r\n"
        "\r\n"
        "a.png,-1,dog,30,4,z\r\n"
    )
    labels = tmp_path / "labels.csv"
    labels.write_bytes(text.encode())
    source = config(flat, labels=labels)
    with prepare(source, tmp_path) as images:
        assert images.names() == ["a.png", "b.png", "sub/c.png"]
        assert images.labels().tolist() == [-1, -1, 7]
        attributes = images.attributes()
        assert sorted(attributes) == ["legs", "name", "weight"]
        assert attributes["name"].tolist() == ["dog", "cat", "bird, small"]
        assert np.array_equal(attributes["weight"], [30, np.nan, 1.5], equal_nan=True)
        assert attributes["legs"].dtype.kind == "i"
    assert list_classes(source) == [str(i) for i in range(8)]


def test_files_outside_the_table_are_left_out_aloud(
    flat: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    labels = table(tmp_path / "labels.csv", "file,class_index\nb.png,0\n")
    with prepare(config(flat, labels=labels), tmp_path) as images:
        assert images.names() == ["b.png"]
    assert "left out 2 images" in caplog.text
    assert "sub/c.png" in caplog.text


def test_accents_may_be_spelt_otherwise(tmp_path: Path) -> None:
    put(tmp_path / "photos" / unicodedata.normalize("NFD", "café.png"), 5)
    name = unicodedata.normalize("NFC", "café.png")
    labels = table(tmp_path / "labels.csv", f"file,class_index\n{name},0\n")
    with prepare(config(tmp_path / "photos", labels=labels), tmp_path) as images:
        assert images.names() == [name]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name,class_index\na.png,1\n", ["'file'", "'name'"]),
        ("file;class_index\na.png;1\n", ["'file;class_index'", "commas"]),
        ("file,class_idx\na.png,1\n", ["'class_index'", "Did you mean 'class_idx'"]),
        ("file,class_index\na.png,1\nb.png,one\n", ["line 3", "'one'", "whole number"]),
        ("file,class_index\na.png,1.5\n", ["line 2", "'1.5'"]),
        ("file,class_index\na.png,-2\n", ["line 2", "-2"]),
        ("file,class_index\na.png,3\n", ["line 2", "3", "0 to 2"]),
        ("file,class_index\na.png,1\na.png,2\n", ["line 3", "a.png", "second time"]),
        ("file,class_index\n,1\n", ["line 2", "file is missing"]),
        ("file,class_index\n/etc/a.png,1\n", ["line 2", "/etc/a.png"]),
        ("file,class_index\n../a.png,1\n", ["line 2", "../a.png"]),
        ("file,class_index\na.png,1,bird, small\n", ["line 2", "quotes"]),
        ("file,class_index,x,x\na.png,1,2,3\n", ["two columns 'x'"]),
        ("file,class_index,w/h\na.png,1,2\n", ["'w/h'"]),
        ('file,class_index\n"a.png,1\n', ["not CSV"]),
        ("file,class_index\n", ["no images"]),
        ("", ["'file'", "none"]),
    ],
)
def test_wrong_table_is_named_with_its_line(
    flat: Path, tmp_path: Path, text: str, expected: list[str]
) -> None:
    classes = table(tmp_path / "classes.txt", "x\ny\nz\n")
    labels = table(tmp_path / "labels.csv", text)
    message = failing(config(flat, labels=labels, classes=classes), tmp_path)
    for part in expected:
        assert part in message


def test_table_that_is_not_text(flat: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_bytes("file,class_index\nä.png,1\n".encode("latin-1"))
    assert "UTF-8" in failing(config(flat, labels=labels), tmp_path)


def test_folder_without_images_or_without_folder(tmp_path: Path) -> None:
    assert "not a folder" in failing(config(tmp_path / "no"), tmp_path)
    (tmp_path / "empty").mkdir()
    assert "no images" in failing(config(tmp_path / "empty"), tmp_path)


def test_a_folder_has_no_training_part(flat: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no training part"):
        prepare_images(config(flat), "train", tmp_path / "a.h5", tmp_path / "a.csv", Recipe())


# ------------------------------------------------------------------- unreadable files


@pytest.fixture
def damaged(flat: Path) -> Path:
    (flat / "b.png").write_bytes((flat / "b.png").read_bytes()[:40])
    return flat


def labels_of(folder: Path, *names: str) -> Path:
    path = folder.parent / "labels.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("file", "class_index", "note"), *((n, 3, n) for n in names)])
    return path


def test_unreadable_file_fails_with_its_name(damaged: Path, tmp_path: Path) -> None:
    labels = labels_of(damaged, "a.png", "b.png")
    message = failing(config(damaged, labels=labels), tmp_path)
    assert str(damaged / "b.png") in message
    assert "on_error: skip" in message


def test_missing_file_fails_with_its_line(flat: Path, tmp_path: Path) -> None:
    labels = labels_of(flat, "a.png", "nine.png")
    message = failing(config(flat, labels=labels), tmp_path)
    assert "nine.png" in message
    assert f"{labels}, line 3" in message


def test_skipped_files_are_in_the_manifest(
    damaged: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    labels = labels_of(damaged, "a.png", "b.png", "nine.png", "sub/c.png")
    with prepare(config(damaged, labels=labels, on_error="skip"), tmp_path) as images:
        assert images.names() == ["a.png", "sub/c.png"]
        assert images.attributes()["note"].tolist() == ["a.png", "sub/c.png"]
    manifest = read_csv(tmp_path / "out" / "manifest.csv")
    assert manifest["file"] == ["a.png", "b.png", "nine.png", "sub/c.png"]
    assert manifest["label"] == ["3"] * 4
    assert manifest["status"] == ["kept", "skipped", "skipped", "kept"]
    assert manifest["reason"][2] == "there is no such file"
    assert all(str(tmp_path) not in reason for reason in manifest["reason"])
    assert "skipped 2 of 4" in caplog.text


def test_nothing_left_after_skipping(damaged: Path, tmp_path: Path) -> None:
    labels = labels_of(damaged, "b.png")
    message = failing(config(damaged, labels=labels, on_error="skip"), tmp_path)
    assert "None of the 1 images" in message


def test_file_name_that_is_not_utf8(tmp_path: Path) -> None:
    root = tmp_path / "photos"
    source = put(root / "a.png")
    try:
        source.rename(root / "caf\udce9.png")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    with prepare(config(root), tmp_path) as images:
        assert images.names() == ["caf\\xe9.png"]


# ------------------------------------------------------------------------- sizes


@pytest.mark.parametrize(("resize", "crop", "side"), [(20, 10, 10), (20, None, 20), (None, 12, 12)])
def test_size_of_the_images(
    flat: Path, tmp_path: Path, resize: int | None, crop: int | None, side: int
) -> None:
    labels = labels_of(flat, "a.png", "sub/c.png")
    with prepare(config(flat, labels=labels, resize=resize, crop=crop), tmp_path) as images:
        assert images.size == (side, side)


def test_images_without_a_size_stay_as_they_are(flat: Path, tmp_path: Path) -> None:
    labels = labels_of(flat, "a.png")
    with prepare(config(flat, labels=labels, resize=None, crop=None), tmp_path) as images:
        assert images.size == (20, 30)


def test_images_of_two_sizes_are_refused(tmp_path: Path) -> None:
    for name, size in {"a.png": (20, 30), "b.png": (30, 20)}.items():
        Image.new("RGB", size).save(tmp_path / name)
    with pytest.raises(
        DataError, match=r"b\.png has 20 x 30 .* Set the data set's resize and crop"
    ):
        prepare(config(tmp_path, resize=None, crop=None), tmp_path / "out")


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        (("torchvision/googlenet", "DEFAULT"), Sizing(256, 224, "bilinear")),
        (("torchvision/inception_v3", "IMAGENET1K_V1"), Sizing(342, 299, "bilinear")),
        (("torchvision/efficientnet_b0", "DEFAULT"), Sizing(256, 224, "bicubic")),
    ],
)
def test_preset_gives_the_size_of_its_weights(
    tmp_path: Path, preset: tuple[str, str], expected: Sizing
) -> None:
    from convatlas.data.folder import resolve_sizing

    assert resolve_sizing(config(tmp_path, resize=None, crop=None), preset) == expected
    assert resolve_sizing(config(tmp_path, crop=None), preset) == Sizing(16, 16)


def test_unknown_preset(tmp_path: Path) -> None:
    from convatlas.data.presets import preset_sizing

    with pytest.raises(DataError, match="no such network"):
        preset_sizing("torchvision/nonet", "DEFAULT")
    with pytest.raises(DataError, match="Did you mean 'IMAGENET1K_V1'"):
        preset_sizing("torchvision/alexnet", "IMAGENET_V1")


def test_same_folder_same_bytes(classes: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        prepare_images(
            config(classes), "images", tmp_path / name, tmp_path / f"{name}.csv", Recipe()
        )
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert (tmp_path / "one.csv").read_bytes() == (tmp_path / "two.csv").read_bytes()
