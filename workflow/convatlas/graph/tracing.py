"""Trace a network into a graph of operations with readable names.

Layer names are those of torchvision's feature extraction: the path of the module,
or the path of the module that runs it and the operation's name, with ``_1``,
``_2``, ... for further calls of the same one. Two things differ. Blocks that
torchvision keeps closed (``torchvision.ops``: Conv2dNormActivation,
SqueezeExcitation) are traced through, so their inner layers can be looked at; the
last operation in the block bears the block's name. And a module called ``conv_2``
keeps its name, where torchvision takes the ``_2`` for a counter and drops it.
"""

from __future__ import annotations

import inspect
import operator
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from operator import getitem
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.func import functional_call
from torch.fx._symbolic_trace import _maybe_revert_all_patches

from convatlas.errors import LayerError, ModelError, did_you_mean
from convatlas.graph.operations import Operation, identify
from convatlas.job import log

_GUARD = "GuardOnDataDependentSymNode"  # by its name: its module takes 0.7 s to import
_INFERENCE = "torch._dynamo"  # takes two seconds to import
_SMALL = 256 * 256  # pixels, up to which running a network doesn't take as long
_BATCH = 2  # of the trial run: with one image, `squeeze()` would drop the batch axis too


@dataclass(frozen=True, eq=False)
class Graph:
    """A traced network.

    Attributes
    ----------
    module : the network as an fx graph, in evaluation mode.
    names : the name of each node, in execution order.
    operations : what each node does.
    values : for each node, the shape of its output for one batch (a `torch.Size`,
        with 2 as the batch), a list of these for several tensors, or the output itself
        where it is no tensor.
    size : (C,H,W) of the input.
    """

    module: fx.GraphModule
    names: dict[fx.Node, str]
    operations: dict[fx.Node, Operation]
    values: dict[fx.Node, Any]
    size: tuple[int, int, int]

    @property
    def nodes(self) -> list[fx.Node]:
        """The nodes in execution order."""
        return list(self.module.graph.nodes)

    @property
    def output(self) -> fx.Node:
        """The node whose value the network returns."""
        result = next(n for n in reversed(self.nodes) if n.op == "output").args[0]
        if not isinstance(result, fx.Node):
            raise ModelError(
                f"the network returns {type(result).__name__}, not one tensor of class scores. "
                "Wrap it in a module whose forward returns that tensor."
            )
        return result

    def parameters(self, node: fx.Node, options: Mapping[str, Any]) -> tuple[Tensor, Tensor | None]:
        """Return a layer's weight and bias: its module's, or those among a function's `options`."""
        if node.op == "call_module":
            module: Any = self.module.get_submodule(str(node.target))
            return module.weight, module.bias
        return options["weight"], options.get("bias")

    def is_output(self, node: fx.Node) -> bool:
        """Whether the network returns a node's value, perhaps among others."""
        return any(user.op == "output" for user in node.users)

    def node(self, name: str) -> fx.Node:
        """Return the node with that name.

        Raises
        ------
        LayerError
            if there is none; the message offers the nearest names.
        """
        for node, known in self.names.items():
            if known == name:
                return node
        raise LayerError(
            f"there is no layer {name!r}.{did_you_mean(name, self.names.values())} "
            "`convatlas.graph.receptive_fields` lists them all."
        )


class _Proxy(fx.Proxy):
    """A value of the network while it is traced; sizes may be used as the numbers they are."""

    def __index__(self) -> int:
        return operator.index(self._concrete())

    def __int__(self) -> int:
        return int(self._concrete())

    def __float__(self) -> float:
        return float(self._concrete())

    def _concrete(self) -> Any:
        return cast(_Tracer, self.tracer).try_out(self)


