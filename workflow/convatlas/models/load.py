"""Networks from the config: built, filled with weights, kept as artifacts, loaded again.

A model is kept as two files: its weights (a plain state dict) and its card, a JSON
file that says how to build the same network again, without a download.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from convatlas.device import choose_device, seed_everything
from convatlas.errors import ModelError, did_you_mean
from convatlas.files import read_json, write_json
from convatlas.job import log
from convatlas.models.architectures import ARCHITECTURES
from convatlas.models.checkpoints import (
    load_checkpoint,
    load_weights,
    read_checkpoint,
    save_weights,
    weights_digest,
)
from convatlas.models.userfile import build_from_file, check_options
from convatlas.store import NO_RECIPE, Recipe

Normalization = Mapping[str, Sequence[float]]

_TORCHVISION = "torchvision/"


# ----------------------------------------------------------------------- building


def build(architecture: str, options: Mapping[str, Any], seed: int | None) -> nn.Module:
    """Return a network, on the CPU and in float32.

    Parameters
    ----------
    architecture : one of our own by name, ``torchvision/NAME``, or ``FILE.py:FUNCTION``.
    options : keyword arguments for what builds it.
    seed : of its first weights. None where a checkpoint will replace them all; they may
        then be anything.

    Raises
    ------
    ModelError
        if there is no such architecture, or it can't be built with these options.
    """
    with torch.random.fork_rng(devices=[]):
        if seed is not None:
            torch.manual_seed(seed)
        module = _build(architecture, options, seed)
    kinds = {str(p.dtype) for p in module.parameters() if p.is_floating_point()}
    if kinds - {"torch.float32"}:
        log.info("%s: %s turned into float32", architecture, ", ".join(sorted(kinds)))
    return module.cpu().float()


def _build(architecture: str, options: Mapping[str, Any], seed: int | None) -> nn.Module:
    if name := torchvision_name(architecture):
        from convatlas.models import zoo  # torchvision costs seconds; not all need it

        return zoo.build(name, options, initialise=seed is not None)
    if architecture in ARCHITECTURES:
        check_options(ARCHITECTURES[architecture], options, architecture)
        return ARCHITECTURES[architecture](**options)
    if ".py:" in architecture:
        return build_from_file(architecture, options)
    raise ModelError(
        f"architecture {architecture!r} isn't known.{did_you_mean(architecture, ARCHITECTURES)} "
        f"Give one of {', '.join(ARCHITECTURES)}, torchvision/NAME, or FILE.py:FUNCTION."
    )


def torchvision_name(architecture: str) -> str:
    """Return torchvision's name of an architecture, or nothing if it isn't torchvision's."""
    return architecture.removeprefix(_TORCHVISION) if architecture.startswith(_TORCHVISION) else ""


def outputs_option(architecture: str) -> str:
    """Return the option that says how many outputs an architecture has, or nothing."""
    if torchvision_name(architecture):
        return "num_classes"
    return "classes" if architecture in ARCHITECTURES else ""


def imported_options(architecture: str, options: Mapping[str, Any], weights: str) -> dict[str, Any]:
    """Return the options that a network for given weights is built with, all decided.

    Parameters are those of `import_model`. The weights are looked at only to see whether
    they are torchvision's own, for which some of its networks are built in another way.
    """
    if not (name := torchvision_name(architecture)):
        return dict(options)
    from convatlas.models import zoo

    named = zoo.find_weights(name, weights)
    if named is None and Path(weights).is_file():
        named = zoo.recognise(name, Path(weights))
    defaults = zoo.options_for(name, named) if named else zoo.default_options(name)
    return defaults | dict(options)


