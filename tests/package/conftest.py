"""What several tests of the package share."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from studies import Study, write_noise

if "PYTEST_XDIST_WORKER" in os.environ:  # another process of pytest has the other cores
    torch.set_num_threads(1)

NETWORKS = Path(__file__).with_name("networks.py")


@pytest.fixture
def make_study(tmp_path: Path) -> Callable[..., Study]:
    """Return a function that makes a study of one of the functions in networks.py."""

    def make(function: str, count: int = 23, size: tuple[int, int] = (26, 31)) -> Study:
        from convatlas.graph.describe import describe_network
        from convatlas.models.load import import_model, load_model

        paths = {n: tmp_path / n for n in ("images.h5", "model.json", "weights.pt", "layers.json")}
        pixels = write_noise(paths["images.h5"], count, size)
        unit = {"mean": [0.5] * 3, "std": [0.25] * 3}
        # Under a name of its own, since the tests have imported networks.py itself.
        source = Path(shutil.copy(NETWORKS, tmp_path / f"net_{tmp_path.name}.py"))
        import_model(
            f"{source}:{function}", {}, "random", unit, 0, paths["weights.pt"], paths["model.json"]
        )
        model = load_model(paths["model.json"], paths["weights.pt"])
        describe_network(model.module, (3, *size), paths["layers.json"])
        images, card, weights, layers = paths.values()
        return Study(images, card, weights, layers, pixels, tmp_path)

    # import_model has torch use deterministic algorithms from then on; a test shouldn't.
    torch.use_deterministic_algorithms(False)
    return make
