"""The config: defaults, merging, messages, and that nothing but a ConfigError ever comes."""

from __future__ import annotations

import copy
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from convatlas.config import load
from convatlas.errors import ConfigError
from convatlas.reference import config_reference
from convatlas.schema import find_problems, read_schema

REPOSITORY = Path(__file__).resolve().parents[2]
SHIPPED = sorted((REPOSITORY / "config").glob("*.yaml"))

CONFIG = """
datasets:
  shapes: {source: shapes, train: 100, test: 50}
  digits: {source: digits}
  photos: {source: folder, path: photos, labels: labels.csv, classes: classes.txt}
  kept: {source: "torchvision:CIFAR10", root: photos}
models:
  small: {architecture: small_zf, train: {dataset: shapes, snapshots: [1, 2]}}
  resnet: {architecture: torchvision/resnet18, weights: DEFAULT}
  mine:
    architecture: net.py:build
    options: {num_classes: 10}
    weights: checkpoint.pth
    normalize: {mean: [0.5, 0.5, 0.5], std: [0.25, 0.25, 0.25]}
studies:
  demo: {model: small, dataset: shapes, exhibits: [3, 1]}
  photos:
    model: resnet
    dataset: photos
    layers: [layer1.*, fc]
    analyses: {occlusion: {size: [8, 16], fill: [0, 128, 255]}}
analyses:
  occlusion: {size: 32, stride: 8}
  embedding: {perplexity: 20}
figures: {formats: [svg]}
seed: 1
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with all files that the configs here and the shipped ones name."""
    folder = tmp_path_factory.mktemp("base")
    for name in ("photos", "images"):
        (folder / name).mkdir()
    for name in ("labels.csv", "classes.txt", "net.py", "checkpoint.pth", "squeezenet1_0.pth"):
        (folder / name).touch()
    return folder


def config(**changes: Any) -> dict[str, Any]:
    """Return `CONFIG` with values replaced: keys are paths whose parts `__` joins."""
    raw: dict[str, Any] = yaml.safe_load(CONFIG)
    for path, value in changes.items():
        holder, keys = raw, path.split("__")
        for key in keys[:-1]:
            holder = holder[key]
        holder[keys[-1]] = value
    return raw


def problems(raw: Any, base: Path) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(raw, base)
    head, *lines = str(caught.value).split("\n  ")
    assert head == f"The config has {len(lines)} problem{'s' if len(lines) > 1 else ''}:"
    return lines


# ------------------------------------------------------------------ what comes out


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_shipped_configs_are_valid(path: Path, base: Path) -> None:
    assert load(yaml.safe_load(path.read_bytes()), base)["studies"]


def test_demo_needs_no_files(tmp_path: Path) -> None:
    load(yaml.safe_load((REPOSITORY / "config/config.yaml").read_bytes()), tmp_path)


def test_defaults_are_filled(base: Path) -> None:
    complete = load(config(), base)
    assert complete["datasets"]["shapes"] == {
        "source": "shapes",
        "train": 100,
        "test": 50,
        "size": 64,
        "seed": 0,
    }
    assert complete["datasets"]["photos"]["on_error"] == "fail"
    assert complete["datasets"]["photos"]["path"] == "photos"  # as written
    assert complete["models"]["small"]["weights"] is None
    assert complete["models"]["small"]["train"]["epochs"] == 12
    assert complete["models"]["mine"]["train"] is None
    assert complete["studies"]["demo"]["layers"] == "auto"
    assert complete["studies"]["demo"]["extract"] == ["*"]
    assert (complete["seed"], complete["batch_size"], complete["shards"]) == (1, 32, 2)


def test_png_is_always_made(base: Path) -> None:
    assert load(config(), base)["figures"] == {"formats": ["png", "svg"], "dpi": 240}


def test_study_overrides_config_overrides_schema(base: Path) -> None:
    complete = load(config(), base)
    photos = complete["studies"]["photos"]["analyses"]
    assert photos["occlusion"] == {
        "size": [8, 16],
        "stride": 8,
        "fill": [0, 128, 255],
        "layer": "auto",
        "unit": "auto",
        "exhibits_per_job": 1,
        "score": {"scenes": 200, "shards": 2},
    }
    demo = complete["studies"]["demo"]["analyses"]
    assert demo["occlusion"]["size"] == 32
    assert demo["patches"] == {"per_unit": 9}
    assert demo == complete["analyses"]


