"""Made scenes: one object of eight kinds on a piece of a photograph, with the truth known.

Places are (y, x) in pixels from the image's top left corner, so that the pixel in row
i covers i to i + 1. Angles are in degrees, clockwise as seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from convatlas.data.images import decode
from convatlas.data.sample import Part, Sample
from convatlas.errors import DataError

Floats = NDArray[np.float64]
Pixels = NDArray[np.float32]  # RGB in 0..255, as long as they aren't rounded

KINDS = ("disk", "square", "triangle", "star", "ring", "cross", "pentagon", "crescent")
"""The classes, in the order of their labels."""

CORNERS = 8
"""Places for corners that each scene has; a cross fills them all."""

_PHOTOGRAPHS = ("china", "flower")  # by scikit-learn, sklearn/datasets/images
_PART_SEEDS = {"train": 0, "images": 1}
# The part of the photographs' width that a part of the scenes may show. The border runs
# through the temple of the one and the dahlia of the other, so neither part is dull.
_PART_WIDTHS = {"images": (0.0, 0.4), "train": (0.4, 1.0)}

# The ranges that scenes are drawn from, tuned so that a small network is right on 19 of 20.
_CROP = (64.0, 176.0)  # side of the piece of photograph, in its pixels
_RADIUS = (0.18, 0.37)  # of the circle around the object, as a share of the scene
_LEAST_CONTRAST = 0.18  # between the object and what it covers, see `Scene.contrast`
_SATURATION = (0.2, 1.0)
_BRIGHTNESS = (0.25, 1.0)
_EXPOSURE = (0.7, 1.15)  # factor on the background
_SHADING = (0.0, 0.3)  # the object's brightness changes by so much from one side to the other
_GRAIN = (2.0, 12.0)  # standard deviation of the noise, in 0..255


@dataclass(frozen=True)
class Scene:
    """A scene and all that is known of it; `size` is its height and width in pixels.

    Attributes
    ----------
    image : (size,size,3) uint8 RGB.
    mask : (size,size) bool, whether a pixel's centre lies on the object.
    kind : one of `KINDS`.
    centre : (2,) y, x of the middle of the circle around the object.
    diameter : of that circle, in pixels.
    rotation : degrees clockwise, from 0 up to where the object looks the same again; 0
        for disk and ring.
    corners : (CORNERS,2) y, x of the corners that point outwards (4 of the square, 3
        of the triangle, 5 tips of the star, 8 of the cross, 5 of the pentagon, 2
        horns of the crescent), then NaN.
    colour : (3,) RGB in 0..255, of the object before shading and grain.
    contrast : distance between `colour` and the mean of what the object covers, as a
        share of the distance from black to white, in 0..1.
    grain : standard deviation of the noise, in 0..255.
    background : name of the photograph.
    """

    image: NDArray[np.uint8]
    mask: NDArray[np.bool_]
    kind: str
    centre: Floats
    diameter: float
    rotation: float
    corners: Floats
    colour: Floats
    contrast: float
    grain: float
    background: str


# ------------------------------------------------------------------ entry points


def open_part(source: Mapping[str, Any], part: str, preset: object) -> Part:
    """Return the scenes to look at (``images``) or to train on (``train``).

    The parts share no scene, nor any pixel of a photograph.
    """
    count = source["train"] if part == "train" else source["test"]
    return Part(count, _samples(source["seed"], part, count, source["size"]))


def list_classes(source: Mapping[str, Any]) -> list[str]:
    """Return the names of the eight kinds of object."""
    return list(KINDS)


def _samples(seed: int, part: str, count: int, size: int) -> Iterator[Sample]:
    for index in range(count):
        scene = make_scene(seed, part, index, size)
        attributes = {
            "background": scene.background,
            "centre": scene.centre,
            "colour": scene.colour,
            "contrast": scene.contrast,
            "corners": scene.corners,
            "grain": scene.grain,
            "rotation": scene.rotation,
            "size": scene.diameter,
        }
        name = f"{scene.kind}_{index:05d}"
        yield Sample(name, KINDS.index(scene.kind), scene.image, attributes, scene.mask)


# ------------------------------------------------------------------------ scenes


def make_scene(seed: int, part: str, index: int, size: int) -> Scene:
    """Return scene number `index` of a part, which depends on nothing but the arguments.

    The kinds take turns, so that each is as frequent as the others.
    """
    rng = np.random.default_rng((seed, _PART_SEEDS[part], index))
    kind = KINDS[index % len(KINDS)]
    figure = FIGURES[kind]
    photograph = _PHOTOGRAPHS[rng.integers(len(_PHOTOGRAPHS))]
    background = _cut_background(rng, photograph, part, size)
    radius = size * rng.uniform(*_RADIUS)
    centre = rng.uniform(radius + 1, size - radius - 1, 2)
    rotation = rng.uniform(0, figure.period)
    coverage = draw(kind, size, centre, radius, rotation)
    mask = coverage > 0.5
    colour, contrast = _pick_colour(rng, background[mask].mean(0))
    shaded = _shade(rng, colour, size, centre, radius)
    grain = rng.uniform(*_GRAIN)
    corners = np.full((CORNERS, 2), np.nan)
    corners[: len(figure.corners)] = centre + radius * figure.corners @ _turn(rotation).T
    return Scene(
        image=_paint(rng, background, shaded, coverage, grain),
        mask=mask,
        kind=kind,
        centre=centre,
        diameter=2 * radius,
        rotation=rotation,
        corners=corners,
        colour=colour,
        contrast=contrast,
        grain=grain,
        background=photograph,
    )


def _paint(
    rng: np.random.Generator, background: Pixels, shaded: Pixels, coverage: Floats, grain: float
) -> NDArray[np.uint8]:
    """Return the object laid on the background, both with grain, as 8-bit values."""
    painted = rng.standard_normal(background.shape, dtype=np.float32) * np.float32(grain)
    painted += background
    painted += coverage.astype(np.float32)[..., None] * (shaded - background)
    np.rint(painted, out=painted)
    return np.clip(painted, 0, 255, out=painted).astype(np.uint8)


@cache
def _photograph(name: str) -> Image.Image:
    """Return one of the two photographs that come with scikit-learn, 640 x 427."""
    spec = find_spec("sklearn")  # not imported, which would take a second
    folders = (spec.submodule_search_locations if spec else None) or []
    for folder in folders:
        path = Path(folder, "datasets", "images", f"{name}.jpg")
        if path.is_file():
            return decode(path)
    raise DataError(
        f"The photograph {name}.jpg that comes with scikit-learn is not there; "
        "the shapes scenes need it. Install scikit-learn."
    )


def _cut_background(rng: np.random.Generator, photograph: str, part: str, size: int) -> Pixels:
    """Return a random piece of a photograph, (size,size,3), some of them mirrored."""
    photo = _photograph(photograph)
    first, last = (round(photo.width * share) for share in _PART_WIDTHS[part])
    side = rng.uniform(*_CROP)
    left = rng.uniform(first, last - side)
    top = rng.uniform(0, photo.height - side)
    box = (left, top, left + side, top + side)
    piece = photo.resize((size, size), Image.Resampling.BILINEAR, box=box)
    pixels = np.asarray(piece, dtype=np.float32) * np.float32(rng.uniform(*_EXPOSURE))
    return pixels[:, ::-1] if rng.random() < 0.5 else pixels


def _pick_colour(rng: np.random.Generator, covered: Pixels) -> tuple[Floats, float]:
    """Return a random colour that stands out from the mean colour `covered`, and how far."""
    while True:
        hue = rng.uniform(0, 6)
        saturation, brightness = rng.uniform(*_SATURATION), rng.uniform(*_BRIGHTNESS)
        # From hue, saturation and value to RGB (Smith 1978), for the three channels at once.
        ramp = np.clip(np.abs((hue + np.array([0, 4, 2])) % 6 - 3) - 1, 0, 1)
        colour = 255 * brightness * (1 - saturation * (1 - ramp))
        contrast = float(np.sqrt(np.mean((colour - covered) ** 2))) / 255
        if contrast >= _LEAST_CONTRAST:
            return colour, contrast


def _shade(
    rng: np.random.Generator, colour: Floats, size: int, centre: Floats, radius: float
) -> Pixels:
    """Return a colour as light from a random side makes it, (size,size,3).

    It is the plain colour at the object's centre and brighter towards the light.
    """
    angle, strength = rng.uniform(0, 2 * np.pi), rng.uniform(*_SHADING)
    steps = np.arange(size) + 0.5
    down = np.sin(angle) * (steps - centre[0]) / radius
    right = np.cos(angle) * (steps - centre[1]) / radius
    factors = 1 + strength / 2 * np.add.outer(down, right)
    shaded: Pixels = factors.astype(np.float32)[..., None] * colour.astype(np.float32)
    return shaded


# ----------------------------------------------------------------------- figures


@dataclass(frozen=True)
class Figure:
    """A kind of object in the circle of radius 1 around the origin.

    `distance` maps places (...,2) to signed distances from the outline, negative
    inside; `corners` are the (n,2) corners that point outwards; `area` is exact;
    `period` is the least rotation in degrees after which the object looks the same.
    """

    distance: Callable[[Floats], Floats]
    corners: Floats
    area: float
    period: float


def draw(kind: str, size: int, centre: Floats, radius: float, rotation: float) -> Floats:
    """Return how far an object covers each pixel, (size,size) in 0..1.

    Where the outline passes a pixel its distance from the pixel's centre decides,
    which is exact for straight edges along the axes and near it for others.
    """
    coverage = np.zeros((size, size))
    first = np.maximum(np.floor(centre - radius).astype(int) - 1, 0)
    last = np.ceil(centre + radius).astype(int) + 1
    window = slice(first[0], last[0]), slice(first[1], last[1])  # further out it covers nothing
    places = (_pixels(size)[window] - centre) @ _turn(rotation) / radius
    coverage[window] = np.clip(0.5 - radius * FIGURES[kind].distance(places), 0, 1)
    return coverage


@cache
def _pixels(size: int) -> Floats:
    """Return y, x of the pixels' centres, (size,size,2)."""
    steps = np.arange(size) + 0.5
    return np.stack(np.meshgrid(steps, steps, indexing="ij"), axis=-1)


