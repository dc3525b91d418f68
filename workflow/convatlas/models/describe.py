"""Find out a model's layers, which doesn't take its weights."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from convatlas.data.prepare import image_size
from convatlas.graph.describe import describe_network
from convatlas.models.load import build, imported_options, trained_options


def describe_model(
    *,
    architecture: str,
    options: Mapping[str, Any],
    weights: str | None,
    classes: int | None,
    images: Mapping[str, Any],
    output: str | os.PathLike[str],
) -> None:
    """Write the `layers.json` of a model that needn't be there yet.

    Parameters
    ----------
    architecture, options : as for `load.import_model` and `training.train_model`.
    weights : where they will be from, as for `import_model`; None if they will be trained.
    classes : number of classes that it will be trained on, if they are.
    images : what decides the size of the images that the layers are described for, see
        `convatlas.data.prepare.size_keys`.

    Raises
    ------
    DataError, ModelError
        if there are no images, or the network can't be built or traced.
    """
    size = image_size(images)
    if weights is None:
        complete = trained_options(architecture, options, classes or 0, size)
    else:
        complete = imported_options(architecture, options, weights)
    describe_network(build(architecture, complete, None).eval(), (3, *size), output)