def test_order_of_keys_means_nothing(base: Path) -> None:
    raw = config()
    raw["studies"]["photos"] = dict(reversed(raw["studies"]["photos"].items()))
    raw["studies"]["photos"]["analyses"]["occlusion"] = {"fill": [0, 128, 255], "size": [8, 16]}
    assert repr(load(raw, base)) == repr(load(config(), base))


def test_raw_config_is_left_alone(base: Path) -> None:
    raw = config()
    load(raw, base)["studies"]["demo"]["exhibits"].append(9)
    assert raw == config()


def test_validation_is_on_the_training_dataset_unless_given(base: Path) -> None:
    train = {"dataset": "shapes"}
    assert load(config(), base)["models"]["small"]["train"]["validation"] == "shapes"
    other = load(config(models__small__train=train | {"validation": "digits"}), base)
    assert other["models"]["small"]["train"]["validation"] == "digits"
    folder = load(config(models__small__train={"dataset": "photos"}), base)
    assert folder["models"]["small"]["train"]["validation"] is None  # it has no test part


def test_large_perplexity_brings_its_neighbours(base: Path) -> None:
    def neighbours(**embedding: Any) -> int:
        complete = load(config(studies__demo__analyses={"embedding": embedding}), base)
        return int(complete["studies"]["demo"]["analyses"]["embedding"]["neighbours"])

    assert neighbours(perplexity=10) == neighbours(perplexity=50) == 150
    assert neighbours(perplexity=60) == 180
    assert neighbours(perplexity=50, neighbours=200) == 200
    assert neighbours(perplexity=20, neighbours=90) == 90  # too few for a default of `perplexities`
    assert neighbours(perplexities=[5, 70]) == neighbours(perplexity=3, perplexities=[70]) == 210


def test_folder_without_size_takes_that_of_the_weights(base: Path) -> None:
    def preset(**changes: Any) -> Any:
        return load(config(**changes), base)["datasets"]["photos"]["preset"]

    assert preset() == ["torchvision/resnet18", "DEFAULT"]
    assert preset(datasets__photos__crop=10) is None
    assert preset(models__resnet__weights="checkpoint.pth") == ["torchvision/resnet18", "DEFAULT"]
    assert preset(models__resnet__weights="random") == ["torchvision/resnet18", "DEFAULT"]
    assert preset(studies__photos__model="mine") is None


def test_loading_is_quick_and_without_torch(base: Path) -> None:
    code = "import sys, convatlas.config; print('torch' in sys.modules, 'h5py' in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == ["False", "False"]
    load(config(), base)
    began = time.perf_counter()
    for _ in range(10):
        load(config(), base)
    assert (time.perf_counter() - began) / 10 < 0.1


# ------------------------------------------------------------------------- messages

