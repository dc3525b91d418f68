"""The map of the images: neighbours, their preservation, and the grid."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from figure_artifacts import write_images
from scipy.spatial.distance import cdist

from convatlas import embedding
from convatlas.embedding import arrange_grid, embed_codes, find_neighbours, measure_quality
from convatlas.errors import DataError
from convatlas.store import (
    ActivationWriter,
    Embedding,
    Grid,
    ImageWriter,
    Neighbours,
    Others,
    Quality,
    Recipe,
    read,
    write,
)


def write_codes(path: Path, codes: np.ndarray) -> Path:
    """Write codes (N,D) as the means of a layer."""
    count, units = codes.shape
    with ActivationWriter(path, Recipe(), {"code": units}, 0, count, "code") as writer:
        zeros = np.zeros((count, units, 2), int)
        writer.write("code", 0, {"max": codes + 1, "mean": codes, "argmax": zeros})
    return path


def clusters(count: int, groups: int = 6, units: int = 20, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    centres = generator.normal(0, 3, (groups, units))
    codes = centres[np.arange(count) % groups] + generator.normal(0, 1, (count, units))
    return codes.astype(np.float32)


def neighbours_of(
    folder: Path,
    codes: np.ndarray,
    count: int = 30,
    components: int = 50,
    sample: int = 20_000,
    seed: int = 0,
) -> Path:
    folder.mkdir(exist_ok=True)
    output = folder / "neighbours.h5"
    find_neighbours(
        activations=write_codes(folder / "activations.h5", codes),
        output=output,
        recipe=Recipe(),
        layer="code",
        code="mean",
        components=components,
        neighbours=count,
        sample=sample,
        seed=seed,
    )
    return output


def embed(
    neighbours: Path, name: str = "embedding.h5", perplexity: float = 10, iterations: int = 150
) -> Path:
    output = neighbours.with_name(name)
    embed_codes(
        neighbours=neighbours,
        output=output,
        recipe=Recipe(),
        perplexity=perplexity,
        iterations=iterations,
        early_exaggeration=12,
        seed=0,
    )
    return output


def nearest(points: np.ndarray, k: int) -> np.ndarray:
    distance = cdist(points, points)
    np.fill_diagonal(distance, np.inf)
    return np.argsort(distance, axis=1, kind="stable")[:, :k]


def test_neighbours_are_the_nearest_by_code(tmp_path: Path) -> None:
    codes = clusters(90)
    found = read(Neighbours, neighbours_of(tmp_path, codes, 12))
    np.testing.assert_array_equal(found.neighbour, nearest(codes.astype(float), 12))
    expected = np.take_along_axis(cdist(codes, codes), found.neighbour, 1)
    np.testing.assert_allclose(found.distance, expected, rtol=1e-4)


def test_codes_are_the_first_principal_components(tmp_path: Path) -> None:
    codes = clusters(80)
    found = read(Neighbours, neighbours_of(tmp_path, codes, 5, components=3)).code
    centred = codes.astype(float) - codes.mean(0)
    left, scale, _ = np.linalg.svd(centred, full_matrices=False)
    np.testing.assert_allclose(np.abs(found), np.abs(left * scale)[:, :3], rtol=1e-3, atol=1e-3)


def test_an_image_isnt_its_own_neighbour_even_beside_its_copies(tmp_path: Path) -> None:
    codes = np.repeat(clusters(5), 4, axis=0)
    found = read(Neighbours, neighbours_of(tmp_path, codes, 3))
    for image, others in enumerate(found.neighbour):
        assert set(others) == set(range(image // 4 * 4, image // 4 * 4 + 4)) - {image}


def test_the_map_keeps_neighbours_together(tmp_path: Path) -> None:
    codes = clusters(150)
    position = read(Embedding, embed(neighbours_of(tmp_path, codes))).position
    k = 10
    truth, mapped = nearest(codes, k), nearest(position, k)
    kept = np.mean([len(set(a) & set(b)) / k for a, b in zip(truth, mapped, strict=True)])
    assert kept > 0.35  # random: 10 of 149
    same = (mapped % 6 == np.arange(150)[:, None] % 6).mean()
    assert same > 0.95


def test_the_same_bytes_twice(tmp_path: Path) -> None:
    neighbours = neighbours_of(tmp_path, clusters(40))
    files = [embed(neighbours, name).read_bytes() for name in ("a.h5", "b.h5")]
    assert files[0] == files[1]


@pytest.mark.parametrize("count", [4, 5, 7, 11, 30])
def test_few_images(count: int, tmp_path: Path) -> None:
    neighbours = neighbours_of(tmp_path, clusters(count), 90)
    position = read(Embedding, embed(neighbours, perplexity=30)).position
    assert position.shape == (count, 2)
    assert np.isfinite(position).all()


def test_too_few_images_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="3 images"):
        neighbours_of(tmp_path, clusters(3))


def test_images_with_one_code_lie_on_one_point(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As by a layer whose units are all dead, which is no reason to stop."""
    embedding = embed(neighbours_of(tmp_path, np.ones((9, 4), np.float32)))
    assert "same code" in caplog.text
    assert not read(Embedding, embedding).position.any()


