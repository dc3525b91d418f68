"""A traced network made ready to be run on tiles."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx, nn

from convatlas.graph.aliases import seen_through_views
from convatlas.graph.execution import ancestors
from convatlas.graph.geometry import fields
from convatlas.graph.locality import cells_of, is_plain, shape_of, sources_of
from convatlas.graph.tracing import Graph, like
from convatlas.occlusion import steps

if TYPE_CHECKING:
    from convatlas.occlusion.steps import Step

# Results that are nobody else's memory, so that the operation behind may overwrite them.
_FRESH = frozenset(
    ["conv", "conv_transpose", "linear", "batchnorm", "maxpool", "avgpool", "add", "mul", "cat"]
)


class Network:
    """What the incremental engine knows of a network, whatever the image.

    Parameters
    ----------
    graph : the traced network.
    probe : a node whose maps are asked for besides the scores.
    dtype : to compute in; None for the network's own.

    Attributes
    ----------
    image : the node of the input.
    steps : how each node runs that depends on the image.
    body, cut, head : the nodes that run batch by batch, the last of them, and those behind
        it, which see nothing but its vectors.
    """

    def __init__(
        self, graph: Graph, probe: fx.Node | None = None, dtype: torch.dtype | None = None
    ) -> None:
        self.graph = graph
        self.probe = probe
        self._interpreter = fx.Interpreter(graph.module)
        self.fields = fields(graph)
        needed = ancestors([graph.output] + ([probe] if probe else []))
        self._order = {n: i for i, n in enumerate(graph.nodes) if n in needed}
        nodes = [n for n in self._order if n in self.fields]
        self.image, nodes = nodes[0], nodes[1:]
        own = like(graph.module)
        self.dtype, self.device = dtype or own.dtype, own.device
        self._reduced = self.dtype != own.dtype
        self._sized: dict[int, dict[fx.Node, Any]] = {}
        self._constants = self._evaluate_constants()
        self._folded = self._foldable(nodes)
        self.steps: dict[fx.Node, Step] = {n: steps.step_for(self, n) for n in nodes}
        self._windowed = {
            source for step in self.steps.values() if step.reads_windows for source in step.sources
        }
        at = self._first_vector(nodes)
        self.body, self.cut, self.head = nodes[: at + 1], nodes[at], nodes[at + 1 :]
        self._whole = {n: step.why_whole() for n, step in self.steps.items()}

    # -- what steps ask

    def sources(self, node: fx.Node) -> list[fx.Node]:
        """Return the inputs of a node that depend on the image."""
        return sources_of(self.graph, node)

    def users(self, node: fx.Node) -> list[fx.Node]:
        """Return the nodes that a node is an input of, as far as they are wanted."""
        return [n for n in node.users if n in self._order]

    def kind(self, node: fx.Node) -> str:
        """Return what a node does."""
        return self.graph.operations[node].kind

    def shape(self, node: fx.Node) -> torch.Size:
        """Return the shape of a node's output, of the first if there are several."""
        return shape_of(self.graph, node)

    def size(self, node: fx.Node) -> tuple[int, int]:
        """Return the rows and columns of a node's maps; one each for what has none."""
        return cells_of(self.graph, node)

    def places(self, node: fx.Node) -> tuple[int, int]:
        """Return the positions of the height and width axes of a node that has them."""
        places = self.fields[node].places
        assert places is not None
        return places

    def constant(self, value: Any) -> Any:
        """Replace nodes that don't depend on the image by their values."""
        return fx.node.map_arg(value, lambda n: self._constants.get(n, n))

    def parameters(self, node: fx.Node) -> tuple[Tensor, Tensor | None]:
        """Return the weight and the bias of a layer, a folded BatchNorm included."""
        options = self.constant(dict(self.graph.operations[node].options))
        weight, bias = self.graph.parameters(node, options)
        if node in self._folded:
            weight, bias = steps.fold(weight, bias, self._folded[node])
        weight = weight.detach().to(self.dtype)
        return weight, None if bias is None else bias.detach().to(self.dtype)

    def why_whole(self, node: fx.Node) -> str | None:
        """Return why a node can't run on tiles, or None if it can."""
        return self._whole[node]

    def tiled(self, node: fx.Node) -> bool:
        """Whether a node can run on tiles."""
        return node is self.image or self._whole[node] is None

    def windowed(self, node: fx.Node) -> bool:
        """Whether an operation behind a node reads windows on its maps."""
        return node in self._windowed

    def may_overwrite(self, node: fx.Node) -> bool:
        """Whether a node may overwrite its input: a fresh value that nobody else looks at."""
        source = self.sources(node)[0]
        alone = self.users(source) == [node] and source is not self.probe
        return alone and self.kind(source) in _FRESH

    def widened_for(self, node: fx.Node) -> fx.Node | None:
        """Return the join for which a node's tile is made as large as the join's, or None.

        A 1x1 convolution on more cells costs less than to read around its tile afterwards.
        """
        users = self.users(node)
        if len(users) != 1 or not self._starts_pointwise(node):
            return None
        (user,) = users
        joins = isinstance(self.steps[user], steps.Join)
        return user if joins or self.widened_for(user) else None

    def concatenated_in(self, node: fx.Node) -> fx.Node | None:
        """Return the concatenation that is the only one to use a node, or None."""
        users = self.users(node)
        alone = len(users) == 1 and node is not self.probe
        join = self.steps.get(users[0]) if alone else None
        if not isinstance(join, steps.Concatenation):
            return None
        return users[0] if node in join.channels else None

    def channels(self, join: fx.Node, node: fx.Node) -> slice:
        """Return which channels of a concatenation a node makes up."""
        step = self.steps[join]
        assert isinstance(step, steps.Concatenation)
        return step.channels[node]

    def _starts_pointwise(self, node: fx.Node) -> bool:
        """Whether a node is a 1x1 convolution, or a rectifier or a folded norm behind one."""
        step = self.steps.get(node)
        if node is self.probe or step is None:
            return False
        if isinstance(step, steps.Convolution):
            return step.reach == (0, 0)
        if not isinstance(step, steps.Rectifier) and node not in self._behind:
            return False
        (source,) = step.sources
        return self.users(source) == [node] and self._starts_pointwise(source)

    def padded_with(self, node: fx.Node) -> set[float]:
        """Return the constants other than zero that operations behind a node pad it with."""
        constants = {
            float(self.graph.operations[user].options.get("value") or 0.0)
            for user in self.users(node)
            if self.kind(user) == "pad"
        }
        return constants - {0.0}

    # -- running

    def call(
        self, node: fx.Node, values: Mapping[fx.Node, Any], batch: int, may_overwrite: bool = False
    ) -> Any:
        """Run a node's own operation on given values of its sources."""
        if node in self._behind:  # done by the convolution before it
            return values[self._behind[node]]

        def value(source: fx.Node) -> Any:
            return values[source] if source in values else self._other(source, batch)

        args: Any
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), value)  # type: ignore[assignment]
        if self.graph.operations[node].in_place and not may_overwrite:
            args = (args[0].clone(), *args[1:])
        if self.kind(node) == "other":  # it may look at how its input lies in memory
            args = fx.node.map_aggregate(args, _contiguous)
        return self._run(node, args, kwargs)

    def precision(self) -> AbstractContextManager[Any]:
        """Return the context in which a reduced precision holds."""
        return torch.autocast(self.device.type, self.dtype) if self._reduced else nullcontext()

    def dead_after(self, node: fx.Node) -> list[fx.Node]:
        """Return the inputs of a node of the body that nothing needs afterwards."""
        return self._dead.get(node, [])

    @cached_property
    def _dead(self) -> dict[fx.Node, list[fx.Node]]:
        last = {source: node for node in self.body for source in self.sources(node)}
        found: dict[fx.Node, list[fx.Node]] = {}
        for source, node in last.items():
            found.setdefault(node, []).append(source)
        return found

    def _run(self, node: fx.Node, args: Any, kwargs: Any) -> Any:
        return getattr(self._interpreter, node.op)(node.target, args, kwargs)

    # -- values that aren't the image's

    def _evaluate_constants(self) -> dict[fx.Node, Any]:
        """Run what doesn't depend on the image, nor on its sizes."""
        found: dict[fx.Node, Any] = {}
        for node in self._order:
            if node in self.fields or node.op == "output":
                continue
            if node.op == "placeholder":
                found[node] = node.args[0] if node.args else None  # its default
                continue
            if all(n in found for n in node.all_input_nodes):
                args, kwargs = fx.node.map_arg((node.args, node.kwargs), found.__getitem__)
                found[node] = self._run(node, args, kwargs)
        return found

    def _other(self, node: fx.Node, batch: int) -> Any:
        """Return a value that doesn't depend on the image; it may on the size of the batch."""
        if node in self._constants:
            return self._constants[node]
        known = self._sized.setdefault(batch, {})
        if node not in known:

            def value(source: fx.Node) -> Any:
                if source in self.fields:
                    return self._without_data(source, batch)
                return self._other(source, batch)

            recorded = self.graph.values[node]
            if isinstance(recorded, torch.device | torch.dtype):
                known[node] = recorded
            else:
                known[node] = self._run(node, *fx.node.map_arg((node.args, node.kwargs), value))
        return known[node]

    def _without_data(self, node: fx.Node, batch: int) -> Tensor:
        """Return a tensor of a node's shape."""
        first, *others = self.shape(node)
        return torch.empty(batch * first // 2, *others, device="meta")  # traced with two images

    # -- preparing

    def _foldable(self, nodes: list[fx.Node]) -> dict[fx.Node, nn.BatchNorm2d]:
        """Return the convolutions with a BatchNorm behind them and nothing that sees between."""
        found: dict[fx.Node, nn.BatchNorm2d] = {}
        self._behind: dict[fx.Node, fx.Node] = {}
        for node in nodes:
            if self.kind(node) != "batchnorm" or node.op != "call_module":
                continue
            (source,) = self.sources(node)
            norm = self.graph.module.get_submodule(str(node.target))
            alone = self.users(source) == [node] and source is not self.probe
            plain = is_plain(self.graph, source) and is_plain(self.graph, node)
            if self.kind(source) == "conv" and alone and plain and isinstance(norm, nn.BatchNorm2d):
                found[source] = norm
                self._behind[node] = source
        return found

    def _first_vector(self, nodes: list[fx.Node]) -> int:
        """Return the place of the first node that gives vectors which alone feed the rest."""
        last = {source: i for i, node in enumerate(nodes) for source in self.sources(node)}
        ready = nodes.index(self.probe) if self.probe else 0
        alive = last.get(self.image, -1)  # the last place that needs what came before
        for i, node in enumerate(nodes[:-1]):
            value = self.graph.values[node]
            vector = isinstance(value, torch.Size) and len(value) > 1 and value[0] == 2
            vector = vector and math.prod(value[1:]) == value[1]
            if vector and alive <= i and i >= ready:
                return i
            alive = max(alive, last.get(node, -1))
        return len(nodes) - 1


def _contiguous(value: Any) -> Any:
    return value.contiguous() if isinstance(value, Tensor) else value


def why_not_incremental(graph: Graph) -> str | None:
    """Return why a graph can't be run on tiles, or None if it can.

    What changes a value in place that something sees through a view of the same memory
    can't: tiles are copies. Of a module kept closed it isn't known whether it does.
    """
    changed = seen_through_views(graph, closed=True)
    return changed or mixes_images(graph) or squeezes_batch(graph)


def squeezes_batch(graph: Graph) -> str | None:
    """Return what drops the axis of the batch where it holds one image, or None."""
    for node in graph.nodes:
        bare = len(node.args) == 1 and not node.kwargs
        if bare and getattr(node.target, "__name__", node.target) == "squeeze":
            return f"{graph.names.get(node, node.name)} squeezes a batch of one image, too"
    return None


def mixes_images(graph: Graph) -> str | None:
    """Return what makes an image's result depend on the others in its batch, or None."""
    seen = fields(graph)
    for node in graph.nodes:
        name = graph.names.get(node, node.name)
        if node in seen and graph.values[node] == torch.Size([]):
            return f"{name} looks at all images of a batch"
        if _normalises_by_batch(graph, node):
            return f"{name} has no statistics but those of the batch"
        if node in seen and 0 in _dimensions(graph, node):
            return f"{name} goes along the batch"
    return None


def _normalises_by_batch(graph: Graph, node: fx.Node) -> bool:
    if node.op == "call_module":
        module = graph.module.get_submodule(str(node.target))
        is_norm = isinstance(module, nn.modules.batchnorm._BatchNorm)
        return is_norm and module.running_mean is None
    return getattr(node.target, "__name__", "") == "batch_norm" and (
        graph.operations[node].kind == "groupnorm"
    )


# Functions along one or more dimensions, which follow the tensor.
_ALONG = frozenset(
    [
        *("mean", "sum", "amax", "amin", "max", "min", "std", "var", "norm", "prod", "argmax"),
        *("flip", "roll", "sort", "cumsum", "logsumexp", "median", "softmax", "log_softmax"),
        *("index_select", "topk", "any", "all"),
    ]
)


def _dimensions(graph: Graph, node: fx.Node) -> set[int]:
    """Return the dimensions that a node goes along, as far as they are written out."""
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    if node.op not in ("call_function", "call_method") or name not in _ALONG:
        return set()
    given = node.kwargs.get("dim", node.kwargs.get("dims"))
    if given is None:
        given = node.args[2 if name in ("roll", "norm", "topk") else 1 :]
        given = given[:1] if given and isinstance(given[0], tuple | list) else given
        if name != "flip":
            given = given[:1]
    shape = graph.values.get(next(iter(node.all_input_nodes), node))
    rank = len(shape) if isinstance(shape, torch.Size) else 0
    flat = torch.utils._pytree.tree_leaves(given)
    return {d + rank if d < 0 else d for d in flat if isinstance(d, int)}
