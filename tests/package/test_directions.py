"""Random directions beside units, and how alike what excites them is."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from studies import Study

from convatlas.directions import (
    project_on,
    purity,
    random_directions,
    rank_directions,
    shuffled,
    similarity,
)
from convatlas.layers import find_layer, read_layers
from convatlas.models.load import load_model
from convatlas.patches import rank_patches
from convatlas.store import Directions, Patches, Recipe, read


def test_directions_are_of_unit_length_and_more_keep_the_first() -> None:
    few, many = random_directions(3, 40, 7), random_directions(9, 40, 7)
    np.testing.assert_array_equal(few, many[:3])
    np.testing.assert_allclose(np.linalg.norm(many, axis=1), 1, rtol=1e-6)
    assert not np.allclose(few, random_directions(3, 40, 8))
    assert abs(many @ many.T - np.eye(9)).max() < 0.7  # they go every which way


def test_what_a_layer_is_along_a_direction() -> None:
    maps, vectors = torch.randn(2, 4, 3, 5), torch.randn(2, 4)
    axes = torch.eye(4)[[2, 0]]
    torch.testing.assert_close(project_on(maps, axes), maps[:, [2, 0]])
    torch.testing.assert_close(project_on(vectors, axes), vectors[:, [2, 0]])


def test_purity_by_hand() -> None:
    labels = np.array([0, 0, 1, 2, -1])
    image = np.array([[0, 1, 2, 3], [0, 1, 4, -1], [2, 4, -1, -1], [0, 2, 3, 4]])
    found = purity(image, labels)
    np.testing.assert_array_equal(found[[0, 1, 3]], [0.5, 1, 1 / 3])
    assert np.isnan(found[2])  # one label alone


def test_similarity_by_hand() -> None:
    codes = np.array([[2.0, 0], [0, 3], [5, 5], [0, 0]])
    image = np.array([[4, 6, 8, -1], [4, -1, -1, -1], [4, 4, 4, 4], [4, 6, 9, -1]])
    found = similarity(image, np.array([4, 6, 8, 9]), codes)
    half = np.sqrt(0.5)
    np.testing.assert_allclose(found[[0, 3]], [(0 + half + half) / 3, 0], atol=1e-12)
    assert np.isnan(found[[1, 2]]).all()  # one image alone


def test_shuffling_keeps_the_images_and_the_gaps() -> None:
    image = np.arange(40).reshape(8, 5)
    image[2, 3:] = -1
    found = shuffled(image, 1)
    np.testing.assert_array_equal(found < 0, image < 0)
    np.testing.assert_array_equal(np.sort(found[found >= 0]), np.sort(image[image >= 0]))
    assert (found != image).mean() > 0.5


@pytest.mark.parametrize("layer", ["conv3", "fc"])
def test_ranked_as_by_brute_force(make_study: Callable[..., Study], layer: str) -> None:
    from test_activations import store_activations

    study = make_study("inplace")
    activations, output = store_activations(study), study.folder / "directions.h5"
    patches = study.folder / "patches.h5"
    rank_patches(
        activations=activations,
        layers=study.layers,
        images=study.images,
        output=patches,
        recipe=Recipe(),
        layer=layer,
        per_unit=4,
    )
    rank_directions(
        **study.inputs,
        activations=activations,
        patches=patches,
        output=output,
        recipe=Recipe(),
        number=5,
        seed=3,
        batch_size=7,
    )
    found, units = read(Directions, output), read(Patches, patches)
    model = load_model(study.card, study.weights)
    kept = {}
    module = dict(model.module.named_modules())[layer]
    module.register_forward_hook(lambda m, i, o: kept.update(value=o.detach().clone()))
    with torch.no_grad():
        model.module(model.prepare(study.pixels))
    value = kept["value"].double().numpy()
    value = value.reshape(*value.shape[:2], -1)
    along = np.einsum("nuc,du->ndc", value, found.vector.astype(float))
    best = along.max(2)
    for row in range(5):
        order = np.argsort(-best[:, row], kind="stable")[:4]
        assert found.image[row].tolist() == order.tolist()
        np.testing.assert_allclose(found.value[row], best[order, row], rtol=1e-4, atol=1e-5)
        width = model_width(study, layer)
        cells = along[order, row].argmax(1)
        assert found.location[row].tolist() == [[c // width, c % width] for c in cells]
    boxes = find_layer(read_layers(study.layers), layer).boxes(found.location)
    np.testing.assert_array_equal(found.box, boxes)
    labels = np.arange(23) % 5  # as the study labels its images
    np.testing.assert_array_equal(found.unit_purity, purity(units.image, labels))
    assert found.code_layer == "mean"
    assert np.isfinite(found.direction_similarity).all()
    np.testing.assert_array_equal(found.shuffled_purity, purity(shuffled(units.image, 3), labels))


def model_width(study: Study, layer: str) -> int:
    shape = find_layer(read_layers(study.layers), layer).shape
    return shape[2] if len(shape) == 3 else 1
