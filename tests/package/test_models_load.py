"""From the config to a model's two files and back."""

from __future__ import annotations

import hashlib
import json
import logging
import subprocess
import sys
from urllib.error import URLError

import numpy as np
import pytest
import torch
from torchvision.models import ResNet18_Weights, WeightsEnum, get_model
from torchvision.transforms.functional import normalize as torchvision_normalize
from torchvision.transforms.functional import to_tensor

from convatlas.errors import ModelError
from convatlas.models import zoo
from convatlas.models.load import build, import_model, load_model, write_model
from convatlas.store import NO_RECIPE

HALF = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]}


@pytest.fixture
def imported(tmp_path):
    """Import a model and load it again."""

    def run(architecture, weights, options=None, normalize=None, seed=0):
        paths = tmp_path / "weights.pt", tmp_path / "model.json"
        import_model(architecture, options or {}, str(weights), normalize, seed, *paths)
        return load_model(paths[1], paths[0])

    return run


def message(function, *args, **kwargs) -> str:
    with pytest.raises(ModelError) as caught:
        function(*args, **kwargs)
    return str(caught.value)


def images(count=2, size=32):
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


# ------------------------------------------------------------------ what comes back


def test_a_model_comes_back_as_it_was(tmp_path, imported):
    torch.manual_seed(0)
    network = get_model("resnet18", num_classes=5).eval()
    torch.save({"state_dict": network.state_dict()}, tmp_path / "mine.pth")
    model = imported("torchvision/resnet18", tmp_path / "mine.pth", {"num_classes": 5}, HALF)
    x = model.prepare(images())
    with torch.no_grad():
        assert torch.equal(model.module(x), network(x))
    assert not model.module.training
    assert not any(p.requires_grad for p in model.module.parameters())
    assert model.card.pop("made") == NO_RECIPE.attributes()
    assert model.card == {
        "architecture": "torchvision/resnet18",
        "options": {"num_classes": 5},
        "weights": "mine.pth",
        "digest": model.card["digest"],
        "normalize": HALF,
        "parameters": sum(p.numel() for p in network.parameters()),
        "training": None,
    }


def test_prepare_is_what_torchvision_does(imported):
    model = imported("small_zf", "random", normalize=HALF)
    pixels = images()
    expected = torch.stack([torchvision_normalize(to_tensor(p), *HALF.values()) for p in pixels])
    prepared = model.prepare(pixels)
    torch.testing.assert_close(prepared, expected, rtol=1e-6, atol=1e-6)
    assert prepared.is_contiguous()


def test_random_weights_are_the_seeds_and_said_aloud(tmp_path, caplog):
    files = []
    for i, seed in enumerate((3, 3, 4)):
        files.append(tmp_path / f"{i}.pt")
        import_model("small_zf", {}, "random", None, seed, files[-1], tmp_path / f"{i}.json")
    one, again, other = (file.read_bytes() for file in files)
    assert one == again != other
    assert (tmp_path / "0.json").read_bytes() == (tmp_path / "1.json").read_bytes()
    assert "random" in caplog.text
    state = torch.load(files[0], weights_only=True)
    assert torch.equal(state["bn1.running_var"], torch.ones(32))


def test_building_leaves_the_generators_alone():
    before = torch.random.get_rng_state()
    build("small_zf", {}, seed=5)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_loading_a_network_of_ours_does_without_torchvision(tmp_path):
    import_model("small_zf", {}, "random", None, 0, tmp_path / "w.pt", tmp_path / "c.json")
    program = (
        "import sys; from convatlas.models.load import load_model;"
        f"load_model({str(tmp_path / 'c.json')!r}, {str(tmp_path / 'w.pt')!r});"
        "sys.exit('torchvision' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize(
    ("name", "size"),
    [("googlenet", 64), ("inception_v3", 96), ("swin_t", 64), ("squeezenet1_1", 64)],
)
def test_a_network_built_without_first_weights_computes_the_same(name, size):
    options = zoo.default_options(name) | {"num_classes": 3}
    first = zoo.build(name, options, initialise=True).eval()
    second = zoo.build(name, options, initialise=False).eval()
    second.load_state_dict(first.state_dict())
    x = torch.randn(1, 3, size, size)
    with torch.no_grad():
        assert torch.equal(first(x), second(x))


# -------------------------------------------------------------------- normalisation


def test_torchvisions_normalisation_is_the_default_for_its_networks(imported, caplog):
    caplog.set_level(logging.INFO, "convatlas")
    model = imported("torchvision/squeezenet1_1", "random", {"num_classes": 2})
    assert model.card["normalize"]["mean"] == [0.485, 0.456, 0.406]
    assert "mean [0.485, 0.456, 0.406]" in caplog.text


