"""Scores of occlusion sweeps against numbers by hand, the scenes that are scored, the figure."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from captum.attr import Occlusion as CaptumOcclusion
from figure_artifacts import pixels_of, write_classes
from studies import Study, write_noise

from convatlas.errors import DataError
from convatlas.exhibits import stratified_order
from convatlas.figures import style
from convatlas.figures.occlusion_score import plot_occlusion_score
from convatlas.files import read_csv, write_csv
from convatlas.models.load import import_model, load_model
from convatlas.models.training import train_model
from convatlas.occlusion import Sweep, sweep
from convatlas.occlusion.score import (
    Score,
    choose_scenes,
    score_scenes,
    score_sweep,
    spread_drop,
    untrained,
)
from convatlas.scores import gather_scores, summarise
from convatlas.store import Images, ImageWriter, Recipe

EXHIBITS = (7, 2, 7)
SIZE = (26, 31)


def swept(
    drop: list[list[float]],
    rows: list[int],
    columns: list[int],
    size: tuple[int, int] = (2, 2),
    clean: tuple[float, ...] = (0.25, 0.75),
) -> Sweep:
    """Return a sweep in which the probability of class 1 falls by `drop`."""
    fall = np.array(drop, np.float32)
    probability = np.stack([clean[0] + fall, clean[1] - fall], -1).astype(np.float32)
    return Sweep(
        np.array(rows), np.array(columns), probability, np.array(clean, np.float32), size, (1, 1)
    )


def mask_of(size: tuple[int, int], *pixels: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(size, np.uint8)
    for pixel in pixels:
        mask[pixel] = 1
    return mask


# ------------------------------------------------------------------------- one scene


def test_each_pixel_gets_the_mean_drop_of_its_windows() -> None:
    # three windows of 2 x 2 side by side, a pixel apart: the columns are covered 1, 2, 2, 1 times
    one = swept([[0.5, 0.25, 0]], rows=[0], columns=[0, 1, 2])
    found = spread_drop(one.drop[..., 1], one, (2, 4))
    np.testing.assert_allclose(found, [[0.5, 0.375, 0.125, 0]] * 2, atol=1e-7)


def test_a_window_that_is_cut_covers_what_is_left_of_it() -> None:
    # windows of 2 x 2 at 0 and 2 on 3 x 3 pixels: those at the far border are cut to one pixel
    one = swept([[0.1, 0.2], [0.3, 0.4]], rows=[0, 2], columns=[0, 2])
    found = spread_drop(one.drop[..., 1], one, (3, 3))
    by_hand = [[0.1, 0.1, 0.2], [0.1, 0.1, 0.2], [0.3, 0.3, 0.4]]
    np.testing.assert_allclose(found, by_hand, atol=1e-7)


def test_what_no_window_covers_has_no_drop() -> None:
    one = swept([[0.5, 0.5]], rows=[0], columns=[0, 3], size=(1, 1))
    found = spread_drop(one.drop[..., 1], one, (1, 4))
    np.testing.assert_allclose(found, [[0.5, 0, 0, 0.5]])


def test_the_spread_is_captums(make_study) -> None:
    study = make_study("inplace", size=(26, 31))
    model = load_model(study.card, study.weights)
    image = model.prepare(study.pixels[:1])
    one = sweep(model.module, image[0], size=(8, 7), stride=(3, 4), fill=0.0, progress=False)
    attribution = CaptumOcclusion(lambda x: torch.softmax(model.module(x), 1)).attribute(
        image, (3, 8, 7), strides=(3, 3, 4), target=2, baselines=0.0
    )
    found = spread_drop(one.drop[..., 2], one, (26, 31))
    np.testing.assert_allclose(found, attribution[0, 0].numpy(), atol=1e-5)


def test_scores_by_hand() -> None:
    # 2 x 2 positions of 2 x 2 pixels on 4 x 4; the largest drop is top right, its centre (1, 3)
    one = swept([[0.1, 0.4], [-0.2, 0.3]], rows=[0, 2], columns=[0, 2])
    on_object = [(0, 2), (0, 3), (1, 2), (1, 3), (3, 3)]
    score = score_sweep(one, mask_of((4, 4), *on_object), label=1)
    assert (score.label, score.predicted, score.y, score.x, score.hit) == (1, 1, 1, 3, 1)
    assert score.clean_probability == pytest.approx(0.75)
    assert score.lowest_probability == pytest.approx(0.35)
    # falls: 4 pixels of 0.1, of 0.4 (all on the object), of 0 (it rises), of 0.3 (one on it)
    assert score.share == pytest.approx((4 * 0.4 + 0.3) / (4 * (0.1 + 0.4 + 0.3)), rel=1e-6)
    assert score.chance == 2 / 4  # the centres (1, 1), (1, 3), (3, 1), (3, 3)
    assert score.area == 5 / 16
    missed = score_sweep(one, mask_of((4, 4), (0, 2), (3, 3)), label=1)
    assert (missed.hit, missed.chance) == (0, 1 / 4)


def test_it_is_the_true_class_that_counts() -> None:
    one = swept([[0.1, -0.2]], rows=[0], columns=[0, 2], clean=(0.5, 0.5))
    score = score_sweep(one, mask_of((2, 4), (1, 3)), label=0)
    assert (score.x, score.hit) == (3, 1)
    assert score.lowest_probability == pytest.approx(0.3)


def test_the_first_of_equal_drops_counts() -> None:
    one = swept([[0, 0.25], [0.25, 0.25]], rows=[0, 2], columns=[0, 2])
    score = score_sweep(one, mask_of((4, 4), (1, 3)), label=1)
    assert (score.y, score.x, score.hit) == (1, 3, 1)


def test_the_centre_of_a_cut_window_is_that_of_what_is_left() -> None:
    # on 5 x 5 pixels the window at 4 is cut to one pixel, the one at 2 is whole
    one = swept([[0, 0], [0, 0.5]], rows=[0, 4], columns=[0, 2])
    score = score_sweep(one, mask_of((5, 5), (4, 3)), label=1)
    assert (score.y, score.x, score.hit) == (4, 3, 1)


def test_where_nothing_falls_nothing_is_found() -> None:
    one = swept([[0, -0.1]], rows=[0], columns=[0, 2])
    score = score_sweep(one, np.ones((2, 4)), label=1)
    assert score.hit == 0
    assert np.isnan(score.share)
    assert (score.chance, score.area) == (1, 1)


# ------------------------------------------------------------------------ many scenes


def test_exhibits_come_first_and_a_larger_number_begins_like_a_smaller_one() -> None:
    labels = np.arange(40) % 8
    whole = choose_scenes([31, 4, 31], labels, 40, seed=3)
    assert whole[:2] == [31, 4]
    assert sorted(whole) == list(range(40))
    others = [row for row in stratified_order(labels, 40, 3).tolist() if row not in (31, 4)]
    assert whole[2:] == others
    for scenes in range(41):
        assert choose_scenes([31, 4, 31], labels, scenes, seed=3) == whole[: max(scenes, 2)]
    assert choose_scenes([31, 4], labels, 1000, seed=3) == whole
    assert choose_scenes([31, 4], labels, 40, seed=4) != whole


@pytest.fixture
def scenes(tmp_path: Path) -> Study:
    """A random network and 23 images with masks; of three exhibits, two are the same image."""
    names = ("images.h5", "model.json", "weights.pt", "layers.json")
    images, card, weights, layers = (tmp_path / name for name in names)
    pixels = write_noise(images, 23, SIZE)
    write_images(images, pixels)
    unit = {"mean": [0.5] * 3, "std": [0.25] * 3}
    options = {"classes": 5, "size": list(SIZE)}
    import_model("small_zf", options, "random", unit, 0, weights, card)
    torch.use_deterministic_algorithms(False)
    write_csv(tmp_path / "exhibits.csv", {"exhibit": range(len(EXHIBITS)), "image": EXHIBITS})
    return Study(images, card, weights, layers, pixels, tmp_path)


def write_images(
    path: Path, pixels: np.ndarray, *, labelled: bool = True, masked: bool = True
) -> None:
    """Write images anew, of five classes in turn, each with a mask of its own."""
    with ImageWriter(path, Recipe(), SIZE) as writer:
        for i, image in enumerate(pixels):
            mask = np.zeros(SIZE, np.uint8)
            mask[i % 9 : i % 9 + 12, 5:20] = 1
            label = i % 5 if labelled else -1
            writer.append(image, label, f"{i}.png", mask=mask if masked else None)


def scored(study: Study, name: str, **changes) -> Path:
    settings = {
        "size": 8,
        "stride": 6,
        "fill": "mean",
        "scenes": 6,
        "seed": 0,
        "shard": 0,
        "shards": 1,
    }
    score_scenes(
        images=study.images,
        exhibits=study.folder / "exhibits.csv",
        card=study.card,
        weights=study.weights,
        output=study.folder / name,
        **(settings | changes),
    )
    return study.folder / name


def test_a_table_of_scenes(scenes: Study) -> None:
    table = read_csv(scored(scenes, "s.csv"))
    assert list(table) == ["scene", "image", "exhibit", *Score._fields]
    labels = np.arange(23) % 5
    assert [int(i) for i in table["image"]] == choose_scenes([7, 2], labels, 6, seed=0)
    assert table["exhibit"] == ["0", "1", *["-1"] * 4]
    model = load_model(scenes.card, scenes.weights)
    with Images(scenes.images) as data:
        fill = (torch.tensor(data.mean / 255) - 0.5) / 0.25
        for i, row in enumerate(map(int, table["image"])):
            image = model.prepare(data.rows([row]))[0]
            one = sweep(model.module, image, 8, 6, fill.float(), progress=False)
            score = score_sweep(one, data.mask(row), row % 5)
            found = [float(table[name][i]) for name in Score._fields]
            np.testing.assert_allclose(found, score, rtol=1e-3, atol=1e-6)


def test_shards_make_the_table_of_one_job(scenes: Study) -> None:
    whole = {"net": [scored(scenes, "whole.csv")]}
    parts = {"net": [scored(scenes, f"{i}.csv", shard=i, shards=4) for i in (2, 0, 3, 1)]}
    for name, shards in (("a", whole), ("b", parts)):
        out = scenes.folder / name
        gather_scores(shards, scenes=out / "scenes.csv", summary=out / "summary.csv")
    for name in ("scenes.csv", "summary.csv"):
        assert (scenes.folder / "a" / name).read_bytes() == (
            scenes.folder / "b" / name
        ).read_bytes()


def test_more_shards_than_scenes(scenes: Study) -> None:
    parts = [scored(scenes, f"{i}.csv", scenes=2, shard=i, shards=3) for i in range(3)]
    assert [len(read_csv(part)["scene"]) for part in parts] == [1, 1, 0]


def test_the_control_is_another_network_and_the_same_each_time(scenes: Study) -> None:
    model = load_model(scenes.card, scenes.weights)  # its weights are drawn by the seed 0
    other = untrained(model, 1).module.state_dict()
    again = untrained(model, 1).module.state_dict()
    same = untrained(model, 0).module.state_dict()
    for name, value in model.module.state_dict().items():
        torch.testing.assert_close(other[name], again[name], rtol=0, atol=0)
        torch.testing.assert_close(same[name], value, rtol=0, atol=0)
    assert any(not torch.equal(other[name], same[name]) for name in other)
    plain = scored(scenes, "plain.csv", seed=1)
    first, second = (scored(scenes, n, seed=1, control=True) for n in ("a.csv", "b.csv"))
    assert first.read_bytes() == second.read_bytes() != plain.read_bytes()
    assert read_csv(first)["image"] == read_csv(plain)["image"]


def test_the_control_of_a_trained_network_is_its_beginning(scenes: Study, tmp_path: Path) -> None:
    train_model(
        "small_zf",
        {},
        scenes.images,
        None,
        epochs=1,
        batch_size=8,
        learning_rate=0.01,
        weight_decay=0.1,
        seed=5,
        weights_out=tmp_path / "trained.pt",
        card_out=tmp_path / "trained.json",
        history_out=tmp_path / "history.csv",
        snapshots=[0],
        snapshots_out=[tmp_path / "0.pt"],
    )
    torch.use_deterministic_algorithms(False)
    before = load_model(tmp_path / "trained.json", tmp_path / "0.pt").module.state_dict()
    trained = load_model(tmp_path / "trained.json", tmp_path / "trained.pt")
    control = untrained(trained, seed=99)
    assert not control.module.training
    for name, value in control.module.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


@pytest.mark.parametrize("without", ["mask", "label"])
def test_scenes_need_a_mask_and_a_label(scenes: Study, without: str) -> None:
    write_images(
        scenes.images, scenes.pixels, labelled=without != "label", masked=without != "mask"
    )
    with pytest.raises(DataError, match=rf"image '7\.png' has no {without}.*score\.scenes"):
        scored(scenes, "s.csv")
    assert not (scenes.folder / "s.csv").exists()


# ---------------------------------------------------------------------------- summary


def table_of(**columns: list[float]) -> dict[str, list[str]]:
    count = len(columns["hit"])
    plain = {name: [0.0] * count for name in ("scene", "image", "exhibit", *Score._fields)}
    return {name: [str(value) for value in (plain | columns)[name]] for name in plain}


def test_a_summary_by_hand() -> None:
    table = table_of(
        label=[0, 1, 2, 3],
        predicted=[0, 1, 2, 0],
        hit=[1, 1, 0, 1],
        share=[0.5, 0.9, float("nan"), 0.1],
        chance=[0.1, 0.2, 0.3, 0.4],
        area=[0.2, 0.2, 0.2, 0.6],
    )
    found = summarise(table)
    assert (found["scenes"], found["accuracy"], found["pointing"]) == (4, 0.75, 0.75)
    assert found["share"] == pytest.approx(0.5)
    assert found["share_error"] == pytest.approx(0.4 / 3**0.5)  # standard deviation 0.4
    assert (found["chance"], found["area"]) == (pytest.approx(0.25), pytest.approx(0.3))
    # Wilson (1927): (p + z²/2n ± z sqrt(p(1 - p)/n + z²/4n²)) / (1 + z²/n)
    z, n, p = 1.959964, 4, 0.75
    half = z * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5
    middle, whole = p + z * z / (2 * n), 1 + z * z / n
    assert found["pointing_low"] == pytest.approx((middle - half) / whole, rel=1e-5)
    assert found["pointing_high"] == pytest.approx((middle + half) / whole, rel=1e-5)


def test_a_summary_of_one_scene_has_no_error() -> None:
    assert np.isnan(summarise(table_of(hit=[1], share=[0.5]))["share_error"])
    assert np.isnan(summarise(table_of(hit=[0], share=[float("nan")]))["share"])


# ----------------------------------------------------------------------------- figure


def write_scores(
    folder: Path, hits: dict[str, list[int]], shares: dict[str, list[float]], exhibits: int = 3
) -> dict[str, Path]:
    """Write the scores of networks with class 0, 1, 2, 0, ... and return the plot's arguments."""
    shards = {}
    for name, hit in hits.items():
        count = len(hit)
        columns = table_of(hit=hit, share=shares[name], label=[i % 3 for i in range(count)])
        columns["scene"] = columns["image"] = [str(i) for i in range(count)]
        columns["exhibit"] = [str(i if i < exhibits else -1) for i in range(count)]
        columns["chance"], columns["area"] = ["0.25"] * count, ["0.2"] * count
        write_csv(folder / f"{name}.csv", columns)
        shards[name] = [folder / f"{name}.csv"]
    gather_scores(shards, scenes=folder / "scenes.csv", summary=folder / "summary.csv")
    write_classes(folder / "c.txt", 12)
    return {
        "scenes": folder / "scenes.csv",
        "summary": folder / "summary.csv",
        "classes": folder / "c.txt",
        "output": folder / "f.png",
    }


