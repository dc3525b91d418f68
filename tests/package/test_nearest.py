"""Nearest images and their votes, against all distances and by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from figure_artifacts import write_images
from scipy.spatial.distance import cdist
from sklearn.neighbors import KNeighborsClassifier
from test_embedding import clusters, nearest, write_codes

from convatlas import nearest as searching
from convatlas.codes import PIXELS, open_codes
from convatlas.nearest import find_nearest
from convatlas.rates import interval
from convatlas.store import Exhibit, ImageWriter, Nearest, Recipe, Votes, read, write
from convatlas.votes import classify_neighbours, vote


def noise_images(path: Path, labels: list[int], size: tuple[int, int] = (6, 5)) -> np.ndarray:
    """Write images of noise and return their pixels, (N,D) float64."""
    pixels = np.random.default_rng(1).integers(0, 256, (len(labels), *size, 3)).astype(np.uint8)
    with ImageWriter(path, Recipe(), size) as writer:
        for i, (image, label) in enumerate(zip(pixels, labels, strict=True)):
            writer.append(image, label, f"{i}.png")
    return pixels.reshape(len(labels), -1).astype(np.float64)


def votes_of(folder: Path, codes: np.ndarray, labels: list[int], **options: int) -> Votes:
    if not (folder / "images.h5").exists():
        noise_images(folder / "images.h5", labels)
    classify_neighbours(
        images=folder / "images.h5",
        activations=write_codes(folder / "codes.h5", codes),
        output=folder / "votes.h5",
        recipe=Recipe(),
        layer="code",
        summary="mean",
        **{"voters": 5, "sample": 1000, "seed": 0, **options},
    )
    return read(Votes, folder / "votes.h5")


@pytest.mark.parametrize("held", [1 << 28, 4 * 20 * 7], ids=["at once", "seven at a time"])
def test_nearest_by_codes(held: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searching, "_HELD", held)
    codes = clusters(90)
    asked = np.array([3, 4, 50, 89, 0, 17, 18, 19])
    with open_codes("code", "mean", activations=write_codes(tmp_path / "a.h5", codes)) as opened:
        image, distance = searching.nearest(opened, asked, 12)
    np.testing.assert_array_equal(image, nearest(codes.astype(float), 12)[asked])
    expected = np.take_along_axis(cdist(codes[asked].astype(float), codes.astype(float)), image, 1)
    np.testing.assert_allclose(distance, expected, rtol=1e-9)


def test_blocks_dont_matter_and_copies_are_ties(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each image is there four times, at distance zero, and the lower ones come first."""
    codes = np.tile(clusters(11, units=300), (4, 1))
    monkeypatch.setattr("convatlas.codes._BYTES", 4 * 300 * 5)
    monkeypatch.setattr(searching, "_SLICE", 7)
    with open_codes("code", "mean", activations=write_codes(tmp_path / "a.h5", codes)) as opened:
        assert len(list(opened.blocks())) > 7
        image, distance = searching.nearest(opened, np.arange(44), 4)
    for one, found in enumerate(image):
        copies = [i for i in range(44) if i % 11 == one % 11 and i != one]
        assert found[:3].tolist() == copies
    assert (distance[:, :3] == 0).all()
    assert (distance[:, 3] > 0).all()


def test_nearest_of_an_exhibit_by_pixels_and_by_code(tmp_path: Path) -> None:
    pixels = noise_images(tmp_path / "images.h5", [0] * 20)
    codes = clusters(20)
    exhibits, outputs = ([tmp_path / f"{kind}{i}.h5" for i in range(2)] for kind in "en")
    for path, index in zip(exhibits, (7, 0), strict=True):
        write(path, Exhibit(np.zeros((6, 5, 3), np.uint8), index, 0, f"{index}.png"), Recipe())
    find_nearest(
        exhibits=exhibits,
        activations=write_codes(tmp_path / "codes.h5", codes),
        images=tmp_path / "images.h5",
        outputs=outputs,
        recipes=[Recipe()] * 2,
        layers=[PIXELS, "code"],
        summary="max",
        shown=50,
    )
    found, other = (read(Nearest, path) for path in outputs)
    assert found.compared.tolist() == ["pixels", "code"]
    assert found.image.shape == (2, 19)
    for row, points in enumerate((pixels, codes.astype(float))):
        np.testing.assert_array_equal(found.image[row], nearest(points, 19)[7])
        np.testing.assert_array_equal(other.image[row], nearest(points, 19)[0])
    np.testing.assert_allclose(
        found.distance[0, 0], np.linalg.norm(pixels[7] - pixels[found.image[0, 0]]), rtol=1e-6
    )


def test_a_vote_by_hand() -> None:
    rows = np.array(
        [
            [2, 1, 1, 3],  # two of one class
            [4, 2, 2, 4],  # two of two: that of the nearest
            [7, 8, 9, 1],  # all different: the nearest
            [-1, -1, 5, 6],  # those without a label don't vote
            [-1, -1, -1, -1],
        ]
    )
    assert vote(rows).tolist() == [1, 4, 7, 5, -1]