def test_other_networks_see_pixels_in_0_to_1(imported, caplog):
    caplog.set_level(logging.INFO, "convatlas")
    model = imported("small_zf", "random")
    assert model.card["normalize"] == {"mean": [0.0] * 3, "std": [1.0] * 3}
    assert "no `normalize` is given" in caplog.text


@pytest.mark.parametrize(
    "bad", [{"mean": [0, 0], "std": [1, 1, 1]}, {"mean": [0, 0, 0], "std": [1, 0, 1]}]
)
def test_a_normalisation_that_cannot_be_is_refused(bad, imported):
    assert "std" in message(imported, "small_zf", "random", normalize=bad)


# ----------------------------------------------------------------- torchvision's own


@pytest.fixture
def offered(monkeypatch):
    """Let torchvision's downloads give a network's own random weights."""

    def offer(name, **options):
        torch.manual_seed(1)
        state = get_model(name, init_weights=False, **options).state_dict()
        monkeypatch.setattr(WeightsEnum, "get_state_dict", lambda *_, **__: state)
        return state

    return offer


@pytest.mark.parametrize("weights", ["DEFAULT", "IMAGENET1K_V1", "GoogLeNet_Weights.IMAGENET1K_V1"])
def test_named_weights_are_built_as_torchvision_builds_them(imported, offered, weights):
    offered("googlenet", aux_logits=True)
    expected = get_model("googlenet", weights="DEFAULT").eval()
    model = imported("torchvision/googlenet", weights)
    assert model.card["options"] == {
        "num_classes": 1000,
        "aux_logits": False,
        "transform_input": True,
    }
    assert model.card["weights"] == "GoogLeNet_Weights.IMAGENET1K_V1"
    x = model.prepare(images(size=64))
    with torch.no_grad():
        assert torch.equal(model.module(x), expected(x))