@pytest.mark.filterwarnings("error")
def test_the_figure_and_its_numbers(tmp_path: Path) -> None:
    hits = {"trained": [1, 1, 0, 1], "untrained": [0, 1, 0, 0]}
    shares = {"trained": [0.9, 0.8, 0.4, 0.85], "untrained": [0.2, 0.3, float("nan"), 0.1]}
    job = write_scores(tmp_path, hits, shares)
    plot_occlusion_score(**job, formats=["svg"])
    table = read_csv(tmp_path / "f.csv")
    assert table["network"] == ["trained"] * 4 + ["untrained"] * 4
    assert [int(hit) for hit in table["hit"]] == [*hits["trained"], *hits["untrained"]]
    found = [float(share) for share in table["share"]]
    np.testing.assert_allclose(found, [*shares["trained"], *shares["untrained"]])
    assert table["exhibit"] == ["0", "1", "2", "-1"] * 2
    assert table["class"][1] == "a" * 60
    assert (tmp_path / "f.svg").is_file()


@pytest.mark.filterwarnings("error")
def test_bars_are_as_high_as_the_rates(tmp_path: Path) -> None:
    hits = {"trained": [1, 1, 1, 0, 0], "untrained": [0, 0, 1, 0, 0]}  # 60 and 20 %
    job = write_scores(tmp_path, hits, {name: [0.5] * 5 for name in hits})
    plot_occlusion_score(**job)
    left = pixels_of(tmp_path / "f.png").astype(int)[:, : int(1.7 * style.DPI)]
    heights = []
    for colour in style.COLOURS[:2]:
        packed = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        rows = np.flatnonzero((left == packed).all(-1).any(1))
        heights.append(rows.max() - rows.min() + 1)
    assert heights[0] / heights[1] == pytest.approx(3, rel=0.05)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("count", [1, 2, 40])
@pytest.mark.parametrize("share", [0.0, 1.0, float("nan")])
def test_odd_scores(tmp_path: Path, count: int, share: float) -> None:
    hits = {name: [0] * count for name in ("trained", "untrained")}
    job = write_scores(tmp_path, hits, {name: [share] * count for name in hits}, exhibits=count)
    plot_occlusion_score(**job)
    assert len(read_csv(tmp_path / "f.csv")["hit"]) == 2 * count
