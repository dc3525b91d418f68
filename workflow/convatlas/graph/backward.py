"""Backward passes with the rules of the deconvnet, by operation.

Going back, an operation passes its signal on as follows.

==================  ==========================================================
linear operations   their transpose: convolution, linear, average pooling, addition,
                    concatenation, interpolation, and BatchNorm in evaluation mode
                    (times gamma/sigma). Biases drop out.
max-pooling         through the switches, adding where windows overlap.
ReLU, ReLU6         ``gradient``: where the input was positive (and below 6);
                    ``deconvnet``: the positive part of the signal;
                    ``guided``: both at once.
leaky ReLU          ``gradient``: its own; ``deconvnet``: the signal, its negative part scaled
                    by the slope, as the unit itself would scale it; ``guided``: the
                    positive part of the signal, times the slope where the input was negative.
local response      ``deconvnet``: divides by the forward pass's denominators, held
normalisation       constant (Zeiler & Fergus leave this open); else the gradient.
==================  ==========================================================

For anything else the deconvnet isn't defined, nor is guided backpropagation for other
functions that bend a signal; `why_not` says so. The plain gradient always is.

Sources: Zeiler & Fergus (2014), section 2.1; Simonyan et al. (2014), section 4;
Springenberg et al. (2015), section 3.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn import functional

from convatlas.errors import MethodError
from convatlas.graph.aliases import seen_through_views
from convatlas.graph.execution import Execution, ancestors
from convatlas.graph.operations import POINTWISE, Operation
from convatlas.graph.tracing import Graph

RULES = ("deconvnet", "guided", "gradient")
_KEPT = 8  # refusals that are remembered: a batch asks again what the one before asked

_LINEAR = frozenset(
    [
        "input",
        "other_value",
        "conv",
        "conv_transpose",
        "linear",
        "batchnorm",
        "avgpool",
        "adaptive_avgpool",
        "mean",
        "sum",
        "add",
        "cat",
        "reshape",
        "permute",
        "transpose",
        "chunk",
        "item",
        "identity",
        "dropout",
        "interpolate",
        "pad",
        "affine",
        "output",
    ]
)
_SWITCHED = frozenset(["maxpool", "adaptive_maxpool", "amax"])
_RECTIFIERS = frozenset(["relu", "relu6", "leaky_relu"])
_BENDING = (POINTWISE | {"maximum", "other"}) - _LINEAR - _RECTIFIERS - {"localnorm", "detach"}
_SCALED = frozenset(["mul", "div"])  # linear as long as only one factor is a signal


def why_not_deconvnet(graph: Graph, node: fx.Node) -> str | None:
    """Return why the deconvnet isn't defined from a node down, or None if it is."""
    found = ancestors([node])
    signals = _signals(graph)
    for one in graph.nodes:
        if one not in found or one not in signals:
            continue
        kind = graph.operations[one].kind
        if kind in _LINEAR or kind in _SWITCHED or kind in _RECTIFIERS or kind == "localnorm":
            continue
        if kind in _SCALED and _scales(one, signals, kind == "div"):
            continue
        what = graph.operations[one].options.get("name", kind) if kind == "other" else kind
        return f"the deconvnet isn't defined for {what} ({graph.names.get(one, one.name)})"
    return None


def why_not_guided(graph: Graph, node: fx.Node) -> str | None:
    """Return why guided backpropagation isn't defined from a node down, or None if it is.

    Through what bends a signal and isn't a rectifier, or isn't known, it would be the plain
    gradient.
    """
    found, signals = ancestors([node]), _signals(graph)
    for one in graph.nodes:
        kind = graph.operations[one].kind
        if one in found and one in signals and kind in _BENDING:
            what = graph.operations[one].options.get("name", kind)
            name = graph.names.get(one, one.name)
            return f"guided backpropagation isn't defined for {what} ({name})"
    return None


def why_not(graph: Graph, node: fx.Node, rule: str) -> str | None:
    """Return why a rule isn't defined from a node down, or None if it is.

    Raises
    ------
    MethodError
        for a rule that doesn't exist.
    """
    if rule not in RULES:
        raise MethodError(f"there is no rule {rule!r}; the rules are {', '.join(RULES)}.")
    checks = {"deconvnet": why_not_deconvnet, "guided": why_not_guided}
    undefined = checks[rule](graph, node) if rule in checks else None
    return undefined or _why_not_followed(graph)


def _scales(node: fx.Node, signals: set[fx.Node], divides: bool) -> bool:
    """Whether a product or quotient is linear: a signal times, or divided by, something else."""
    signal, *others = [*node.args, *node.kwargs.values()]
    if not divides and signal not in signals:
        signal, *others = [*others, signal]
    return signal in signals and not any(other in signals for other in others)


