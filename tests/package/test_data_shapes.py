"""The made scenes: reproducible, and what is said of them is true."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from convatlas.data import shapes
from convatlas.data.prepare import list_classes, prepare_images, source_digest
from convatlas.data.shapes import FIGURES, KINDS, Scene, draw, make_scene
from convatlas.store import Images, Recipe

SOURCE = {"source": "shapes", "train": 24, "test": 16, "size": 64, "seed": 0}
CORNER_COUNTS = {"square": 4, "triangle": 3, "star": 5, "cross": 8, "pentagon": 5, "crescent": 2}


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [make_scene(0, "images", index, 64) for index in range(160)]


def prepare(source: dict[str, object], path: Path, part: str = "images") -> Path:
    prepare_images(source, part, path, path.with_suffix(".csv"), Recipe())
    return path


# ----------------------------------------------------------------- reproducibility


def test_same_seed_same_bytes(tmp_path: Path) -> None:
    first, second = (prepare(SOURCE, tmp_path / f"{i}.h5") for i in range(2))
    assert first.read_bytes() == second.read_bytes()
    assert first.with_suffix(".csv").read_bytes() == second.with_suffix(".csv").read_bytes()


@pytest.mark.parametrize(("part", "key"), [("images", "test"), ("train", "train")])
def test_more_scenes_keep_the_first_ones(tmp_path: Path, part: str, key: str) -> None:
    few = prepare(SOURCE | {key: 10}, tmp_path / "few.h5", part)
    many = prepare(SOURCE | {key: 40}, tmp_path / "many.h5", part)
    with Images(few) as a, Images(many) as b:
        assert (a.block(0, 10) == b.block(0, 10)).all()
        assert a.names() == b.names()[:10]
        others = b.attributes()
        for name, values in a.attributes().items():
            np.testing.assert_array_equal(values, others[name][:10])


def test_seeds_and_parts_share_no_scene() -> None:
    images = [
        make_scene(seed, part, index, 64).image.tobytes()
        for seed in (0, 1)
        for part in ("images", "train")
        for index in range(24)
    ]
    assert len(set(images)) == len(images)


def test_parts_show_different_pixels_of_the_photographs() -> None:
    (_, border), (start, _) = shapes._PART_WIDTHS["images"], shapes._PART_WIDTHS["train"]
    assert border <= start
    for first, last in shapes._PART_WIDTHS.values():
        assert shapes._CROP[1] < (last - first) * 640


def test_needs_neither_torch_nor_scikit_learn() -> None:
    code = (
        "import sys; from convatlas.data.prepare import list_classes;"
        "from convatlas.data import folder, shapes; shapes.make_scene(0, 'train', 0, 64);"
        "print(sorted({'torch', 'torchvision', 'sklearn'} & set(sys.modules)))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.stdout.strip() == "[]", answer.stderr


# ------------------------------------------------------------------ what is written


def test_file_holds_masks_and_attributes(tmp_path: Path, scenes: list[Scene]) -> None:
    with Images(prepare(SOURCE, tmp_path / "images.h5")) as images:
        assert len(images) == 16
        assert images.labels().tolist() == list(range(8)) * 2
        attributes = images.attributes()
        for i, scene in enumerate(scenes[:16]):
            assert (images.block(i, i + 1)[0] == scene.image).all()
            mask = images.mask(i)
            assert mask is not None
            assert (mask == scene.mask).all()
            assert attributes["size"][i] == scene.diameter
            np.testing.assert_array_equal(attributes["centre"][i], scene.centre)
            np.testing.assert_array_equal(attributes["corners"][i], scene.corners)
            assert attributes["background"][i] == scene.background
    assert list_classes(SOURCE) == list(KINDS)
    assert source_digest(SOURCE) == ""


@pytest.mark.parametrize("size", [16, 33, 256])
def test_any_size(size: int) -> None:
    for index in range(16):
        scene = make_scene(3, "train", index, size)
        assert scene.image.shape == (size, size, 3)
        assert scene.mask.any()


# ----------------------------------------------------------------- what is said is true


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rotation", [0.0, 17.0, 45.0, 200.0])
def test_area_of_the_drawing_is_the_exact_one(kind: str, rotation: float) -> None:
    coverage = draw(kind, 128, np.array([60.3, 66.8]), 50.0, rotation)
    exact = FIGURES[kind].area * 50.0**2
    assert coverage.sum() == pytest.approx(exact, rel=0.005)
    assert (coverage > 0.5).sum() == pytest.approx(exact, rel=0.01)


def test_area_by_hand() -> None:
    """In a circle of radius 1: a square of diagonal 2, an equilateral triangle of side √3."""
    assert FIGURES["square"].area == pytest.approx(2)
    assert FIGURES["triangle"].area == pytest.approx(3 * np.sqrt(3) / 4)
    assert FIGURES["disk"].area == pytest.approx(np.pi)
    assert FIGURES["pentagon"].area == pytest.approx(5 / 2 * np.sin(np.radians(72)))


def test_mask_covers_the_objects_area(scenes: list[Scene]) -> None:
    for scene in scenes:
        exact = FIGURES[scene.kind].area * (scene.diameter / 2) ** 2
        assert scene.mask.sum() == pytest.approx(exact, rel=0.06), scene.kind


def test_object_is_the_colour_it_is_said_to_be(scenes: list[Scene]) -> None:
    """Shading cancels about the centre, grain averages out, but for colours cut off at 255."""
    for scene in scenes:
        if scene.kind in ("triangle", "crescent") or scene.colour.max() > 190:
            continue
        inside = scene.image[scene.mask].mean(0)
        assert np.abs(inside - scene.colour).max() < 20, scene


def test_object_stands_out_from_what_is_around_it(scenes: list[Scene]) -> None:
    """The pixels of the object differ from those beside it, on nearly every scene."""
    differences = []
    for scene in scenes:
        y, x = np.indices(scene.mask.shape) + 0.5
        near = np.hypot(y - scene.centre[0], x - scene.centre[1]) < scene.diameter / 2 + 4
        beside = scene.image[near & ~scene.mask].mean(0)
        inside = scene.image[scene.mask].mean(0)
        differences.append(np.sqrt(np.mean((inside - beside) ** 2)) / 255)
        assert scene.contrast >= shapes._LEAST_CONTRAST
    assert np.mean(np.array(differences) > 0.08) > 0.97


def test_corners_lie_on_the_outline(scenes: list[Scene]) -> None:
    for scene in scenes:
        corners = scene.corners[~np.isnan(scene.corners[:, 0])]
        assert len(corners) == CORNER_COUNTS.get(scene.kind, 0)
        for corner in corners:
            assert _distance(scene.mask, corner) < 3.5, scene.kind  # horns end thin
            assert _distance(~scene.mask, corner) < 1.5, scene.kind


def _distance(mask: np.ndarray, place: np.ndarray) -> float:
    """Return how far the nearest pixel of a mask is from a place, in pixels."""
    return float(np.hypot(*(np.argwhere(mask) + 0.5 - place).T).min())


@pytest.mark.parametrize("kind", sorted(CORNER_COUNTS))
def test_corners_are_where_the_outline_turns(kind: str) -> None:
    figure = FIGURES[kind]
    np.testing.assert_allclose(figure.distance(figure.corners), 0, atol=1e-9)
    np.testing.assert_allclose(np.hypot(*figure.corners.T), 1, atol=1e-9)


def test_whole_object_is_within_the_scene(scenes: list[Scene]) -> None:
    for scene in scenes:
        border = np.concatenate([scene.mask[[0, -1]].ravel(), scene.mask[:, [0, -1]].ravel()])
        assert not border.any()


def test_centre_is_the_middle_of_round_and_regular_objects(scenes: list[Scene]) -> None:
    for scene in scenes:
        if scene.kind != "crescent":
            middle = (np.argwhere(scene.mask) + 0.5).mean(0)
            assert np.abs(middle - scene.centre).max() < 0.5, scene.kind


@pytest.mark.parametrize("kind", KINDS)
def test_period_is_the_least_rotation_that_changes_nothing(kind: str) -> None:
    period = FIGURES[kind].period
    place = np.array([32.5, 31.0])
    upright = draw(kind, 64, place, 25.0, 0.0)
    np.testing.assert_allclose(draw(kind, 64, place, 25.0, period or 77.0), upright, atol=1e-6)
    if period:
        assert np.abs(draw(kind, 64, place, 25.0, period / 2) - upright).max() > 0.5


def test_rotation_is_clockwise() -> None:
    """The triangle points up; turned by 90 degrees it points right."""
    centre = np.array([32.0, 32.0])
    upright, turned = (draw("triangle", 64, centre, 25.0, angle) > 0.5 for angle in (0.0, 90.0))
    assert (np.rot90(upright, -1) == turned).mean() > 0.99
    assert upright[10].sum() < upright[40].sum()
