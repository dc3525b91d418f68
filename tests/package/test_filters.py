"""The first layer's filters are the weights themselves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

from convatlas.filters import cut_filters
from convatlas.graph.describe import describe_network
from convatlas.store import Filters, Recipe, read


def test_filters_are_those_of_the_first_convolution(tmp_path: Path) -> None:
    model = nn.Sequential(
        nn.BatchNorm2d(3),
        nn.Conv2d(3, 5, 3),
        nn.ReLU(),
        nn.Conv2d(5, 4, 1),
        nn.Flatten(),
        nn.Linear(64, 2),
    )
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    describe_network(model, (3, 6, 6), tmp_path / "layers.json")
    cut_filters(
        weights=tmp_path / "weights.pt",
        layers=tmp_path / "layers.json",
        output=tmp_path / "filters.h5",
        recipe=Recipe(),
    )
    found = read(Filters, tmp_path / "filters.h5")
    assert found.layer == "1"
    np.testing.assert_array_equal(found.weight, model[1].weight.detach().numpy())
