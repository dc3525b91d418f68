"""torchvision's classifiers and the weights that it offers for them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
import torchvision
from torch import nn
from torchvision.models import WeightsEnum, get_model, get_model_weights, list_models

from convatlas.digest import file_digest
from convatlas.errors import ModelError, did_you_mean
from convatlas.models import WITH_TRAINING_HEADS


def build(name: str, options: Mapping[str, Any], *, initialise: bool) -> nn.Module:
    """Return a classifier of torchvision, without weights of torchvision's.

    Parameters
    ----------
    name : as `torchvision.models.list_models` has it.
    options : keyword arguments of torchvision's builder.
    initialise : draw its first weights from torch's generator. Otherwise they are left
        unset, which saves seconds where a checkpoint will fill all of them.

    Raises
    ------
    ModelError
        if there is no such classifier or it doesn't take these options.
    """
    _check_name(name)
    arguments = dict(options)
    if name in WITH_TRAINING_HEADS:
        arguments.setdefault("init_weights", initialise)
    try:
        if initialise:
            return get_model(name, **arguments)  # type: ignore[no-any-return]
        with torch.device("meta"):
            return get_model(name, **arguments).to_empty(device="cpu")  # type: ignore[no-any-return]
    except (TypeError, ValueError) as error:
        raise ModelError(
            f"torchvision/{name} can't be built with the options {dict(options)}: {error}."
        ) from error


def _check_name(name: str) -> None:
    classifiers = list_models(module=torchvision.models)
    if name in classifiers:
        return
    problem = "is not a classifier" if name in list_models() else "doesn't exist"
    raise ModelError(
        f"torchvision/{name} {problem} in torchvision {torchvision.__version__}."
        f"{did_you_mean(name, classifiers) or ' There are: ' + ', '.join(classifiers) + '.'}"
    )


def default_options(name: str) -> dict[str, Any]:
    """Return the options that an architecture is built with unless others are given.

    The heads that GoogLeNet and Inception have for training only are left out.
    """
    _check_name(name)
    options: dict[str, Any] = {"num_classes": 1000}
    if name in WITH_TRAINING_HEADS:
        options |= {"aux_logits": False, "transform_input": False}
    return options


def options_for(name: str, weights: WeightsEnum) -> dict[str, Any]:
    """Return the options that torchvision's builder sets when it is given `weights`."""
    options = default_options(name) | {"num_classes": len(weights.meta["categories"])}
    if name in WITH_TRAINING_HEADS:
        options["transform_input"] = True
    if name.startswith("vit_"):
        options["image_size"] = weights.meta["min_size"][0]
    return options


def find_weights(name: str, text: str) -> WeightsEnum | None:
    """Return the weights of an architecture that `text` names, such as DEFAULT, or None."""
    _check_name(name)
    enum = get_model_weights(name)
    return enum.__members__.get(text.removeprefix(f"{enum.__name__}."))


def weights_names(name: str) -> list[str]:
    """Return the names of all weights that torchvision has for an architecture."""
    _check_name(name)
    return list(get_model_weights(name).__members__)


def recognise(name: str, path: Path) -> WeightsEnum | None:
    """Return the weights whose very file `path` is, whatever it is called, or None.

    torchvision writes the first digits of a file's SHA-256 into its address.
    """
    _check_name(name)
    digest = file_digest(path)
    for weights in get_model_weights(name):
        beginning = Path(weights.url).stem.rpartition("-")[2]
        if len(beginning) >= 8 and digest.startswith(beginning):
            return weights  # type: ignore[no-any-return]
    return None


def normalization(weights: WeightsEnum) -> dict[str, list[float]]:
    """Return the mean and standard deviation that go with `weights`, pixels in 0..1."""
    preset = weights.transforms()
    return {"mean": list(preset.mean), "std": list(preset.std)}


def preset(name: str) -> dict[str, list[float]]:
    """Return the normalisation of an architecture's DEFAULT weights."""
    weights = find_weights(name, "DEFAULT")
    if weights is None:
        raise ModelError(
            f"torchvision/{name} has no weights of its own, so its normalisation isn't known. "
            "Give `normalize: {mean: [...], std: [...]}`."
        )
    return normalization(weights)


def download(weights: WeightsEnum) -> Mapping[str, Any]:
    """Return the content of the file of `weights`, from torch's cache or its address.

    Raises
    ------
    ModelError
        if it can't be had.
    """
    try:
        return weights.get_state_dict(  # type: ignore[no-any-return]
            progress=False, check_hash=True, map_location="cpu", weights_only=True
        )
    except (URLError, OSError, RuntimeError) as error:
        raise ModelError(
            f"{weights} can't be downloaded from {weights.url}: {error}. Download that file where "
            "there is a network, and give its path: `weights: path/to/file.pth`."
        ) from error
