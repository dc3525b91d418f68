"""Checkpoint files as people have them, and files that only look like one."""

from __future__ import annotations

import argparse
import logging
import os
import pickle
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.models import VisionTransformer

from convatlas.errors import ModelError
from convatlas.models import zoo
from convatlas.models.checkpoints import (
    load_checkpoint,
    load_weights,
    read_checkpoint,
    save_weights,
    weights_digest,
)


class Plain(nn.Module):
    def __init__(self, outputs: int = 4) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.bn = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, outputs)

    def forward(self, x):
        return self.fc(torch.relu(self.bn(self.conv(x))).mean((2, 3)))


def filled(seed: int = 0, outputs: int = 4) -> Plain:
    torch.manual_seed(seed)
    network = Plain(outputs)
    network.bn.running_mean.normal_()
    return network


def same(first: nn.Module, second: nn.Module) -> bool:
    one, other = first.state_dict(), second.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def load(content, network=None, path=None, **options):
    network = network or filled(1)
    if path is not None:
        torch.save(content, path)
        content = read_checkpoint(path)
    load_checkpoint(network, content, "file.pth", **options)
    return network


def state(network):
    return network.state_dict().items()


def prefixed(state, prefix):
    return {prefix + k: v for k, v in state.items()}


# ------------------------------------------------------------------- what is read


@pytest.mark.parametrize(
    "place", ["state_dict", "model", "model_state_dict", "net", "weights", "model_ema", "agent"]
)
@pytest.mark.parametrize(
    "prefix", ["", "module.", "model.", "_orig_mod.", "backbone.", "module._orig_mod.net."]
)
def test_nested_and_prefixed_state_dicts_load(tmp_path, place, prefix):
    wanted = filled()
    content = {
        "epoch": 3,
        place: prefixed(wanted.state_dict(), prefix),
        "optimizer": torch.optim.SGD(wanted.parameters(), 0.1, momentum=0.9).state_dict(),
    }
    assert same(load(content, path=tmp_path / "c.pth"), wanted)


def test_a_real_resnet_in_a_lightning_like_checkpoint(tmp_path):
    wanted = zoo.build("resnet18", {"num_classes": 10}, initialise=True)
    state = prefixed(wanted.state_dict(), "net.") | {"loss.weight": torch.ones(10)}
    network = zoo.build("resnet18", {"num_classes": 10}, initialise=False)
    assert same(load({"state_dict": state}, network, tmp_path / "c.ckpt"), wanted)


def test_wrappers_are_undone_at_any_depth():
    wanted = filled()
    state = {k.replace(".", ".module.", 1): v for k, v in wanted.state_dict().items()}
    assert same(load(state), wanted)


def test_a_prefix_that_belongs_to_the_network_stays():
    wanted = nn.Sequential(OrderedDict(model=filled(0)))
    network = nn.Sequential(OrderedDict(model=filled(1)))
    assert same(load(wanted.state_dict(), network), wanted)


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_safetensors_are_known_by_their_content(tmp_path, suffix):
    wanted = filled()
    path = tmp_path / f"weights{suffix}"
    save_file(prefixed(wanted.state_dict(), "module."), path)
    assert same(load(read_checkpoint(path)), wanted)


def test_the_legacy_format_of_torch_loads(tmp_path):
    wanted = filled()
    torch.save(wanted.state_dict(), tmp_path / "c.pth", _use_new_zipfile_serialization=False)
    assert same(load(read_checkpoint(tmp_path / "c.pth")), wanted)


def test_what_training_scripts_save_beside_the_weights_is_harmless(tmp_path):
    wanted = filled()
    content = {
        "model": wanted.state_dict(),
        "args": argparse.Namespace(lr=0.1, name="run"),
        "best": np.float64(0.5),
        "history": np.arange(3.0),
    }
    assert same(load(content, path=tmp_path / "c.pth"), wanted)


def test_the_plain_weights_go_before_their_average_and_the_log_says_so(caplog):
    wanted, average = filled(), filled(2)
    caplog.set_level(logging.INFO, "convatlas")
    content = {"model_ema": average.state_dict(), "model": wanted.state_dict()}
    assert same(load(content), wanted)
    assert "those under model: * are taken, not those under model_ema: *" in caplog.text


def test_batch_counters_may_be_missing_or_extra():
    wanted = filled()
    state = wanted.state_dict()
    del state["bn.num_batches_tracked"]
    assert same(load(dict(state)), wanted)
    plain = nn.Sequential(OrderedDict(fc=nn.Linear(2, 2)))
    load(plain.state_dict() | {"bn.num_batches_tracked": torch.tensor(3)}, plain)


