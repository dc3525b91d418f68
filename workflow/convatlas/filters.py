"""Take the filters of a layer out of a network's weights."""

from __future__ import annotations

from pathlib import Path

from convatlas.errors import LayerError
from convatlas.files import AnyPath
from convatlas.layers import find_layer, first_filters, read_layers
from convatlas.models.checkpoints import read_weights
from convatlas.store import Filters, Recipe, write


def cut_filters(*, weights: AnyPath, layers: AnyPath, output: AnyPath, recipe: Recipe) -> None:
    """Write the weights of the network's first convolution, (U,C,h,w).

    Raises
    ------
    LayerError
        if there is none, or its weights aren't kept as such (but as factors, say).
    """
    described = read_layers(layers)
    name = first_filters(described)
    if name is None:
        raise LayerError("the network has no convolution whose filters could be shown.")
    key = find_layer(described, name).weight or ""
    state = read_weights(Path(weights))
    if key not in state:
        raise LayerError(
            f"the weights hold no {key!r}, the filters of {name!r}: they are computed on the way. "
            "Leave out the analysis `filters`."
        )
    write(output, Filters(weight=state[key].float().numpy(), layer=name), recipe)
