"""Receptive fields agree with torchlens wherever it calls its own exact.

Behind a pool with `ceil_mode` it doesn't, so these are networks without one.
"""

from __future__ import annotations

import warnings

import pytest
import torch
import torchlens
from torchlens.receptive_field import ReceptiveFieldStatus
from torchvision import models
from torchvisions import OPTIONS, SIZES

from convatlas.graph.describe import all_layers
from convatlas.graph.tracing import trace

KINDS = {"conv2d": "conv", "maxpool2d": "maxpool", "avgpool2d": "avgpool", "add": "add"}


@pytest.mark.parametrize(
    ("name", "least"),
    [("alexnet", 8), ("mobilenet_v2", 60), ("resnet18", 20), ("vgg16", 18)],
)
def test_torchlens_agrees_where_it_says_exact(name: str, least: int) -> None:
    size = (3, *SIZES.get(name, (72, 88)))
    model = models.get_model(name, weights=None, **OPTIONS.get(name, {})).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = torchlens.trace(model, torch.randn(1, *size))
    theirs: dict[str, list[object]] = {kind: [] for kind in KINDS.values()}
    for layer in found.layers:
        kind = KINDS.get(layer.layer_label.partition("_")[0])
        if kind:
            theirs[kind].append(layer.receptive_field)
    compared = 0
    described = all_layers(trace(model, size))
    for kind, fields in theirs.items():
        ours = [layer for layer in described if layer.kind == kind and len(layer.shape) == 3]
        if len(ours) != len(fields):  # torchlens also counts what isn't of maps
            assert kind in ("add", "avgpool")
            continue
        for layer, field in zip(ours, fields, strict=True):
            if field.status != ReceptiveFieldStatus.EXACT:
                continue
            centre = tuple(
                start + (size - 1) / 2 for start, size in zip(layer.start, layer.size, strict=True)
            )
            assert tuple(field.size) == layer.size, layer.name
            assert tuple(map(int, field.jump)) == layer.stride, layer.name
            assert tuple(map(float, field.center0)) == centre, layer.name
            compared += 1
    assert compared >= least
