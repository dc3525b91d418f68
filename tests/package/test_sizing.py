"""What jobs need: numbers counted by hand, and how they grow with the input."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn
from torchvision.models import resnet18

from convatlas.config import load
from convatlas.data.census import take_census
from convatlas.errors import DataError
from convatlas.graph.describe import layers_of
from convatlas.graph.tracing import trace
from convatlas.models.architectures import small_zf
from convatlas.occlusion.occluders import pixels
from convatlas.occlusion.positions import Positions
from convatlas.sizing import (
    MB,
    Need,
    Network,
    Pictures,
    Work,
    need,
    positions,
    sized_rules,
    stand_in,
)
from convatlas.store import ImageWriter, Recipe

REPOSITORY = Path(__file__).resolve().parents[2]


def network(module: nn.Module, side: int) -> Network:
    return Network(tuple(layers_of(trace(module.eval(), (3, side, side)))))


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    """The demo's study, with its own network."""
    raw = yaml.safe_load((REPOSITORY / "config/config.yaml").read_text())
    config = load(raw, tmp_path_factory.mktemp("base"))
    net = network(small_zf(), 64)
    names = [layer.name for layer in net.layers]
    chosen = [layer.name for layer in net.layers if layer.stage_end]
    return Work(
        config=config,
        study=config["studies"]["demo"],
        model=config["models"]["small-zf"],
        shown=Pictures(1000, 64, 64, 8, masks=True),
        trained=Pictures(6000, 64, 64, 8, masks=True),
        network=net,
        stored=names,
        chosen=chosen,
        compared=["pixels", *chosen],
        filtered=["conv1", "conv2", "conv4"],
    )


# ------------------------------------------------------------------------- networks


