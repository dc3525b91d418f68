"""Receptive fields agree with torchlens wherever it calls its own exact.

Behind a pool with `ceil_mode` it doesn't, so these are networks without one.
"""

from __future__ import annotations

import json
import subprocess
import sys
import warnings

import pytest
import torch
from torchvision import models
from torchvisions import OPTIONS, SIZES

from convatlas.graph.describe import all_layers
from convatlas.graph.tracing import trace

KINDS = {"conv2d": "conv", "maxpool2d": "maxpool", "avgpool2d": "avgpool", "add": "add"}


Field = tuple[bool, tuple[float, ...], tuple[float, ...], tuple[float, ...]]


def by_torchlens(name: str, size: tuple[int, int, int]) -> dict[str, list[Field]]:
    """Return, for each kind of layer, whether its field is exact, and size, step and centre.

    In a process of its own: torchlens exchanges torch's functions for good.
    """
    import torchlens

    model = models.get_model(name, weights=None, **OPTIONS.get(name, {})).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = torchlens.trace(model, torch.randn(1, *size))
    fields: dict[str, list[Field]] = {kind: [] for kind in KINDS.values()}
    for layer in found.layers:
        kind = KINDS.get(layer.layer_label.partition("_")[0])
        if kind:
            field = layer.receptive_field
            exact = field.status.value == "exact"
            numbers = (field.size, field.jump, field.center0) if exact else ((), (), ())
            fields[kind].append((exact, *(tuple(map(float, one)) for one in numbers)))
    return fields


@pytest.mark.parametrize(
    ("name", "least"),
    [("alexnet", 8), ("mobilenet_v2", 60), ("resnet18", 20), ("vgg16", 18)],
)
def test_torchlens_agrees_where_it_says_exact(name: str, least: int) -> None:
    size = (3, *SIZES.get(name, (72, 88)))
    model = models.get_model(name, weights=None, **OPTIONS.get(name, {})).eval()
    command = [sys.executable, __file__, name, *map(str, size)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    theirs = json.loads(done.stdout.splitlines()[-1])
    compared = 0
    described = all_layers(trace(model, size))
    for kind, fields in theirs.items():
        ours = [layer for layer in described if layer.kind == kind and len(layer.shape) == 3]
        if len(ours) != len(fields):  # torchlens also counts what isn't of maps
            assert kind in ("add", "avgpool")
            continue
        for layer, field in zip(ours, fields, strict=True):
            exact, *numbers = field
            if exact:
                centre = [a + (b - 1) / 2 for a, b in zip(layer.start, layer.size, strict=True)]
                assert numbers == [list(layer.size), list(layer.stride), centre], layer.name
                compared += 1
    assert compared >= least


if __name__ == "__main__":
    print(json.dumps(by_torchlens(sys.argv[1], tuple(map(int, sys.argv[2:])))))
