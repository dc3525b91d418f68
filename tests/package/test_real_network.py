"""A real ImageNet network and real photographs, against plain torch and Captum.

Skipped where the folder with them isn't there (see `DATA`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from captum.attr import NeuronDeconvolution
from PIL import Image
from torch import Tensor, nn
from torchvision import models
from torchvision.models.feature_extraction import create_feature_extractor
from torchvision.transforms import functional

from convatlas.activations import extract_activations
from convatlas.data.prepare import prepare_images
from convatlas.files import read_csv
from convatlas.graph.describe import describe_network
from convatlas.models.load import import_model, load_model
from convatlas.occlusion import sweep
from convatlas.patches import rank_patches
from convatlas.predictions import score_predictions
from convatlas.projection.patches import project_patches
from convatlas.store import Images, Patches, Projections, Recipe, gather_activations, read

DATA = Path(__file__).parents[3] / "shared" / "data"
LAYER = "features.7.cat"

pytestmark = pytest.mark.skipif(
    not DATA.is_dir(), reason="the folder with the real network and photographs isn't there"
)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the artifacts of all photographs."""
    out = tmp_path_factory.mktemp("real")
    source = {
        "source": "folder",
        "path": str(DATA / "photos"),
        "labels": str(DATA / "labels.csv"),
        "classes": str(DATA / "classes.txt"),
        "resize": 256,
        "crop": 227,
        "interpolation": "bilinear",
        "on_error": "fail",
    }
    recipe = Recipe()
    prepare_images(source, "images", out / "images.h5", out / "manifest.csv", recipe)
    import_model(
        "torchvision/squeezenet1_0",
        {},
        str(DATA / "squeezenet1_0.pth"),
        {"mean": [123 / 255, 117 / 255, 104 / 255], "std": [1 / 255] * 3},
        0,
        out / "weights.pt",
        out / "model.json",
    )
    model = {"card": out / "model.json", "weights": out / "weights.pt"}
    describe_network(load_model(**model).module, (3, 227, 227), out / "layers.json")
    read_only: dict[str, Any] = {"images": out / "images.h5", "layers": out / "layers.json"}
    for shard in range(2):
        extract_activations(
            **read_only,
            **model,
            output=out / f"{shard}.h5",
            recipe=recipe,
            shard=shard,
            shards=2,
            batch_size=20,
            wanted=[LAYER],
        )
    gather_activations([out / "0.h5", out / "1.h5"], out / "activations.h5", recipe)
    score_predictions(
        **read_only, activations=out / "activations.h5", output=out / "predictions.csv"
    )
    rank_patches(
        **read_only,
        activations=out / "activations.h5",
        output=out / "patches.h5",
        recipe=recipe,
        layer=LAYER,
        per_unit=9,
    )
    project_patches(
        patches=out / "patches.h5",
        images=out / "images.h5",
        **model,
        output=out / "projections.h5",
        recipe=recipe,
        units=[3, 200],
        batch_size=20,
    )
    return out


@pytest.fixture(scope="module")
def network() -> nn.Module:
    """Return the network as plain torchvision gives it."""
    network = models.squeezenet1_0(weights=None)
    network.load_state_dict(torch.load(DATA / "squeezenet1_0.pth", weights_only=True))
    return network.eval()


@pytest.fixture(scope="module")
def photographs() -> Tensor:
    """Return all photographs as the network takes them, read by Pillow and torchvision."""
    files = sorted(read_csv(DATA / "labels.csv")["file"])
    return torch.stack([_read(DATA / "photos" / name) for name in files])


def _read(path: Path) -> Tensor:
    image = functional.center_crop(functional.resize(Image.open(path).convert("RGB"), 256), 227)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float()
    return pixels - torch.tensor([123.0, 117.0, 104.0])[:, None, None]


def test_as_many_are_right_as_measured_independently(study: Path) -> None:
    assert read_csv(study / "predictions.csv")["correct"].count("1") == 125


def test_patches_equal_a_ranking_by_brute_force(
    study: Path, network: nn.Module, photographs: Tensor
) -> None:
    squeeze = create_feature_extractor(network, [LAYER])
    with torch.inference_mode():
        maps = [squeeze(part)[LAYER].flatten(2) for part in photographs.split(20)]
    largest = torch.cat([m.max(2).values for m in maps]).numpy()
    order = np.argsort(-largest, axis=0, kind="stable")[:9].T
    found = read(Patches, study / "patches.h5")
    np.testing.assert_array_equal(found.image, order)
    expected = np.take_along_axis(largest.T, order, 1)
    np.testing.assert_allclose(found.value, expected, rtol=1e-5)


def test_projections_equal_captum(study: Path, network: nn.Module) -> None:
    found = read(Projections, study / "projections.h5")
    ranked = read(Patches, study / "patches.h5")
    with Images(study / "images.h5") as data:
        size = data.size
        pixels = torch.from_numpy(data.rows(found.image[:, 0])).permute(0, 3, 1, 2).float()
    images = pixels - torch.tensor([123.0, 117.0, 104.0])[:, None, None]
    # The layer is a concatenation; Captum hooks modules, so it is asked for the half
    # that the unit lies in, behind its ReLU.
    fire = network.features[7]
    for row, (unit, module) in enumerate(
        ((3, fire.expand1x1_activation), (200, fire.expand3x3_activation))
    ):
        y, x = ranked.location[unit, 0]
        captum = NeuronDeconvolution(network, module)
        signal = captum.attribute(images[row : row + 1], (unit % 128, int(y), int(x)))[0]
        signal = signal.detach().numpy() * ranked.value[unit, 0]
        top, left, bottom, right = found.box[row, 0]
        inside = signal[:, max(top, 0) : min(bottom, size[0]), max(left, 0) : min(right, size[1])]
        ours = found.projection[row, 0]
        ours = ours[:, max(-top, 0) :, max(-left, 0) :][:, : inside.shape[1], : inside.shape[2]]
        assert np.abs(signal).max() > 0
        np.testing.assert_allclose(ours, inside, atol=1e-5 * np.abs(signal).max())
        assert np.isclose(np.abs(ours).sum(), np.abs(signal).sum(), rtol=1e-5)  # none outside


def test_occlusion_equals_a_loop(network: nn.Module, photographs: Tensor) -> None:
    image = photographs[42]
    found = sweep(network, image, size=64, stride=60, fill=[5.0, -3.0, 1.0], batch_size=5)
    with torch.inference_mode():
        for i, top in enumerate(found.row):
            for j, left in enumerate(found.column):
                occluded = image.clone()
                occluded[:, top : top + 64, left : left + 64] = torch.tensor([5.0, -3, 1])[
                    :, None, None
                ]
                expected = network(occluded[None]).softmax(1)[0].numpy()
                np.testing.assert_allclose(found.probability[i, j], expected, atol=1e-5)
    assert found.probability.std((0, 1)).max() > 0.01  # the occluder matters
