"""The pick of the images that are shown one by one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from studies import write_noise

from convatlas.errors import DataError
from convatlas.exhibits import list_exhibits, pick_exhibits, stratified_order
from convatlas.files import read_csv
from convatlas.store import Exhibit, Recipe, read

LABELS = np.array([2, 2, 2, 2, 7, 7, -1, 0, 0, 0, 0, 0, 0])


def test_the_pick_goes_round_the_classes() -> None:
    order = stratified_order(LABELS, 13, seed=4)
    assert sorted(order) == list(range(13))
    rounds = LABELS[order]
    assert sorted(rounds[:4]) == [-1, 0, 2, 7]
    assert sorted(rounds[4:7]) == [0, 2, 7]
    assert sorted(rounds[7:9]) == [0, 2]
    assert rounds[11:].tolist() == [0, 0]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_shorter_pick_begins_a_longer_one(seed: int) -> None:
    whole = stratified_order(LABELS, 13, seed).tolist()
    for count in range(13):
        assert stratified_order(LABELS, count, seed).tolist() == whole[:count]
    assert stratified_order(LABELS, 99, seed).tolist() == whole


def test_seeds_differ() -> None:
    orders = {tuple(stratified_order(LABELS, 13, seed)) for seed in range(5)}
    assert len(orders) == 5


def test_exhibits_on_disk(tmp_path: Path) -> None:
    pixels = write_noise(tmp_path / "images.h5", 7, (6, 5))
    paths = []
    for number in range(3):
        paths.append(tmp_path / f"{number}.h5")
    pick_exhibits(
        images=tmp_path / "images.h5",
        outputs=paths,
        recipes=[Recipe()] * 3,
        indices=[None, None, 3],
        seed=0,
    )
    found = [read(Exhibit, path) for path in paths]
    order = stratified_order(np.arange(7) % 5, 2, 0)
    assert [e.index for e in found] == [*order, 3]
    for exhibit in found:
        np.testing.assert_array_equal(exhibit.image, pixels[exhibit.index])
        assert exhibit.label == exhibit.index % 5
        assert exhibit.name == f"{exhibit.index}.png"
        assert exhibit.mask is None
    list_exhibits(paths, tmp_path / "exhibits.csv")
    table = read_csv(tmp_path / "exhibits.csv")
    assert table["exhibit"] == ["0", "1", "2"]
    assert table["image"][2] == "3"
    assert table["label"][2] == "3"


@pytest.mark.parametrize(("number", "index"), [(7, None), (0, 7)])
def test_more_than_there_are(number: int, index: int | None, tmp_path: Path) -> None:
    write_noise(tmp_path / "images.h5", 7, (6, 5))
    with pytest.raises(DataError, match="only 7 images"):
        pick_exhibits(
            images=tmp_path / "images.h5",
            outputs=[tmp_path / f"{number}.h5"],
            recipes=[Recipe()],
            indices=[index],
            seed=0,
        )
    assert not (tmp_path / f"{number}.h5").exists()
