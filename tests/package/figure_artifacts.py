"""Small artifacts of every kind that figures read, made without a network.

The images are plain colours, so that a test can look for a colour in a figure.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from convatlas import store
from convatlas.files import write_csv, write_json, write_text
from convatlas.health import Activity
from convatlas.layers import read_layers

RECIPE = store.Recipe()
ODD_NAMES = ("US$ 5$ bill_<b>", "a" * 60, "naïve \\frac{1}{2}", "#hash & co", "")
LONG_LAYER = "stage4.block11.branch_with_a_long_name.convolution_3x3.add_12"


def pixels_of(path: Path) -> np.ndarray:
    """Return the pixels of a figure, (H,W,3) uint8."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def write_images(path: Path, size: tuple[int, int], labels: Sequence[int]) -> np.ndarray:
    """Write images of one colour each and return the colours, (N,3) uint8, no two alike."""
    number = np.arange(len(labels))
    colours = np.stack([40 + 7 * number % 200, 250 - 5 * number % 200, 30 + number], 1)
    colours = colours.astype(np.uint8)
    with store.ImageWriter(path, RECIPE, size) as writer:
        for i, (colour, label) in enumerate(zip(colours, labels, strict=True)):
            writer.append(np.broadcast_to(colour, (*size, 3)).copy(), int(label), f"{i}_$x_<y>.png")
    return colours


def write_patches(
    path: Path,
    *,
    units: int,
    images: int,
    per_unit: int,
    box: tuple[int, int, int, int],
    size: tuple[int, int],
    layer: str = "conv2",
) -> store.Patches:
    """Write patches whose images go round and whose boxes are all `box`; unit 1 is dead."""
    value = np.tile(np.linspace(9, 1, per_unit), (units, 1)).astype(np.float32)
    image = (np.arange(units * per_unit) % images).reshape(units, per_unit)
    if per_unit > images:
        image[:, images:], value[:, images:] = -1, -np.inf
    boxes = np.tile(np.array(box), (units, per_unit, 1))
    seen = [max(0, min(box[i + 2], size[i]) - max(box[i], 0)) for i in (0, 1)]
    share = 1 - seen[0] * seen[1] / ((box[2] - box[0]) * (box[3] - box[1]))
    patches = store.Patches(
        unit=np.arange(units),
        value=value,
        image=image,
        location=np.zeros((units, per_unit, 2), int),
        box=boxes,
        outside=np.full((units, per_unit), share, np.float32),
        dead=(np.arange(units) == 1).astype(int),
        runner_up=np.full(units, 0.5, np.float32),
        layer=layer,
    )
    store.write(path, patches, RECIPE)
    return patches


def write_projections(
    path: Path, patches: store.Patches, signal: float = 0.0, border: Sequence[int] = ()
) -> None:
    """Write a projection of one value for each patch; those of some ranks win by the padding."""
    height, width = (int(patches.box[0, 0, i + 2] - patches.box[0, 0, i]) for i in (0, 1))
    shape = (*patches.value.shape, 3, height, width)
    store.write(
        path,
        store.Projections(
            unit=patches.unit,
            projection=np.full(shape, signal, np.float32),
            value=patches.value,
            image=patches.image,
            box=patches.box,
            continued=patches.value - 1,
            border=np.isin(np.arange(shape[1]), border) & (patches.image >= 0),
            layer=patches.layer,
        ),
        RECIPE,
    )


def write_directions(path: Path, patches: store.Patches, count: int) -> None:
    """Write `count` directions, each with the patches of the first unit."""
    units, rng = len(patches.unit), np.random.default_rng(0)
    row = np.zeros(count, int)
    store.write(
        path,
        store.Directions(
            vector=np.eye(count, units, dtype=np.float32),
            value=patches.value[row],
            image=patches.image[row],
            location=patches.location[row],
            box=patches.box[row],
            unit_purity=rng.uniform(0.5, 1, units),
            unit_similarity=rng.uniform(0.2, 0.9, units),
            direction_purity=np.full(count, np.nan),
            direction_similarity=rng.uniform(-0.1, 0.4, count),
            shuffled_purity=rng.uniform(0, 0.3, units),
            shuffled_similarity=rng.uniform(-0.1, 0.1, units),
            layer=patches.layer,
            code_layer="fc",
        ),
        RECIPE,
    )