@pytest.mark.parametrize("voters", [1, 5])
def test_votes_leave_the_image_itself_out(voters: int, tmp_path: Path) -> None:
    codes = clusters(60, groups=3) + np.random.default_rng(2).normal(0, 9, (60, 20))
    labels = [int(i) for i in np.arange(60) % 3]
    found = votes_of(tmp_path, codes.astype(np.float32), labels, voters=voters)
    right = 0
    for one in range(60):
        others = np.delete(np.arange(60), one)
        peer = KNeighborsClassifier(1, algorithm="brute")  # a vote has its own rule for ties
        peer.fit(codes[others], np.array(labels)[others])
        if voters == 1:
            assert found.vote[one] == peer.predict(codes[one : one + 1])[0]
        right += int(found.vote[one] == labels[one])
    assert found.right == right
    assert found.counted == 60
    assert found.most == pytest.approx(1 / 3)
    assert right / 60 > 0.5
    assert found.low < right / 60 < found.high


def test_planted_classes_are_told_without_a_mistake(tmp_path: Path) -> None:
    codes = np.repeat(np.eye(4, dtype=np.float32) * 100, 6, axis=0)
    codes += np.random.default_rng(0).normal(0, 1, codes.shape).astype(np.float32)
    found = votes_of(tmp_path, codes, [i // 6 for i in range(24)])
    assert found.right == found.counted == 24


def test_only_labelled_images_vote_and_single_ones_dont_count(tmp_path: Path) -> None:
    """Images 0 and 1 are copies, so the unlabelled 1 would be the nearest to 0."""
    codes = np.float32([[0], [0], [1], [9], [9.5], [30]])
    labels = [0, -1, 0, 1, 1, 2]
    found = votes_of(tmp_path, codes, labels, voters=1)
    assert found.image.tolist() == [0, 2, 3, 4, 5]
    assert found.neighbour[:, 0].tolist() == [2, 0, 4, 3, 4]
    assert found.twin.tolist() == [1, 1, 1, 1, 0]
    assert (found.right, found.counted, found.labelled) == (4, 4, 5)


@pytest.mark.parametrize("labels", [[-1] * 6, [-1, -1, 3, -1, -1, -1]], ids=["none", "one"])
def test_without_labels_there_is_no_vote(labels: list[int], tmp_path: Path) -> None:
    found = votes_of(tmp_path, clusters(6), labels)
    assert found.counted == found.right == len(found.vote) == 0
    assert np.isnan([found.low, found.high]).all()


def test_a_sample_is_part_of_a_larger_one(tmp_path: Path) -> None:
    labels = [i % 4 for i in range(40)]
    few, many = (votes_of(tmp_path, clusters(40), labels, sample=n) for n in (7, 20))
    assert len(few.image) == 7
    assert set(few.image) < set(many.image)
    assert (np.diff(few.image) > 0).all()
    kept = np.isin(many.image, few.image)
    np.testing.assert_array_equal(many.neighbour[kept], few.neighbour)
    assert few.labelled == 40


def test_pixels_are_codes(tmp_path: Path) -> None:
    pixels = noise_images(tmp_path / "images.h5", [i % 2 for i in range(12)])
    classify_neighbours(
        images=tmp_path / "images.h5",
        activations=None,
        output=tmp_path / "v.h5",
        recipe=Recipe(),
        layer=PIXELS,
        summary="mean",
        voters=3,
        sample=100,
        seed=0,
    )
    found = read(Votes, tmp_path / "v.h5")
    np.testing.assert_array_equal(found.neighbour, nearest(pixels, 3))


def test_the_interval_is_wilsons() -> None:
    low, high = interval(8, 10)  # (p + z2/2n -+ z sqrt(p(1-p)/n + z2/4n2)) / (1 + z2/n)
    z, p, n = 1.959963984540054, 0.8, 10
    middle, half = p + z**2 / (2 * n), z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    assert (low, high) == pytest.approx(
        ((middle - half) / (1 + z**2 / n), (middle + half) / (1 + z**2 / n))
    )
    assert np.isnan(interval(0, 0)).all()


def test_blocks_cover_all_images_and_none_is_too_small(tmp_path: Path) -> None:
    write_images(tmp_path / "i.h5", (4, 4), [0] * 23)
    with open_codes(PIXELS, "mean", images=tmp_path / "i.h5") as codes:
        assert (codes.images, codes.components) == (23, 48)
        for fewest in (1, 5, 11, 12, 23, 50):
            blocks = [(start, len(block)) for start, block in codes.blocks(fewest, 4 * 48 * 3)]
            assert [start for start, _ in blocks] == list(
                np.cumsum([0, *(n for _, n in blocks)])[:-1]
            )
            assert sum(n for _, n in blocks) == 23
            assert min(n for _, n in blocks) >= min(fewest, 23)
        np.testing.assert_array_equal(codes.rows([5, 2]), codes.block(0, 23)[[5, 2]])