class _Tracer(fx.Tracer):
    """An fx tracer that names nodes, and decides on shapes by trying them.

    A condition or a loop on a *shape* is resolved for the given input size, by a
    run on tensors without data; one on values can't be and makes the module opaque.
    """

    def __init__(self, size: tuple[int, int, int], opaque: set[str]) -> None:
        super().__init__()
        self._size = size
        self._opaque = opaque
        self._path: list[str] = []
        self._trying = False
        self._modules: set[str] = set()
        self._used: dict[str, int] = {}
        self.names: dict[fx.Node, str] = {}
        self.failed: str | None = None

    def trace(self, root: Any, concrete_args: dict[str, Any] | None = None) -> fx.Graph:
        self._modules = {path for path, _ in root.named_modules()}
        return super().trace(root, concrete_args)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return module_qualified_name in self._opaque or super().is_leaf_module(
            m, module_qualified_name
        )

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        if self._trying:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        if self._trying:  # fx sends every module call here while it traces
            return forward(*args, **kwargs)
        path = self.path_of_module(m)
        self._path.append(path)
        try:
            result = super().call_module(m, forward, args, kwargs)
        except Exception:
            self.failed = self.failed or path  # the innermost one that can't be traced
            raise
        finally:
            self._path.pop()
        closed = any(c.__module__.startswith("torchvision.ops") for c in type(m).__mro__)
        if (
            closed
            and isinstance(result, fx.Proxy)
            and self.names[result.node].startswith(f"{path}.")
        ):
            self.names[result.node] = self._unique(path)
        return result

    def create_proxy(self, kind: str, target: Any, *args: Any, **kwargs: Any) -> fx.Proxy:
        proxy = super().create_proxy(kind, target, *args, **kwargs)
        if kind == "call_module":
            name = str(target)
        else:
            parent = self._path[-1] if self._path else ""
            operation = re.sub(r"_\d+$", "", proxy.node.name)  # fx counts over the whole graph
            name = f"{parent}.{operation}" if parent else operation
        self.names[proxy.node] = self._unique(name)
        return proxy

    def _unique(self, name: str) -> str:
        """Return a name with the counter of its uses, if it isn't the first one."""
        count = self._used.get(name, 0)
        while (unique := f"{name}_{count}" if count else name) in self._used or (
            count and unique in self._modules  # a module's name is its own
        ):
            count += 1
        self._used[name] = count + 1
        if count:
            self._used[unique] = 1
        return unique

    def to_bool(self, obj: fx.Proxy) -> bool:
        return bool(self.try_out(obj))

    def iter(self, obj: fx.Proxy) -> Iterator[Any]:
        try:
            return super().iter(obj)
        except fx.proxy.TraceError:
            indices = range(len(self.try_out(obj)))
            return iter(
                [self.create_proxy("call_function", getitem, (obj, i), {}) for i in indices]
            )

    def try_out(self, proxy: fx.Proxy) -> Any:
        """Return the value of a proxy for an input of the given size, without data."""
        graph = fx.Graph()
        kept: dict[fx.Node, fx.Node] = {}
        graph.graph_copy(self.graph, kept)
        graph.output(kept[proxy.node])
        # While fx traces, calling a module records a node; here it must run.
        with (
            _maybe_revert_all_patches(),
            FakeTensorMode(allow_non_fake_inputs=True) as mode,
            torch.no_grad(),
        ):
            image = mode.from_tensor(_blank(self.root, self._size))
            self._trying = True
            try:
                return fx.Interpreter(fx.GraphModule(self.root, graph)).run(image)
            finally:
                self._trying = False


