"""Reference architectures of our own, small enough to be trained on a laptop."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

from torch import nn

from convatlas.errors import ModelError


def small_zf(classes: int = 8, size: int | Sequence[int] = 64) -> nn.Sequential:
    """Return a small network in the manner of Zeiler & Fergus.

    As in theirs (Zeiler & Fergus 2014, Visualizing and Understanding Convolutional
    Networks, Fig. 3): a first layer of 7x7 filters at stride 2, a second of 5x5, then
    3x3; overlapping max pools of 3x3 at stride 2 after the first, the second and the
    last; fully connected layers with dropout. Other than theirs: batch normalisation
    (Ioffe & Szegedy 2015) in place of contrast normalisation, four convolutions rather
    than five, and fewer units, for small images.

    Parameters
    ----------
    classes : number of outputs.
    size : height and width of the images in pixels, or one number for both.

    Returns
    -------
    A network from (N,3,H,W) float32 to logits (N,classes); its layers have the names
    conv1, bn1, relu1, pool1, conv2, ... conv4, bn4, relu4, pool4, flatten, fc5, relu5,
    dropout5, fc6.

    Raises
    ------
    ModelError
        if `classes` or `size` isn't a positive whole number.
    """
    height, width = (size, size) if isinstance(size, int) else tuple(size)
    for name, value in (("classes", classes), ("size", height), ("size", width)):
        if not isinstance(value, int) or value < 1:
            raise ModelError(f"small_zf: {name} is {value!r}; it must be a positive whole number.")
    rows, columns = (-(-edge // 16) for edge in (height, width))  # four halvings, rounded up
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers |= _block(1, 3, 32, kernel=7, stride=2, pool=True)
    layers |= _block(2, 32, 64, kernel=5, stride=1, pool=True)
    layers |= _block(3, 64, 96, kernel=3, stride=1, pool=False)
    layers |= _block(4, 96, 96, kernel=3, stride=1, pool=True)
    layers["flatten"] = nn.Flatten()
    layers["fc5"] = nn.Linear(96 * rows * columns, 256)
    layers["relu5"] = nn.ReLU()
    layers["dropout5"] = nn.Dropout(0.5)
    layers["fc6"] = nn.Linear(256, classes)
    return nn.Sequential(layers)


def _block(
    number: int, inputs: int, units: int, *, kernel: int, stride: int, pool: bool
) -> OrderedDict[str, nn.Module]:
    """Return a convolution with what follows it; size is kept but for strides."""
    block: OrderedDict[str, nn.Module] = OrderedDict()
    # No bias: batch normalisation subtracts it again.
    block[f"conv{number}"] = nn.Conv2d(inputs, units, kernel, stride, kernel // 2, bias=False)
    block[f"bn{number}"] = nn.BatchNorm2d(units)
    block[f"relu{number}"] = nn.ReLU()
    if pool:
        block[f"pool{number}"] = nn.MaxPool2d(3, stride=2, padding=1)
    return block


ARCHITECTURES: dict[str, Callable[..., nn.Module]] = {"small_zf": small_zf}
"""Our architectures by the name that the config gives them."""