def test_torchvisions_own_file_is_recognised_under_any_name(imported, monkeypatch, tmp_path):
    network = get_model("googlenet", aux_logits=True, init_weights=False)
    file = tmp_path / "renamed.pth"
    torch.save(network.state_dict(), file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    address = property(lambda _: f"https://example.org/googlenet-{digest[:8]}.pth")
    options = imported("torchvision/googlenet", file).card["options"]
    assert not options["transform_input"]
    monkeypatch.setattr(WeightsEnum, "url", address)
    card = imported("torchvision/googlenet", file).card
    assert card["options"]["transform_input"]
    assert card["weights"] == "renamed.pth"


@pytest.mark.parametrize("error", [URLError("no route"), OSError("no space"), RuntimeError("hash")])
def test_a_failed_download_says_what_to_do(imported, monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(WeightsEnum, "get_state_dict", fail)
    text = message(imported, "torchvision/resnet18", "DEFAULT")
    assert ResNet18_Weights.DEFAULT.url in text
    assert "weights: path/to/file.pth" in text


def test_downloads_are_read_without_running_code(monkeypatch):
    given = {}
    monkeypatch.setattr(WeightsEnum, "get_state_dict", lambda *_, **k: given.update(k) or {})
    zoo.download(ResNet18_Weights.DEFAULT)
    assert given["weights_only"] is True
    assert given["check_hash"] is True


def test_wrong_names_are_answered_with_the_near_ones(imported, tmp_path):
    assert "'resnet18'" in message(imported, "torchvision/resnet_18", "random")
    assert "is not a classifier" in message(imported, "torchvision/fcn_resnet50", "random")
    assert "'IMAGENET1K_V1'" in message(imported, "torchvision/resnet18", "IMAGENET1K_V3")
    assert "small_zf" in message(imported, "small_fz", "random")
    assert "don't exist" in message(imported, "torchvision/resnet18", tmp_path / "no.pth")
    assert "don't exist" in message(imported, "small_zf", "DEFAULT")


def test_wrong_options_are_refused_by_name(imported):
    assert "num_clases" in message(imported, "torchvision/resnet18", "random", {"num_clases": 3})
    assert "clases" in message(imported, "small_zf", "random", {"clases": 3})


def test_another_number_of_classes_gives_the_option(imported, tmp_path):
    torch.save(get_model("resnet18", num_classes=10).state_dict(), tmp_path / "ten.pth")
    text = message(imported, "torchvision/resnet18", tmp_path / "ten.pth")
    assert "fc.weight is 10x512 in the file, 1000x512 in the network" in text
    assert "options: {num_classes: 10}" in text
    assert not (tmp_path / "weights.pt").exists()


# ------------------------------------------------------------------ the user's file

NET = """
from torch import nn
from blocks import block

class Net(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.block = block(width)
        self.fc = nn.Linear(width, 2)

    def forward(self, x):
        return self.fc(self.block(x).mean((2, 3)))

def build(width=4):
    return Net(width)

def broken():
    return 1 / 0

def nothing():
    pass
"""
BLOCKS = "from torch import nn\n\ndef block(width):\n    return nn.Conv2d(3, width, 3)\n"


@pytest.fixture
def usernet(tmp_path):
    folder = tmp_path / "user"
    folder.mkdir()
    (folder / "usernet.py").write_text(NET)
    (folder / "blocks.py").write_text(BLOCKS)
    return folder / "usernet.py"


def test_a_users_file_may_import_its_siblings_and_leaves_no_trace(imported, usernet):
    before = sys.path[:], set(sys.modules)
    model = imported(f"{usernet}:build", "random", {"width": 6})
    assert model.module(model.prepare(images())).shape == (2, 2)
    assert model.card["options"] == {"width": 6}
    assert sys.path == before[0]
    assert not {"usernet", "blocks"} & set(sys.modules)
    assert not list(usernet.parent.glob("__pycache__"))


def test_an_edit_of_a_sibling_counts_at_once(usernet):
    assert build(f"{usernet}:build", {}, 0).block.kernel_size == (3, 3)
    (usernet.parent / "blocks.py").write_text(BLOCKS.replace("width, 3", "width, 5"))
    assert build(f"{usernet}:build", {}, 0).block.kernel_size == (5, 5)


def test_a_file_in_a_package_may_import_relatively(usernet):
    (usernet.parent / "__init__.py").write_text("")
    usernet.write_text(NET.replace("from blocks", "from .blocks"))
    assert build(f"{usernet}:build", {}, 0).fc.out_features == 2
    assert "user" not in sys.modules


def test_a_users_network_with_a_nested_prefixed_checkpoint(imported, usernet, tmp_path):
    network = build(f"{usernet}:build", {}, 3)
    state = {f"module.{k}": v for k, v in network.state_dict().items()}
    torch.save({"net": state, "acc": 91.2}, tmp_path / "ckpt.t7")
    model = imported(f"{usernet}:build", tmp_path / "ckpt.t7")
    assert torch.equal(model.module.fc.weight, network.fc.weight)


def test_what_is_wrong_with_a_users_file_is_said_with_its_line(usernet, tmp_path):
    def said(function="build", options=None):
        return message(build, f"{usernet}:{function}", options or {}, 0)

    assert f"{usernet}:18: ZeroDivisionError" in said("broken")
    assert "returns nothing" in said("nothing")
    assert "no function 'biuld'. Did you mean 'build'" in said("biuld")
    assert "It takes (width=4)" in said(options={"depth": 3})
    usernet.write_text("import missing_package\n")
    assert f"{usernet}:1: ModuleNotFoundError" in said()
    usernet.write_text("def build(:\n")
    assert f"{usernet}:1:" in said()
    usernet.write_text("import sys\nsys.exit(2)\n")
    assert f"{usernet}:2: SystemExit: 2" in said()
    assert "Did you mean 'usernet.py'" in message(
        build, f"{usernet.parent}/usernte.py:build", {}, 0
    )


def test_a_file_named_like_a_loaded_module_is_refused(usernet):
    other = usernet.with_name("json.py")
    usernet.rename(other)
    assert "Rename the file" in message(build, f"{other}:build", {}, 0)
    assert sys.modules["json"] is json


def test_the_modules_are_as_before_after_a_failure(usernet):
    before = sys.path[:]
    message(build, f"{usernet}:broken", {}, 0)
    assert sys.path == before
    assert "usernet" not in sys.modules


def test_a_network_in_half_precision_is_widened(usernet):
    usernet.write_text(NET.replace("return Net(width)", "return Net(width).half()"))
    assert build(f"{usernet}:build", {}, 0).fc.weight.dtype == torch.float32


# ------------------------------------------------------------------------ the files


def test_nothing_is_written_of_weights_that_are_not_finite(tmp_path):
    network = build("small_zf", {}, 0)
    with torch.no_grad():
        network.fc6.bias[0] = float("inf")
    arguments = {"weights": "trained", "normalize": HALF, "training": None, "options": {}}
    arguments |= {"recipe": NO_RECIPE}
    outputs = {"weights_out": tmp_path / "w.pt", "card_out": tmp_path / "c.json"}
    text = message(write_model, network, architecture="small_zf", **arguments, **outputs)
    assert "fc6.bias" in text
    assert not list(tmp_path.iterdir())


def test_the_weights_of_another_card_are_refused(tmp_path):
    import_model("small_zf", {}, "random", None, 0, tmp_path / "w.pt", tmp_path / "c.json")
    card = json.loads((tmp_path / "c.json").read_text()) | {"options": {"classes": 3}}
    (tmp_path / "c.json").write_text(json.dumps(card))
    assert "fc6.weight" in message(load_model, tmp_path / "c.json", tmp_path / "w.pt")
