"""Damaged and hostile checkpoints: exactly the weights saved, or a refusal; never code, never more.

In legacy and safetensors files nothing tells a changed weight from a trained one, so
there only what a second reader would read is asked for.
"""

from __future__ import annotations

import io
import json
import pickle
import random
import tarfile
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save
from test_models_checkpoints import Plain, filled, load, message, refused, same
from torch import Tensor, nn

from convatlas.errors import ModelError
from convatlas.models.checkpoints import _state_dicts, load_checkpoint, read_checkpoint

SOME = settings(max_examples=150, deadline=None, derandomize=True)
MORE = settings(max_examples=300, deadline=None, derandomize=True)


def saved(content: Any, zipped: bool = True) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


def weights() -> dict[str, Tensor]:
    return dict(filled().state_dict())


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("weights") / "weights.pth"


@pytest.fixture
def unchecked() -> Iterator[None]:
    torch.serialization.set_crc32_options(False)
    yield
    torch.serialization.set_crc32_options(True)


def equal(one: Mapping[str, Any], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in other)


def parts_of(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {part.filename: archive.read(part) for part in archive.infolist()}


def archive_of(parts: Mapping[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def pickled(payload: bytes) -> bytes:
    """Return a checkpoint whose pickle is `payload` and whose checksums are right."""
    return archive_of({"archive/data.pkl": payload, "archive/version": b"3\n"})


# ---------------------------------------------------------------- changed bytes


def test_a_changed_byte_of_an_archive_is_noticed_or_means_nothing(path: Path) -> None:
    wanted = weights()
    whole = saved(wanted)
    refusals: list[int] = []

    @MORE
    @given(at=st.integers(0, len(whole) - 1), flip=st.integers(1, 255))
    def check(at: int, flip: int) -> None:
        path.write_bytes(whole[:at] + bytes([whole[at] ^ flip]) + whole[at + 1 :])
        try:
            read = read_checkpoint(path)
        except ModelError:
            refusals.append(at)
        else:
            assert equal(read, wanted)

    check()
    assert len(refusals) > 50


def test_every_bit_of_a_weight_counts(path: Path) -> None:
    wanted = weights()
    whole = saved(wanted)
    at = whole.index(wanted["fc.weight"].numpy().tobytes())
    for bit in range(32):
        changed = bytearray(whole)
        changed[at + bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        assert "is not a whole checkpoint file: Bad CRC-32" in refused(path)


@pytest.mark.usefixtures("unchecked")
def test_a_file_without_checksums_loads(path: Path) -> None:
    wanted = weights()
    torch.save(wanted, path)
    with zipfile.ZipFile(path) as archive:
        assert {part.CRC for part in archive.infolist()} == {0}
    assert equal(read_checkpoint(path), wanted)


def test_an_archive_packed_again_loads(path: Path) -> None:
    wanted = weights()
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        path.write_bytes(archive_of(parts_of(saved(wanted)), method))
        assert equal(read_checkpoint(path), wanted)


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_a_file_cut_anywhere_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / ("weights.safetensors" if kind == "safetensors" else "weights.pth")
    whole = save(weights()) if kind == "safetensors" else saved(weights(), kind == "zip")

    @SOME
    @given(length=st.integers(0, len(whole) - 1))
    def check(length: int) -> None:
        path.write_bytes(whole[:length])
        refused(path)

    check()


@pytest.mark.parametrize("zipped", [True, False])
def test_a_changed_pickle_gives_tensors_or_a_refusal(path: Path, zipped: bool) -> None:
    """The pickle is changed and its checksum with it, as someone could who means harm."""
    nested = {"epoch": 3, "state_dict": OrderedDict(filled().state_dict()), "lr": [0.1, "x"]}
    whole = saved(nested, zipped)
    parts = parts_of(whole) if zipped else {}
    name = next((name for name in parts if name.endswith("/data.pkl")), "")
    content = parts.get(name, whole)
    endings: set[str] = set()

    @MORE
    @given(
        changes=st.lists(
            st.tuples(st.integers(0, len(content) - 1), st.binary(max_size=3), st.integers(0, 3)),
            min_size=1,
            max_size=4,
        )
    )
    def check(changes: list[tuple[int, bytes, int]]) -> None:
        changed = content
        for at, new, cut in changes:
            changed = changed[:at] + new + changed[at + cut :]
        path.write_bytes(archive_of(parts | {name: changed}) if zipped else changed)
        network = Plain()
        try:
            load_checkpoint(network, read_checkpoint(path), "weights.pth")
        except ModelError as error:
            endings.add(type(error).__name__)
        else:
            endings.add("loaded")
            assert all(bool(v.isfinite().all()) for v in network.state_dict().values())

    check()
    assert endings == {"ModelError", "loaded"}


def by_hand(content: bytes) -> dict[str, tuple[str, list[int], bytes]]:
    """Read safetensors as its format is described: a length, a JSON header, the bytes."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header.pop("__metadata__", None)
    body = content[8 + length :]
    return {k: (v["dtype"], v["shape"], body[slice(*v["data_offsets"])]) for k, v in header.items()}


def test_changed_safetensors_read_as_by_hand_or_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    wanted = weights()
    whole = save(wanted, metadata={"format": "pt"})
    header = 8 + int.from_bytes(whole[:8], "little")
    words = [
        b"F16",
        b"F64",
        b"BOOL",
        b"F4",
        b"0",
        b"9",
        b"-1",
        b"[",
        b'"',
        b"\0",
        b"\xff",
        b"99999",
    ]
    read_on: list[int] = []

    @MORE
    @given(
        at=st.integers(0, header) | st.integers(0, len(whole) - 1),
        new=st.sampled_from(words) | st.binary(max_size=2),
        cut=st.integers(0, 3),
    )
    def check(at: int, new: bytes, cut: int) -> None:
        content = whole[:at] + new + whole[at + cut :]
        path.write_bytes(content)
        try:
            read = read_checkpoint(path)
        except ModelError:
            return
        read_on.append(at)
        told = by_hand(content)
        assert read.keys() == told.keys()
        for name, value in read.items():
            assert list(value.shape) == told[name][1]
            assert value.reshape(-1).view(torch.uint8).numpy().tobytes() == told[name][2]

    check()
    assert read_on


@pytest.mark.parametrize(
    "content",
    [
        (2**63).to_bytes(8, "little") + b'{"a":1}',
        (10**9).to_bytes(8, "little") + b"{" + b" " * 100,
        (9).to_bytes(8, "little") + b'{"a":[[[]',
        (100_000).to_bytes(8, "little") + b"{" + b'"a":{' * 19_999 + b"    ",
        b"\0" * 8,
        b"{}",
    ],
)
def test_a_lying_safetensors_header_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "weights.safetensors").write_bytes(content)
    assert "is not a whole safetensors file" in refused(tmp_path / "weights.safetensors")


@pytest.mark.parametrize("magic", [b"", b"PK\x03\x04", b"\x80\x02", b"\x80\x02\x8a\x0a", b"ustar"])
def test_noise_behind_any_beginning_is_refused(path: Path, magic: bytes) -> None:
    source = random.Random(0)
    for _ in range(40):
        path.write_bytes(magic + source.randbytes(source.randrange(1, 600)))
        refused(path)


# ---------------------------------------------------------------- pickles that act

CALLS = {
    "os.system": ("os", "system"),
    "posix.system": ("posix", "system"),
    "eval": ("builtins", "eval"),
    "exec": ("builtins", "exec"),
    "python 2's eval": ("__builtin__", "eval"),
    "Popen": ("subprocess", "Popen"),
    "torch.load": ("torch", "load"),
    "pickle.loads": ("pickle", "loads"),
    "runpy": ("runpy", "run_path"),
    "getattr": ("builtins", "getattr"),
    "numpy.load": ("numpy", "load"),
    "hub": ("torch.hub", "load"),
    "dotted": ("torch", "serialization.os.system"),
}


@pytest.mark.parametrize("kind", ["zip", "legacy", "plain"])
@pytest.mark.parametrize("opcodes", ["global", "stack", "inst", "object", "class"])
def test_no_opcode_calls_anything(tmp_path: Path, kind: str, opcodes: str) -> None:
    trace, path = tmp_path / "ran", tmp_path / "weights.pth"
    for module, name in CALLS.values():
        for argument in (f"touch {trace}", f"open({str(trace)!r}, 'w')", str(trace)):
            text = b"X" + len(argument).to_bytes(4, "little") + argument.encode()
            names = f"{module}\n{name}\n".encode()
            long = [b"\x8c" + bytes([len(word)]) + word.encode() for word in (module, name)]
            payload = {
                "global": b"c" + names + text + b"\x85R",
                "stack": long[0] + long[1] + b"\x93" + text + b"\x85R",
                "inst": b"(" + text + b"i" + names,
                "object": b"(c" + names + text + b"o",
                "class": b"c" + names + text + b"\x85\x81",
            }[opcodes]
            payload = b"\x80\x04}\x8c\x01a" + payload + b"s."
            magic = pickle.dumps(torch.serialization.MAGIC_NUMBER, 2)
            start = magic + pickle.dumps(1001, 2) + pickle.dumps({"little_endian": True}, 2)
            path.write_bytes(
                {"zip": pickled(payload), "legacy": start + payload, "plain": payload}[kind]
            )
            text_of_refusal = refused(path)
            assert "Traceback" not in text_of_refusal
            assert "weights_only" not in text_of_refusal
            assert not trace.exists()


def test_tar_files_of_old_torch_are_not_unpacked(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        for name in ("storages", "tensors", "pickle"):
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    assert "weights_only" not in refused(path)


@pytest.mark.parametrize("part", ["data/0", "data.pkl"])
def test_an_archive_that_would_fill_the_memory_is_not_unpacked(path: Path, part: str) -> None:
    parts = parts_of(saved(weights()))
    name = next(name for name in parts if name.endswith(part))
    path.write_bytes(archive_of(parts | {name: bytes(2**25)}, zipfile.ZIP_DEFLATED))
    assert "unpacks to 34 MB" in refused(path)


def test_a_dict_within_itself_or_at_many_places_is_looked_at_once() -> None:
    wanted = filled()
    content: dict[str, Any] = dict(wanted.state_dict())
    content["again"] = content
    assert same(load(content), wanted)
    for _ in range(3):
        content = {f"k{i}": content for i in range(60)} | {"x": torch.zeros(1)}
    assert len(list(_state_dicts(content))) == 4


class Odd:
    """Pickled as an OrderedDict that has attributes called like its methods."""

    def __init__(self, items: Mapping[str, Any]) -> None:
        self.content = list(items.items())

    def __reduce__(self) -> tuple[Any, ...]:
        names = ("items", "keys", "values", "get", "__iter__", "__len__", "_metadata")
        return OrderedDict, (), dict.fromkeys(names, 5), None, iter(self.content)


def test_an_attribute_never_stands_in_for_a_method(path: Path) -> None:
    wanted = filled()
    path.write_bytes(saved({"state_dict": Odd(wanted.state_dict())}))
    read = read_checkpoint(path)
    assert read["state_dict"].items == 5
    assert same(load(read), wanted)
    path.write_bytes(saved(Odd(weights() | {"one.more": torch.zeros(1)})))
    assert "not in the network (1): one.more" in message(read_checkpoint(path))


def test_names_in_a_file_are_shown_on_one_short_line() -> None:
    odd = ["a\nb", "\x1b[31mred", "\ud800", "x" * 10_000, "." * 50_000]
    text = message(weights() | {name: torch.zeros(1) for name in odd})
    assert "a\\nb, \\x1b[31mred, \\ud800, xxx" in text
    assert len(text) < 1500
    text.encode()
    text = message({(1, 2): 3, 4: 5, "a\nb": 6})
    assert "at its top: a tuple, a int, a\\nb" in text


# ------------------------------------------------------------------- odd tensors

W = torch.arange(16.0).reshape(4, 4) / 8  # every one of them is exact in half precision

ODD: dict[str, Callable[[], Tensor]] = {
    "sparse": W.to_sparse,
    "compressed": W.to_sparse_csr,
    "meta": lambda: W.to("meta"),
    "complex": lambda: W.to(torch.complex64),
    "truth": lambda: W > 1,
    "quantized": lambda: torch.quantize_per_tensor(W, 0.1, 0, torch.qint8),
    "endless": lambda: torch.zeros(1).expand(10**9, 10**9),
    "four bits": lambda: torch.zeros(4, 4, dtype=torch.uint8).view(torch.float4_e2m1fn_x2),
    "flat": lambda: W.reshape(16),
    "uninitialised": nn.parameter.UninitializedParameter,
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("kind", ODD)
def test_a_tensor_that_is_no_plain_weight_is_refused_by_name(
    path: Path, kind: str, zipped: bool
) -> None:
    path.write_bytes(saved(weights() | {"fc.weight": ODD[kind]()}, zipped))
    with pytest.raises(ModelError, match=r"fc\.weight|weights\.pth|float32"):
        load(read_checkpoint(path))


SAME: dict[str, Callable[[], Tensor]] = {
    "half": W.half,
    "brain": W.bfloat16,
    "double": W.double,
    "eight bits": lambda: W.to(torch.float8_e4m3fn),
    "parameter": lambda: nn.Parameter(W),
    "transposed": lambda: W.t().contiguous().t(),
    "a view": lambda: torch.cat([torch.ones(3), W.reshape(16), torch.ones(3)])[3:19].view(4, 4),
}


@pytest.mark.parametrize("kind", SAME)
def test_a_tensor_kept_otherwise_loads_with_its_values(path: Path, kind: str) -> None:
    path.write_bytes(saved(weights() | {"fc.weight": SAME[kind]()}))
    network = load(read_checkpoint(path))
    expected = SAME[kind]().float()
    assert torch.equal(network.fc.weight, expected)
    assert kind == "eight bits" or torch.equal(expected, W)


@pytest.mark.parametrize("name", [k for k, v in weights().items() if v.is_floating_point()])
@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (float("nan"), torch.float32),
        (float("-inf"), torch.float32),
        (float("nan"), torch.bfloat16),
        (1e6, torch.float16),  # infinite already in the file
        (1e300, torch.float64),  # finite there, infinite here
    ],
)
def test_a_value_that_is_not_finite_is_named_wherever_it_is(
    name: str, value: float, kind: torch.dtype
) -> None:
    state = weights()
    state[name] = state[name].double()
    state[name].view(-1)[-1] = value
    state[name] = state[name].to(kind)
    text = message(state)
    assert "1 tensors hold values that are infinite or not a number, or too large" in text
    assert f": {name}." in text


@SOME
@given(
    names=st.lists(st.text(max_size=8), max_size=5),
    values=st.lists(st.sampled_from(["tensor", "dict", "text", "self"]), max_size=5),
)
def test_any_nest_of_names_loads_or_is_refused(names: list[str], values: list[str]) -> None:
    content: dict[Any, Any] = {}
    for name, value in zip(names, values, strict=False):
        inner: Any = {"tensor": W, "text": name, "self": content}.get(value, dict(weights()))
        content[name] = inner
    with suppress(ModelError):
        network = load(content)
        assert same(network, filled())