def write_filters(
    path: Path,
    weight: np.ndarray,
    layer: str = "conv1",
    similarity: np.ndarray | None = None,
    groups: int = 1,
    known: bool = True,
) -> store.Filters:
    """Write filters with made up numbers; those of frequencies only if `known`."""
    units, rng = len(weight), np.random.default_rng(0)
    shares = rng.dirichlet(np.ones(3), units) if known else np.full((units, 3), np.nan)
    filters = store.Filters(
        weight=np.asarray(weight, np.float32),
        rms=np.sqrt(np.square(weight).mean((1, 2, 3))),
        rms_pixels=np.full(units, 0.02 if known else np.nan),
        low=shares[:, 0],
        middle=shares[:, 1],
        high=shares[:, 2],
        peak=rng.uniform(0, 0.7, units) if known else np.full(units, np.nan),
        aliased=shares[:, 2] / 2,
        order=np.arange(units)[::-1],
        similarity=np.eye(units, dtype=np.float32) if similarity is None else similarity,
        layer=layer,
        groups=groups,
        stride=(2, 2),
        middle_peaks=0.25 if known else np.nan,
        mean_aliased=0.5 if known else np.nan,
    )
    store.write(path, filters, RECIPE)
    return filters


def write_fields(path: Path, layers: Path, size: tuple[int, int], dead: Sequence[str] = ()) -> None:
    """Write measured fields of all layers: a box of half the field's sides, even mass in it."""
    described = read_layers(layers)
    theory = np.array([layer.boxes(np.array(layer.centre)) for layer in described])
    sides = theory[:, 2:] - theory[:, :2]
    sides = sides // 4 * 2 + sides % 2
    sides[[layer.name in dead for layer in described]] = 0
    corner = (theory[:, :2] + theory[:, 2:] - sides) // 2
    box = np.concatenate([corner, corner + sides], axis=1)
    mass = np.zeros((len(described), *size), np.float32)
    for one, (top, left, bottom, right) in zip(mass, box, strict=True):
        one[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)] = 1
        one /= max(one.sum(), 1)
    store.write(
        path,
        store.EffectiveFields(
            name=np.array([layer.name for layer in described], dtype=object),
            mass=mass,
            cell=np.array([layer.centre for layer in described]),
            theory=theory,
            size=sides,
            box=box,
            outside=np.zeros(len(described)),
            total=mass.sum((1, 2), dtype=np.float64),
            share=0.9,
            images=3,
        ),
        RECIPE,
    )


def write_health(path: Path, answers: np.ndarray, layer: str = "conv2") -> store.Health:
    """Write the health of units that gave these answers, (N,U)."""
    activity = Activity(answers.shape[1])
    activity.add(np.asarray(answers, np.float32))
    names = ("frequency", "mean", "std", "minimum", "maximum", "lifetime", "dead", "constant")
    names += ("always_on", "population", "population_mean", "images", "silent")
    found = {name: getattr(activity, name) for name in names}
    health = store.Health(unit=np.arange(answers.shape[1]), **found, layer=layer)
    store.write(path, health, RECIPE)
    return health


def write_health_history(path: Path, epochs: Sequence[int], layers: Sequence[str]) -> None:
    """Write a history in which the first layer's units are dead from the second epoch on."""
    shape = (len(epochs), len(layers))
    share = np.random.default_rng(0).uniform(0, 0.3, shape)
    dead = share.copy()
    dead[1:, 0] = 1
    level = np.array([0.05, 0.25, 0.5, 0.75, 0.95])
    spread = np.tile(level, (*shape, 1))
    lifetime = spread.copy()
    lifetime[1:, 0] = np.nan
    store.write(
        path,
        store.HealthHistory(
            epoch=np.array(epochs),
            layers=np.array(list(layers), dtype=object),
            units=np.arange(len(layers)) + 5,
            level=level,
            dead=dead,
            always_on=share,
            frequency=spread,
            lifetime=lifetime,
            population=np.where(dead < 1, share, np.nan),
            images=40,
        ),
        RECIPE,
    )


def write_firing(
    path: Path,
    *,
    units: int,
    images: int,
    parts: int,
    box: tuple[int, int, int, int] = (2, 2, 8, 8),
    classes: int = 6,
    exact: bool = True,
    layer: str = "conv2",
) -> store.Firing:
    """Write what makes units fire; the second part is empty, and the last unit is dead."""
    alive = np.arange(units) < max(units - 1, 1)
    image = (np.arange(units * parts) % images).reshape(units, parts)
    image[:, 1:2] = -1
    image[~alive] = -1
    value = np.tile(np.linspace(9, 5, parts), (units, 1)).astype(np.float32)
    value[image < 0] = np.nan
    kept = min(classes, 8)
    frequent = np.full((units, 8), -1)
    frequent[:, :kept] = np.arange(kept)
    times = np.zeros((units, 8), int)
    times[:, :kept] = np.arange(kept, 0, -1)
    known = alive & (classes > 1)
    firing = store.Firing(
        unit=np.arange(units),
        maximum=np.where(alive, 9.0, 0.0),
        firing=np.where(alive, 30, 0),
        labelled=np.where(alive, times.sum(1) + max(classes - 8, 0), 0),
        distinct=np.where(alive, classes, 0),
        frequent=np.where(alive[:, None], frequent, -1),
        times=np.where(alive[:, None], times, 0),
        selectivity=np.where(known, np.linspace(0.2, 0.9, units), np.nan),
        best=np.where(known, np.arange(units) % max(classes, 1), -1),
        best_images=np.where(known, 9, 0),
        best_mean=np.where(known, 2.0, np.nan),
        rest_mean=np.where(known, 1.0, np.nan),
        value=value,
        image=image,
        location=np.zeros((units, parts, 2), int),
        box=np.tile(np.array(box), (units, parts, 1)),
        threshold=0.5,
        images=images,
        labelled_images=images if classes else 0,
        exact=int(exact),
        layer=layer,
    )
    store.write(path, firing, RECIPE)
    return firing


