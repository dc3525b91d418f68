"""What a user can get wrong is said with value, place and remedy, and without a traceback."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from running import Config, Outcome, Place

MODEL = "results/models/mine/model.json"
IMAGES = "results/datasets/pictures/images.h5"


def spoil_config(place: Place, text: str, instead: str) -> None:
    path = place.folder / "config.yaml"
    config = path.read_text()
    assert text in config
    path.write_text(config.replace(text, instead))


def spoil_weights(place: Place) -> None:
    path = place.folder / "nets/tiny.pth"
    saved = torch.load(path, weights_only=True)
    saved["state_dict"]["module.head.bias"][1] = float("nan")
    torch.save(saved, path)


def cut_file(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:300])


def assert_plain(outcome: Outcome, *words: str) -> None:
    """Assert that a run failed saying all words, and showed nobody's source lines."""
    assert outcome.code == 1, outcome.text
    message = " ".join(re.findall(r"^convatlas: (.*(?:\n  .*)*)", outcome.text, re.MULTILINE))
    for word in words:
        assert word in message, outcome.text
    assert "Traceback" not in outcome.text
    assert '  File "' not in outcome.text
    assert "Exception in" not in outcome.text


@pytest.mark.parametrize(
    ("text", "instead", "words"),
    [
        (
            "resize: 32",
            "resise: 32",
            ("datasets.pictures.resise", "unknown", "Did you mean 'resize'?"),
        ),
        ("path: pictures", "path: picture", ("datasets.pictures.path", "'picture'", "'pictures'")),
        ("weights: nets/tiny.pth", "weights: nets/tyni.pth", ("models.mine.weights", "'tiny.pth'")),
        ("tiny.py:build", "tyni.py:build", ("models.mine.architecture", "'tiny.py'")),
        ("model: small,", "model: smal,", ("studies.scenes.model", "'smal'", "'small'")),
        ("exhibits: 2", "exhibits: two", ("studies.pictures.exhibits", "'two'")),
    ],
)
def test_a_wrong_config(fresh: Place, text: str, instead: str, words: tuple[str, ...]) -> None:
    spoil_config(fresh, text, instead)
    outcome = fresh.run("--cores", "1")
    assert_plain(outcome, *words)
    assert not fresh.results.exists()


@pytest.mark.parametrize(
    "content", ["datasets: {a: [}\n", "datasets:\n\tshapes: 1\n", "", "[1, 2]\n", "hello\n"]
)
def test_a_config_file_that_is_no_mapping(fresh: Place, content: str) -> None:
    """Snakemake itself says so, before any of our code."""
    (fresh.folder / "config.yaml").write_text(content)
    outcome = fresh.run("--dry-run")
    assert outcome.code == 1
    assert re.search(r"^Config file .*YAML", outcome.text, re.MULTILINE)
    assert '  File "' not in outcome.text


def test_a_config_that_would_grow_or_call(fresh: Place) -> None:
    path, trace = fresh.folder / "config.yaml", fresh.folder / "ran"
    config = path.read_text()
    lists = [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9)]
    path.write_text("\n".join([config, "a0: &a0 [1]", *lists]))
    assert_plain(fresh.run("--dry-run"), "too many values", "write them out")
    path.write_text(f"{config}\nx: !!python/object/apply:os.mkdir [{trace}]\n")
    outcome = fresh.run("--dry-run")
    assert outcome.code == 1
    assert '  File "' not in outcome.text
    assert not trace.exists()


def test_a_value_on_the_command_line(fresh: Place) -> None:
    outcome = fresh.run("--dry-run", "--config", "batch_size=many", "studies={models: {}}")
    assert_plain(outcome, "batch_size: 'many'", "studies.models: 'models' is taken")


def test_several_problems_are_said_at_once(fresh: Place) -> None:
    spoil_config(fresh, "resize: 32", "resise: 32")
    spoil_config(fresh, "perplexity: 3", "perplexty: 3")
    assert_plain(fresh.run("--dry-run"), "2 problems", "resise", "analyses.embedding.perplexty")


@pytest.mark.parametrize(
    ("text", "instead", "words"),
    [
        (
            "second.1]",
            "secnd.1]",
            ("study pictures", "'secnd.1'", "Did you mean 'second.1'", "describe"),
        ),
        ("projections: {units: 2}", "projections: {units: [99]}", ("no unit 99", "0 to")),
        (
            "embedding: {perplexity: 3",
            "embedding: {layer: heads, perplexity: 3",
            ("study pictures", "no layer 'heads'", "Did you mean 'head'", "describe"),
        ),
    ],
)
def test_a_layer_or_unit_that_is_not_there(
    finished: Place, text: str, instead: str, words: tuple[str, ...]
) -> None:
    spoil_config(finished, text, instead)
    assert_plain(finished.run("--cores", "1"), *words)
    assert_plain(finished.run("--dry-run", "--quiet"), *words)


def test_an_image_that_cannot_be_decoded(fresh: Place) -> None:
    cut_file(fresh.folder / "pictures/blue/2.png")
    outcome = fresh.run("--cores", "1", IMAGES)
    assert_plain(outcome, "pictures/blue/2.png", "on_error: skip")
    assert not (fresh.folder / IMAGES).exists()
    spoil_config(fresh, "crop: 32}", "crop: 32, on_error: skip}")
    outcome = fresh.run("--cores", "1", IMAGES)
    assert outcome.code == 0, outcome.text
    manifest = (fresh.folder / IMAGES).with_suffix(".manifest.csv").read_text()
    assert re.search(r"^blue/2\.png,\d,skipped,.+$", manifest, re.MULTILINE)


def test_a_checkpoint_that_does_not_fit(fresh: Place) -> None:
    spoil_config(fresh, "classes: 3", "classes: 4")
    outcome = fresh.run("--cores", "1", MODEL)
    assert_plain(outcome, "nets/tiny.pth", "head.weight", "3x8", "4x8")
    assert "head.weight" in (fresh.results / "logs/models/mine/import_model.log").read_text()


def test_weights_that_are_not_numbers(fresh: Place) -> None:
    spoil_weights(fresh)
    assert_plain(fresh.run("--cores", "1", MODEL), "nets/tiny.pth", "head.bias", "not a number")


def test_a_network_that_is_not_python(fresh: Place) -> None:
    with (fresh.folder / "nets/tiny.py").open("a") as file:
        file.write("def (")
    assert_plain(fresh.run("--cores", "1", MODEL), "tiny.py:", "invalid syntax")


def test_more_exhibits_than_images(finished: Place) -> None:
    def ask(config: Config) -> None:
        config["studies"]["pictures"]["exhibits"] = [0, 18]

    finished.change(ask)
    outcome = finished.run("--cores", "1", "results/pictures/exhibits.csv")
    assert_plain(outcome, "image 18", "18 images", "exhibits")
