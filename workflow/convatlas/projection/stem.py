"""The way back through a strided convolution of few channels, as a network begins with.

Seen from behind, each pixel of the input belongs to one of the stride's phases, and each
phase is a convolution of stride one with every stride-th tap of the kernel. All phases
together are one convolution with many output channels, which processors run several times
faster than the transposed convolution that it equals.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

FEW = 4  # channels


class Stem(torch.autograd.Function):
    """A convolution whose backward pass, to its input alone, goes by phases.

    `phases` is what `phases_of` makes of the weight.
    """

    @staticmethod
    def forward(
        ctx: Any,
        value: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: tuple[int, int],
        padding: tuple[int, int],
        phases: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(phases)
        ctx.size, ctx.stride, ctx.padding = value.shape[2:], stride, padding
        return functional.conv2d(value, weight, bias, stride, padding)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (phases,) = ctx.saved_tensors
        (height, width), (down, across) = ctx.size, ctx.stride
        rows, columns = phases.shape[2:]
        found = functional.conv2d(grads[0], phases, padding=(rows - 1, columns - 1))
        batch, _, tall, wide = found.shape
        found = found.view(batch, -1, down, across, tall, wide).permute(0, 1, 4, 2, 5, 3)
        found = found.flatten(4, 5).flatten(2, 3)
        top, left = ctx.padding
        found = found[:, :, top : top + height, left : left + width]
        # What no window reaches behind the last one.
        short = (0, width - found.shape[3], 0, height - found.shape[2])
        return functional.pad(found, short), None, None, None, None, None


def phases_of(weight: Tensor, stride: tuple[int, int]) -> Tensor:
    """Return the weight of the convolution that goes back by phases.

    Parameters
    ----------
    weight : (O,C,h,w).
    stride : down and across.

    Returns
    -------
    (C * down * across, O, ceil(h / down), ceil(w / across)).
    """
    down, across = stride
    height, width = weight.shape[2:]
    missing = (0, -width % across, 0, -height % down)
    taps = functional.pad(weight.detach(), missing)
    outputs, inputs, tall, wide = taps.shape
    taps = taps.view(outputs, inputs, tall // down, down, wide // across, across)
    phases = taps.permute(1, 3, 5, 0, 2, 4).flatten(0, 2).flip(2, 3)
    return phases.contiguous(memory_format=torch.channels_last)
