"""What the nodes of a traced network do, whichever way they are written.

``nn.ReLU(inplace=True)``, ``F.relu``, ``torch.relu`` and ``x.relu_()`` are one
operation. Everything that must know what an operation does (receptive fields,
backward rules) asks here, and only here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import fx, nn

# Activation functions, each called by its own name.
_ACTIVATIONS = [
    "relu",
    "relu6",
    "leaky_relu",
    "prelu",
    "rrelu",
    "elu",
    "selu",
    "celu",
    "silu",
    "gelu",
    "hardswish",
    "hardsigmoid",
    "sigmoid",
    "tanh",
    "softplus",
    "mish",
    "hardtanh",
    "logsigmoid",
]

# Functions of each value, called by their own names.
_FUNCTIONS = [
    "exp",
    "expm1",
    "log",
    "log1p",
    "sqrt",
    "rsqrt",
    "square",
    "pow",
    "reciprocal",
    "abs",
    "sign",
    "sin",
    "cos",
    "erf",
    "softsign",
    "hardshrink",
    "softshrink",
    "tanhshrink",
]

# Kinds that change each value by itself, as a function of nothing else.
POINTWISE = frozenset(
    [
        *_ACTIVATIONS,
        "threshold",
        "detach",
        "identity",
        "dropout",
        "batchnorm",
        "localnorm",
        "clamp",
        "affine",
        *_FUNCTIONS,
    ]
)

# Kinds that pass values on unchanged, so that naming them as layers would show everything twice.
TRANSPARENT = frozenset(
    [
        "input",
        "identity",
        "detach",
        "dropout",
        "reshape",
        "permute",
        "transpose",
        "chunk",
        "item",
        "other_value",
    ]
)


@dataclass(frozen=True)
class Operation:
    """What one node does.

    `kind` is a name from this module's tables, or ``other`` where it isn't known.
    `options` holds the node's arguments by name; a value may still be an fx node
    where it is computed on the way.
    """

    kind: str
    options: Mapping[str, Any] = field(default_factory=dict)
    in_place: bool = False


# ---------------------------------------------------------------------- modules

_WINDOW = ("kernel_size", "stride", "padding")
_AVERAGING = ("ceil_mode", "count_include_pad", "divisor_override")
_SCALING = ("size", "scale_factor", "mode", "align_corners", "recompute_scale_factor")
_CONV = (*_WINDOW, "dilation", "groups")

_MODULES: dict[type[nn.Module], tuple[str, tuple[str, ...]]] = {
    nn.Conv2d: ("conv", (*_CONV, "padding_mode")),
    nn.ConvTranspose2d: ("conv_transpose", (*_CONV, "output_padding")),
    nn.Linear: ("linear", ()),
    nn.BatchNorm2d: ("batchnorm", ()),
    nn.BatchNorm1d: ("batchnorm", ()),
    nn.LocalResponseNorm: ("localnorm", ("size", "alpha", "beta", "k")),
    nn.CrossMapLRN2d: ("localnorm", ("size", "alpha", "beta", "k")),
    nn.LayerNorm: ("layernorm", ("normalized_shape",)),
    nn.GroupNorm: ("groupnorm", ()),
    nn.InstanceNorm2d: ("groupnorm", ()),
    nn.MaxPool2d: ("maxpool", (*_WINDOW, "dilation", "ceil_mode")),
    nn.AvgPool2d: ("avgpool", (*_WINDOW, *_AVERAGING)),
    nn.LPPool2d: ("lppool", ("norm_type", "kernel_size", "stride", "ceil_mode")),
    nn.AdaptiveAvgPool2d: ("adaptive_avgpool", ("output_size",)),
    nn.AdaptiveMaxPool2d: ("adaptive_maxpool", ("output_size",)),
    nn.Upsample: ("interpolate", _SCALING),
    nn.ZeroPad2d: ("pad", ("padding",)),
    nn.ConstantPad2d: ("pad", ("padding", "value")),
    nn.ReflectionPad2d: ("pad", ("padding",)),
    nn.ReplicationPad2d: ("pad", ("padding",)),
    nn.CircularPad2d: ("pad", ("padding",)),
    nn.Flatten: ("reshape", ()),
    nn.Unflatten: ("reshape", ()),
    nn.Identity: ("identity", ()),
    nn.Dropout: ("dropout", ()),
    nn.Dropout1d: ("dropout", ()),
    nn.Dropout2d: ("dropout", ()),
    nn.AlphaDropout: ("dropout", ()),
    nn.FeatureAlphaDropout: ("dropout", ()),
    nn.Softmax: ("softmax", ("dim",)),
    nn.LogSoftmax: ("log_softmax", ("dim",)),
    nn.Softmax2d: ("softmax", ()),
    nn.ReLU: ("relu", ()),
    nn.ReLU6: ("relu6", ()),
    nn.Hardtanh: ("hardtanh", ("min_val", "max_val")),
    nn.LeakyReLU: ("leaky_relu", ("negative_slope",)),
    nn.PReLU: ("prelu", ()),
    nn.RReLU: ("rrelu", ()),
    nn.ELU: ("elu", ()),
    nn.SELU: ("selu", ()),
    nn.CELU: ("celu", ()),
    nn.SiLU: ("silu", ()),
    nn.GELU: ("gelu", ()),
    nn.Hardswish: ("hardswish", ()),
    nn.Hardsigmoid: ("hardsigmoid", ()),
    nn.Sigmoid: ("sigmoid", ()),
    nn.Tanh: ("tanh", ()),
    nn.Softplus: ("softplus", ()),
    nn.Mish: ("mish", ()),
    nn.LogSigmoid: ("logsigmoid", ()),
    nn.Threshold: ("threshold", ("threshold", "value")),
    nn.PixelShuffle: ("other", ()),
    nn.MultiheadAttention: ("attention", ()),
}

_PADDING_MODES: dict[type[nn.Module], str] = {
    nn.ReflectionPad2d: "reflect",
    nn.ReplicationPad2d: "replicate",
    nn.CircularPad2d: "circular",
}

# -------------------------------------------------------------------- functions
# name -> (kind, names of the arguments after the first). A trailing underscore,
# and an argument `inplace`, mean in place.

_CALLS: dict[str, tuple[str, tuple[str, ...]]] = {
    "conv2d": ("conv", ("weight", "bias", "stride", "padding", "dilation", "groups")),
    "conv_transpose2d": (
        "conv_transpose",
        ("weight", "bias", "stride", "padding", "output_padding", "groups", "dilation"),
    ),
    "linear": ("linear", ("weight", "bias")),
    "batch_norm": ("batchnorm", ("running_mean", "running_var", "weight", "bias", "training")),
    "local_response_norm": ("localnorm", ("size", "alpha", "beta", "k")),
    "layer_norm": ("layernorm", ("normalized_shape", "weight", "bias", "eps")),
    "group_norm": ("groupnorm", ("num_groups",)),
    "instance_norm": ("groupnorm", ()),
    "max_pool2d": ("maxpool", (*_WINDOW, "dilation", "ceil_mode", "return_indices")),
    "_max_pool2d": ("maxpool", (*_WINDOW, "dilation", "ceil_mode", "return_indices")),
    "avg_pool2d": ("avgpool", (*_WINDOW, *_AVERAGING)),
    "lp_pool2d": ("lppool", ("norm_type", "kernel_size", "stride", "ceil_mode")),
    "adaptive_avg_pool2d": ("adaptive_avgpool", ("output_size",)),
    "adaptive_max_pool2d": ("adaptive_maxpool", ("output_size", "return_indices")),
    "_adaptive_max_pool2d": ("adaptive_maxpool", ("output_size", "return_indices")),
    "interpolate": ("interpolate", _SCALING),
    "upsample": ("interpolate", _SCALING),
    "pad": ("pad", ("padding", "mode", "value")),
    "_pad": ("pad", ("padding", "mode", "value")),
    "threshold": ("threshold", ("threshold", "value")),
    "_threshold": ("threshold", ("threshold", "value")),
    "clamp": ("clamp", ("min", "max")),
    "clip": ("clamp", ("min", "max")),
    "clamp_min": ("clamp", ("min",)),
    "clamp_max": ("clamp", ("max",)),
    **{name: (name, ()) for name in _FUNCTIONS},
    "neg": ("affine", ()),
    "softmax": ("softmax", ("dim",)),
    "log_softmax": ("log_softmax", ("dim",)),
    "dropout": ("dropout", ()),
    "dropout2d": ("dropout", ()),
    "feature_dropout": ("dropout", ()),
    "alpha_dropout": ("dropout", ()),
    "stochastic_depth": ("dropout", ()),
    "contiguous": ("identity", ()),
    "clone": ("identity", ()),
    "detach": ("detach", ()),
    "float": ("identity", ()),
    "to": ("identity", ()),
    "type_as": ("identity", ()),
    "add": ("add", ("other",)),
    "iadd": ("add", ("other",)),
    "sub": ("add", ("other",)),
    "isub": ("add", ("other",)),
    "mul": ("mul", ("other",)),
    "imul": ("mul", ("other",)),
    "truediv": ("div", ("other",)),
    "itruediv": ("div", ("other",)),
    "div": ("div", ("other",)),
    "maximum": ("maximum", ("other",)),
    "minimum": ("maximum", ("other",)),
    "cat": ("cat", ("dim",)),
    "concat": ("cat", ("dim",)),
    "concatenate": ("cat", ("dim",)),
    "mean": ("mean", ("dim", "keepdim")),
    "amax": ("amax", ("dim", "keepdim")),
    "sum": ("sum", ("dim", "keepdim")),
    "flatten": ("reshape", ("start_dim", "end_dim")),
    "view": ("reshape", ()),
    "reshape": ("reshape", ()),
    "squeeze": ("reshape", ()),
    "unsqueeze": ("reshape", ()),
    "unflatten": ("reshape", ()),
    "permute": ("permute", ("dims",)),
    "transpose": ("transpose", ("dim0", "dim1")),
    "swapaxes": ("transpose", ("dim0", "dim1")),
    "chunk": ("chunk", ("chunks", "dim")),
    "split": ("chunk", ("split_size", "dim")),
    "tensor_split": ("chunk", ("indices", "dim")),
    "getitem": ("item", ("index",)),
    "bmm": ("matmul", ()),
    "matmul": ("matmul", ("other",)),
    "einsum": ("matmul", ()),
    "scaled_dot_product_attention": ("attention", ()),
    **{name: (name, ()) for name in _ACTIVATIONS},
    "hardtanh": ("hardtanh", ("min_val", "max_val")),
    "leaky_relu": ("leaky_relu", ("negative_slope",)),
}

_ALIASES = {"axis": "dim"}  # as NumPy calls it

_DEFAULTS: dict[str, dict[str, Any]] = {
    "conv": {"stride": 1, "padding": 0, "dilation": 1, "groups": 1, "padding_mode": "zeros"},
    "conv_transpose": {"stride": 1, "padding": 0, "output_padding": 0, "dilation": 1, "groups": 1},
    "maxpool": {"stride": None, "padding": 0, "dilation": 1, "ceil_mode": False},
    "avgpool": {"stride": None, "padding": 0, "ceil_mode": False},
    "lppool": {"stride": None, "padding": 0, "ceil_mode": False},
    "interpolate": {
        "size": None,
        "scale_factor": None,
        "mode": "nearest",
        "align_corners": None,
        "recompute_scale_factor": None,
        "antialias": False,
    },
    "pad": {"mode": "constant"},
    "cat": {"dim": 0},
    "chunk": {"dim": 0},
    "leaky_relu": {"negative_slope": 0.01},
    "localnorm": {"alpha": 1e-4, "beta": 0.75, "k": 1.0},
    "mean": {"dim": None, "keepdim": False},
    "sum": {"dim": None, "keepdim": False},
    "amax": {"dim": None, "keepdim": False},
}


def identify(node: fx.Node, module: fx.GraphModule) -> Operation:
    """Return what a node does; ``other`` where it isn't known."""
    return _rectifier(_identify(node, module))


