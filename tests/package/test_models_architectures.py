"""small_zf: names, shapes, and what it refuses."""

from __future__ import annotations

import pytest
import torch

from convatlas.errors import ModelError
from convatlas.models.architectures import small_zf


@pytest.mark.parametrize("size", [16, 33, 64, (40, 72)])
def test_small_zf_takes_images_of_the_size_it_was_built_for(size):
    height, width = (size, size) if isinstance(size, int) else size
    network = small_zf(classes=5, size=size).eval()
    assert network(torch.zeros(2, 3, height, width)).shape == (2, 5)


def test_small_zf_has_the_layers_that_its_docstring_names():
    names = [name for name, _ in small_zf().named_children()]
    assert names[:5] == ["conv1", "bn1", "relu1", "pool1", "conv2"]
    assert names[-5:] == ["flatten", "fc5", "relu5", "dropout5", "fc6"]
    assert [n for n in names if n.startswith("pool")] == ["pool1", "pool2", "pool4"]


def test_pools_overlap_and_the_first_filters_are_seven_wide():
    network = small_zf()
    assert network.pool1.kernel_size > network.pool1.stride
    assert network.conv1.weight.shape[2:] == (7, 7)
    assert network.conv1.stride == (2, 2)


@pytest.mark.parametrize("options", [{"classes": 0}, {"classes": 2.5}, {"size": -1}])
def test_small_zf_refuses_what_is_not_a_positive_whole_number(options):
    with pytest.raises(ModelError, match="positive whole number"):
        small_zf(**options)
