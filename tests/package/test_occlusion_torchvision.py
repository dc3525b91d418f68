"""The occlusion engine on torchvision's classifiers: one of each family, or all of them.

All of them take half an hour: ``CONVATLAS_ALL_NETWORKS=1 pytest -s`` with this file, which
also prints how far each is off, and what it runs on whole maps.
"""

from __future__ import annotations

import logging
import os

import pytest
import torch
from torch import Tensor, nn
from torchvision import models

from convatlas.occlusion import Sweeper
from convatlas.occlusion.incremental import Incremental
from convatlas.occlusion.plain import Plain
from convatlas.occlusion.positions import Positions

# One a kind of network, the smallest.
FAMILIES = [
    "alexnet",
    "convnext_tiny",
    "densenet121",
    "efficientnet_b0",
    "googlenet",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "resnet18",
    "shufflenet_v2_x0_5",
    "squeezenet1_0",
    "swin_t",
]
MOST_PARAMETERS = 150e6  # of a network that is tried
ALL = os.environ.get("CONVATLAS_ALL_NETWORKS") == "1"
NAMES = models.list_models(module=models) if ALL else FAMILIES

SIZES = {  # of the image, where it isn't (72, 88)
    "inception_v3": (80, 96),
    "maxvit_t": (224, 224),
    "vit_b_16": (64, 64),
    "vit_b_32": (64, 64),
    "vit_l_16": (64, 64),
    "vit_l_32": (64, 64),
    "vit_h_14": (56, 56),
}
OPTIONS = {
    "googlenet": {"init_weights": False},
    "inception_v3": {"init_weights": False},
    **{name: {"image_size": size[0]} for name, size in SIZES.items() if name.startswith("vit")},
}


def built(name: str) -> nn.Module | None:
    """Return a network with random weights that let the image through, or None for a huge one."""
    meta = models.get_model_weights(name).DEFAULT.meta
    if meta["num_params"] > MOST_PARAMETERS:
        return None
    torch.manual_seed(0)
    model = models.get_model(name, weights=None, **OPTIONS.get(name, {}))
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            if path.endswith("layer_scale"):  # 1e-6 at first
                parameter.normal_(0.5, 0.3)
            elif parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter), alpha=0.2)
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if isinstance(module, nn.BatchNorm2d):
                module.register_forward_pre_hook(scaled)
        model.eval()
        height, width = SIZES.get(name, (72, 88))
        model(torch.randn(4, 3, height, width) + torch.randn(4, 3, 1, 1))
        for module in model.modules():
            module._forward_pre_hooks.clear()
    return model


def scaled(norm: nn.BatchNorm2d, given: tuple[Tensor]) -> None:
    """Let a BatchNorm scale all its maps alike.

    Scaled one by one, maps that say nothing would be blown up, and rounding with them: a
    deep network then gives other scores for the same image in another order of additions.
    """
    norm.running_mean.copy_(given[0].mean((0, 2, 3)) / 2)
    norm.running_var.fill_(given[0].var())


def scores(engine: Incremental | Plain, image: Tensor, grid: Positions, fill: Tensor) -> Tensor:
    """Return the scores under every position."""
    engine.look(image)
    return engine.occlude(grid, fill, -1, lambda share: None)[0]


@pytest.mark.parametrize("name", NAMES)
def test_the_scores_are_the_plain_loops(name: str, caplog: pytest.LogCaptureFixture) -> None:
    model = built(name)
    if model is None:
        pytest.skip("too large")
    caplog.set_level(logging.INFO, logger="convatlas")
    sides = SIZES.get(name, (72, 88))
    image = torch.randn(3, *sides)
    fill = torch.tensor([0.5, -1.0, 2.0])
    size, stride = ((sides[0] * part // 9, sides[1] * part // 9) for part in (3, 4))
    grid = Positions.covering(sides, size, stride)
    assert len(grid) >= 9
    truth = None
    for dtype in (torch.float64, torch.float32):
        model, image, fill = model.to(dtype), image.to(dtype), fill.to(dtype)
        engine = Sweeper(model, image.shape)._engine
        assert isinstance(engine, Incremental)
        found = scores(engine, image, grid, fill)
        expected = scores(Sweeper(model, image.shape, engine="plain")._engine, image, grid, fill)
        truth = expected if truth is None else truth
        spread, moved = truth.std(), truth.std(0).max()  # the latter by the occluder
        assert moved > 1e-2 * spread
        top, left, bottom, right = grid.boxes()[-1].tolist()
        occluded = image.clone()
        occluded[:, top:bottom, left:right] = fill[:, None, None]
        with torch.inference_mode():
            last = model(occluded[None])[0]
        wrong = max((found - expected).abs().max(), (found[-1] - last).abs().max())
        rounding = (expected - truth).abs().max()  # of the plain loop
        if ALL:
            whole = [text for text in caplog.messages if "whole" in text]
            share = [float(value / spread) for value in (wrong, rounding, moved)]
            print(
                "\n@",
                name,
                dtype,
                "wrong {:.1e} rounding {:.1e} moved {:.2f}".format(*share),
                whole,
            )
        caplog.clear()
        if dtype == torch.float64:
            assert wrong < 1e-10 * moved
        else:
            assert wrong < max(1e-5 * spread, 2 * rounding)
