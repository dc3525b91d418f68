"""The deconvnet's rules, operation by operation."""

from __future__ import annotations

import pytest
import torch
from networks import Only, seeded
from torch import Tensor, nn
from torch.nn import functional

from convatlas.errors import MethodError
from convatlas.graph.backward import Backward
from convatlas.graph.tracing import trace


def back(model: nn.Module, image: Tensor, seed: Tensor, rule: str = "deconvnet") -> Tensor:
    """Send `seed` back from the last operation before the scores."""
    graph = trace(model, tuple(image.shape[1:]))
    node = graph.output.all_input_nodes[0]
    leaf = image.clone().requires_grad_()
    with torch.enable_grad():
        ((_, value),) = Backward(graph, node, rule).values(leaf)
        (signal,) = torch.autograd.grad(value, leaf, seed.expand_as(value))
    return signal


def test_relu_passes_the_positive_part_of_the_signal() -> None:
    image = torch.tensor([[[[1.0, -1.0, 2.0, -2.0]]]])
    seed = torch.tensor([[[[3.0, 4.0, -5.0, -6.0]]]])
    for relu in (
        functional.relu,
        torch.relu,
        lambda x: x.relu(),
        lambda x: functional.relu_(x + 0),
    ):
        model = Only(relu)
        assert back(model, image, seed).flatten().tolist() == [3, 4, 0, 0]
        assert back(model, image, seed, "guided").flatten().tolist() == [3, 0, 0, 0]
        assert back(model, image, seed, "gradient").flatten().tolist() == [3, 0, -5, 0]


def test_relu6_is_closed_above_six_for_the_gradient_alone() -> None:
    image, seed = torch.tensor([[[[1.0, 7.0]]]]), torch.ones(1, 1, 1, 2)
    model = Only(functional.relu6)
    assert back(model, image, seed).flatten().tolist() == [1, 1]
    assert back(model, image, seed, "guided").flatten().tolist() == [1, 0]


def test_leaky_relu_scales_the_negative_signal() -> None:
    image, seed = torch.tensor([[[[1.0, -1.0]]]]), torch.tensor([[[[-1.0, 2.0]]]])
    model = Only(lambda x: functional.leaky_relu(x, 0.1))
    torch.testing.assert_close(back(model, image, seed).flatten(), torch.tensor([-0.1, 2.0]))