def _turn(degrees: float) -> Floats:
    """Return the matrix that turns (y, x) clockwise as seen, y pointing down."""
    sine, cosine = np.sin(np.radians(degrees)), np.cos(np.radians(degrees))
    return np.array([[cosine, sine], [-sine, cosine]])


def _circle(places: Floats, radius: float, middle: float = 0.0) -> Floats:
    """Return signed distances from a circle whose middle is at x = `middle`."""
    return np.hypot(places[..., 0], places[..., 1] - middle) - radius


def _on_circle(count: int, radius: float = 1.0, first: float = 0.0) -> Floats:
    """Return `count` places evenly on a circle, clockwise from `first` degrees past the top."""
    angles = np.radians(first) + 2 * np.pi * np.arange(count) / count
    return radius * np.stack([-np.cos(angles), np.sin(angles)], axis=-1)


def _polygon(vertices: Floats, corners: Floats, period: float) -> Figure:
    """Return the figure with these vertices, in order around it."""
    following = np.roll(vertices, -1, axis=0)
    edges = following - vertices
    lengths = (edges**2).sum(-1)
    doubled = vertices[:, 1] * following[:, 0] - vertices[:, 0] * following[:, 1]

    def distance(places: Floats) -> Floats:
        y, x = places[..., 0, None], places[..., 1, None]
        from_y, from_x = y - vertices[:, 0], x - vertices[:, 1]
        along = np.clip((from_y * edges[:, 0] + from_x * edges[:, 1]) / lengths, 0, 1)
        squared = (from_y - along * edges[:, 0]) ** 2 + (from_x - along * edges[:, 1]) ** 2
        # Inside is where a ray to the right crosses an odd number of edges.
        spans = (vertices[:, 0] > y) != (following[:, 0] > y)
        right = from_x * edges[:, 0] < from_y * edges[:, 1]
        crossed = spans & (right == (edges[:, 0] > 0))
        inside = crossed.sum(-1) % 2 == 1
        nearest: Floats = np.sqrt(squared.min(-1))
        return np.where(inside, -nearest, nearest)

    return Figure(distance, corners, abs(float(doubled.sum())) / 2, period)