class Mixed(nn.Module):
    """Strides, groups, a pool between, and a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 5, stride=2, padding=2, bias=False)
        self.pool = nn.MaxPool2d(2)
        self.second = nn.Conv2d(8, 8, 3, padding=1, groups=4, bias=False)
        self.third = nn.Conv2d(8, 8, 1, bias=False)
        self.head = nn.Linear(8 * 8 * 8, 4, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(self.first(x))
        return self.head((x + self.third(self.second(x))).flatten(1))


@pytest.mark.parametrize(
    ("module", "side"),
    [(Mixed(), 32), (small_zf(), 64), (resnet18(), 224)],
    ids=lambda x: type(x).__name__,
)
def test_weights_are_counted_from_the_layers_alone(module: nn.Module, side: int) -> None:
    mixing = [m for m in module.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert network(module, side).parameters == sum(m.weight.numel() for m in mixing)


def test_operations_counted_by_hand() -> None:
    found = network(Mixed(), 32)
    first, second = 8 * 3 * 25 * 16 * 16, 8 * 2 * 9 * 8 * 8
    assert found.operations == first + second + 8 * 8 * 8 * 8 + 4 * 512
    assert found.largest == 8 * 16 * 16


def test_resnet18_takes_as_many_operations_as_its_paper_says() -> None:
    """He et al., 2016, table 1: 1.8 billion."""
    assert network(resnet18(), 224).operations == pytest.approx(1.8e9, rel=0.02)


def test_a_network_to_reckon_with_before_the_layers_are_known() -> None:
    found = stand_in(Pictures(10, 224, 224, 1000))
    assert not found.known
    assert found.layers[-1].units == 1000
    assert found.parameters > 1e6


@pytest.mark.parametrize("side", [31, 64, 227])
@pytest.mark.parametrize("size", [16, 0.25, [3, 5], 300])
@pytest.mark.parametrize("stride", [4, 0.1, [7, 1]])
def test_positions_are_those_of_the_sweep(side: int, size: object, stride: object) -> None:
    image = (side, side + 9)
    found = Positions.covering(
        image,
        pixels("size", size, image),  # type: ignore[arg-type]
        pixels("stride", stride, image),  # type: ignore[arg-type]
    )
    counted = [positions(extent, size, stride, axis) for axis, extent in enumerate(image)]
    assert counted == [len(found.row), len(found.column)]


# ---------------------------------------------------------------------- what is asked


def test_what_is_asked_for_grows_with_each_attempt() -> None:
    one = Need(1000 * MB, 3600, 10 * MB, gpu=True)
    first, second = one.asked(), one.asked(2)
    assert first["mem_mb"] >= 1000
    assert first["mem_mb"] % 100 == 0
    assert first["runtime"] == 4 * 60
    assert first["disk_mb"] == second["disk_mb"] == 20
    assert {key: second[key] for key in ("mem_mb", "runtime")} == {
        key: 2 * first[key] for key in ("mem_mb", "runtime")
    }
    assert first["gpu"] == second["gpu"] == 1
    assert "gpu" not in replace(one, gpu=False).asked()


@pytest.mark.parametrize("rule", sized_rules())
def test_every_rule_needs_something_for_any_layer_and_network(rule: str, work: Work) -> None:
    guessed = replace(work, network=stand_in(work.shown), stored=(), chosen=(), filtered=())
    vector = next(x.name for x in work.network.layers if not x.is_map)
    for one in (work, replace(work, layer="conv2"), replace(work, layer=vector), guessed):
        found = need(rule, one)
        assert found.memory > 50 * MB
        assert found.seconds > 0
        assert found.stored >= 0
        assert all(isinstance(value, int) for value in found.asked().values())


def test_activations_are_twelve_bytes_a_unit(work: Work) -> None:
    units = sum(layer.units for layer in work.network.layers)
    shard = need("extract_activations", work).stored
    assert shard == pytest.approx(500 * 12 * units, rel=0.02)


@pytest.mark.parametrize(
    "rule",
    [
        *("extract_activations", "rank_patches", "measure_health", "sample_firing"),
        *("rank_directions", "find_nearest", "classify_neighbours", "prepare_images"),
    ],
)
def test_memory_does_not_grow_with_the_images(rule: str, work: Work) -> None:
    """But for a few numbers of each, or where they are listed, its name."""
    work = replace(work, layer="conv2")
    many, more = (
        need(rule, replace(work, shown=replace(work.shown, images=images))).memory
        for images in (1_000_000, 2_000_000)
    )
    assert more - many <= (1000 if rule == "prepare_images" else 200) * MB
    assert many < 5000 * MB


@pytest.mark.parametrize(
    ("rule", "double"),
    [
        ("extract_activations", {"shown": Pictures(2000, 64, 64, 8)}),
        ("record_maps", {"exhibits": 2}),
        ("sweep_occlusion", {"exhibits": 2}),
        ("plot_maps", {"exhibits": 2}),
        ("prepare_images", {"shown": Pictures(2000, 64, 64, 8, masks=True)}),
    ],
)
def test_twice_as_much_takes_twice_as_much(
    rule: str, double: dict[str, object], work: Work
) -> None:
    one, two, start = (
        need(rule, replace(work, **given))  # type: ignore[arg-type]
        for given in ({}, double, {"shown": Pictures(0, 64, 64, 8), "exhibits": 0})
    )
    assert two.stored == pytest.approx(2 * one.stored, rel=0.05)
    assert two.seconds - start.seconds == pytest.approx(2 * (one.seconds - start.seconds), rel=0.05)


def test_larger_batches_hold_more(work: Work) -> None:
    larger = replace(work, config=work.config | {"batch_size": 256})
    assert need("extract_activations", larger).memory > need("extract_activations", work).memory


# -------------------------------------------------------------------------- census


def source(**given: object) -> dict[str, object]:
    return {"size": None, "crop": None, "resize": None, "limit": None} | given


def test_images_of_made_scenes_are_known(tmp_path: Path) -> None:
    scenes = source(source="shapes", train=60, test=20, size=48)
    shown = take_census(scenes, "images", tmp_path / "no.h5", ["a", "b"])
    assert shown == Pictures(20, 48, 48, 2, masks=True)
    assert take_census(scenes, "train", tmp_path / "no.h5", ["a", "b"]).images == 60


def test_a_folder_is_counted_before_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for name in ("a.png", "b.jpg", "notes.txt"):
        (tmp_path / "photos" / name).touch()
    folder = source(source="folder", path=str(tmp_path / "photos"), labels=None, classes=None)
    sized = take_census(folder | {"crop": 224}, "images", tmp_path / "no.h5", [])
    assert (sized.images, sized.height, sized.source) == (2, 224, "")
    unsized = take_census(folder, "images", tmp_path / "no.h5", [])
    assert unsized.images == 2
    assert "224 x 224 pixels are assumed" in unsized.source


def test_a_folder_isnt_looked_through_again_by_each_job(tmp_path: Path) -> None:
    folder = source(source="folder", path=str(tmp_path / "gone"), crop=8, labels=None, classes=None)
    with ImageWriter(tmp_path / "images.h5", Recipe(), (8, 8)) as writer:
        for i in range(3):
            writer.append(torch.zeros(8, 8, 3, dtype=torch.uint8).numpy(), 0, str(i))
    known = take_census(folder, "images", tmp_path / "images.h5", [], uptodate=True)
    assert (known.images, known.height, known.source) == (3, 8, "")
    with pytest.raises(DataError, match="gone"):
        take_census(folder, "images", tmp_path / "images.h5", [])
    with pytest.raises(DataError, match="gone"):
        take_census(folder, "images", tmp_path / "no.h5", [], uptodate=True)


def test_a_missing_folder_is_told(tmp_path: Path) -> None:
    folder = source(source="folder", path=str(tmp_path / "none"), labels=None, classes=None)
    with pytest.raises(DataError, match="none"):
        take_census(folder, "images", tmp_path / "no.h5", [])


def test_what_torchvision_has_is_told_as_such_until_it_is_there(tmp_path: Path) -> None:
    cifar = source(source="torchvision:CIFAR10")
    found = take_census(cifar, "train", tmp_path / "images.h5", None)
    assert (found.images, found.height, found.classes) == (50_000, 32, 10)
    assert "CIFAR10" in found.source
    assert take_census(cifar | {"limit": 7}, "train", tmp_path / "no.h5", None).images == 7
    unknown = take_census(source(source="torchvision:GTSRB"), "train", tmp_path / "no.h5", None)
    assert "a guess" in unknown.source
    with ImageWriter(tmp_path / "images.h5", Recipe(), (40, 32)) as writer:
        for i in range(3):
            writer.append(torch.zeros(40, 32, 3, dtype=torch.uint8).numpy(), 0, str(i))
    made = take_census(cifar, "images", tmp_path / "images.h5", None)
    assert (made.images, made.height, made.width, made.source) == (3, 40, 32, "")