def trace(model: nn.Module, size: tuple[int, int, int]) -> Graph:
    """Trace a network for inputs of one size.

    A module that can't be traced (its path depends on the values it sees) is kept
    closed, as one opaque operation; the log says which.

    Parameters
    ----------
    model : any network that takes one batch of images (N,C,H,W). It is put into
        evaluation mode.
    size : (C,H,W).

    Raises
    ------
    ModelError
        if the network as a whole can't be traced, or fails on an input of that size.
    """
    model.eval()
    optional = _optional_arguments(model)
    opaque: set[str] = set()
    while True:
        tracer = _Tracer(size, opaque)
        try:
            graph = tracer.trace(model, optional)
            break
        except Exception as error:
            if tracer.failed is None or tracer.failed in opaque:
                raise ModelError(
                    f"the network can't be traced ({_why(error)}). Put the part whose path depends "
                    "on the values it sees into a module of its own; it is then kept closed."
                ) from error
            log.warning(
                "module %s can't be traced (%s); it is kept closed",
                tracer.failed,
                _why(error),
            )
            opaque.add(tracer.failed)
    _settle_types(graph, model)
    _allow_any_layout(graph)
    module = fx.GraphModule(model, graph)
    module.eval()
    operations = {node: identify(node, module) for node in graph.nodes}
    for argument in [node for node in graph.nodes if node.op == "placeholder"][1:]:
        operations[argument] = Operation("other_value")  # has its default
    _follow_in_place(graph, operations)
    # What changes in place may be seen through another name, though nothing uses its result.
    graph.eliminate_dead_code(lambda node: node.is_impure() or operations[node].in_place)
    module.recompile()
    operations = {node: operations[node] for node in graph.nodes}
    names = {node: tracer.names[node] for node in graph.nodes if node in tracer.names}
    return Graph(module, names, operations, _try_shapes(module, size), size)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a network into evaluation mode for a while; every module gets its own mode back."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _settle_types(graph: fx.Graph, model: nn.Module) -> None:
    """Move what isn't the image's to the network's own type and device, not to the image's.

    As in ``self.mean.to(x)``: it would seem to depend on the image.
    """
    own = like(model)
    image = next(iter(graph.nodes))
    follows = {image}
    for node in graph.nodes:
        name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
        if node.op in ("call_method", "call_function") and name in ("to", "type_as"):
            moved, *others = node.args
            others += node.kwargs.values()
            if moved not in follows and any(other in follows for other in others):
                node.args, node.kwargs = (moved, own.device, own.dtype), {}
                node.target = "to" if node.op == "call_method" else Tensor.to
        if follows & set(node.all_input_nodes):
            follows.add(node)


def _allow_any_layout(graph: fx.Graph) -> None:
    """Let ``view`` reshape: it refuses what lies in memory with its channels last."""
    for node in graph.nodes:
        retyped = any(isinstance(argument, torch.dtype) for argument in node.args)
        if node.op == "call_method" and node.target == "view" and not retyped:
            node.target = "reshape"


def _optional_arguments(model: nn.Module) -> dict[str, Any] | None:
    """Return the arguments besides the image that are None unless given: they stay None.

    Raises
    ------
    ModelError
        if the network takes another one that must be given, or any number of them.
    """
    try:
        first, *parameters = inspect.signature(model.forward).parameters.values()
    except ValueError:  # compiled, as by torch.jit
        return None
    several = first.kind is inspect.Parameter.VAR_POSITIONAL
    needed = [
        p.name
        for p in parameters
        if p.default is p.empty and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    ]
    if several or needed:
        what = f"any number of arguments (*{first.name})" if several else f"also {needed[0]!r}"
        raise ModelError(
            f"the network takes {what}, but is given one batch of images. Wrap it in a module "
            "whose forward takes that alone."
        )
    return {p.name: None for p in parameters if p.default is None} or None


def _blank(model: nn.Module, size: tuple[int, int, int]) -> Tensor:
    """Return a batch of black images of the type, and where, a network computes."""
    own = like(model)
    return torch.zeros(_BATCH, *size, dtype=own.dtype, device=own.device)


def like(model: nn.Module) -> Tensor:
    """Return a tensor of the type, and where, a network computes."""
    return next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(()))


def _why(error: BaseException) -> str:
    """Return in a few words why something can't be traced."""
    if isinstance(error, DataDependentOutputException) or type(error).__name__ == _GUARD:
        return "its path depends on the values it sees"
    return _first_line(error).rstrip(".")


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return text[0] if text else type(error).__name__


