"""The whole atlas, made by one real run: all that the contract names, as it says."""

from __future__ import annotations

import csv
import hashlib
import json
import re
from html.parser import HTMLParser
from importlib import metadata
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
import xarray
from PIL import Image
from running import Outcome, Place, user_net

from convatlas.store import joined_digest

STUDIES = ("scenes", "pictures")
MODEL = {"scenes": "small", "pictures": "mine"}
CLASSES = {"scenes": 8, "pictures": 3}
IMAGES = {"scenes": 24, "pictures": 18}
LAYERS = {"scenes": ["relu2"], "pictures": ["first.1", "second.1"]}
EXHIBITS = {"scenes": 1, "pictures": 2}
CODE = {"scenes": "relu5", "pictures": "mean"}
MAPPED = {study: ["pixels", *LAYERS[study], CODE[study]] for study in STUDIES}
FILTERS = {"scenes": "conv1", "pictures": "first.0"}
DEEPER = {"scenes": "conv2", "pictures": "second.0"}
PER_UNIT, UNITS = 3, 2

ARTIFACTS = [
    *(f"datasets/{dataset}/images.h5" for dataset in STUDIES),
    "datasets/scenes/train.h5",
    *(
        f"{study}/{path}.h5"
        for study in STUDIES
        for path in (
            "activations/0",
            "activations/1",
            "activations",
            f"filters/{FILTERS[study]}",
            f"filters/{DEEPER[study]}",
            "fields",
            f"grid/{CODE[study]}",
            "quality",
            f"perplexities/{CODE[study]}/5",
            *(f"{kind}/{layer}" for kind in ("embedding", "neighbours") for layer in MAPPED[study]),
            *(f"votes/{layer}" for layer in ["pixels", *LAYERS[study]]),
            *(
                f"{kind}/{layer}"
                for kind in ("patches", "projections", "directions", "health", "firing")
                for layer in LAYERS[study]
            ),
            *(["health_snapshots"] if study == "scenes" else []),
            *(
                f"{kind}/{exhibit}"
                for kind in ("exhibits", "maps", "nearest", "occlusion", "strongest", "saliency")
                for exhibit in range(EXHIBITS[study])
            ),
        )
    ),
]


def figures(study: str) -> list[str]:
    """Return what figures a study has, without their suffix."""
    return [
        f"filters/{FILTERS[study]}",
        f"filters/frequency/{FILTERS[study]}",
        f"filters/kernels/{DEEPER[study]}",
        *(f"filters/redundancy/{layer[study]}" for layer in (FILTERS, DEEPER)),
        *(
            f"maps/{kind}{exhibit}"
            for kind in ("", "mosaic/", "overlay/")
            for exhibit in range(EXHIBITS[study])
        ),
        *(
            f"{kind}/{layer}"
            for kind in ("patches", "projections", "directions", "health/worst", "firing")
            for layer in LAYERS[study]
        ),
        *(f"neighbours/{exhibit}" for exhibit in range(EXHIBITS[study])),
        "neighbours/accuracy/layers",
        *(
            f"embedding/{kind}/{CODE[study]}"
            for kind in ("scatter", "views", "grid", "perplexities")
        ),
        "embedding/quality/layers",
        *(f"occlusion/{exhibit}" for exhibit in range(EXHIBITS[study])),
        *(["occlusion_score/scenes"] if study == "scenes" else []),
        *(f"saliency/{exhibit}" for exhibit in range(EXHIBITS[study])),
        "receptive_fields/0",
        *(["training/curves", "health/snapshots/curves"] if study == "scenes" else []),
        "health/layers",
    ]


def tables(study: str) -> list[str]:
    """Return the tables that lie beside figures besides those with a figure's name."""
    return [
        "health/layers_summary",
        "health/layers_population",
        *(f"firing/{kind}/{layer}" for kind in ("images", "classes") for layer in LAYERS[study]),
    ]


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


# ------------------------------------------------------------------------- the run


def test_every_job_leaves_a_log_and_a_benchmark(made: tuple[Place, Outcome]) -> None:
    place, outcome = made
    for kind in ("log", "benchmark"):
        listed = re.findall(rf"^    {kind}: (\S+)$", outcome.text, re.MULTILINE)
        assert len(listed) > 60
        assert [path for path in listed if not (place.folder / path).is_file()] == []


def test_all_results_lie_in_the_results_folder(start: Place, atlas: Place) -> None:
    before, now = ({path.name for path in place.folder.iterdir()} for place in (start, atlas))
    assert now - before == {"results", ".snakemake"}