def _regular(count: int) -> Figure:
    vertices = _on_circle(count)
    return _polygon(vertices, vertices, 360 / count)


def _star() -> Figure:
    tips, notches = _on_circle(5), _on_circle(5, radius=0.45, first=36)
    return _polygon(np.stack([tips, notches], axis=1).reshape(-1, 2), tips, 72)


def _cross() -> Figure:
    half = 0.34  # of an arm's width
    reach = np.sqrt(1 - half**2)
    arm = np.array([[-reach, -half], [-reach, half], [-half, half]])  # two corners and a notch
    vertices = np.concatenate([arm @ _turn(90 * i).T for i in range(4)])
    return _polygon(vertices, vertices[np.arange(12) % 3 != 2], 90)


def _ring() -> Figure:
    inner = 0.55

    def distance(places: Floats) -> Floats:
        return np.maximum(_circle(places, 1), -_circle(places, inner))

    return Figure(distance, np.empty((0, 2)), np.pi * (1 - inner**2), 0)


def _crescent() -> Figure:
    bite, middle = 0.8, 0.5  # radius and x of the circle that is cut out
    meet = (1 - bite**2 + middle**2) / (2 * middle)  # x where the two circles meet
    height = np.sqrt(1 - meet**2)
    lens = (  # what both circles cover: a segment of each
        np.arccos(meet)
        - meet * height
        + bite**2 * np.arccos((middle - meet) / bite)
        - (middle - meet) * height
    )

    def distance(places: Floats) -> Floats:
        return np.maximum(_circle(places, 1), -_circle(places, bite, middle))

    return Figure(distance, np.array([[-height, meet], [height, meet]]), np.pi - lens, 360)


def _disk() -> Figure:
    return Figure(lambda places: _circle(places, 1), np.empty((0, 2)), np.pi, 0)


FIGURES: dict[str, Figure] = {
    "disk": _disk(),
    "square": _regular(4),
    "triangle": _regular(3),
    "star": _star(),
    "ring": _ring(),
    "cross": _cross(),
    "pentagon": _regular(5),
    "crescent": _crescent(),
}
"""The eight kinds of object."""