def test_pixels_can_be_mapped(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (30, 5, 4, 3)).astype(np.uint8)
    with ImageWriter(tmp_path / "i.h5", Recipe(), (5, 4)) as writer:
        for i, image in enumerate(pixels):
            writer.append(image, 0, str(i))
    find_neighbours(
        images=tmp_path / "i.h5",
        output=tmp_path / "n.h5",
        recipe=Recipe(),
        layer="pixels",
        code="mean",
        components=60,
        neighbours=6,
        sample=30,
        seed=0,
    )
    found = read(Neighbours, tmp_path / "n.h5")  # as many components as images: nothing is lost
    np.testing.assert_array_equal(found.neighbour, nearest(pixels.reshape(30, -1), 6))


# ----------------------------------------------------------- more than are embedded


def others_of(neighbours: Path) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return the images that aren't in the sample, and all that is known of them."""
    with Others(neighbours) as others:
        found = list(others.blocks(("code", "neighbour", "distance"), 7))
        blocks = [block for _, block in found]
        whole = {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
        assert np.concatenate([image for image, _ in found]).tolist() == others.image.tolist()
        return others.image, whole


def test_the_sample_is_uniform_and_keeps_what_it_has() -> None:
    draws = {(n, k): embedding._draw(n, k, 3) for n in (5000, 5500) for k in (1000, 2000)}
    for (images, sample), drawn in draws.items():
        assert len(np.unique(drawn)) == sample
        assert np.all(np.diff(drawn) > 0)
        assert abs(np.mean(drawn) / images - 0.5) < 4 * 0.29 / sample**0.5
    assert set(draws[5000, 1000]) < set(draws[5000, 2000])
    # Of more images each is less likely: a sample of 1,000 keeps 10 of 11.
    assert len(set(draws[5000, 1000]) & set(draws[5500, 1000])) > 850
    assert embedding._draw(5000, 1000, 4).tolist() != draws[5000, 1000].tolist()


def test_the_sample_is_mapped_as_if_it_were_alone(tmp_path: Path) -> None:
    codes = clusters(200)
    some = neighbours_of(tmp_path / "some", codes, 20, sample=80)
    found = read(Neighbours, some)
    assert found.image is not None
    assert len(found.image) == 80
    alone = neighbours_of(tmp_path / "alone", codes[found.image], 20)
    for name in ("code", "neighbour", "distance"):
        np.testing.assert_array_equal(getattr(found, name), getattr(read(Neighbours, alone), name))
    mapped, only = read(Embedding, embed(some)), read(Embedding, embed(alone))
    np.testing.assert_array_equal(mapped.position[found.image], only.position)
    assert mapped.embedded is not None
    assert np.flatnonzero(mapped.embedded).tolist() == found.image.tolist()
    assert (mapped.sampled, mapped.kl_divergence) == (80, only.kl_divergence)
    assert (only.sampled, only.embedded) == (None, None)


def test_others_get_their_nearest_in_the_sample(tmp_path: Path) -> None:
    codes = clusters(90)
    neighbours = neighbours_of(tmp_path, codes, 12, sample=40)
    sample = read(Neighbours, neighbours).image
    image, found = others_of(neighbours)
    assert image.tolist() == sorted(set(range(90)) - set(sample))
    distance = cdist(codes[image].astype(float), codes[sample].astype(float))
    expected = np.argsort(distance, axis=1)[:, :15]  # 20 components: nothing is lost
    np.testing.assert_array_equal(found["neighbour"], expected)
    np.testing.assert_allclose(
        found["distance"], np.take_along_axis(distance, expected, 1), rtol=1e-4
    )


def test_others_are_placed_in_their_clusters(tmp_path: Path) -> None:
    codes = clusters(400)
    neighbours = neighbours_of(tmp_path, codes, sample=120)
    sample, others = read(Neighbours, neighbours).image, others_of(neighbours)[0]
    position = read(Embedding, embed(neighbours)).position
    near = sample[np.argsort(cdist(position[others], position[sample]), axis=1)[:, :5]]
    assert (near % 6 == others[:, None] % 6).mean() > 0.95


def test_a_copy_is_placed_beside_what_it_is_a_copy_of(tmp_path: Path) -> None:
    codes = clusters(300)
    sample = embedding._draw(300, 150, 0)
    others = np.setdiff1d(np.arange(300), sample)
    codes[others] = codes[sample]
    position = read(Embedding, embed(neighbours_of(tmp_path, codes, sample=150))).position
    distance = cdist(position[others], position[sample])
    rank = (distance < np.diag(distance)[:, None]).sum(1)
    assert np.median(rank) <= 2  # of 150, with 25 in its cluster
    assert np.mean(rank < 10) > 0.95


def test_the_others_dont_depend_on_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    neighbours = neighbours_of(tmp_path, clusters(150), sample=50)
    first = embed(neighbours, "a.h5")
    assert first.read_bytes() == embed(neighbours, "b.h5").read_bytes()
    monkeypatch.setattr(embedding, "_ROWS", 7)
    again = read(Embedding, embed(neighbours, "c.h5")).position
    np.testing.assert_allclose(again, read(Embedding, first).position, atol=1e-4)


def test_a_sample_with_one_code(tmp_path: Path) -> None:
    position = read(
        Embedding, embed(neighbours_of(tmp_path, np.ones((30, 4), np.float32), sample=10))
    ).position
    assert position.shape == (30, 2)
    assert not position.any()


def test_memory_doesnt_grow_with_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for a few numbers an image: its random one, whether it is embedded, its place."""
    monkeypatch.setattr(embedding, "_HELD", 1 << 18)
    monkeypatch.setattr(embedding, "_ROWS", 1000)
    monkeypatch.setattr(embedding, "_PLACING_ITERATIONS", 2)
    monkeypatch.setattr(embedding, "_EARLY_ITERATIONS", 2)

    def peak(images: int) -> int:
        folder = tmp_path / str(images)
        codes = clusters(images, units=64)
        folder.mkdir()
        write_codes(folder / "activations.h5", codes)
        del codes
        tracemalloc.start()
        find_neighbours(
            activations=folder / "activations.h5",
            output=folder / "n.h5",
            recipe=Recipe(),
            layer="code",
            code="mean",
            components=50,
            neighbours=30,
            sample=200,
            seed=0,
        )
        embed(folder / "n.h5", iterations=2)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    few, many = peak(3000), peak(9000)
    assert many - few < 6000 * 60  # bytes; a code has 256, what is stored of it 320


# ---------------------------------------------------------------------- the quality


def judge(
    folder: Path,
    codes: np.ndarray,
    position: np.ndarray,
    labels: list[int],
    sample: int = 20_000,
) -> Quality:
    folder.mkdir(exist_ok=True)
    write_images(folder / "i.h5", (4, 4), labels)
    graph = neighbours_of(folder, codes, 20, sample=sample)
    map_ = Embedding(position=position.astype(np.float32), layer="code", perplexity=7.0)
    write(folder / "m.h5", map_, Recipe())
    measure_quality(
        neighbours=[graph],
        embeddings=[folder / "m.h5"],
        images=folder / "i.h5",
        output=folder / "q.h5",
        recipe=Recipe(),
        seed=0,
    )
    return read(Quality, folder / "q.h5")


def test_a_map_that_is_the_codes_is_perfect(tmp_path: Path) -> None:
    codes = clusters(60, groups=4, units=2)
    found = judge(tmp_path, codes, codes, [i % 4 for i in range(60)])
    assert found.recall[0] == pytest.approx(1, abs=0.01)  # distances are kept in single precision
    assert found.trustworthiness[0] == pytest.approx(1, abs=1e-3)
    assert found.map_accuracy[0] == pytest.approx(found.code_accuracy[0], abs=0.02)
    assert (found.near, found.images, found.trusted) == (10, 60, 60)


def test_a_shuffled_map_is_as_good_as_chance(tmp_path: Path) -> None:
    codes = clusters(120, groups=4, units=2)
    order = np.random.default_rng(3).permutation(120)
    found = judge(tmp_path, codes, codes[order], [i % 4 for i in range(120)])
    assert found.recall[0] < 0.2  # 10 of 119 by chance
    assert found.trustworthiness[0] < 0.65
    assert found.code_accuracy[0] > 0.6
    assert found.map_accuracy[0] < 0.5


def test_recall_and_votes_by_hand(tmp_path: Path) -> None:
    """On a line by code; in the map the last image has moved to the other end."""
    line = np.float32([[0], [1], [2.1], [3.3], [4.6]])
    place = np.float32([[0, 0], [1.1, 0], [2.3, 0], [3.6, 0], [-1, 0]])
    found = judge(tmp_path, line, place, [0, 0, 1, 1, 2])
    assert found.near == 2  # of five
    near = [  # by code; in the map
        ({1, 2}, {4, 1}), ({0, 2}, {0, 2}), ({1, 3}, {1, 3}), ({2, 4}, {2, 1}), ({3, 2}, {0, 1}),
    ]  # fmt: skip
    assert found.recall[0] == pytest.approx(sum(len(a & b) for a, b in near) / 10)
    assert found.code_accuracy[0] == pytest.approx(3 / 4)  # the nearest of image 2 is 1
    assert found.map_accuracy[0] == pytest.approx(2 / 4)  # and that of image 0 is 4


def test_labels_that_are_missing_dont_vote(tmp_path: Path) -> None:
    codes = clusters(40, groups=2, units=2) + np.float32([[100], [0]] * 20)
    labels = [i % 2 if i < 30 else -1 for i in range(40)]
    assert judge(tmp_path, codes, codes, labels).code_accuracy[0] == 1
    assert np.isnan(judge(tmp_path, codes, codes, [-1] * 40).code_accuracy[0])


def test_with_a_sample_the_nearest_are_still_those_of_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All are judged, so that the same comes out; then some of them, within what chance allows."""
    codes = clusters(160, groups=4, units=2)
    shifted = codes + np.random.default_rng(1).normal(0, 0.5, codes.shape).astype(np.float32)
    labels = [i % 4 if i % 7 else -1 for i in range(160)]
    monkeypatch.setattr(embedding, "_ROWS", 30)
    full = judge(tmp_path / "full", codes, shifted, labels)
    some = judge(tmp_path / "some", codes, shifted, labels, sample=40)
    for name in ("trustworthiness", "recall", "map_accuracy", "code_accuracy"):
        assert getattr(some, name)[0] == pytest.approx(getattr(full, name)[0], abs=0.01), name
    assert (some.images, some.trusted) == (160, 160)
    monkeypatch.setattr(embedding, "_TRUSTED", 80)
    fewer = judge(tmp_path / "fewer", codes, shifted, labels, sample=40)
    assert (fewer.images, fewer.trusted) == (80, 80)
    assert fewer.recall[0] == pytest.approx(full.recall[0], abs=0.06)
    assert fewer.code_accuracy[0] == pytest.approx(full.code_accuracy[0], abs=0.12)


def test_a_single_unit_can_be_mapped(tmp_path: Path) -> None:
    position = read(Embedding, embed(neighbours_of(tmp_path, clusters(30, units=1)))).position
    assert np.isfinite(position).all()


def grid_of(folder: Path, position: np.ndarray, side: int | str = "auto") -> np.ndarray:
    write(folder / "e.h5", Embedding(position=position.astype(np.float32)), Recipe())
    output = folder / "grid.h5"
    arrange_grid(embedding=folder / "e.h5", output=output, recipe=Recipe(), side=side, seed=0)
    return read(Grid, output).image


@pytest.mark.parametrize(
    ("count", "side", "expected"), [(50, "auto", 7), (50, 3, 3), (5, 9, 2), (900, 5, 5)]
)
def test_the_grid_shows_an_image_at_most_once(
    count: int, side: int | str, expected: int, tmp_path: Path
) -> None:
    image = grid_of(tmp_path, np.random.default_rng(0).normal(size=(count, 2)), side)
    assert image.shape == (expected, expected)
    assert len(np.unique(image)) == expected**2
    assert image.min() >= 0
    assert image.max() < count


def test_a_grid_knows_of_a_sample(tmp_path: Path) -> None:
    position = np.random.default_rng(0).normal(size=(20, 2)).astype(np.float32)
    embedded = (np.arange(20) < 12).astype(np.uint8)
    write(tmp_path / "e.h5", Embedding(position, "fc", 3.0, 0.5, embedded, 12), Recipe())
    output = tmp_path / "grid.h5"
    arrange_grid(embedding=tmp_path / "e.h5", output=output, recipe=Recipe(), side=3, seed=0)
    assert read(Grid, output).sampled == 12


def test_a_grid_of_a_grid_is_itself_with_the_top_first(tmp_path: Path) -> None:
    y, x = np.mgrid[0:4, 0:4]
    position = np.stack([x.ravel(), y.ravel()], 1)  # image 0 at the bottom left
    image = grid_of(tmp_path, position)
    assert image.tolist() == np.arange(16).reshape(4, 4)[::-1].tolist()


def test_near_cells_hold_near_points(tmp_path: Path) -> None:
    position = np.random.default_rng(1).normal(size=(100, 2))
    image = grid_of(tmp_path, position)
    steps = np.linalg.norm(position[image[:, 1:]] - position[image[:, :-1]], axis=-1)
    everywhere = cdist(position, position).mean()
    assert steps.mean() < 0.4 * everywhere


def test_the_perplexity_used_is_told(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    codes = generator.normal(size=(12, 3)).astype(np.float32)
    distance = np.linalg.norm(codes[:, None] - codes[None], axis=2)
    order = np.argsort(distance, axis=1)[:, 1:]
    found = Neighbours(codes, order, np.take_along_axis(distance, order, 1), "fc")
    write(tmp_path / "neighbours.h5", found, Recipe())
    embed_codes(
        neighbours=tmp_path / "neighbours.h5",
        output=tmp_path / "embedding.h5",
        recipe=Recipe(),
        perplexity=30,
        iterations=10,
        early_exaggeration=12,
        seed=0,
    )
    assert np.isclose(read(Embedding, tmp_path / "embedding.h5").perplexity, 11 / 3)