def _rectifier(operation: Operation) -> Operation:
    """Return a rectifier by its own name where it is written as a clamp or a threshold."""
    o = operation.options
    bounds = {
        "clamp": (o.get("min"), o.get("max")),
        "hardtanh": (o.get("min_val", -1.0), o.get("max_val", 1.0)),
        "threshold": (o.get("threshold"), None if o.get("value") == 0 else "another value"),
    }.get(operation.kind)
    rectifiers: dict[object, str] = {(0, None): "relu", (0, 6): "relu6"}
    kind = rectifiers.get(bounds)
    return Operation(kind, {}, operation.in_place) if kind else operation


def _identify(node: fx.Node, module: fx.GraphModule) -> Operation:
    if node.op in ("placeholder", "output", "get_attr"):
        return Operation({"placeholder": "input", "output": "output"}.get(node.op, "other_value"))
    if node.op == "call_module":
        return _of_module(module.get_submodule(str(node.target)))
    return _of_call(node)


def _of_module(module: nn.Module) -> Operation:
    if not type(module).__module__.startswith("torch."):  # somebody's own, kept closed
        return Operation("other", {"name": type(module).__name__})
    if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) and module.running_mean is None:
        return Operation("groupnorm")  # of the batch's own statistics, in evaluation too
    for kind in type(module).__mro__:
        if kind in _MODULES:
            name, options = _MODULES[kind]
            values = {o: getattr(module, o) for o in options if hasattr(module, o)}
            values = _DEFAULTS.get(name, {}) | values
            if name == "pad":
                values["mode"] = _PADDING_MODES.get(kind, "constant")
            return Operation(name, values, in_place=bool(getattr(module, "inplace", False)))
    return Operation("other", {"name": type(module).__name__})


def _of_call(node: fx.Node) -> Operation:
    name = node.target if isinstance(node.target, str) else _function_name(node.target)
    plain = name.rstrip("_") if not name.startswith("__") else name
    in_place = name != plain or plain in ("iadd", "isub", "imul", "itruediv")
    in_place = in_place or bool(node.kwargs.get("inplace", False))
    if plain in ("max", "min") and len(node.args) == 2 and isinstance(node.args[1], fx.Node):
        plain = "maximum"
    kind, arguments = _CALLS.get(plain, ("other", ()))
    if kind == "other":
        return Operation("other", {"name": plain}, in_place=in_place)
    options = _DEFAULTS.get(kind, {}) | dict(zip(arguments, node.args[1:], strict=False))
    options |= {_ALIASES.get(k, k): v for k, v in node.kwargs.items() if k != "inplace"}
    if kind == "batchnorm" and (options.get("running_mean") is None or options.get("training")):
        kind = "groupnorm"  # of the batch's own statistics
    return Operation(kind, options, in_place=in_place)


def _function_name(target: Callable[..., Any]) -> str:
    return str(getattr(target, "__name__", type(target).__name__))