MESSAGES = [
    (
        {"studies__photos__analyses": {"occlusion": {"sise": 3}}},
        "studies.photos.analyses.occlusion.sise: unknown key. Did you mean 'size'",
    ),
    ({"batchsize": 4}, "batchsize: unknown key. Did you mean 'batch_size'?"),
    ({"zzz": 4}, "zzz: unknown key. Known are datasets, models, studies, "),
    (
        {"studies__photos__analyses": {"occlusion": {"stride": -3}}},
        "studies.photos.analyses.occlusion.stride: -3 is not a whole number of at least 1, a "
        "number between 0 and 1 or a list",
    ),
    ({"seed": 2**32}, "seed: 4294967296 is more than the maximum of 4294967295."),
    ({"batch_size": 8.0}, "batch_size: 8.0 is not a whole number of at least 1. Write 8."),
    ({"batch_size": True}, "batch_size: True is not a whole number of at least 1."),
    (
        {"batch_size": "32"},
        "batch_size: '32' is not a whole number of at least 1. YAML reads it as",
    ),
    (
        {"models__small__train": {"dataset": "shapes", "learning_rate": "1e-3"}},
        "models.small.train.learning_rate: '1e-3' is not a number greater than 0 and at most 1000. "
        "YAML reads it as text: write 0.001.",
    ),
    ({"batch_size": float("nan")}, "batch_size: nan is not a finite number."),
    ({"studies": None}, "studies: is empty. Give a mapping, or delete the key."),
    ({"studies": {}}, "studies: is empty. Give at least 1 under a name of your choice."),
    ({"analyses__patches": None}, "analyses.patches: is empty."),
    ({"studies": {2024: {}}}, "studies.2024: 2024 is not text. Put the name in quotes."),
    ({"studies": {"a b": {}}}, "studies.a b: 'a b' is not a name of letters, digits, "),
    ({"studies": {"a\n": {}}}, "studies.a\\n: 'a\\n' is not a name of letters, digits, "),
    ({"studies": {"models": {}}}, "studies.models: 'models' is taken (a folder that the results"),
    (
        {"studies__demo": {"dataset": "shapes"}},
        "studies.demo.model: is missing. Name of the model.",
    ),
    (
        {"studies__demo__model": "smal"},
        "studies.demo.model: there is no model 'smal' under models. Did you mean 'small'?",
    ),
    (
        {"studies__demo__dataset": "zzzz"},
        "studies.demo.dataset: there is no data set 'zzzz' under datasets. Known are shapes, ",
    ),
    ({"studies__demo__layers": 3}, "studies.demo.layers: 3 is not text or a list"),
    (
        {"studies__demo__layers": [0]},
        "studies.demo.layers[0]: 0 is not text. If it is meant as text, put it in quotes.",
    ),
    ({"studies__demo__exhibits": 0}, "studies.demo.exhibits: 0 is less than the minimum of 1."),
    ({"studies__demo__exhibits": [2, 2]}, "studies.demo.exhibits: [2, 2] has an item twice."),
    ({"studies__demo__exhibits": []}, "studies.demo.exhibits: has 0 items. Give a list"),
    (
        {"analyses__occlusion__fill": "gray"},
        "analyses.occlusion.fill: 'gray' is not mean, training_mean, zero, grey, blur or a list "
        "(of 3, each a number from 0 to 255). Did you mean 'grey'",
    ),
    ({"figures__formats": ["jpg"]}, "figures.formats[0]: 'jpg' is not png, svg or pdf."),
    (
        {"analyses__embedding": {"perplexity": 60, "neighbours": 100}},
        "analyses.embedding.perplexity: 60 needs at least 180 neighbours",
    ),
    (
        {"analyses__embedding": {"perplexities": [5, 60], "neighbours": 100}},
        "analyses.embedding.perplexities: 60 needs at least 180 neighbours",
    ),
    ({"datasets__digits": {}}, "datasets.digits.source: is missing. Where the images come from"),
    (
        {"datasets__digits__source": "digit"},
        "datasets.digits.source: 'digit' is not shapes, folder, digits or torchvision:NAME. "
        "Did you mean 'digits'?",
    ),
    ({"datasets__digits__crop": 3}, "datasets.digits.crop: unknown key."),
    ({"datasets__photos__path": "photo"}, "datasets.photos.path: there is no folder 'photo' in "),
    ({"datasets__photos__path": "net.py"}, "datasets.photos.path: there is no folder 'net.py' in"),
    ({"datasets__photos__path": "~/p"}, "datasets.photos.path: there is no folder '~/p' in "),
    ({"datasets__photos__path": "\0"}, "datasets.photos.path: '\\x00' holds a character that no"),
    ({"datasets__photos__path": "n" * 999}, "datasets.photos.path: there is no folder 'nnn"),
    ({"datasets__photos__labels": "nolabels.csv"}, "datasets.photos.labels: there is no file "),
    ({"datasets__photos__classes": ""}, "datasets.photos.classes: is an empty text."),
    (
        {"datasets__photos": {"source": "folder", "path": "photos", "resize": 10, "crop": 20}},
        "datasets.photos.crop: 20 is more than resize: 10",
    ),
    ({"datasets__kept__root": "gone"}, "datasets.kept.root: there is no folder 'gone' in "),
    (
        {"models__small": {"architecture": "small_zf"}},
        "models.small: has neither weights nor train.",
    ),
    (
        {"models__small": {"architecture": "small_zf", "weights": None, "train": None}},
        "models.small: has neither weights nor train. Give one; for a network with random weights "
        "say weights: random.",
    ),
    ({"models__mine__train": {"dataset": "digits"}}, "models.mine: has both weights and train."),
    (
        {"models__resnet__architecture": "smal_zf"},
        "models.resnet.architecture: 'smal_zf' is not small_zf, torchvision/NAME or "
        "FILE.py:FUNCTION. Did you mean 'small_zf'?",
    ),
    (
        {"models__mine__architecture": "met.py:build"},
        "models.mine.architecture: there is no file 'met.py' in ",
    ),
    (
        {"models__mine__weights": "check.pth"},
        "models.mine.weights: there is no file 'check.pth' in",
    ),
    ({"models__mine__weights": "DEFAULT"}, "models.mine.weights: 'DEFAULT' names weights of"),
    (
        {"models__resnet__weights": "default"},
        "models.resnet.weights: there is no file 'default' in ",
    ),
    (
        {"models__mine__normalize": {"mean": [123, 0.5, 0.5], "std": [1, 1, 1]}},
        "models.mine.normalize.mean[0]: 123 is more than the maximum of 1. On a scale of 0 to 255, "
        "divide by 255.",
    ),
    (
        {"models__mine__normalize": {"mean": [0.5], "std": [1, 1, 1]}},
        "models.mine.normalize.mean: has 1 items. Give a list (of 3, each a number from 0 to 1).",
    ),
    ({"models__mine__normalize": {"mean": [0, 0, 0]}}, "models.mine.normalize.std: is missing."),
    (
        {
            "models__resnet": {
                "architecture": "torchvision/resnet18",
                "train": {"dataset": "digits"},
            }
        },
        "models.resnet.train: torchvision/resnet18 can't be trained here.",
    ),
    (
        {"models__small__train": {"dataset": "shape"}},
        "models.small.train.dataset: there is no data set 'shape' under datasets. Did you mean",
    ),
    (
        {"models__small__train": {"dataset": "shapes", "epochs": 2, "snapshots": [1, 3]}},
        "models.small.train.snapshots: there is no epoch 3: training ends after 2.",
    ),
]