def _signals(graph: Graph) -> set[fx.Node]:
    """Return the nodes that carry values of the image, not sizes or parameters."""
    found: set[fx.Node] = set()
    for node in graph.nodes:
        is_value = isinstance(graph.values.get(node), torch.Size | list)
        from_image = any(n in found for n in node.all_input_nodes)
        if graph.operations[node].kind == "input" or (from_image and is_value):
            found.add(node)
    return found


@lru_cache(_KEPT)
def _why_not_followed(graph: Graph) -> str | None:
    """Return why no signal can be followed back through a graph, or None if it can."""
    changed = seen_through_views(graph)
    if changed is None:
        return None
    return f"{changed}: what goes back can't be told from what doesn't (have it work on a copy)"


@lru_cache(_KEPT)
def _refused(graph: Graph, node: fx.Node, rule: str) -> str:
    """Return with which words a rule is refused from a node down; none if it isn't."""
    reason = why_not(graph, node, rule)
    if not reason:
        return ""
    others = [other for other in RULES if why_not(graph, node, other) is None]
    verb = "are" if len(others) > 1 else "is"
    return f"{reason}; only {' and '.join(others)} {verb}." if others else f"{reason}."


class _Rectify(torch.autograd.Function):
    """A rectifier whose backward pass follows a rule."""

    @staticmethod
    def forward(ctx: Any, signal: Tensor, rectify: Callable[[Tensor], Tensor], rule: str) -> Tensor:
        ctx.save_for_backward(signal)
        ctx.rectify, ctx.rule = rectify, rule
        return rectify(signal)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (signal,) = ctx.saved_tensors
        grad = grads[0]
        if ctx.rule == "guided":
            grad = grad.clamp(min=0)
        with torch.enable_grad():
            leaf = signal.detach().requires_grad_()
            (passed,) = torch.autograd.grad(ctx.rectify(leaf), leaf, grad)
        return passed, None, None


class _DeconvRectify(torch.autograd.Function):
    """A rectifier whose backward pass rectifies the signal, whatever the input was."""

    @staticmethod
    def forward(
        ctx: Any, signal: Tensor, rectify: Callable[[Tensor], Tensor], slope: float
    ) -> Tensor:
        ctx.slope = slope
        return rectify(signal)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return functional.leaky_relu(grads[0], ctx.slope), None, None


class Backward(Execution):
    """Run a graph so that `torch.autograd` goes back through it by a rule.

    Parameters
    ----------
    graph : the traced network.
    node : what is gone back from.
    rule : one of `RULES`.
    also : other nodes whose values are asked for in the same pass.

    Raises
    ------
    MethodError
        for a rule that doesn't exist, or an operation that it isn't defined for.
    """

    def __init__(
        self, graph: Graph, node: fx.Node, rule: str, also: Collection[fx.Node] = ()
    ) -> None:
        super().__init__(graph, [node, *also], keep=True)
        for one in (node, *also):
            refused = _refused(graph, one, rule)
            if refused:
                raise MethodError(refused)
        self._graph = graph
        self._rule = rule

    def run_node(self, n: fx.Node) -> Any:
        operation = self._graph.operations[n]
        if operation.kind in _RECTIFIERS:
            return self._rectify(operation, self.env[n.all_input_nodes[0]])
        if operation.kind == "localnorm" and self._rule == "deconvnet":
            signal = self.env[n.all_input_nodes[0]]
            return signal / _denominator(operation, signal.detach())
        if operation.kind == "other":  # it may look at how its input lies in memory
            for source in n.all_input_nodes:
                if isinstance(self.env[source], Tensor):
                    self.env[source] = self.env[source].contiguous()
        if operation.in_place:  # on a copy: autograd may need what it would overwrite
            source = n.all_input_nodes[0]
            kept = self.env[source]
            self.env[source] = kept.clone()
            result = super().run_node(n)
            self.env[source] = kept
            return result
        return super().run_node(n)

    def _rectify(self, operation: Operation, signal: Tensor) -> Tensor:
        slope = float(operation.options.get("negative_slope", 0.0))
        rectify: Callable[[Tensor], Tensor]
        rectify = functional.relu6 if operation.kind == "relu6" else _leaky(slope)
        if self._rule == "deconvnet":
            return _DeconvRectify.apply(signal, rectify, slope)  # type: ignore[no-any-return]
        return _Rectify.apply(signal, rectify, self._rule)  # type: ignore[no-any-return]


def _denominator(operation: Operation, signal: Tensor) -> Tensor:
    """Return what local response normalisation divides by, also where `signal` is zero."""
    size, alpha, beta, k = (operation.options[name] for name in ("size", "alpha", "beta", "k"))
    squares = functional.pad(signal.square()[:, None], (0, 0, 0, 0, size // 2, (size - 1) // 2))
    mean = functional.avg_pool3d(squares, (size, 1, 1), stride=1)[:, 0]
    denominator: Tensor = (alpha * mean + k) ** beta
    return denominator


def _leaky(slope: float) -> Callable[[Tensor], Tensor]:
    if slope == 0:
        return functional.relu
    return lambda signal: functional.leaky_relu(signal, slope)
