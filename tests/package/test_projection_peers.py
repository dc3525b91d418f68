"""Where captum and zennit are right we agree with them; where they err, these tests show it.

The reference where they err is the network itself with every rectifier exchanged for an
autograd function that has the rule: it knows neither graphs nor hooks.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from captum.attr import Deconvolution, GuidedBackprop, NeuronDeconvolution, Saliency
from networks import SecondConsumer, seeded
from references import Rectifier
from torch import Tensor, nn
from torch.nn import functional
from torchvisions import built
from zennit.composites import NameMapComposite
from zennit.rules import ReLUDeconvNet, ReLUGuidedBackprop

from convatlas.graph.backward import Backward
from convatlas.graph.describe import layers_of
from convatlas.graph.tracing import trace
from convatlas.projection import project
from convatlas.projection.engine import send_back

SIZE = (80, 96)
CAPTUM = {"deconvnet": Deconvolution, "guided": GuidedBackprop}
ZENNIT = {"deconvnet": ReLUDeconvNet, "guided": ReLUGuidedBackprop}


class RectifierModule(nn.Module):
    def __init__(self, rule: str, top: float) -> None:
        super().__init__()
        self.rule, self.top = rule, top

    def forward(self, x: Tensor) -> Tensor:
        return Rectifier.apply(x, self.rule, self.top)


@contextmanager
def ruled(model: nn.Module, rule: str) -> Iterator[None]:
    """Have every rectifier of a network, module or function, follow a rule."""
    kept, relu = [], functional.relu
    for path, module in model.named_modules():
        if isinstance(module, nn.ReLU | nn.ReLU6):
            parent, _, name = path.rpartition(".")
            kept.append((model.get_submodule(parent), name, module))
    for parent, name, module in kept:
        top = 6.0 if isinstance(module, nn.ReLU6) else float("inf")
        setattr(parent, name, RectifierModule(rule, top))
    functional.relu = lambda x, inplace=False: Rectifier.apply(x, rule, float("inf"))
    try:
        yield
    finally:
        functional.relu = relu
        for parent, name, module in kept:
            setattr(parent, name, module)


def by_reference(model: nn.Module, images: Tensor, chosen: Tensor, rule: str) -> Tensor:
    leaf = images.clone().requires_grad_()
    with ruled(model, rule):
        value = model(leaf)[torch.arange(len(images)), chosen].sum()
        (signal,) = torch.autograd.grad(value, leaf)
    return signal


def by_us(model: nn.Module, images: Tensor, chosen: Tensor, rule: str) -> Tensor:
    graph = trace(model, tuple(images.shape[1:]))
    run = Backward(graph, graph.output, rule)
    return send_back(run, images, chosen.numpy(), torch.zeros(len(images), 2, dtype=torch.long))


def by_captum(model: nn.Module, images: Tensor, chosen: Tensor, rule: str) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return CAPTUM[rule](model).attribute(images, target=chosen).detach()


def by_zennit(model: nn.Module, images: Tensor, chosen: Tensor, rule: str) -> Tensor:
    """Its rules work on modules, each used once; so they must be given those."""
    names = [name for name, module in model.named_modules() if isinstance(module, nn.ReLU)]
    leaf = images.clone().requires_grad_()
    with NameMapComposite([(names, ZENNIT[rule]())]).context(model) as hooked:
        value = hooked(leaf)[torch.arange(len(images)), chosen].sum()
        (signal,) = torch.autograd.grad(value, leaf)
    return signal


def off(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference, as a share of the largest signal."""
    return float((found - expected).abs().max() / expected.abs().max())


def look(name: str) -> tuple[nn.Module, Tensor, Tensor]:
    """Return a network, images, and classes."""
    model = built(name)
    assert model is not None
    for module in model.modules():
        if isinstance(module, nn.ReLU | nn.ReLU6):
            module.inplace = False  # captum's and zennit's hooks can't do with it
    torch.manual_seed(1)
    return model, torch.randn(2, 3, *SIZE), torch.tensor([3, 500])


@pytest.mark.parametrize("rule", ["deconvnet", "guided"])
@pytest.mark.parametrize("name", ["alexnet", "squeezenet1_0"])
def test_captum_and_zennit_agree_where_every_rectifier_is_a_module(name: str, rule: str) -> None:
    model, images, chosen = look(name)
    ours = by_us(model, images, chosen, rule)
    assert off(ours, by_reference(model, images, chosen, rule)) < 1e-6
    assert off(by_captum(model, images, chosen, rule), ours) < 1e-6
    assert off(by_zennit(model, images, chosen, rule), ours) < 1e-6


