"""Weights in files: read as people have them, written as a plain state dict.

Nothing in a file is ever run: pickles are read by torch's restricted unpickler alone
(`weights_only=True`), which knows tensors and containers and nothing else.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import pickle
import re
import warnings
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from convatlas.classes import one_line
from convatlas.errors import DamagedFile, ModelError, did_you_mean
from convatlas.files import replacing
from convatlas.job import log

StateDict = Mapping[str, Tensor]

_SAVE_STATE = (
    "Where the network was trained, save its weights alone: "
    "`torch.save(model.state_dict(), 'weights.pt')`."
)

_MOST_UNPACKED = 20  # times the size of the file
_BLOCK = 1 << 20
_LONGEST = 200  # characters of a name or a reason in a message
_NEAR = 1000  # names looked through for one like another

# ----------------------------------------------------------------- reading a file


def read_checkpoint(path: Path) -> Mapping[Any, Any]:
    """Return what a checkpoint file holds, without running any of it.

    The format (safetensors, or one of torch.save's) is told from the content.

    Raises
    ------
    ModelError
        if there is no such file, it isn't a whole checkpoint, it is damaged where its
        format can tell (torch.save's archives have a checksum of each part), or reading
        it would need code, as a pickled network does.
    """
    if not path.is_file():
        near = did_you_mean(path.name, (p.name for p in path.parent.glob("*") if p.is_file()))
        raise ModelError(f"the weights {path} don't exist (looked in {Path.cwd()}).{near}")
    with path.open("rb") as file:
        head = file.read(512)
    if disguise := _disguise(head):
        raise ModelError(f"{path} is {disguise}, not a checkpoint. Get the file itself.")
    if _is_safetensors(path, head):
        return _read_safetensors(path)
    if head.startswith(b"PK\x03\x04"):
        _check_archive(path)
    content = _read_pickle(path)
    if not isinstance(content, Mapping):
        raise ModelError(
            f"{path} holds a {type(content).__name__}, not a state dict. {_SAVE_STATE}"
        )
    return content


def _disguise(head: bytes) -> str:
    """Say what a file is that often stands where a checkpoint should, or nothing."""
    if not head:
        return "empty"
    if head.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer (`git lfs pull` fetches what it points to)"
    if head.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        return "a web page"
    return ""


def _is_safetensors(path: Path, head: bytes) -> bool:
    # The format opens with the length of its JSON header in eight bytes, then that header.
    length = int.from_bytes(head[:8], "little")
    return path.suffix == ".safetensors" or (head[8:9] == b"{" and length < path.stat().st_size)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except Exception as error:  # an element type that torch hasn't, an offset beyond the end, ...
        raise ModelError(
            f"{path} is not a whole safetensors file ({_short(error)}). Get or save it again."
        ) from error


def _check_archive(path: Path) -> None:
    """Compare the parts of a zip file with their CRC-32, which torch doesn't do.

    torch.save writes a CRC of 0 where `torch.serialization.set_crc32_options(False)`
    told it not to spend the time; such a part can't be compared.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            parts = archive.infolist()
            size = sum(part.file_size for part in parts)
            if size > _MOST_UNPACKED * path.stat().st_size:
                raise ModelError(
                    f"{path} unpacks to {size / 1e6:,.0f} MB, many times its size, which no "
                    f"checkpoint does: torch.save doesn't compress. {_SAVE_STATE}"
                )
            for part in parts:
                if part.CRC:
                    with archive.open(part) as content:
                        while content.read(_BLOCK):
                            pass
    except ModelError:
        raise
    except Exception as error:  # zipfile, zlib and struct each have their own
        raise ModelError(_unreadable(path, error)) from error


def _read_pickle(path: Path) -> Any:
    try:
        # torch warns of formats that it can't read, and then fails: the failure says enough.
        with warnings.catch_warnings(), torch.serialization.safe_globals(_harmless()):
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # anything at all may be found in a file that isn't one
        raise ModelError(_unreadable(path, error)) from error


def _unreadable(path: Path, error: Exception) -> str:
    message = str(error)
    if "legacy .tar format" in message:
        return f"{path} is in a format of torch from before 2017. {_SAVE_STATE}"
    if "TorchScript" in message:
        return f"{path} is a TorchScript program. {_SAVE_STATE}"
    if isinstance(error, pickle.UnpicklingError):
        if refused := re.search(r"GLOBAL ([\w.]+)", message):
            return (
                f"{path} can't be read without running code (it needs {refused.group(1)}), "
                f"so nothing of it was loaded. {_SAVE_STATE}"
            )
        message = "it isn't what torch.save writes"
    reason = _short(message.strip().partition("\n")[0]) or type(error).__name__
    return f"{path} is not a whole checkpoint file: {reason}. Get or save it again. {_SAVE_STATE}"


def _harmless() -> list[Any]:
    """Return classes without behaviour that training scripts often save next to the weights."""
    scalar, rebuild = np._core.multiarray.scalar, np._core.multiarray._reconstruct  # type: ignore[attr-defined]
    return [
        argparse.Namespace,  # command-line arguments
        np.dtype,
        np.ndarray,
        *(
            type(np.dtype(code))
            for code in np.typecodes["AllInteger"] + np.typecodes["Float"] + "?"
        ),
        (scalar, "numpy.core.multiarray.scalar"),  # as numpy 1 calls it
        (scalar, "numpy._core.multiarray.scalar"),
        (rebuild, "numpy.core.multiarray._reconstruct"),
        (rebuild, "numpy._core.multiarray._reconstruct"),
    ]


# ------------------------------------------------- the state dicts within a checkpoint

_DEPTH = 3
_CUSTOMARY = ("state_dict", "model_state_dict", "model", "net", "network", "weights", "module")


def _state_dicts(content: Mapping[Any, Any]) -> Iterator[tuple[str, StateDict]]:
    """Yield each mapping with tensors in it, and where: the customary names first, averages last.

    An exponential moving average (ema) of the weights is taken only where there are no others.
    """
    yield from _state_dicts_within(content, (), set())


def _state_dicts_within(
    content: Mapping[Any, Any], place: tuple[str, ...], seen: set[int]
) -> Iterator[tuple[str, StateDict]]:
    # `seen`, because a pickle may hold one dict at many places, or within itself.
    seen.add(id(content))
    named = [(k, v) for k, v in _items(content) if isinstance(k, str)]
    tensors = {k: v for k, v in named if isinstance(v, Tensor)}
    if tensors:
        yield "".join(f"/{key}" for key in place), tensors
    inner = [(k, v) for k, v in named if isinstance(v, Mapping)]
    if len(place) < _DEPTH:
        for key, value in sorted(inner, key=lambda item: _custom(item[0])):
            if id(value) not in seen:
                yield from _state_dicts_within(value, (*place, key), seen)


def _items(content: Mapping[Any, Any]) -> Iterable[tuple[Any, Any]]:
    # Of the class, because a pickle may give an OrderedDict an attribute called `items`.
    return dict.items(content) if isinstance(content, dict) else content.items()


def _custom(key: str) -> int:
    if key in _CUSTOMARY:
        return _CUSTOMARY.index(key)
    return len(_CUSTOMARY) + ("ema" in key.lower().split("_"))


# --------------------------------------------------------- fitting names to a network

_WRAPPERS = ("module", "_orig_mod")  # of DataParallel and of torch.compile, at any level
_OLD_DENSE_NAME = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)")
_TRAINING_HEADS = ("aux1.", "aux2.", "AuxLogits.")  # of GoogLeNet and Inception
_LONGEST_PREFIX = 20  # parts of a name
_COUNTER = "num_batches_tracked"  # of BatchNorm; only training uses it


@dataclass(frozen=True)
class _Fit:
    """How well the tensors at one place of a file fit a network."""

    place: str  # the names it is nested under, or nothing
    prefix: str  # what the names of its tensors began with
    tensors: StateDict  # by the network's names
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    differing: tuple[str, ...]  # in shape, or in kind of number
    ignored: tuple[str, ...]  # what lies outside the prefix, or is for training only

    @property
    def errors(self) -> int:
        return len(self.missing) + len(self.unexpected) + len(self.differing)

    @property
    def title(self) -> str:
        named = f"{self.place}: {self.prefix}*".lstrip("/: ")
        return _short(named) if self.place or self.prefix else ""


def _fits(content: Mapping[Any, Any], expected: StateDict) -> Iterator[_Fit]:
    """Yield every way to read a state dict for a network out of a checkpoint."""
    for place, tensors in _state_dicts(content):
        for names in _spellings(tensors):
            found = [_fit(place, prefix, names, expected) for prefix in _prefixes(names, expected)]
            yield from found
            if any(fit.errors == 0 for fit in found):
                break


def _spellings(tensors: StateDict) -> Iterator[StateDict]:
    """Yield tensors under their own names, then without wrappers and in today's spelling."""
    yield tensors
    bare = {".".join(p for p in k.split(".") if p not in _WRAPPERS): v for k, v in tensors.items()}
    bare = {_OLD_DENSE_NAME.sub(r"\1\2", k): v for k, v in bare.items()}
    if len(bare) == len(tensors) and bare.keys() != tensors.keys():
        yield bare


def _prefixes(names: Iterable[str], expected: StateDict) -> list[str]:
    """Return none, and the few prefixes without which most names are the network's."""
    hits: Counter[str] = Counter()
    for name in names:
        parts = name.split(".")
        for i in range(1, min(len(parts), _LONGEST_PREFIX)):
            if (rest := ".".join(parts[i:])) in expected:
                hits[name.removesuffix(rest)] += 1
    often = [prefix for prefix, count in hits.most_common(4) if 2 * count > len(expected)]
    return ["", *often]


def _fit(place: str, prefix: str, tensors: StateDict, expected: StateDict) -> _Fit:
    inside = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    outside = [k for k in tensors if not k.startswith(prefix)]
    missing = [k for k in expected if k not in inside and not k.endswith(_COUNTER)]
    extra = [k for k in inside if k not in expected]
    harmless = [k for k in extra if k.startswith(_TRAINING_HEADS) or k.endswith(_COUNTER)]
    differing = [k for k, v in expected.items() if k in inside and not _alike(inside[k], v)]
    return _Fit(
        place=place,
        prefix=prefix,
        tensors=inside,
        missing=tuple(missing),
        unexpected=tuple(k for k in extra if k not in harmless),
        differing=tuple(differing),
        ignored=(*outside, *harmless),
    )


def _alike(given: Tensor, expected: Tensor) -> bool:
    same_kind = (
        given.is_floating_point() == expected.is_floating_point()
        and given.is_complex() == expected.is_complex()
        and not given.is_quantized
        and given.layout == torch.strided
        and not given.is_meta
    )
    return given.shape == expected.shape and same_kind


def load_checkpoint(
    module: nn.Module, content: Mapping[Any, Any], source: str, outputs_option: str = ""
) -> None:
    """Fill a network with the weights in a checkpoint's content.

    The weights may be nested, and their names may carry a common prefix or the wrappers
    of DataParallel and torch.compile; each is undone only if the network then fits
    exactly. What is left out or chosen among several is said in the log.

    Parameters
    ----------
    module : changed in place.
    content : as `read_checkpoint` returns it.
    source : the file's name for messages.
    outputs_option : the architecture's option for the number of outputs, if it has one.

    Raises
    ------
    ModelError
        if names or shapes differ (all are listed), or a weight is infinite or not a number.
    """
    expected = state_of(module)
    fits = list(_fits(content, expected))
    if not fits:
        keys = [k if isinstance(k, str) else f"a {type(k).__name__}" for k in content]
        raise ModelError(
            f"{source} holds no tensors by name (at its top: {_some(keys) or 'nothing'}). "
            f"{_SAVE_STATE}"
        )
    best = min(fits, key=lambda fit: fit.errors)
    if best.errors:
        if not _convert(module, best, content):
            raise ModelError(_mismatch(best, expected, source, outputs_option))
    else:
        _assign(module, best, expected, source)
        _log_choice(best, fits, source)
    _check_finite(module, source)


def _assign(module: nn.Module, fit: _Fit, expected: StateDict, source: str) -> None:
    # A counter that is missing starts at zero, as it does in a new network.
    state = OrderedDict(
        (k, fit.tensors[k] if k in fit.tensors else torch.zeros_like(v))
        for k, v in expected.items()
    )
    state._metadata = module.state_dict()._metadata  # type: ignore[attr-defined]
    try:
        module.load_state_dict(state)
    except RuntimeError as error:  # numbers of a kind that torch can't convert
        kinds = sorted({str(v.dtype) for v in state.values()} - {"torch.float32", "torch.int64"})
        raise ModelError(
            f"{source} can't be turned into the network's float32 (it holds {', '.join(kinds)}). "
            f"Convert it where the network was trained: `model.float()`. {_SAVE_STATE}"
        ) from error


def _convert(module: nn.Module, fit: _Fit, content: Mapping[Any, Any]) -> bool:
    """Let the network's own code convert an older state dict, as torchvision's ViT has it.

    It goes by the versions that torch.save keeps with a state dict. False if it can't:
    names may change, shapes and kinds of numbers may not.
    """
    if fit.differing:
        return False
    state = OrderedDict(fit.tensors)
    for name in fit.ignored:
        state.pop(name, None)
    versions = getattr(content, "_metadata", None)
    state._metadata = versions if isinstance(versions, Mapping) else {}  # type: ignore[attr-defined]
    try:
        module.load_state_dict(state)
    except Exception:  # the network's own code, at names and versions that may be anything
        return False
    return True


def _log_choice(best: _Fit, fits: Iterable[_Fit], source: str) -> None:
    if best.title:
        log.info("%s: the weights under %s are taken", source, best.title)
    if best.ignored:
        log.info("%s: not used: %s", source, _some(best.ignored))
    others = [fit.title or "its top" for fit in fits if fit.errors == 0 and fit is not best]
    if others:
        log.warning(
            "%s: weights for this network lie in several places; those under %s are taken, not "
            "those under %s. Save the others in a file of their own to use them.",
            source,
            best.title or "its top",
            ", ".join(others),
        )


def _check_finite(module: nn.Module, source: str) -> None:
    bad = [k for k, v in state_of(module).items() if not bool(torch.isfinite(v).all())]
    if bad:
        raise ModelError(
            f"{source}: {len(bad)} tensors hold values that are infinite or not a number, or "
            f"too large for float32: {_some(bad)}. Training has diverged, or the file is damaged; "
            "take an earlier one."
        )


def _mismatch(fit: _Fit, expected: StateDict, source: str, outputs_option: str) -> str:
    lines = [f"{source}{f' ({fit.title})' if fit.title else ''} doesn't fit the network:"]
    if fit.missing:
        near = did_you_mean(fit.missing[0], fit.unexpected[:_NEAR])
        lines.append(f"  missing in the file ({len(fit.missing)}): {_some(fit.missing)}.{near}")
    if fit.unexpected:
        lines.append(f"  not in the network ({len(fit.unexpected)}): {_some(fit.unexpected)}.")
    if fit.differing:
        pairs = [
            f"{k} is {_kind(fit.tensors[k])} in the file, {_kind(expected[k])} in the network"
            for k in fit.differing
        ]
        lines.append(f"  different ({len(pairs)}): {_some(pairs, '; ')}.")
    return "\n".join([*lines, _remedy(fit, expected, outputs_option)])


def _remedy(fit: _Fit, expected: StateDict, outputs_option: str) -> str:
    owner = list(expected)[-1].rpartition(".")[0]
    if not (fit.missing or fit.unexpected) and _only_outputs_differ(fit, expected, owner):
        outputs = fit.tensors[fit.differing[0]].shape[0]
        if outputs_option:
            return (
                f"Only the last layer, {owner}, differs: "
                f"give `options: {{{outputs_option}: {outputs}}}`."
            )
        return f"Only the last layer, {owner}, differs: build it with {outputs} outputs."
    if len(fit.missing) > len(expected) / 2:
        return "The file is for another network: check `architecture`."
    return "Check `architecture` and `options`, or the file."


def _only_outputs_differ(fit: _Fit, expected: StateDict, owner: str) -> bool:
    return all(
        name.rpartition(".")[0] == owner
        and fit.tensors[name].ndim == expected[name].ndim > 0
        and fit.tensors[name].shape[1:] == expected[name].shape[1:]
        and fit.tensors[name].is_floating_point()
        for name in fit.differing
    )


def _kind(tensor: Tensor) -> str:
    shape = "x".join(str(edge) for edge in tensor.shape) or "a single number"
    kinds = [] if tensor.dtype == torch.float32 else [str(tensor.dtype)]
    if tensor.layout != torch.strided:
        kinds.append(str(tensor.layout))
    if tensor.is_meta:
        kinds.append("without values (on the device meta)")
    return " ".join([shape, *kinds])


def _some(items: Iterable[str], separator: str = ", ", limit: int = 8) -> str:
    listed = list(items)
    more = f"{separator}and {len(listed) - limit} more" if len(listed) > limit else ""
    return separator.join(map(_short, listed[:limit])) + more


def _short(text: object) -> str:
    """Return what a file says as text for a message: on one line, and not endless."""
    line = one_line(str(text)[:_LONGEST])
    return line if len(str(text)) <= _LONGEST else f"{line}..."


# -------------------------------------------------------------------- our own files


def state_of(module: nn.Module) -> OrderedDict[str, Tensor]:
    """Return the state dict of a network, which must be of tensors with a known shape.

    Raises
    ------
    ModelError
        if it isn't, as with lazy layers that haven't seen an input yet.
    """
    state = OrderedDict(module.state_dict())
    for name, value in state.items():
        if nn.parameter.is_lazy(value):
            raise ModelError(
                f"{name} belongs to a lazy layer, whose shape isn't known before the first input. "
                "Run the network once in the function that builds it."
            )
        if not isinstance(value, Tensor):
            raise ModelError(
                f"{name} in the network's state is a {type(value).__name__}; only tensors can be "
                "kept. Take the layer with an extra state out of the network."
            )
    return state


def save_weights(module: nn.Module, path: Path) -> None:
    """Write a network's state dict; the same weights give the same bytes.

    Raises
    ------
    ModelError
        if a weight is infinite or not a number.
    """
    _check_finite(module, "the network")
    state = module.state_dict()
    for name, value in state.items():
        # A clone, so that a view doesn't take all of its storage along.
        state[name] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
    # Into a buffer: torch.save names the archive within a file after that file.
    buffer = io.BytesIO()
    torch.save(state, buffer)
    with replacing(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def load_weights(module: nn.Module, path: Path) -> None:
    """Fill a network from a file that `save_weights` wrote.

    Raises
    ------
    DamagedFile
        if it isn't whole.
    ModelError
        if it doesn't fit the network.
    """
    load_checkpoint(module, read_weights(path), str(path))


def read_weights(path: Path) -> StateDict:
    """Return what `save_weights` wrote.

    Raises
    ------
    DamagedFile
        if it isn't whole.
    """
    try:
        return read_checkpoint(path)
    except ModelError as error:
        raise DamagedFile(path, "is not a whole file of weights") from error


def weights_digest(module: nn.Module) -> str:
    """Return a SHA-256, in hex, of the names, types, shapes and bytes of a network's weights."""
    digest = hashlib.sha256()
    for name, value in sorted(state_of(module).items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
