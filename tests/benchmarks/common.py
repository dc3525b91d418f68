"""What the benchmarks of networks share: networks, images, clocks, and the machine."""

from __future__ import annotations

import argparse
import math
import os
import platform
from collections.abc import Callable
from time import perf_counter
from typing import Any, TypeVar

import captum
import torch
import torchvision
from tables import processor
from torch import Tensor, nn
from torch.nn import functional

SIDE = 224  # of the images, in pixels
CONFIDENCE = 0.6  # probability of the most probable class on the image as it is
NETWORKS: dict[str, dict[str, Any]] = {
    "alexnet": {},
    "resnet18": {},
    "squeezenet1_0": {},
    "vgg16": {"init_weights": False},
    "googlenet": {"init_weights": False, "aux_logits": False},
    "mobilenet_v2": {},
}

T = TypeVar("T")


# -- networks and images


def build(name: str, seed: int) -> nn.Module:
    """Return a network with random weights through which an image gets sanely."""
    torch.manual_seed(seed)
    model: nn.Module = getattr(torchvision.models, name)(weights=None, **NETWORKS[name])
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
            module.momentum = None  # averages over what it sees
    with torch.no_grad():
        model.train()(images(8, seed + 1))
        _sharpen(model.eval(), images(1, seed))
    return model.requires_grad_(False)


def images(count: int, seed: int) -> Tensor:
    """Return random images with coarse and fine structure, normalised, (count,3,SIDE,SIDE)."""
    generator = torch.Generator().manual_seed(seed)
    found = torch.zeros(count, 3, SIDE, SIDE)
    for side in (7, 28, SIDE):
        noise = torch.randn(count, 3, side, side, generator=generator)
        found += functional.interpolate(noise, (SIDE, SIDE), mode="bilinear")
    return found / found.std()


def _sharpen(model: nn.Module, image: Tensor) -> None:
    """Scale the last layer so that the most probable class of an image has `CONFIDENCE`."""
    logits = model(image)[0].double()
    low, high = -20.0, 20.0  # logarithm of the scale; the probability rises with it
    for _ in range(60):
        middle = (low + high) / 2
        sure = float(torch.softmax(logits * math.exp(middle), 0).max()) > CONFIDENCE
        low, high = (low, middle) if sure else (middle, high)
    last = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)][-1]
    last.weight.mul_(math.exp(low))


# -- timing


def wait(device: torch.device) -> float:
    """Return the time when the device has done its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return perf_counter()


def timed(run: Callable[[], T], device: torch.device) -> tuple[float, T]:
    """Return how many seconds something takes, and what it returns."""
    start = wait(device)
    found = run()
    return wait(device) - start, found


# -- the machine


def environment(options: argparse.Namespace) -> dict[str, Any]:
    """Return what the times depend on."""
    cuda = options.device == "cuda"
    return {
        "device": torch.cuda.get_device_name() if cuda else processor(),
        "threads": torch.get_num_threads(),
        "load before": round(os.getloadavg()[0], 2),
        "torch": torch.__version__,
        "captum": captum.__version__,
        "python": platform.python_version(),
        "repeats": options.repeats,
        "seed": options.seed,
    }
