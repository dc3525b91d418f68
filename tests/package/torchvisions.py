"""torchvision's classifiers for tests, with random weights that let the image through.

Tests try one of each family, or all of them with ``CONVATLAS_ALL_NETWORKS=1``.
"""

from __future__ import annotations

import os

import torch
from torch import Tensor, nn
from torchvision import models

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