# ----------------------------------------------------------------------- artifacts


@pytest.mark.parametrize("path", ARTIFACTS)
def test_an_artifact_says_what_it_was_made_from(atlas: Place, path: str) -> None:
    with h5py.File(atlas.results / path) as file:
        attributes = dict(file.attrs)
    assert attributes["convatlas_version"]
    assert re.fullmatch("[0-9a-f]{16}", attributes["code"])
    assert re.fullmatch("[0-9a-f]{64}", attributes["digest"])
    assert isinstance(json.loads(attributes["parameters"]), dict)
    inputs = json.loads(attributes["inputs"])
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in inputs.values())
    assert bool(inputs) is not path.startswith("datasets/")


@pytest.mark.parametrize("path", ARTIFACTS)
def test_every_axis_has_a_name_that_xarray_reads(atlas: Place, path: str) -> None:
    with xarray.open_datatree(atlas.results / path, engine="h5netcdf") as tree:
        variables = {
            f"{node.path}/{name}": variable
            for node in tree.subtree
            for name, variable in node.variables.items()
        }
        assert variables
        nameless = [n for n, v in variables.items() if any("phony" in str(d) for d in v.dims)]
        assert nameless == []


def test_a_file_knows_the_digest_of_the_one_it_was_made_from(atlas: Place) -> None:
    study = atlas.results / "pictures"
    with h5py.File(study / "patches/first.1.h5") as file:
        inputs = json.loads(file.attrs["inputs"])
        parameters = json.loads(file.attrs["parameters"])
    with h5py.File(study / "activations.h5") as file:
        assert inputs["activations"] == file.attrs["digest"]
    assert parameters["per_unit"] == PER_UNIT


@pytest.mark.parametrize("dataset", STUDIES)
def test_images(atlas: Place, dataset: str) -> None:
    count = IMAGES[dataset]
    with h5py.File(atlas.results / f"datasets/{dataset}/images.h5") as file:
        assert file["image"].shape == (count, 32, 32, 3)
        assert file["image"].dtype == np.uint8
        assert file["label"].shape == file["name"].shape == (count,)
        labels = file["label"][()]
        assert labels.min() >= 0
        assert labels.max() < CLASSES[dataset]
        assert all(d.shape[0] == count for d in file.get("attributes", {}).values())
        assert ("mask" in file) == (dataset == "scenes")
        if "mask" in file:
            assert file["mask"].shape == (count, 32, 32)
    classes = (atlas.results / f"datasets/{dataset}/classes.txt").read_text().splitlines()
    assert len(classes) == CLASSES[dataset]
    listed = rows(atlas.results / f"datasets/{dataset}/images.manifest.csv")
    assert [row["status"] for row in listed] == ["kept"] * count


@pytest.mark.parametrize("study", STUDIES)
def test_weights_are_a_plain_state_dict(atlas: Place, study: str) -> None:
    state = torch.load(atlas.results / f"models/{MODEL[study]}/weights.pt", weights_only=True)
    assert all(isinstance(value, torch.Tensor) for value in state.values())
    assert (f"{FILTERS[study]}.weight") in state


def test_a_nested_prefixed_checkpoint_is_the_same_network(atlas: Place) -> None:
    given = torch.load(atlas.folder / "nets/tiny.pth", weights_only=True)["state_dict"]
    state = torch.load(atlas.results / "models/mine/weights.pt", weights_only=True)
    assert {f"module.{name}" for name in state} == set(given)
    assert all(torch.equal(value, given[f"module.{name}"]) for name, value in state.items())


def test_training_keeps_history_and_snapshots(atlas: Place) -> None:
    folder = atlas.results / "models/small"
    assert rows(folder / "training.csv")[-1]["epoch"] == "1"
    first, last = (torch.load(folder / f"snapshots/{e}.pt", weights_only=True) for e in (0, 1))
    weights = torch.load(folder / "weights.pt", weights_only=True)
    assert all(torch.equal(weights[name], last[name]) for name in weights)
    assert not torch.equal(first["conv1.weight"], last["conv1.weight"])