@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize("size", [(8, 11), (9, 10)])
def test_overlapping_max_pool_adds_at_its_switches(ceil_mode: bool, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    image = torch.randn(2, 3, *size)
    model = Only(lambda x: functional.max_pool2d(x, 3, 2, 1, ceil_mode=ceil_mode))
    pooled, index = functional.max_pool2d(image, 3, 2, 1, ceil_mode=ceil_mode, return_indices=True)
    seed = torch.randn_like(pooled)
    expected = torch.zeros(2, 3, size[0] * size[1])
    for n in range(2):
        for c in range(3):
            for place, value in zip(index[n, c].flatten(), seed[n, c].flatten(), strict=True):
                expected[n, c, place] += value
    assert (index.flatten(2).sort(2)[0].diff() == 0).any()  # some cells win two windows
    torch.testing.assert_close(back(model, image, seed).flatten(2), expected)


def test_negative_gamma_flips_the_sign_and_biases_drop_out() -> None:
    bn = nn.BatchNorm2d(2)
    with torch.no_grad():
        bn.weight.copy_(torch.tensor([-2.0, 3.0]))
        bn.running_var.copy_(torch.tensor([4.0, 9.0]) - bn.eps)
        bn.running_mean.fill_(5)
        bn.bias.fill_(7)
    signal = back(Only(lambda x, bn: bn(x), bn), torch.randn(1, 2, 2, 2), torch.ones(1, 2, 2, 2))
    torch.testing.assert_close(signal[0, :, 0, 0], torch.tensor([-1.0, 1.0]))


def test_biases_drop_out_of_convolutions() -> None:
    conv = nn.Conv2d(2, 3, 3)
    seed = torch.randn(1, 3, 3, 3)
    signal = back(Only(lambda x, conv: conv(x), conv), torch.randn(1, 2, 5, 5), seed)
    torch.testing.assert_close(signal, functional.conv_transpose2d(seed, conv.weight))


def test_a_residual_adds_its_branches() -> None:
    conv = nn.Conv2d(2, 2, 1, bias=False)
    image, seed = torch.randn(1, 2, 3, 3), torch.randn(1, 2, 3, 3)
    signal = back(Only(lambda x, conv: torch.relu(conv(x) + x), conv), image, seed)
    rectified = seed.clamp(min=0)
    expected = rectified + functional.conv_transpose2d(rectified, conv.weight)
    torch.testing.assert_close(signal, expected)


def test_local_response_normalisation_holds_its_denominators() -> None:
    lrn = nn.LocalResponseNorm(5, alpha=0.5, beta=0.75, k=2.0)
    image = torch.randn(2, 7, 3, 3).relu()  # zeros, through which the deconvnet's signal goes
    seed = torch.randn(2, 7, 3, 3)
    shares = torch.stack(
        [image[:, max(c - 2, 0) : c + 3].square().sum(1) / 5 for c in range(7)], dim=1
    )
    model = Only(lambda x, lrn: lrn(x), lrn)
    torch.testing.assert_close(back(model, image, seed), seed / (2 + 0.5 * shares) ** 0.75)
    leaf = image.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(lrn(leaf), leaf, seed)
    for rule in ("guided", "gradient"):
        torch.testing.assert_close(back(model, image, seed, rule), gradient)


REFUSED = {
    "silu": nn.SiLU(),
    "gelu": nn.GELU(),
    "hardswish": nn.Hardswish(),
    "sigmoid": nn.Sigmoid(),
    "softmax": nn.Softmax(dim=1),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_the_deconvnet_isnt_defined_for_is_refused_by_name(kind: str) -> None:
    graph = trace(nn.Sequential(nn.Flatten(), nn.Linear(12, 3), REFUSED[kind]), (3, 2, 2))
    with pytest.raises(MethodError, match=rf"{kind} \(2\)"):
        Backward(graph, graph.output, "deconvnet")
    Backward(graph, graph.node("1"), "deconvnet")
    Backward(graph, graph.output, "gradient")
    if kind == "softmax":
        Backward(graph, graph.output, "guided")
        return
    with pytest.raises(
        MethodError, match=rf"guided .* isn't defined for {kind} \(2\); only gradient is"
    ):
        Backward(graph, graph.output, "guided")


@pytest.mark.parametrize(
    ("rectifier", "kind"),
    [
        (lambda x: x.clamp(min=0), "relu"),
        (lambda x: torch.clamp_min(x, 0), "relu"),
        (lambda x: functional.threshold(x, 0.0, 0.0), "relu"),
        (lambda x: functional.hardtanh(x, 0.0, 6.0), "relu6"),
        (lambda x: x.clamp(0, 6), "relu6"),
        (nn.Threshold(0, 0), "relu"),
        (nn.Hardtanh(0, 6), "relu6"),
    ],
)
def test_rectifiers_by_other_names(rectifier: object, kind: str) -> None:
    module = rectifier if isinstance(rectifier, nn.Module) else None
    model = Only((lambda x, part: part(x)) if module else rectifier, *([module] if module else []))
    graph = trace(model, (1, 1, 4))
    assert kind in [operation.kind for operation in graph.operations.values()]
    image, seed = torch.tensor([[[[1.0, -1.0, 7.0, -2.0]]]]), torch.tensor([[[[3.0, 4, 5, -6]]]])
    assert back(model, image, seed).flatten().tolist() == [3, 4, 5, 0]
    last = 5 if kind == "relu" else 0
    assert back(model, image, seed, "guided").flatten().tolist() == [3, 0, last, 0]


@pytest.mark.parametrize(
    "other",
    [
        lambda x: x.clamp(-1, 1),
        lambda x: functional.threshold(x, 0.0, 0.5),
        lambda x: functional.threshold(x, 0.1, 0.0),
        lambda x: functional.hardtanh(x),
    ],
)
def test_other_clamps_are_no_rectifiers(other: object) -> None:
    graph = trace(Only(other), (1, 1, 4))
    with pytest.raises(MethodError):
        Backward(graph, graph.output, "deconvnet")


@pytest.mark.parametrize(
    ("function", "kind"),
    [
        (lambda x: x * x.mean((2, 3), keepdim=True).sigmoid(), "sigmoid"),
        (lambda x: x * x.mean((2, 3), keepdim=True), "mul"),
        (lambda x: x * x, "mul"),
        (lambda x: 1 / x, "div"),
        (lambda x: torch.maximum(x, -x), "maximum"),
        (lambda x: x.cos(), "cos"),
    ],
)
def test_products_of_signals_are_refused(function: object, kind: str) -> None:
    graph = trace(Only(function), (3, 4, 4))
    with pytest.raises(MethodError, match=kind):
        Backward(graph, graph.output, "deconvnet")


@pytest.mark.parametrize("function", [lambda x: 2 * x, lambda x: x / 0.5, lambda x: (x * 4) / 2])
def test_constant_factors_are_linear(function: object) -> None:
    signal = back(Only(function), torch.randn(1, 2, 3, 3), torch.ones(1))
    torch.testing.assert_close(signal, torch.full((1, 2, 3, 3), 2.0))


def test_an_unknown_rule_is_refused() -> None:
    graph = trace(Only(torch.relu), (3, 4, 4))
    with pytest.raises(MethodError, match="deconvnet, guided, gradient"):
        Backward(graph, graph.output, "lrp")


def test_in_place_operations_dont_disturb_the_gradient() -> None:
    def function(x: Tensor, conv: nn.Module) -> Tensor:
        y = conv(x)
        y.mul_(2).add_(x)
        return torch.relu_(y)

    conv = seeded(nn.Conv2d(2, 2, 3, padding=1))
    image, seed = torch.randn(1, 2, 5, 5), torch.randn(1, 2, 5, 5)
    leaf = image.clone().requires_grad_()
    plain = torch.relu(2 * conv(leaf) + leaf)
    (expected,) = torch.autograd.grad(plain, leaf, seed)
    torch.testing.assert_close(back(Only(function, conv), image, seed, "gradient"), expected)
