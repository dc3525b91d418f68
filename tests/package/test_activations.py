"""Stored activations against torchvision's extractor, and their independence of shards."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import h5py
import networks
import numpy as np
import pytest
import torch
from networks import CLASSES
from studies import Study, write_noise
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.feature_extraction import create_feature_extractor

from convatlas import activations
from convatlas.activations import (
    extract_activations,
    record_maps,
    run_layers,
    shard_bounds,
    summarise,
    summarise_layers,
)
from convatlas.errors import LayerError, ModelError
from convatlas.exhibits import pick_exhibits
from convatlas.graph.describe import layer_nodes
from convatlas.graph.tracing import trace
from convatlas.layers import read_layers
from convatlas.models.load import load_model
from convatlas.store import Activations, Recipe, gather_activations, read_maps

BATCH = 4


def store_activations(study: Study, shards: int = 2, name: str = "activations.h5") -> Path:
    """Extract and gather a study's activations and return the file."""
    parts = []
    for shard in range(shards):
        parts.append(study.folder / f"{name}.{shards}" / f"{shard}.h5")
        extract_activations(
            **study.inputs,
            output=parts[-1],
            recipe=Recipe(),
            shard=shard,
            shards=shards,
            batch_size=BATCH,
        )
    gather_activations(parts, study.folder / name, Recipe())
    return study.folder / name


def stored(path: Path) -> dict[str, dict[str, np.ndarray]]:
    """Return everything in an activations file."""
    with Activations(path) as file:
        layers = list(file._file)
        blocks = {
            x: [b for _, b in file.blocks(x, ["max", "argmax", "mean"], 1000)] for x in layers
        }
    names = ("max", "argmax", "mean")
    return {
        x: {n: np.concatenate([b[n] for b in parts]) for n in names} for x, parts in blocks.items()
    }


@pytest.mark.parametrize("network", ["inplace", "branching"])
def test_numbers_are_those_of_torchvisions_extractor(
    network: str, make_study: Callable[..., Study]
) -> None:
    study = make_study(network)
    model = load_model(study.card, study.weights)
    for module in model.module.modules():
        if hasattr(module, "inplace"):
            module.inplace = False  # else torchvision's values are overwritten
    found = stored(store_activations(study))
    names = [layer.name for layer in read_layers(study.layers)]
    assert sorted(found) == sorted(names)
    with torch.no_grad():
        values = create_feature_extractor(model.module, names)(model.prepare(study.pixels))
    if network == "inplace":  # torchvision can't keep these two apart
        values["conv3"] = model.module.conv3(values["pool"]).detach()
    for name in names:
        maps = values[name].numpy().reshape(*values[name].shape[:2], -1)
        np.testing.assert_allclose(
            found[name]["max"], maps.max(2), rtol=1e-5, atol=1e-5, err_msg=name
        )
        np.testing.assert_allclose(found[name]["mean"], maps.mean(2), rtol=1e-5, atol=1e-5)
        width = values[name].shape[3] if values[name].ndim == 4 else 1
        at = found[name]["argmax"].astype(int) @ [width, 1]
        there = np.take_along_axis(maps, at[..., None], 2)[..., 0]
        np.testing.assert_allclose(there, maps.max(2), rtol=1e-5, atol=1e-5)


def test_shards_dont_change_a_bit(make_study: Callable[..., Study]) -> None:
    study = make_study("branching")
    reference = stored(store_activations(study, 1, "1.h5"))
    for shards in (2, 3, 7):
        found = stored(store_activations(study, shards, f"{shards}.h5"))
        for layer, summaries in reference.items():
            for name, value in summaries.items():
                np.testing.assert_array_equal(found[layer][name], value)