def _follow_in_place(graph: fx.Graph, operations: dict[fx.Node, Operation]) -> None:
    """Let uses of a tensor after an in-place operation on it refer to that operation.

    fx keeps the two apart, though they are the same memory: ``F.relu_(x)`` followed
    by a use of ``x`` means the rectified values.
    """
    order = {node: i for i, node in enumerate(graph.nodes)}
    for node in graph.nodes:
        changed = node.args[0] if node.args else None
        if operations[node].in_place and isinstance(changed, fx.Node):

            def later(user: fx.Node, than: fx.Node = node) -> bool:
                return order[user] > order[than]

            for same in _same_memory(changed, operations):
                same.replace_all_uses_with(node, delete_user_cb=later)


def _same_memory(node: fx.Node, operations: dict[fx.Node, Operation]) -> set[fx.Node]:
    """Return a node and those that are the very same tensor: past a dropout, an identity."""
    found: set[fx.Node] = set()
    stack = [node]
    while stack:
        one = stack.pop()
        if one not in found:
            found.add(one)
            stack += [user for user in one.users if _passes(user, operations)]
            stack += one.all_input_nodes[:1] if _passes(one, operations) else []
    return found


def _passes(node: fx.Node, operations: dict[fx.Node, Operation]) -> bool:
    """Whether a node gives in evaluation the tensor that it is given."""
    return node.op == "call_module" and operations[node].kind in ("identity", "dropout")


class _Shapes(fx.Interpreter):
    """Run a graph and keep each output's shape."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.values: dict[fx.Node, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        self.values[n] = _shapes(result)
        return result


def _shapes(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.shape
    if isinstance(value, torch.Size):  # asked for by the network itself
        return tuple(value)
    if isinstance(value, tuple | list):
        return [_shapes(v) for v in value]
    return value


class _Run(nn.Module):
    """Runs a graph for its shapes; a module, so that its tensors can be exchanged."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__()
        self.module = module

    def forward(self, batch: Tensor) -> dict[fx.Node, Any]:
        run = _Shapes(self.module)
        run.extra_traceback = False
        run.run(batch)
        return run.values


def _infer_shapes(module: fx.GraphModule, size: tuple[int, int, int]) -> dict[fx.Node, Any] | None:
    """Return the shapes without computing anything, or None where that isn't possible."""
    given = _Run(module)
    tensors = [*given.named_parameters(), *given.named_buffers()]
    blank = {name: torch.empty_like(tensor, device="meta") for name, tensor in tensors}
    try:
        with torch.no_grad():
            batch = _blank(module, size).to("meta")
            values: dict[fx.Node, Any] = functional_call(given, blank, batch)
    except Exception:  # whatever it is, running with data will tell it better
        return None
    numbers = (torch.Size, list, tuple, int, float, str, torch.dtype, type(None))
    return values if all(isinstance(v, numbers) for v in values.values()) else None


def _try_shapes(module: fx.GraphModule, size: tuple[int, int, int]) -> dict[fx.Node, Any]:
    # Shapes are inferred quickly, once torch has imported what it does that with.
    quick = _INFERENCE in sys.modules or size[1] * size[2] > _SMALL
    inferred = _infer_shapes(module, size) if quick else None
    if inferred is not None:
        return inferred
    given = _Run(module)
    buffers = {name: tensor.clone() for name, tensor in given.named_buffers()}
    try:
        with torch.no_grad():
            values: dict[fx.Node, Any] = functional_call(given, buffers, _blank(module, size))
    except Exception as error:  # whatever a network raises that is given another size than its own
        raise ModelError(
            f"the network fails on an image of {size[1]} x {size[2]} pixels and {size[0]} "
            f"channels: {_first_line(error).rstrip('.')}. Give it images of the size that it "
            "takes; in a config, by the data set's `size`, or `resize` and `crop`."
        ) from error
    return values
