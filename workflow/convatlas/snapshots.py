"""How a layer's units come to be as they are: their health after epochs of training.

The network of each epoch whose weights were kept answers all images once more. Only
statistics are kept, see `convatlas.health`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from convatlas.activations import run_layers, summarise
from convatlas.errors import StoreError
from convatlas.graph.tracing import trace
from convatlas.health import Activity
from convatlas.job import log, progress
from convatlas.layers import find_layer, read_layers
from convatlas.models.load import load_model
from convatlas.store import HealthHistory, Images, Recipe, write

AnyPath = str | os.PathLike[str]

LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)  # of the quantiles


def track_health(
    *,
    images: AnyPath,
    card: AnyPath,
    layers: AnyPath,
    weights: Mapping[int, AnyPath],
    output: AnyPath,
    recipe: Recipe,
    wanted: Sequence[str],
    batch_size: int,
) -> None:
    """Write how healthy the units of some layers are after each of some epochs.

    Parameters
    ----------
    images, card, layers : the artifacts; the card says how to build the network.
    weights : epoch -> the weights at its end.
    wanted : names of the layers.
    batch_size : images a forward pass.

    Raises
    ------
    StoreError
        if a snapshot isn't there.
    """
    missing = [path for path in map(Path, weights.values()) if not path.is_file()]
    if missing:
        raise StoreError(
            f"{missing[0]} doesn't exist. Delete its folder and run the workflow again."
        )
    described = read_layers(layers)
    units = {name: find_layer(described, name).units for name in wanted}
    epochs = sorted(weights)
    with Images(images) as data:
        count = len(data)
        found = [_activities(data, card, weights[epoch], units, batch_size) for epoch in epochs]
        log.info("%d epochs, %d layers, %d images", len(epochs), len(units), count)

    def of_all(what: str) -> NDArray[np.float64]:
        """Return one statistic of the units, averaged over them, (E,L)."""
        return np.array([[getattr(one[n], what).mean() for n in units] for one in found])

    def spread(what: str) -> NDArray[np.float64]:
        """Return the quantiles over the units of one statistic, (E,L,Q)."""
        return np.array([[_quantiles(getattr(one[n], what)) for n in units] for one in found])

    write(
        output,
        HealthHistory(
            epoch=np.array(epochs),
            layers=np.array(list(units), dtype=object),
            units=np.array(list(units.values())),
            level=np.array(LEVELS),
            dead=of_all("dead"),
            always_on=of_all("always_on"),
            frequency=spread("frequency"),
            lifetime=spread("lifetime"),
            population=np.array([[one[n].population_mean for n in units] for one in found]),
            images=count,
        ),
        recipe,
    )


def _activities(
    data: Images, card: AnyPath, weights: AnyPath, units: Mapping[str, int], batch_size: int
) -> dict[str, Activity]:
    """Run all images through a network and return what its layers' units did."""
    model = load_model(card, weights)
    graph = trace(model.module, (3, *data.size))
    found = {name: Activity(number) for name, number in units.items()}
    starts = range(0, len(data), batch_size)
    for start in progress(starts, len(starts), "batches"):
        batch = model.prepare(data.block(start, min(start + batch_size, len(data))))
        for name, value in run_layers(graph, set(units), batch):
            found[name].add(summarise(name, value)["max"].astype(np.float32))
    return found


def _quantiles(values: NDArray[np.float64]) -> NDArray[np.float64]:
    known = values[np.isfinite(values)]
    return np.quantile(known, LEVELS) if known.size else np.full(len(LEVELS), np.nan)