@pytest.mark.parametrize("study", STUDIES)
def test_layers(atlas: Place, study: str) -> None:
    layers = json.loads((atlas.results / f"models/{MODEL[study]}/layers.json").read_text())
    names = [layer["name"] for layer in layers]
    assert len(set(names)) == len(names)
    assert set(LAYERS[study]) < set(names)
    for layer in layers:
        assert {"kind", "units", "shape", "inputs", "deconvnet"} < set(layer)
        assert layer["shape"][0] == layer["units"]
        field = layer["receptive_field"]
        assert set(field) == {"size", "stride", "start", "exact"}
        assert all(len(field[key]) == 2 for key in ("size", "stride", "start"))
    assert [layer["units"] for layer in layers if layer["output"]] == [CLASSES[study]]
    first = next(layer for layer in layers if layer["name"] == FILTERS[study])
    side = {"scenes": 7, "pictures": 3}[study]
    assert first["receptive_field"]["size"] == [side, side]
    assert first["receptive_field"]["start"] == [-(side // 2)] * 2


@pytest.mark.parametrize("study", STUDIES)
def test_activations_hold_all_layers(atlas: Place, study: str) -> None:
    layers = json.loads((atlas.results / f"models/{MODEL[study]}/layers.json").read_text())
    with h5py.File(atlas.results / study / "activations.h5") as file:
        assert {layer["name"] for layer in layers} == set(file) - {"index", "unit", "yx"}
        for layer in layers:
            group, shape = file[layer["name"]], (IMAGES[study], layer["units"])
            assert group["max"].shape == group["mean"].shape == shape
            assert group["argmax"].shape == (*shape, 2)
            assert group["max"].dtype == group["mean"].dtype == np.float32
            assert group["max"].is_virtual
            assert np.all(group["max"][()] >= group["mean"][()] - 1e-5)
            limit = layer["shape"][1:] or (1, 1)
            assert np.all(group["argmax"][()].reshape(-1, 2).max(0) < limit)


def test_activations_are_those_of_the_network(atlas: Place) -> None:
    net = user_net(atlas.folder / "nets").eval()
    net.load_state_dict(torch.load(atlas.results / "models/mine/weights.pt", weights_only=True))
    with h5py.File(atlas.results / "datasets/pictures/images.h5") as file:
        pixels = torch.from_numpy(file["image"][()]).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        maps = net.first[:2]((pixels - 0.5) / 0.25)
        outputs = net((pixels - 0.5) / 0.25)
    with h5py.File(atlas.results / "pictures/activations.h5") as file:
        np.testing.assert_allclose(file["first.1/max"][()], maps.amax((2, 3)), rtol=1e-5)
        np.testing.assert_allclose(file["head/max"][()], outputs, rtol=1e-4, atol=1e-6)
    predicted = [int(row["predicted"]) for row in rows(atlas.results / "pictures/predictions.csv")]
    assert predicted == outputs.argmax(1).tolist()


@pytest.mark.parametrize("study", STUDIES)
def test_patches_and_projections(atlas: Place, study: str) -> None:
    for layer in LAYERS[study]:
        with h5py.File(atlas.results / study / f"patches/{layer}.h5") as file:
            unit, value, image = (file[key][()] for key in ("unit", "value", "image"))
            location, box = file["location"][()], file["box"][()]
        count = len(unit)
        assert value.shape == image.shape == (count, PER_UNIT)
        assert value.dtype == np.float32
        assert location.shape == (count, PER_UNIT, 2)
        assert box.shape == (count, PER_UNIT, 4)
        assert np.all(np.diff(value, axis=1) <= 0)
        with h5py.File(atlas.results / study / "activations.h5") as file:
            strongest = file[layer]["max"][()].max(0)
        np.testing.assert_array_equal(value[:, 0], strongest[unit])
        with h5py.File(atlas.results / study / f"projections/{layer}.h5") as file:
            chosen, projection = file["unit"][()], file["projection"][()]
        assert set(chosen) <= set(unit)
        height, width = box[0, 0, 2] - box[0, 0, 0], box[0, 0, 3] - box[0, 0, 1]
        assert projection.shape == (UNITS, PER_UNIT, 3, height, width)
        assert projection.dtype == np.float32
        assert np.isfinite(projection).all()


@pytest.mark.parametrize("study", STUDIES)
def test_embedding(atlas: Place, study: str) -> None:
    with h5py.File(atlas.results / study / f"embedding/{CODE[study]}.h5") as file:
        position = file["position"][()]
    assert position.shape == (IMAGES[study], 2)
    assert np.isfinite(position).all()


@pytest.mark.parametrize("study", STUDIES)
def test_exhibits_and_occlusion(atlas: Place, study: str) -> None:
    listed = rows(atlas.results / study / "exhibits.csv")
    assert [row["exhibit"] for row in listed] == [str(n) for n in range(EXHIBITS[study])]
    with h5py.File(atlas.results / f"datasets/{study}/images.h5") as file:
        labels, mean = file["label"][()], file["image"][()].mean((0, 1, 2))
    predictions = rows(atlas.results / study / "predictions.csv")
    for row in listed:
        assert int(row["label"]) == labels[int(row["image"])]
        with h5py.File(atlas.results / study / f"occlusion/{row['exhibit']}.h5") as file:
            assert file["row"][()].tolist() == file["column"][()].tolist() == [0, 8, 16, 24]
            probability = file["probability"][()]
            assert probability.shape == (4, 4, CLASSES[study])
            np.testing.assert_allclose(probability.sum(2), 1, rtol=1e-5)
            assert file["map_sum"].shape == (4, 4)
            clean = file["clean_probability"][()]
            assert list(file.attrs["size"]) == list(file.attrs["stride"]) == [8, 8]
            np.testing.assert_allclose(file.attrs["fill"], mean)
        said = predictions[int(row["image"])]
        assert clean.argmax() == int(said["predicted"])
        np.testing.assert_allclose(clean.max(), float(said["probability"]), rtol=1e-4)


@pytest.mark.parametrize("study", STUDIES)
def test_health_and_firing(atlas: Place, study: str) -> None:
    for layer in LAYERS[study]:
        with h5py.File(atlas.results / study / "activations.h5") as file:
            answers = file[layer]["max"][()]
        with h5py.File(atlas.results / study / f"health/{layer}.h5") as file:
            np.testing.assert_allclose(file["frequency"][()], (answers > 0).mean(0))
            np.testing.assert_array_equal(file["dead"][()], (answers <= 0).all(0))
        with h5py.File(atlas.results / study / f"firing/{layer}.h5") as file:
            strongest = answers.max(0)
            shown = np.where(strongest > 0, strongest, np.nan)
            np.testing.assert_array_equal(file["value"][()][:, 0], shown)
            fires = (answers > 0) & (answers >= 0.5 * strongest.astype(float))
            np.testing.assert_array_equal(file["firing"][()], fires.sum(0))


def test_the_last_snapshot_is_the_network_that_is_shown(atlas: Place) -> None:
    with h5py.File(atlas.results / "scenes/health_snapshots.h5") as file:
        assert file["epoch"][()].tolist() == [0, 1]
        assert file["layers"].asstr()[()].tolist() == LAYERS["scenes"]
        dead, always = (file[name][()][-1, 0] for name in ("dead", "always_on"))
        population = file["population"][()][-1, 0]
    with h5py.File(atlas.results / "scenes/health/relu2.h5") as file:
        assert (dead, always) == (file["dead"][()].mean(), file["always_on"][()].mean())
        np.testing.assert_allclose(population, file.attrs["population_mean"], rtol=1e-6)


# -------------------------------------------------------------------- provenance


def by_digest(files: dict[str, dict[str, Any]]) -> dict[str, list[str]]:
    """Return the files behind each digest: of one, and of all of a folder together."""
    own = {path: entry.get("digest", entry["sha256"]) for path, entry in files.items()}
    folders: dict[str, list[str]] = {}
    for path in own:
        if path.endswith((".h5", ".pt")):
            folders.setdefault(path.rpartition("/")[0], []).append(path)
    groups = [*([path] for path in own), *folders.values()]
    found = {joined_digest(own[path] for path in group): group for group in groups}
    found |= {entry["sha256"]: [path] for path, entry in files.items()}
    return found | {digest: [path] for path, digest in own.items()}


@pytest.mark.parametrize("study", STUDIES)
def test_every_figure_can_be_followed_to_what_it_came_from(atlas: Place, study: str) -> None:
    """From digest to digest, by nothing but provenance.json."""
    made = json.loads((atlas.results / study / "provenance.json").read_text())
    files, behind = made["files"], by_digest(made["files"])
    images, weights = f"datasets/{study}/images.h5", f"models/{MODEL[study]}/weights.pt"
    for figure in figures(study):
        waiting, seen = [f"{study}/figures/{figure}.png"], set()
        while waiting:
            path = waiting.pop()
            if path not in seen:
                seen.add(path)
                inputs = files[path].get("inputs", {})
                waiting += [source for digest in inputs.values() for source in behind[digest]]
        kind = figure.partition("/")[0]
        if kind == "occlusion_score":  # made from tables, which say nothing of their origin
            continue
        assert images in seen or kind in ("filters", "training")
        assert weights in seen or kind == "training"
    source = files[images]["parameters"]["source"]
    assert source.items() <= made["config"]["datasets"][study].items()
    own = {"datasets.pictures", "models.mine.architecture", "models.mine.weights"}
    assert set(made["sources"]) == (own if study == "pictures" else set())


def test_provenance_names_code_software_and_config(atlas: Place) -> None:
    made = json.loads((atlas.results / "scenes" / "provenance.json").read_text())
    assert made["config"]["studies"].keys() == {"scenes"}
    assert made["config"]["models"].keys() == {"small"}
    assert made["config"]["datasets"].keys() == {"scenes"}
    assert made["config"]["studies"]["scenes"]["analyses"]["patches"]["per_unit"] == PER_UNIT
    rules = made["rules"]
    assert {"train_model", "prepare_images", "rank_patches", "plot_maps"} <= set(rules)
    assert "convatlas.data.shapes" in rules["prepare_images"]["modules"]
    assert "convatlas.patches" in rules["rank_patches"]["modules"]
    assert (
        f"torch {metadata.version('torch').partition('+')[0]}" in rules["train_model"]["packages"]
    )
    assert not any(package.startswith("torch ") for package in rules["plot_maps"]["packages"])
    for path, entry in made["files"].items():
        content = (atlas.results / path).read_bytes()
        assert entry["sha256"] == hashlib.sha256(content).hexdigest()


def test_a_figure_says_itself_what_it_is(atlas: Place) -> None:
    figure = f"{atlas.results}/pictures/figures/patches/first.1"
    with Image.open(f"{figure}.png") as picture:
        told = picture.info["Description"]
    for text in (told, Path(f"{figure}.svg").read_text()):
        assert "study: pictures" in text
        assert "layer: first.1" in text
        assert "made_by: plot_patches" in text
    digest = re.search("^digest: ([0-9a-f]{64})$", told, re.MULTILINE)
    assert digest is not None
    made = json.loads((atlas.results / "pictures/provenance.json").read_text())
    assert made["files"]["pictures/figures/patches/first.1.png"]["digest"] == digest[1]


# ------------------------------------------------------------------ figures, report


@pytest.mark.parametrize("study", STUDIES)
def test_every_figure_is_a_picture_with_its_numbers(atlas: Place, study: str) -> None:
    folder = atlas.results / study / "figures"
    made = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    beside = {f"{table}.csv" for table in tables(study)}
    drawn = {f"{f}.{kind}" for f in figures(study) for kind in ("png", "svg", "csv")}
    assert made == beside | drawn
    assert all(rows(folder / table) for table in beside)
    for figure in figures(study):
        assert (folder / f"{figure}.png").read_bytes().startswith(b"\x89PNG")
        assert rows(folder / f"{figure}.csv")


class Resources(HTMLParser):
    """Collects what a page loads or links to."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.linked: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("src", "href", "srcset", "data", "poster") and value:
                (self.linked if tag == "a" else self.loaded).append(value)


@pytest.mark.parametrize("study", STUDIES)
def test_the_report_opens_from_disk(atlas: Place, study: str) -> None:
    folder = atlas.results / study / "report"
    text = (folder / "index.html").read_text()
    page = Resources()
    page.feed(text)
    local = [x for x in page.loaded + page.linked if not x.startswith(("#", "data:"))]
    assert [x for x in page.loaded if "//" in x] == []
    assert re.findall(r"url\(|@import", text) == []
    paths = {x.partition("#")[0] for x in local if "//" not in x}
    assert [x for x in paths if not (folder / x).is_file()] == []
    anchors = {x[1:] for x in page.linked if x.startswith("#")}
    assert anchors <= set(re.findall(r'\bid="([^"]+)"', text))
    pictures = [x for x in page.loaded if x.endswith(".png")]
    assert len(set(pictures)) >= len(figures(study))
    assert study in text


def test_the_layers_are_printed_as_a_table(atlas: Place) -> None:
    for _ in range(2):  # whenever it is asked for
        outcome = atlas.run("--cores", "1", "--quiet", "--", "describe")
        assert outcome.code == 0, outcome.text
        assert "first.1" in outcome.text
        assert "relu5" in outcome.text


def test_snakemake_makes_its_own_report_offline(atlas: Place, tmp_path: Path) -> None:
    page = tmp_path / "atlas.html"
    outcome = atlas.run("--report", page)
    assert outcome.code == 0, outcome.text
    text = page.read_text()
    for word in (
        "Filters",
        "Maps",
        "Patches",
        "Projections",
        "Embedding",
        "Occlusion",
        "Training",
        "Health",
        "Firing",
    ):
        assert f'"{word}"' in text, word
    assert "relu2" in text