@pytest.mark.parametrize("rule", ["deconvnet", "guided"])
@pytest.mark.parametrize("name", ["googlenet", "mobilenet_v2"])
def test_captum_misses_functional_rectifiers_and_relu6(name: str, rule: str) -> None:
    """GoogLeNet calls ``F.relu``, MobileNetV2 has ReLU6: captum's answer is plain saliency."""
    model, images, chosen = look(name)
    theirs = by_captum(model, images, chosen, rule)
    plain = Saliency(model).attribute(images, target=chosen, abs=False)
    assert torch.equal(theirs, plain)
    expected = by_reference(model, images, chosen, rule)
    assert off(theirs, expected) > 0.3
    assert off(by_us(model, images, chosen, rule), expected) < 1e-5


@pytest.mark.parametrize("rule", ["deconvnet", "guided"])
def test_captum_errs_where_a_rectifiers_input_has_a_second_consumer(rule: str) -> None:
    model = SecondConsumer()
    model.relu6 = nn.ReLU()
    seeded(model)
    images, chosen = torch.randn(2, 3, 12, 14), torch.tensor([1, 4])
    expected = by_reference(model, images, chosen, rule)
    assert off(by_captum(model, images, chosen, rule), expected) > 0.05
    assert off(by_zennit(model, images, chosen, rule), expected) < 1e-6
    assert off(by_us(model, images, chosen, rule), expected) < 1e-6


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "googlenet", "mobilenet_v2"])
def test_inner_layers_against_the_reference(name: str) -> None:
    """A layer in the middle of the network, its strongest unit, by cones."""
    model, images, _ = look(name)
    graph = trace(model, (3, *SIZE))
    maps = [one for one in layers_of(graph) if one.is_map and one.kind == "conv" and one.weight]
    layer = maps[len(maps) // 2]
    module = model.get_submodule(layer.name)
    for rule in ("deconvnet", "guided"):
        leaf, kept = images.clone().requires_grad_(), []
        with ruled(model, rule):
            hook = module.register_forward_hook(lambda m, i, o, kept=kept: kept.append(o))
            model(leaf)
            hook.remove()
            (value,) = kept
            flat = value.detach().flatten(2).amax(2).argmax(1)
            cells = value.detach()[torch.arange(2), flat].flatten(1).argmax(1)
            places = torch.stack([cells // value.shape[3], cells % value.shape[3]], 1)
            (expected,) = torch.autograd.grad(
                value[torch.arange(2), flat, places[:, 0], places[:, 1]].sum(), leaf
            )
        boxes, found = project(model, images, layer.name, flat, places, rule)
        for signal, image, box in zip(found, expected.numpy(), boxes, strict=True):
            inside = np.zeros_like(image)
            top, left = max(box[0], 0), max(box[1], 0)
            inner = signal[:, top - box[0] :, left - box[1] :]
            inner = inner[:, : image.shape[1] - top, : image.shape[2] - left]
            inside[:, top : top + inner.shape[1], left : left + inner.shape[2]] = inner
            assert np.abs(inside - image).max() < 1e-5 * np.abs(image).max()


def test_captums_neuron_deconvolution_agrees_through_overlapping_pools() -> None:
    model, images, _ = look("alexnet")
    units, places = np.array([7, 100]), np.array([(0, 0), (1, 3)])
    pick: Callable[[Tensor], Tensor] = lambda out: out[  # noqa: E731
        torch.arange(2), torch.from_numpy(units), *torch.from_numpy(places.T)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        method = NeuronDeconvolution(model, model.features[10])
        theirs = method.attribute(images, pick).detach().numpy()
    boxes, ours = project(model, images, "features.10", units, places)
    for signal, image, (top, left, bottom, right) in zip(ours, theirs, boxes, strict=True):
        y, x = slice(max(top, 0), bottom), slice(max(left, 0), right)
        part = image[:, y, x]
        inner = signal[:, y.start - top :, x.start - left :][:, : part.shape[1], : part.shape[2]]
        assert np.abs(inner - part).max() < 1e-6 * np.abs(image).max()
        assert np.abs(image).sum() == pytest.approx(np.abs(part).sum())