def test_half_precision_weights_are_widened():
    wanted = filled()
    network = load({k: v.half() if v.is_floating_point() else v for k, v in state(wanted)})
    assert network.fc.weight.dtype == torch.float32
    assert torch.equal(network.fc.weight, wanted.fc.weight.half().float())


@pytest.mark.parametrize(
    ("name", "heads"), [("googlenet", ("aux1.", "aux2.")), ("inception_v3", ("AuxLogits.",))]
)
def test_heads_for_training_only_are_dropped(caplog, name, heads):
    caplog.set_level(logging.INFO, "convatlas")
    full = zoo.build(name, {"num_classes": 3, "aux_logits": True}, initialise=False)
    for value in full.state_dict().values():
        value.zero_()
    assert any(k.startswith(heads) for k in full.state_dict())
    network = zoo.build(name, zoo.default_options(name) | {"num_classes": 3}, initialise=False)
    load(full.state_dict(), network)
    assert f"not used: {heads[0]}" in caplog.text


def test_the_names_of_old_densenets_load():
    wanted = zoo.build("densenet121", {"num_classes": 2}, initialise=True)
    old = {}
    for key, value in wanted.state_dict().items():
        for part in ("norm", "conv"):
            for i in "12":
                if "denselayer" in key:
                    key = key.replace(f".{part}{i}.", f".{part}.{i}.")
        old[key] = value
    assert old.keys() != wanted.state_dict().keys()
    network = zoo.build("densenet121", {"num_classes": 2}, initialise=False)
    assert same(load(old, network), wanted)


def test_a_network_may_convert_its_own_old_names():
    options = {"num_layers": 1, "num_heads": 1, "hidden_dim": 8, "mlp_dim": 16, "num_classes": 2}
    wanted, network = (VisionTransformer(image_size=8, patch_size=4, **options) for _ in "ab")
    old = {
        k.replace("mlp.0.", "mlp.linear_1.").replace("mlp.3.", "mlp.linear_2."): v
        for k, v in state(wanted)
    }
    assert old.keys() != wanted.state_dict().keys()
    assert not same(network, wanted)
    assert same(load(old, network), wanted)


def test_networks_that_check_versions_load_without_them():
    wanted = zoo.build("mnasnet0_5", {"num_classes": 2}, initialise=True)
    network = zoo.build("mnasnet0_5", {"num_classes": 2}, initialise=False)
    assert same(load(dict(wanted.state_dict()), network), wanted)


# ---------------------------------------------------------------- what doesn't fit


def message(content, network=None, **options) -> str:
    with pytest.raises(ModelError) as caught:
        load(content, network, **options)
    return str(caught.value)


def test_a_mismatch_lists_missing_unexpected_and_shapes():
    content = dict(filled().state_dict())
    content["fc.wieght"] = content.pop("fc.weight")
    content["conv.bias"] = torch.zeros(9)
    text = message(content)
    assert "missing in the file (1): fc.weight. Did you mean 'fc.wieght'?" in text
    assert "not in the network (1): fc.wieght" in text
    assert "conv.bias is 9 in the file, 4 in the network" in text


def test_another_number_of_classes_names_the_option():
    content = filled(outputs=10).state_dict()
    assert "give `options: {num_classes: 10}`" in message(content, outputs_option="num_classes")
    assert "build it with 10 outputs" in message(content)


def test_weights_of_another_network_say_so():
    content = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)).state_dict()
    assert "for another network" in message(content)


def test_integers_do_not_pass_for_weights():
    content = dict(filled().state_dict())
    content["fc.weight"] = torch.zeros(4, 4, dtype=torch.int8)
    assert "fc.weight is 4x4 torch.int8 in the file, 4x4 in the network" in message(content)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(bad):
    content = filled().state_dict()
    content["bn.running_mean"][1] = bad
    content["conv.weight"][0, 0, 0, 0] = bad
    assert "2 tensors" in message(content)
    assert "conv.weight, bn.running_mean" in message(content)


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, {"state_dict": {}}])
def test_a_checkpoint_without_weights_says_what_it_holds(content):
    assert "holds no tensors" in message(content)


def test_lazy_layers_are_refused():
    assert "lazy layer" in message(
        filled().state_dict(), nn.Sequential(nn.LazyLinear(3), nn.ReLU())
    )


# ------------------------------------------------------------- files that are none


