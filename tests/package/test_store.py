"""Artifacts: what is written is what is read, by us and by xarray, or an error."""

from __future__ import annotations

import dataclasses
import fcntl
import shutil
import tracemalloc
from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray

from convatlas import store
from convatlas.errors import StoreError
from convatlas.store import (
    Activations,
    ActivationWriter,
    Exhibit,
    Images,
    ImageWriter,
    MapWriter,
    Recipe,
    gather_activations,
    read,
    read_maps,
    write,
)

RECIPE = Recipe("c0de", {"seed": 3, "size": [1, 2]}, {"images": "d1ge57"})
GENERATOR = np.random.default_rng(0)


def numbers(*shape: int) -> np.ndarray:
    return GENERATOR.normal(size=shape).astype(np.float32)


def whole(*shape: int) -> np.ndarray:
    return GENERATOR.integers(0, 9, shape)


def one(*shape: int) -> np.ndarray:
    return GENERATOR.integers(0, 256, shape).astype(np.uint8)


ARTIFACTS = {
    "exhibit": Exhibit(one(5, 6, 3), 4, 1, "a/ä.png", one(5, 6)),
    "exhibit without mask": Exhibit(one(5, 6, 3), 4, -1, "b"),
    "patches": store.Patches(
        whole(4), numbers(4, 2), whole(4, 2), whole(4, 2, 2), whole(4, 2, 4), numbers(4, 2),
        whole(4) > 3, numbers(4), "c",
    ),
    "projections": store.Projections(
        whole(3), numbers(3, 2, 3, 80, 90), numbers(3, 2), whole(3, 2), whole(3, 2, 4),
        numbers(3, 2), whole(3, 2) > 3, "c",
    ),
    "neighbours": store.Neighbours(numbers(6, 3), whole(6, 2), numbers(6, 2), "c"),
    "neighbours in a sample": store.Neighbours(
        numbers(6, 3), whole(6, 2), numbers(6, 2), "c", whole(6)
    ),
    "embedding": store.Embedding(numbers(6, 2), "c", 0.25),
    "embedding of a sample": store.Embedding(numbers(6, 2), "c", 0.25, 0.5, one(6), 4),
    "grid": store.Grid(whole(3, 3), "c", 12),
    "quality": store.Quality(
        np.array(["c", "pixels"], object), numbers(2), numbers(2), numbers(2), numbers(2),
        numbers(2), numbers(2), 10, 50, 40,
    ),
    "nearest": store.Nearest(
        np.array(["pixels", "c"], object), whole(2, 3), numbers(2, 3).astype(float), 4
    ),
    "votes": store.Votes(
        whole(4), whole(4), whole(4), whole(4) > 3, whole(4, 2), numbers(4, 2).astype(float), 6,
        0.5, 3, 2, 0.1, 0.9, "c",
    ),
    "occlusion": store.Occlusion(
        whole(2), whole(3), numbers(2, 3, 5), numbers(2, 3), numbers(5), 1.5, (8, 9), (4, 5),
        (0.5, 1, 2), "c", 7, 2.5, (1, 2), 3,
    ),
    "strongest": store.Strongest(
        whole(2), numbers(2), whole(2, 4), one(2, 5, 6, 3), numbers(2, 3, 5, 6), "c", 1
    ),
    "saliency": store.Saliency(
        3, 1.5, 0.25, numbers(3, 5, 6), None, numbers(3, 5, 6), "", "so", ""
    ),
    "directions": store.Directions(
        numbers(3, 4), numbers(3, 2), whole(3, 2), whole(3, 2, 2), whole(3, 2, 4), numbers(4),
        numbers(4), numbers(3), numbers(3), numbers(4), numbers(4), "c", "fc",
    ),
    "filters": store.Filters(
        numbers(4, 3, 5, 5), *(numbers(4) for _ in range(7)), whole(4), numbers(4, 4), "c", 2,
        (4, 2), 0.25, 0.5,
    ),
    "effective fields": store.EffectiveFields(
        np.array(["a", "ä/b"], dtype=object), numbers(2, 5, 6), whole(2, 2), whole(2, 4),
        whole(2, 2), whole(2, 4), numbers(2), numbers(2), 0.95, 7,
    ),
    "health": store.Health(
        whole(4), *(numbers(4) for _ in range(6)), *(whole(4) > 3 for _ in range(3)), whole(9),
        0.5, 12, 1, "c",
    ),
    "health of snapshots": store.HealthHistory(
        whole(2), np.array(["a", "b", "c"], object), whole(3), numbers(5), numbers(2, 3),
        numbers(2, 3), numbers(2, 3, 5), numbers(2, 3, 5), numbers(2, 3), 12,
    ),
    "firing": store.Firing(
        whole(4), numbers(4), whole(4), whole(4), whole(4), whole(4, 8), whole(4, 8), numbers(4),
        whole(4), whole(4), numbers(4), numbers(4), numbers(4, 3), whole(4, 3), whole(4, 3, 2),
        whole(4, 3, 4), 0.5, 12, 10, 1, "c",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ARTIFACTS)
def test_round_trip_bytes_and_xarray(name: str, tmp_path: Path) -> None:
    artifact = ARTIFACTS[name]
    path = tmp_path / "new" / "a.h5"
    write(path, artifact, RECIPE)
    found = read(type(artifact), path)
    for item in dataclasses.fields(artifact):
        wanted, value = getattr(artifact, item.name), getattr(found, item.name)
        if wanted is None:
            assert value is None
        else:
            np.testing.assert_array_equal(value, wanted)
    write(tmp_path / "again.h5", artifact, RECIPE)
    assert (tmp_path / "again.h5").read_bytes() == path.read_bytes()
    with xarray.open_dataset(path, engine="h5netcdf") as opened:
        for item in dataclasses.fields(artifact):
            if "axes" in item.metadata and getattr(artifact, item.name) is not None:
                assert opened[item.name].dims == item.metadata["axes"]
                np.testing.assert_array_equal(opened[item.name], getattr(artifact, item.name))
        assert opened.attrs["code"] == "c0de"
        assert opened.attrs["digest"] == RECIPE.attributes()["digest"]
        assert opened.attrs["convatlas_version"]


def test_others_come_back_beside_their_sample(tmp_path: Path) -> None:
    sample = store.Neighbours(numbers(2, 3), whole(2, 1), numbers(2, 1), "c", np.array([1, 4]))
    code, near, far = numbers(4, 3), whole(4, 2), numbers(4, 2)
    for name in "ab":
        with store.OthersWriter(tmp_path / f"{name}.h5", RECIPE, sample, 6, 2) as writer:
            writer.append(code[:1], near[:1], far[:1])
            writer.append(code[1:], near[1:], far[1:])
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()
    np.testing.assert_array_equal(read(store.Neighbours, tmp_path / "a.h5").image, [1, 4])
    with store.Others(tmp_path / "a.h5") as others:
        (first, block), (rest, last) = others.blocks(("code", "neighbour", "distance"), 3)
    assert (first.tolist(), rest.tolist()) == ([0, 2, 3], [5])
    for name, written in (("code", code), ("neighbour", near), ("distance", far)):
        np.testing.assert_array_equal(np.concatenate([block[name], last[name]]), written)
    with xarray.open_dataset(tmp_path / "a.h5", group="others", engine="h5netcdf") as opened:
        assert opened["neighbour"].dims == ("index", "rank")
    write(tmp_path / "all.h5", ARTIFACTS["neighbours"], RECIPE)
    with store.Others(tmp_path / "all.h5") as others:
        assert not len(others.image)
        assert not list(others.blocks(("code",), 3))


def test_digests_tell_recipes_apart(tmp_path: Path) -> None:
    write(tmp_path / "a.h5", ARTIFACTS["grid"], RECIPE)
    one, many = [tmp_path / "a.h5"], [tmp_path / "a.h5"] * 101
    made = Recipe.of({"code": "x", "k": 1}, {"a": tmp_path / "a.h5", "b": one, "c": many})
    assert made.parameters == {"k": 1}
    own = RECIPE.attributes()["digest"]
    assert made.inputs == {"a": own, "b[0]": own, "c": store.joined_digest([own] * 101)}
    digests = {
        Recipe.of(p, {}).attributes()["digest"]
        for p in ({"code": "x"}, {"code": "y"}, {"code": "x", "k": 1}, {"code": "x", "k": 2})
    }
    assert len(digests) == 4


def test_files_that_arent_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with pytest.raises(StoreError, match="doesn't exist"):
        read(Exhibit, path)
    write(path, ARTIFACTS["projections"], RECIPE)
    content = path.read_bytes()
    for length in (0, 100, len(content) // 2):
        path.write_bytes(content[:length])
        with pytest.raises(StoreError, match="not a whole HDF5 file"):
            read(store.Projections, path)
    path.write_text("no HDF5")
    with pytest.raises(StoreError, match="Delete it"):
        read(store.Projections, path)


def test_an_artifact_of_another_kind(tmp_path: Path) -> None:
    write(tmp_path / "a.h5", ARTIFACTS["grid"], RECIPE)
    with pytest.raises(StoreError, match="not a Neighbours artifact"):
        read(store.Neighbours, tmp_path / "a.h5")
    with pytest.raises(StoreError, match="lacks a part"):
        read_maps(tmp_path / "a.h5", "conv1")


def test_other_errors_while_a_file_is_open_pass(tmp_path: Path) -> None:
    write(tmp_path / "a.h5", ARTIFACTS["grid"], RECIPE)
    with pytest.raises(KeyError, match="ours"), store.reading(tmp_path / "a.h5"):
        raise KeyError("ours")


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    write(path, ARTIFACTS["grid"], RECIPE)
    before = path.read_bytes()
    with pytest.raises(StoreError, match="on the way"), store.creating(path, RECIPE):
        raise StoreError("on the way")
    with pytest.raises(ValueError, match="among"), ImageWriter(path, RECIPE, (4, 4)) as writer:
        writer.append(one(5, 5, 3), 0, "x")
    with pytest.raises(StoreError, match="single image"), ImageWriter(path, RECIPE, (4, 4)):
        pass
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.h5"]


def test_maps(tmp_path: Path) -> None:
    maps = {"features.0": numbers(3, 5, 6), "features.1": numbers(2, 2, 3)}
    with MapWriter(tmp_path / "m.h5", RECIPE) as writer:
        for layer, value in maps.items():
            writer.write(layer, value)
    for layer, value in maps.items():
        np.testing.assert_array_equal(read_maps(tmp_path / "m.h5", layer), value)
        with xarray.open_dataset(tmp_path / "m.h5", engine="h5netcdf", group=layer) as opened:
            assert opened["map"].dims == ("unit", "row", "column")


def test_images_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told before HDF5 writes, which would crash; nothing is left."""
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=2 * 256 * 48 - 1))

    def write_images(count: int) -> None:
        with ImageWriter(tmp_path / "i.h5", RECIPE, (4, 4)) as writer:
            for number in range(count):
                writer.append(np.zeros((4, 4, 3), np.uint8), 0, str(number))

    with pytest.raises(OSError, match="No space left"):
        write_images(300)
    assert list(tmp_path.iterdir()) == []
    write_images(200)


def test_images(tmp_path: Path) -> None:
    count = 600  # more than two blocks
    pixels = one(count, 4, 5, 3)
    with ImageWriter(tmp_path / "i.h5", RECIPE, (4, 5)) as writer:
        for i, image in enumerate(pixels):
            attributes = {"place": np.array([i, 2.5]), "kind": f"k{i % 3}", "size": i / 7}
            writer.append(image, i % 4 - 1, f"{i}.png", attributes, (image[..., 0] > 99))
    with Images(tmp_path / "i.h5") as images:
        assert (len(images), images.size) == (count, (4, 5))
        np.testing.assert_array_equal(images.block(250, 270), pixels[250:270])
        np.testing.assert_array_equal(images.rows([7, 3, 7, 599]), pixels[[7, 3, 7, 599]])
        assert images.rows([]).shape == (0, 4, 5, 3)
        np.testing.assert_allclose(images.mean, pixels.mean((0, 1, 2)))
        np.testing.assert_allclose(images.std, pixels.std((0, 1, 2)))
        assert images.labels().tolist() == [i % 4 - 1 for i in range(count)]
        assert images.names()[599] == images.name(599) == "599.png"
        assert images.names(255, 258) == ["255.png", "256.png", "257.png"]
        np.testing.assert_array_equal(images.mask(3), pixels[3, ..., 0] > 99)
        attributes = images.attributes()
        assert attributes["kind"][4] == "k1"
        assert attributes["place"][9].tolist() == [9, 2.5]
    with xarray.open_dataset(tmp_path / "i.h5", engine="h5netcdf") as opened:
        assert opened["image"].dims == ("index", "row", "column", "channel")
        assert opened["label"].dims == ("index",)
    with xarray.open_dataset(tmp_path / "i.h5", engine="h5netcdf", group="attributes") as opened:
        assert opened["size"].dims == ("index",)
        assert opened["place"].shape == (count, 2)


def test_an_attribute_that_changes_its_type_isnt_cut_off(tmp_path: Path) -> None:
    image, sizes = one(2, 2, 3), [*range(256), *(np.arange(256) + 0.5)]
    with ImageWriter(tmp_path / "i.h5", RECIPE, (2, 2)) as writer:
        for i, size in enumerate(sizes[:-1]):
            writer.append(image, 0, str(i), {"size": size})
        with pytest.raises(ValueError, match="size"):
            writer.append(image, 0, "last", {"size": sizes[-1]})
        writer._rows.clear()


def write_shards(folder: Path, lengths: list[int], units: int = 3) -> tuple[list[Path], np.ndarray]:
    value = numbers(sum(lengths), units)
    paths, start = [], 0
    for i, length in enumerate(lengths):
        paths.append(folder / "parts" / f"{i}.h5")
        stop = start + length
        with ActivationWriter(
            paths[-1], RECIPE, {"b.1": units, "a": 1}, start, stop, "a"
        ) as writer:
            place = np.stack([np.arange(start, stop)[:, None].repeat(units, 1)] * 2, -1)
            summaries = {"max": value[start:stop], "mean": -value[start:stop], "argmax": place}
            writer.write("b.1", start, summaries)
        start = stop
    return paths, value


def test_gathered_shards_move_as_one(tmp_path: Path) -> None:
    shards, value = write_shards(tmp_path / "old", [4, 0, 3, 2])
    gather_activations(shards, tmp_path / "old" / "all.h5", RECIPE)
    assert (tmp_path / "old" / "all.h5").stat().st_size < 60_000
    shutil.move(tmp_path / "old", tmp_path / "new")
    path = tmp_path / "new" / "all.h5"
    with Activations(path) as found:
        assert found.output == "a"
        assert found.shape("b.1") == (9, 3)
        blocks = list(found.blocks("b.1", ["max", "argmax"], byte_limit=2 * 3 * 8))
        assert [start for start, _ in blocks] == [0, 2, 4, 6, 8]
        np.testing.assert_array_equal(np.concatenate([b["max"] for _, b in blocks]), value)
        assert blocks[2][1]["argmax"][1, 0].tolist() == [5, 5]
    with xarray.open_dataset(path, engine="h5netcdf", group="b.1") as opened:
        assert opened["max"].dims == ("index", "unit")
        np.testing.assert_array_equal(opened["mean"], -value)


def test_no_locks_are_needed(tmp_path: Path) -> None:
    """Not every shared file system has them. What somebody else has locked is read all the same."""
    shards, value = write_shards(tmp_path, [2, 3])
    gather_activations(shards, tmp_path / "all.h5", RECIPE)
    with (tmp_path / "all.h5").open("rb") as gathered, shards[1].open("rb") as shard:
        for file in (gathered, shard):
            fcntl.flock(file, fcntl.LOCK_EX)
        with Activations(tmp_path / "all.h5") as found:
            blocks = [block["max"] for _, block in found.blocks("b.1", ["max"])]
        np.testing.assert_array_equal(np.concatenate(blocks), value)


@pytest.mark.parametrize("how", ["gone", "cut"])
def test_a_lost_shard_isnt_read_as_zeros(how: str, tmp_path: Path) -> None:
    shards, _ = write_shards(tmp_path, [4, 3])
    gather_activations(shards, tmp_path / "all.h5", RECIPE)
    if how == "gone":
        shards[1].unlink()
    else:
        shards[1].write_bytes(shards[1].read_bytes()[:500])
    with pytest.raises(StoreError, match=r"1\.h5"), Activations(tmp_path / "all.h5"):
        pass
    with h5py.File(tmp_path / "all.h5", "r+"):  # and it is closed again
        pass


def test_memory_doesnt_grow_with_the_images(tmp_path: Path) -> None:
    count, units = 60_000, 100  # 24 MB a summary
    with ActivationWriter(tmp_path / "a.h5", RECIPE, {"x": units}, 0, count, "x") as writer:
        for start in range(0, count, 5000):
            zeros = np.zeros((5000, units), np.float32)
            place = np.zeros((5000, units, 2), np.int16)
            writer.write("x", start, {"max": zeros, "mean": zeros, "argmax": place})
    tracemalloc.start()
    with Activations(tmp_path / "a.h5") as found:
        rows = sum(len(b["max"]) for _, b in found.blocks("x", ["max", "mean"], byte_limit=1 << 20))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert rows == count
    assert peak < 6 << 20


def test_what_is_held_back_is_written_in_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    value = numbers(20, 3)
    for held in (1, 100, 1 << 20):
        monkeypatch.setattr(ActivationWriter, "_HELD", held)
        with ActivationWriter(tmp_path / "a.h5", RECIPE, {"x": 3}, 5, 25, "x") as writer:
            for first, stop in ((0, 4), (4, 9), (12, 20), (9, 12)):  # with a jump, and back
                writer.write("x", 5 + first, {"max": value[first:stop]})
        with Activations(tmp_path / "a.h5") as found:
            np.testing.assert_array_equal(found.block("x", "max", 0, 20), value)


def test_a_folder_has_the_digest_of_its_files(tmp_path: Path) -> None:
    folder = tmp_path / "snapshots"
    folder.mkdir()
    for name in ("2", "10", "0"):
        (folder / f"{name}.pt").write_text(name)
    (folder / ".snakemake_timestamp").touch()  # as Snakemake leaves it there
    parts = [store.artifact_digest(folder / f"{name}.pt") for name in ("0", "10", "2")]
    digest = store.artifact_digest(folder)
    assert digest == store.joined_digest(parts)
    assert Recipe.of({}, {"snapshots": folder}).inputs == {"snapshots": digest}
    (folder / "2.pt").write_text("other")
    assert store.artifact_digest(folder) != digest