def trained_options(
    architecture: str, options: Mapping[str, Any], classes: int, size: tuple[int, int]
) -> dict[str, Any]:
    """Return the options that a network to be trained is built with.

    The number of outputs is that of the classes, and for our own architectures the size
    (height, width) that of the images, unless the options say otherwise.
    """
    inferred: dict[str, Any] = {}
    if name := outputs_option(architecture):
        inferred[name] = classes
    if architecture in ARCHITECTURES:
        height, width = (int(edge) for edge in size)
        inferred["size"] = height if height == width else [height, width]
    if name := torchvision_name(architecture):
        from convatlas.models import zoo  # torchvision costs seconds; not all need it

        inferred = zoo.default_options(name) | inferred
    return inferred | dict(options)


# ---------------------------------------------------------------------- importing


@dataclass(frozen=True)
class _Choice:
    """What a model is to be made from, every default decided."""

    normalize: Normalization
    weights: str  # what the card says of them
    content: Mapping[Any, Any] | None  # of the checkpoint; None for random weights
    source: str = ""


def import_model(
    architecture: str,
    options: Mapping[str, Any],
    weights: str,
    normalize: Normalization | None,
    seed: int,
    weights_out: str | os.PathLike[str],
    card_out: str | os.PathLike[str],
    recipe: Recipe = NO_RECIPE,
) -> None:
    """Make a model from weights that exist, or from random ones if these are asked for.

    Parameters
    ----------
    architecture, options : see `build`.
    weights : path of a checkpoint file; for torchvision's architectures also DEFAULT or
        the name of one of its weights; or ``random``.
    normalize : mean and standard deviation of each channel, pixels in 0..1. None takes
        those that belong to torchvision's weights, and for any other network 0 and 1.
    seed : of random weights.
    weights_out, card_out : where the two files appear.
    recipe : what the model is made from.

    Raises
    ------
    ModelError
        if the network can't be built, or the weights can't be had or don't fit it.
    """
    seed_everything(seed)
    choose = _choose_torchvision if torchvision_name(architecture) else _choose_plain
    choice = choose(architecture, weights)
    options = imported_options(architecture, options, weights)
    module = build(architecture, options, seed if choice.content is None else None)
    if choice.content is None:
        log.warning("%s: its weights are random, as asked for", architecture)
    else:
        load_checkpoint(module, choice.content, choice.source, outputs_option(architecture))
    write_model(
        module,
        architecture=architecture,
        options=options,
        weights=choice.weights,
        normalize=_said(choice.normalize, architecture) if normalize is None else normalize,
        training=None,
        weights_out=weights_out,
        card_out=card_out,
        recipe=recipe,
    )


def _choose_plain(architecture: str, weights: str) -> _Choice:
    unit = {"mean": [0.0] * 3, "std": [1.0] * 3}
    if weights == "random":
        return _Choice(unit, weights, None)
    path = Path(weights)
    return _Choice(unit, path.name, read_checkpoint(path), weights)


def _choose_torchvision(architecture: str, weights: str) -> _Choice:
    from convatlas.models import zoo

    name = torchvision_name(architecture)
    preset = zoo.preset(name)
    if weights == "random":
        return _Choice(preset, weights, None)
    named = zoo.find_weights(name, weights)
    if named:
        label, content = str(named), zoo.download(named)
    else:
        path = _weights_file(weights, architecture, zoo.weights_names(name))
        label, content, named = path.name, read_checkpoint(path), zoo.recognise(name, path)
    if named is None:
        return _Choice(preset, label, content, weights)
    log.info("%s: these are torchvision's %s", weights, named)
    return _Choice(zoo.normalization(named), label, content, weights)


def _weights_file(weights: str, architecture: str, names: Sequence[str]) -> Path:
    path = Path(weights)
    if path.exists() or path.suffix or path.name != weights:
        return path
    known = [*names, "random"]
    raise ModelError(
        f"weights: {weights} is neither a file nor weights of {architecture}."
        f"{did_you_mean(weights, known)} It has {', '.join(known)}."
    )


def _said(normalize: Normalization, architecture: str) -> Normalization:
    log.info(
        "%s: no `normalize` is given; mean %s and std %s are taken, with pixels in 0..1",
        architecture,
        list(normalize["mean"]),
        list(normalize["std"]),
    )
    return normalize


