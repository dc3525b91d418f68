"""Take the filters of a layer out of a network's weights."""

from __future__ import annotations

import os

import torch

from convatlas.layers import find_layer, first_filters, read_layers
from convatlas.store import Filters, Recipe, write

Path = str | os.PathLike[str]


def cut_filters(*, weights: Path, layers: Path, output: Path, recipe: Recipe) -> None:
    """Write the weights of the network's first convolution, (U,C,h,w)."""
    described = read_layers(layers)
    layer = find_layer(described, first_filters(described))
    state = torch.load(weights, map_location="cpu", weights_only=True)
    weight = state[layer.weight].float().numpy()
    write(output, Filters(weight=weight, layer=layer.name), recipe)