@pytest.mark.parametrize("images", [1, 5, 23, 24])
@pytest.mark.parametrize("shards", [1, 2, 3, 7, 9])
def test_shards_hold_whole_batches_and_every_image_once(images: int, shards: int) -> None:
    bounds = [shard_bounds(images, i, shards, BATCH) for i in range(shards)]
    assert bounds[0][0] == 0
    assert bounds[-1][1] == images
    assert all(a[1] == b[0] for a, b in pairwise(bounds))
    assert all(start % BATCH == 0 or start == images for start, _ in bounds)


def test_the_first_of_equals_is_the_place() -> None:
    value = torch.zeros(1, 2, 3, 4)
    value[0, 1, 1, 3] = value[0, 1, 2, 0] = 5
    found = summarise("x", value)
    assert found["argmax"].tolist() == [[[0, 0], [1, 3]]]
    assert found["max"].tolist() == [[0, 5]]


class Joining(nn.Module):
    """Concatenations and rectifiers whose summaries may follow from others', and may not."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(3, 4, 3, padding=1)
        self.two = nn.Conv2d(3, 5, 1)
        self.three = nn.Conv2d(9, 4, 1)
        self.four = nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.one(x), self.two(x)
        first = torch.cat([functional.relu(left), right], 1)  # the rectifier isn't next
        other = self.three(functional.relu(first, inplace=True))  # changes what was joined
        bent = functional.relu(other)
        again = torch.cat([first, other, bent], dim=-3)
        same = torch.cat([bent, bent], 1)
        long = torch.cat([bent, other], 2)
        late = self.four(long)
        view = late[:, :2]
        joined = torch.cat([late, functional.relu(late, inplace=True)], 1)
        return torch.cat([x.mean((2, 3)) for x in (again, same, joined, view)], 1)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("cache", [1, 1 << 13, 1 << 24])
@pytest.mark.parametrize("build", [networks.inplace, networks.branching, Joining])
def test_summaries_are_those_of_each_layer_by_itself(
    build: Callable[[], nn.Module],
    cache: int,
    layout: torch.memory_format,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(activations, "_CACHE", cache)
    graph = trace(networks.seeded(build()), (3, 12, 9))
    batch = torch.randn(7, 3, 12, 9, generator=torch.Generator().manual_seed(0))
    batch = batch.round(decimals=1).contiguous(memory_format=layout)
    names = set(layer_nodes(graph))
    found = summarise_layers(graph, names, batch.clone())
    assert set(found) == names
    for name, value in run_layers(graph, names, batch.clone()):
        maps = value.numpy().reshape(*value.shape[:2], -1)
        np.testing.assert_allclose(found[name]["max"], maps.max(2), atol=1e-5, err_msg=name)
        np.testing.assert_allclose(found[name]["mean"], maps.mean(2), atol=1e-5, err_msg=name)
        expected = summarise(name, value)
        if cache == 1 << 24:  # the same batch: the same bits
            for key in ("max", "argmax"):
                np.testing.assert_array_equal(found[name][key], expected[key], err_msg=name)


def test_what_follows_from_other_layers() -> None:
    def derived(build: Callable[[], nn.Module]) -> set[str]:
        graph = trace(networks.seeded(build()), (3, 12, 9))
        nodes = frozenset(layer_nodes(graph).values())
        return {graph.names[node] for node in activations._derived(graph, nodes)}

    assert derived(networks.inplace) == {"relu", "relu_1", "relu_"}
    assert derived(Joining) == {"relu_1", "relu_2"}
    assert "cat" in derived(networks.branching)


@pytest.mark.parametrize("cache", [1, 1 << 24])
def test_no_part_of_a_batch_is_a_single_image(cache: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activations, "_CACHE", cache)
    graph = trace(networks.inplace(), (3, 12, 9))
    for count in range(2, 9):
        parts = activations._cut(graph, torch.arange(count)[:, None])
        assert torch.equal(torch.cat(list(parts))[:, 0], torch.arange(count))
        assert min(map(len, parts)) > 1


def test_networks_that_cant_do_with_channels_last_are_run_as_they_are() -> None:
    class Closed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.view(-1, 8 * 10 * 7) if x.sum() < 1e9 else x  # can't be traced

    def flattening() -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 8, 3), Closed(), nn.Linear(8 * 10 * 7, CLASSES))

    batch = torch.randn(2, 3, 12, 9)
    for build, layout in (
        (flattening, torch.contiguous_format),
        (networks.branching, torch.channels_last),
    ):
        graph = trace(networks.seeded(build()), (3, 12, 9))
        before = batch.clone()
        assert activations.choose_layout(graph, batch) == layout
        assert torch.equal(batch, before)
        weights = [p for p in graph.module.parameters() if p.ndim == 4]
        assert all(weight.is_contiguous(memory_format=layout) for weight in weights)


def test_places_in_vectors_take_no_room(make_study: Callable[..., Study]) -> None:
    path = store_activations(make_study("inplace"), 1)
    with h5py.File(path.with_name("activations.h5.1") / "0.h5") as shard:
        sizes = {name: shard[name]["argmax"].id.get_storage_size() for name in shard}
    assert sizes["fc"] == sizes["mean"] == 0 < sizes["conv1"]


def test_activations_that_arent_finite_are_an_error(make_study: Callable[..., Study]) -> None:
    with pytest.raises(ModelError, match=r"'conv2'.*finite"):
        store_activations(make_study("broken", count=3))
    assert not torch.is_inference_mode_enabled()


def test_inference_mode_doesnt_leak_out_of_an_unfinished_run(
    make_study: Callable[..., Study],
) -> None:
    study = make_study("inplace", count=1)
    model = load_model(study.card, study.weights)
    graph = trace(model.module, (3, *study.pixels.shape[1:3]))
    run = run_layers(graph, {"conv1", "fc"}, model.prepare(study.pixels))
    next(run)
    assert not torch.is_inference_mode_enabled()
    run.close()


def test_images_of_another_size_are_an_error(make_study: Callable[..., Study]) -> None:
    study = make_study("inplace", count=3)
    write_noise(study.images, 3, (20, 20))
    with pytest.raises(LayerError, match=r"20 x 20 pixels.*another size"):
        store_activations(study)


def test_only_wanted_layers_the_code_and_the_scores_are_kept(
    make_study: Callable[..., Study],
) -> None:
    study = make_study("inplace", count=3)
    output = study.folder / "part.h5"
    extract_activations(
        **study.inputs,
        output=output,
        recipe=Recipe(),
        shard=0,
        shards=1,
        batch_size=BATCH,
        wanted=["conv[12]"],
    )
    assert sorted(stored(output)) == ["conv1", "conv2", "fc", "mean"]
    with Activations(output) as file:
        assert file.output == "fc"
        assert file.shape("fc") == (3, CLASSES)


def test_whole_maps_of_an_exhibit(make_study: Callable[..., Study]) -> None:
    study = make_study("inplace", count=3)
    exhibits = [study.folder / f"exhibits/{number}.h5" for number in range(2)]
    maps = [study.folder / f"maps-{number}.h5" for number in range(2)]
    exhibits[0].parent.mkdir()
    recipes = [Recipe()] * 2
    pick_exhibits(images=study.images, outputs=exhibits, recipes=recipes, indices=[2, 0], seed=0)
    record_maps(
        exhibits=exhibits,
        card=study.card,
        weights=study.weights,
        layers=study.layers,
        outputs=maps,
        recipes=recipes,
    )
    model = load_model(study.card, study.weights)
    for path, index in zip(maps, (2, 0), strict=True):
        image = model.prepare(study.pixels[index : index + 1])
        conv1 = model.module.conv1(image)[0].detach().numpy()
        np.testing.assert_allclose(read_maps(path, "conv1"), conv1, atol=1e-5)
        np.testing.assert_allclose(read_maps(path, "relu"), conv1.clip(0), atol=1e-5)