# ---------------------------------------------------------------- keeping a model


def write_model(
    module: nn.Module,
    *,
    architecture: str,
    options: Mapping[str, Any],
    weights: str,
    normalize: Normalization,
    training: Mapping[str, Any] | None,
    weights_out: str | os.PathLike[str],
    card_out: str | os.PathLike[str],
    recipe: Recipe,
) -> None:
    """Write a network's weights and its card.

    Parameters
    ----------
    weights : where they are from: ``trained``, ``random``, or the name of a file or of
        torchvision's weights.
    training : how the network was trained, if it was trained here.
    recipe : what it is made from; goes into the card.
    """
    card = {
        "architecture": architecture,
        "options": dict(options),
        "weights": weights,
        "digest": weights_digest(module),
        "normalize": _checked(normalize),
        "parameters": sum(p.numel() for p in module.parameters()),
        "training": training,
        "made": recipe.attributes(),
    }
    save_weights(module, Path(weights_out))
    write_json(card_out, card)


def _checked(normalize: Normalization) -> dict[str, list[float]]:
    checked = {key: [float(v) for v in normalize[key]] for key in ("mean", "std")}
    if not all(len(v) == 3 and all(map(math.isfinite, v)) for v in checked.values()):
        raise ModelError(f"normalize: {normalize} needs three numbers under mean and under std.")
    if min(checked["std"]) <= 0:
        raise ModelError(f"normalize: std {checked['std']} must be greater than 0 everywhere.")
    return checked


# ------------------------------------------------------------------ loading a model


@dataclass(frozen=True)
class LoadedModel:
    """A network ready to look at images.

    `module` is in eval mode and its parameters need no gradient; `mean` and `std` are
    (1,3,1,1) float32; `card` is the content of the model's JSON file.
    """

    module: nn.Module
    mean: Tensor
    std: Tensor
    card: dict[str, Any]

    def prepare(
        self,
        images: NDArray[np.uint8],
        layout: torch.memory_format = torch.contiguous_format,
    ) -> Tensor:
        """Turn images (n,H,W,3) uint8 into the network's input (n,3,H,W) float32.

        The input is (pixel / 255 - mean) / std, in `layout`, on the network's device.
        Contiguous if not said, because many a user's network calls `view` on what a layer
        returns.
        """
        pixels = torch.from_numpy(np.ascontiguousarray(images)).to(self.mean.device)
        # A row of pixels with its channels is one run of numbers, which vectorises.
        mean, std = (x.flatten().repeat(images.shape[2]) for x in (self.mean, self.std))
        rows = pixels.flatten(2).float().div_(255).sub_(mean).div_(std)
        return rows.view(images.shape).permute(0, 3, 1, 2).contiguous(memory_format=layout)

    def to(self, device: torch.device) -> LoadedModel:
        """Return the model on another device; the network itself is moved."""
        return replace(
            self,
            module=self.module.to(device),
            mean=self.mean.to(device),
            std=self.std.to(device),
        )


def load_model(card: str | os.PathLike[str], weights: str | os.PathLike[str]) -> LoadedModel:
    """Load a model that `import_model` or the training made, onto the GPU if there is one.

    Parameters
    ----------
    card, weights : paths of its two files; the weights may also be a snapshot's.

    Raises
    ------
    ModelError
        if the network can't be built again or the weights don't fit it any more, as after
        an edit of the user's file.
    """
    content = read_json(card)
    module = build(content["architecture"], content["options"], None)
    load_weights(module, Path(weights))
    mean, std = (
        torch.tensor(content["normalize"][key], dtype=torch.float32).view(1, 3, 1, 1)
        for key in ("mean", "std")
    )
    loaded = LoadedModel(module.eval().requires_grad_(False), mean, std, content)
    return loaded.to(choose_device())