def refused(path) -> str:
    with pytest.raises(ModelError) as caught:
        read_checkpoint(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "Git LFS pointer"),
        (b"\n<!DOCTYPE html><html>404</html>", "a web page"),
        (b"epoch,loss\n1,2\n", "not a whole checkpoint"),
        (os.urandom(3000), "not a whole checkpoint"),
        (pickle.dumps([1, 2, 3]), "not a whole checkpoint"),
    ],
)
def test_files_that_are_no_checkpoint(tmp_path, content, said):
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    assert said in refused(path)


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
@pytest.mark.parametrize("share", [0.3, 0.5, 0.99])
def test_truncated_files(tmp_path, kind, share):
    path = tmp_path / "weights.pth"
    if kind == "safetensors":
        path = tmp_path / "weights.safetensors"
        save_file(filled().state_dict(), path)
    else:
        torch.save(filled().state_dict(), path, _use_new_zipfile_serialization=kind == "zip")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    assert "is not a whole" in refused(path)


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
def test_other_archives_and_other_contents(tmp_path):
    path = tmp_path / "weights.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "none")
    assert "not a whole checkpoint" in refused(path)
    torch.save(torch.zeros(3), path)
    assert "holds a Tensor, not a state dict" in refused(path)
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)), path)
    assert "TorchScript" in refused(path)


def test_a_missing_file_offers_the_near_ones(tmp_path):
    torch.save({}, tmp_path / "resnet18.pth")
    assert "Did you mean 'resnet18.pth'?" in refused(tmp_path / "resnet_18.pth")
    assert "don't exist" in refused(tmp_path)


class Runs:
    """Leaves a file behind if it is ever unpickled."""

    def __init__(self, path) -> None:
        self.path = str(path)

    def __reduce__(self):
        return (os.mkdir, (self.path,))


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("place", ["whole", "beside", "within"])
def test_code_in_a_pickle_never_runs(tmp_path, zipped, place):
    trace, path = tmp_path / "ran", tmp_path / "weights.pth"
    weights = dict(filled().state_dict())
    content = {
        "whole": Runs(trace),
        "beside": {"state_dict": weights, "hook": Runs(trace)},
        "within": {"state_dict": weights | {"hook": Runs(trace)}},
    }[place]
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    text = refused(path)
    assert not trace.exists()
    assert "without running code" in text
    assert "mkdir" in text
    assert "torch.save(model.state_dict()" in text
    torch.load(path, weights_only=False)  # it would have run
    assert trace.exists()


def test_code_in_a_plain_pickle_never_runs(tmp_path):
    for protocol in range(6):
        trace, path = tmp_path / "ran", tmp_path / "weights.pkl"
        path.write_bytes(pickle.dumps({"state_dict": Runs(trace)}, protocol))
        refused(path)
        assert not trace.exists()


def test_a_refusal_gives_no_advice_to_run_the_code(tmp_path):
    path = tmp_path / "weights.pkl"
    path.write_bytes(pickle.dumps({"hook": Runs(tmp_path)}, 4))
    assert "weights_only" not in refused(path)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickled_network_is_refused_by_the_name_of_its_class(tmp_path, zipped):
    path = tmp_path / "network.pt"
    torch.save(filled(), path, _use_new_zipfile_serialization=zipped)
    assert "test_models_checkpoints.Plain" in refused(path)


# -------------------------------------------------------------------- our own files


def test_saving_twice_gives_the_same_bytes_and_a_plain_state_dict(tmp_path):
    network = filled().to(memory_format=torch.channels_last)
    save_weights(network, tmp_path / "a.pt")
    save_weights(network, tmp_path / "other-name.pt")
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "other-name.pt").read_bytes()
    saved = torch.load(tmp_path / "a.pt", weights_only=True)
    assert list(saved) == list(network.state_dict())
    assert all(v.is_contiguous() for v in saved.values())
    again = filled(1)
    load_weights(again, tmp_path / "a.pt")
    assert same(again, network)


def test_a_view_is_saved_without_the_rest_of_its_storage(tmp_path):
    network = nn.Linear(2, 2)
    network.weight = nn.Parameter(torch.zeros(1000, 1000)[:2, :2])
    save_weights(network, tmp_path / "a.pt")
    assert (tmp_path / "a.pt").stat().st_size < 10_000


def test_the_digest_knows_content_not_layout():
    network = filled()
    before = weights_digest(network)
    assert weights_digest(network.to(memory_format=torch.channels_last)) == before
    with torch.no_grad():
        network.fc.bias[0] += 1e-6
    assert weights_digest(network) != before


def test_nothing_is_saved_of_a_network_that_has_diverged(tmp_path):
    network = filled()
    with torch.no_grad():
        network.fc.bias[0] = float("nan")
    with pytest.raises(ModelError, match=r"fc\.bias"):
        save_weights(network, tmp_path / "a.pt")
    assert not list(tmp_path.iterdir())