@pytest.mark.parametrize(
    ("changes", "message"), MESSAGES, ids=[m.split(":")[0] for _, m in MESSAGES]
)
def test_message_names_key_value_and_remedy(
    changes: dict[str, Any], message: str, base: Path
) -> None:
    found = problems(config(**changes), base)
    assert any(line.startswith(message) for line in found), found


@pytest.mark.parametrize(
    ("changes", "hint"),
    [
        ({"datasets__photos__path": "photo"}, "Did you mean 'photos'?"),
        ({"datasets__photos__path": "~/p"}, "~ isn't expanded"),
        ({"datasets__kept__root": "gone"}, "Set download: true, or mend the path."),
        ({"models__resnet__weights": "default"}, "Write DEFAULT, or mend the path."),
    ],
)
def test_missing_file_comes_with_its_remedy(changes: dict[str, Any], hint: str, base: Path) -> None:
    (line,) = problems(config(**changes), base)
    assert hint in line
    assert str(base) in line


@pytest.mark.parametrize("raw", [None, [], "config", 3])
def test_config_that_is_no_mapping(raw: Any, base: Path) -> None:
    with pytest.raises(ConfigError, match="not a mapping"):
        load(raw, base)


def test_all_problems_come_at_once_in_the_order_of_the_config(base: Path) -> None:
    raw = config(
        datasets__shapes__sise=3,
        models__resnet__weights="gone.pth",
        studies__demo__model="smal",
        analyses__occlusion__size=0,
    )
    places = [line.partition(":")[0] for line in problems(raw, base)]
    assert places == [
        "datasets.shapes.sise",
        "models.resnet.weights",
        "studies.demo.model",
        "analyses.occlusion.size",
    ]


def test_one_mistake_is_one_problem(base: Path) -> None:
    """A part that is wrong is still known by its name, and isn't also called missing."""
    assert len(problems(config(models__small__train={"dataset": 5}), base)) == 1
    assert len(problems(config(models__resnet__weights=5), base)) == 1
    assert len(problems(config(datasets__shapes=None), base)) == 1
    assert len(problems(config(analyses__embedding={"perplexity": 99, "neighbours": 9}), base)) == 1