def write_exhibit(
    path: Path, size: tuple[int, int], label: int = 0, mask: np.ndarray | None = None
) -> None:
    """Write an exhibit with a gradient from left to right."""
    ramp = np.linspace(0, 255, size[1]).astype(np.uint8)
    image = np.broadcast_to(ramp[None, :, None], (*size, 3)).copy()
    store.write(path, store.Exhibit(image, 0, label, "0_$x_<y>.png", mask), RECIPE)


def write_occlusion(
    path: Path,
    probability: np.ndarray,
    *,
    size: int,
    stride: int,
    label: int,
    clean: np.ndarray | None = None,
    map_sum: np.ndarray | None = None,
) -> None:
    """Write a sweep with these probabilities, (R,C,K)."""
    rows, columns, classes = probability.shape
    store.write(
        path,
        store.Occlusion(
            row=np.arange(rows) * stride,
            column=np.arange(columns) * stride,
            probability=probability.astype(np.float32),
            map_sum=np.arange(rows * columns, dtype=np.float32).reshape(rows, columns)
            if map_sum is None
            else map_sum,
            clean_probability=(
                np.full(classes, 1 / classes, np.float32) if clean is None else clean
            ),
            clean_map_sum=5.0,
            size=[size, size],
            stride=[stride, stride],
            fill=[120.0, 110.0, 100.0],
            layer=LONG_LAYER,
            unit=7,
            value=3.0,
            location=[0, 0],
            label=label,
        ),
        RECIPE,
    )


def write_strongest(path: Path, count: int, size: tuple[int, int]) -> None:
    """Write projections of one unit's answers to `count` images."""
    store.write(
        path,
        store.Strongest(
            image=np.arange(count),
            value=np.linspace(3, 1, count).astype(np.float32),
            box=np.tile([0, 0, *size], (count, 1)),
            patch=np.full((count, *size, 3), 90, np.uint8),
            projection=np.zeros((count, 3, *size), np.float32),
            layer=LONG_LAYER,
            unit=7,
        ),
        RECIPE,
    )


def write_layers(path: Path) -> None:
    """Write a layers.json of three layers: two maps, of which one is a bound, and a vector."""

    def entry(name: str, shape: list[int], size: int, stride: int, start: int) -> dict:
        field = {"size": [size] * 2, "stride": [stride] * 2, "start": [start] * 2}
        return {
            "name": name,
            "kind": "conv",
            "units": shape[0],
            "shape": shape,
            "inputs": [],
            "receptive_field": field | {"exact": name != LONG_LAYER},
            "deconvnet": "it goes through a <SiLU>" if name == LONG_LAYER else None,
            "stage_end": True,
            "code": False,
            "output": len(shape) == 1,
        }

    layers = [
        entry("conv1", [8, 16, 16], 7, 2, -3),
        entry(LONG_LAYER, [16, 8, 8], 99, 4, -49),
        entry("head", [12], 32, 32, 0),
    ]
    write_json(path, layers)


def write_classes(path: Path, count: int) -> list[str]:
    """Write class names, the first of them awkward."""
    names = [*ODD_NAMES, *(f"class {i}" for i in range(len(ODD_NAMES), count))][:count]
    write_text(path, "\n".join(names) + "\n")
    return names


def write_predictions(path: Path, labels: Sequence[int], predicted: Sequence[int]) -> None:
    """Write a predictions.csv; a wrong answer has rank 4 for the first of them, then 7."""
    ranks: list[object] = []
    for label, answer in zip(labels, predicted, strict=True):
        wrong = 7 if 4 in ranks else 4
        ranks.append("" if label < 0 else 0 if label == answer else wrong)
    write_csv(
        path,
        {
            "image": range(len(labels)),
            "name": [f"{i}_$x_<y>.png" for i in range(len(labels))],
            "label": labels,
            "predicted": predicted,
            "probability": [0.5] * len(labels),
            "label_probability": ["" if label < 0 else 0.25 for label in labels],
            "rank": ranks,
            "correct": ["" if rank == "" else int(rank == 0) for rank in ranks],
        },
    )