def test_networks_of_different_sizes_need_a_stated_size(base: Path) -> None:
    raw = config(models__mine={"architecture": "torchvision/vgg16", "weights": "IMAGENET1K_V1"})
    raw["studies"]["other"] = {"model": "mine", "dataset": "photos"}
    (line,) = problems(raw, base)
    assert line.startswith(
        "datasets.photos: torchvision/resnet18 with DEFAULT and torchvision/vgg16"
    )
    assert "Set resize and crop" in line
    raw["datasets"]["photos"] |= {"resize": 256, "crop": 224}
    load(raw, base)


def test_config_that_contains_itself(base: Path) -> None:
    raw = config()
    raw["models"]["mine"]["options"] = raw["models"]
    assert any("contains itself" in line for line in problems(raw, base))


def test_dates_are_not_taken(base: Path) -> None:
    raw = yaml.safe_load(CONFIG.replace("num_classes: 10", "released: 2026-01-01"))
    (line,) = problems(raw, base)
    assert line.startswith("models.mine.options.released: ")
    assert "in quotes" in line


# ------------------------------------------------------------------------- mutation

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 300),
    st.floats(),
    st.dates(),
    st.text(max_size=6),
    st.sampled_from(["auto", "DEFAULT", "random", "folder", "shapes", "torchvision:MNIST", "1e-3"]),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.one_of(st.text(max_size=4), st.integers(), st.booleans()), inner),
    ),
    max_leaves=6,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the paths of all values inside a config."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    found = []
    for key, inner in items:
        found.append((*path, key))
        if isinstance(inner, dict | list):
            found += places(inner, (*path, key))
    return found


@given(data=st.data())
@settings(max_examples=200, deadline=None)
def test_a_changed_config_is_completed_or_refused(data: st.DataObject, base: Path) -> None:
    raw = config()
    for _ in range(data.draw(st.integers(1, 3))):
        here = places(raw)
        if not here:
            break
        *above, last = data.draw(st.sampled_from(here))
        holder = raw
        for key in above:
            holder = holder[key]
        if isinstance(holder, dict) and data.draw(st.booleans()):
            renamed = data.draw(st.sampled_from([str(last), f"{last}s", "source", "seed", ""]))
            holder[renamed] = holder.pop(last)
        else:
            holder[last] = data.draw(VALUES)
    before = copy.deepcopy(raw)
    with suppress(ConfigError):
        assert not find_problems(without_presets(load(raw, base)), "config")
    assert repr(raw) == repr(before)


def without_presets(complete: dict[str, Any]) -> dict[str, Any]:
    """Return a complete config without what only `load` may put into it."""
    complete = copy.deepcopy(complete)
    for dataset in complete["datasets"].values():
        dataset.pop("preset", None)
    return complete


# -------------------------------------------------------------------------- schemas


def objects(schema: Any, path: str = "config") -> list[tuple[str, dict[str, Any]]]:
    """Return the mappings that a schema describes, by where they are in it."""
    if isinstance(schema, list):
        return [found for i, item in enumerate(schema) for found in objects(item, f"{path}[{i}]")]
    if not isinstance(schema, dict):
        return []
    found = [(path, schema)] if "properties" in schema and "additionalProperties" in schema else []
    return found + [f for k, v in schema.items() for f in objects(v, f"{path}.{k}")]


def test_schema_is_a_valid_schema() -> None:
    Draft202012Validator.check_schema(read_schema("config"))


def test_every_key_has_a_description_and_a_default_or_is_required() -> None:
    found = objects(read_schema("config"))
    assert len(found) > 10
    for path, schema in found:
        assert schema["additionalProperties"] is False, path
        for key, inner in schema["properties"].items():
            assert inner.get("description", "").endswith("."), f"{path}.{key}"
            optional = key not in schema.get("required", ()) and key != "source"
            assert ("default" in inner) == optional, f"{path}.{key}"


def test_own_architectures_are_those_of_the_package() -> None:
    architectures = pytest.importorskip("convatlas.models.architectures")
    schema = read_schema("models")["properties"]["architecture"]
    assert schema["anyOf"][0]["enum"] == sorted(architectures.ARCHITECTURES)


def test_reference_is_up_to_date() -> None:
    written = (REPOSITORY / "config/README.md").read_text(encoding="utf-8")
    assert written == config_reference(), (
        "Run: uv run python -m convatlas.reference > config/README.md"
    )
