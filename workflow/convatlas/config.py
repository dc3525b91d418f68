"""Read a config: check it whole, fill in the defaults, and say all that is wrong at once.

Its shape and its defaults are in ``workflow/schemas``; here is what a schema can't
say: that names and files exist, and that values fit each other.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from convatlas.classes import one_line
from convatlas.errors import ConfigError, did_you_mean
from convatlas.schema import (
    KeyPath,
    Problem,
    dotted,
    fill_defaults,
    find_problems,
    plain_copy,
    read_schema,
    show,
)

Config = dict[str, Any]

_TORCHVISION = "torchvision/"
_ENUM_NAME = re.compile(r"[A-Z][A-Z0-9_]*")  # DEFAULT, IMAGENET1K_V2, ...
_MERGE = "tag:yaml.org,2002:merge"  # the key <<
_SHOWN = 300  # characters of a path in a message
_SIBLINGS = 1000  # files of a folder that are looked through for a name like the one given


def load(raw: Mapping[str, Any], base: Path) -> Config:
    """Return the complete config: checked, with defaults, each study's analyses merged.

    A study's `analyses` are its own parameters over the config's over the schema's.
    Every model has both `weights` and `train`, one of them None. `train.validation` is
    a name, or None where the network is trained on a folder and nothing else is named.
    A folder data set has one key more, `preset`: [architecture, weights] whose own image
    size it takes, or None.

    Parameters
    ----------
    raw : the config as YAML gives it. It isn't changed.
    base : the folder that paths in it are relative to. They stay as they are.

    Raises
    ------
    ConfigError
        with a line for each problem: key, value and remedy.
    """
    plain, problems = plain_copy(raw)
    if not isinstance(plain, dict):
        raise ConfigError(
            f"The config is {type(raw).__name__}, not a mapping. "
            "It needs the keys datasets, models and studies."
        )
    problems += find_problems(plain, "config")
    sound = _merged(_without(plain, (p.path for p in problems)))
    config = _completed(fill_defaults(sound, read_schema("config")))
    problems += _Checks(config, plain, base).run()
    if problems:
        raise ConfigError(_report(problems, plain))
    return config


def check_keys(paths: Iterable[Path]) -> None:
    """See that no mapping in YAML config files has a key twice.

    YAML parsers keep the last one and say nothing, so a study could be lost. A file
    that isn't YAML passes: Snakemake, which reads it too, says what is wrong with it.

    Raises
    ------
    ConfigError
        with a line for each key given a second time: file, line and remedy.
    """
    found = [problem for path in paths for problem in _repeated_keys(path)]
    if found:
        raise ConfigError("\n  ".join(["The config gives a key twice:", *found]))


def _repeated_keys(path: Path) -> Iterator[str]:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        root = yaml.compose(path.read_text(encoding="utf-8"), loader)
    except (yaml.YAMLError, OSError, ValueError, RecursionError):
        return
    nodes, seen = [root], set()
    while nodes:
        node = nodes.pop()
        if id(node) in seen:  # an alias
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            nodes += reversed(node.value)
        elif isinstance(node, yaml.MappingNode):
            lines: dict[str, int] = {}
            for key, _ in node.value:
                name, line = str(key.value), key.start_mark.line + 1
                if name in lines and key.tag != _MERGE:
                    yield (
                        f"{path}, line {line}: {dotted([name])} is in line {lines[name]} too. "
                        "Join the two, or delete one."
                    )
                lines.setdefault(name, line)
            nodes += reversed([value for _, value in node.value])


# --------------------------------------------------------------------- completing


def _without(config: Config, paths: Iterable[KeyPath]) -> Config:
    """Return `config` without the keys at or around `paths`, so that the rest can be checked."""
    sound, _ = plain_copy(config)
    for path in paths:
        _cut(sound, path)
    return dict(sound)


def _cut(holder: Config, path: KeyPath) -> None:
    """Delete the key at `path`, or the one that holds the list with it."""
    key, *rest = path
    inside = holder.get(key) if isinstance(key, str) else None
    if rest and isinstance(inside, dict):
        _cut(inside, tuple(rest))
    elif isinstance(key, str):
        holder.pop(key, None)


def _merged(config: Config) -> Config:
    """Return `config` with the config's analyses under those of each study."""
    common = config.get("analyses", {})
    studies = {
        name: study | {"analyses": _with_neighbours(_over(common, study.get("analyses", {})))}
        for name, study in config.get("studies", {}).items()
    }
    return config | {"analyses": _with_neighbours(common), "studies": studies}


def _over(common: Config, own: Config) -> Config:
    return {name: common.get(name, {}) | own.get(name, {}) for name in (common | own)}


def _with_neighbours(analyses: Config) -> Config:
    """Return `analyses` whose neighbours and perplexities fit each other as far as not given.

    Neighbours are as many as a large perplexity needs; where they are given, the further
    perplexities are those for which they are enough.
    """
    embedding = analyses.get("embedding", {})
    defaults = {
        key: schema.get("default")
        for key, schema in read_schema("analyses")["properties"]["embedding"]["properties"].items()
    }
    fitting: Config = {}
    if "neighbours" not in embedding:
        needed = math.ceil(_neighbours_for(defaults | embedding))
        fitting = {"neighbours": max(defaults["neighbours"], needed)}
    elif "perplexities" not in embedding:
        most = embedding["neighbours"]
        further = [
            x for x in defaults["perplexities"] if _neighbours_for({"perplexity": x}) <= most
        ]
        fitting = {"perplexities": further}
    return analyses | {"embedding": embedding | fitting} if embedding else analyses


def _neighbours_for(embedding: Config) -> float:
    """Return how many neighbours the largest of an embedding's perplexities needs."""
    perplexities = [embedding.get("perplexity", 0), *embedding.get("perplexities", ())]
    return float(3 * max(perplexities))  # as many as openTSNE, and t-SNE's author, look at


def _completed(config: Config) -> Config:
    """Return a filled config with the defaults that depend on other keys."""
    datasets, models = config.get("datasets", {}), config.get("models", {})
    for name, dataset in datasets.items():
        if dataset.get("source") == "folder":
            presets = _presets(config, name)
            dataset["preset"] = list(presets[0]) if len(presets) == 1 else None
    for model in models.values():
        train = model.get("train")
        if train and not train["validation"]:
            trained_on = train.get("dataset")
            if datasets.get(trained_on, {}).get("source") != "folder":  # it has no test part
                train["validation"] = trained_on
    formats = set(config["figures"]["formats"]) | {"png"}
    config["figures"]["formats"] = [f for f in ("png", "svg", "pdf") if f in formats]
    return config


def _presets(config: Config, dataset: str) -> list[tuple[str, str]]:
    """Return the different presets of the models that look at a data set without a size."""
    settings = config["datasets"][dataset]
    if settings.get("resize") or settings.get("crop"):
        return []
    studies = [s for s in config.get("studies", {}).values() if s.get("dataset") == dataset]
    models = [config.get("models", {}).get(s.get("model"), {}) for s in studies]
    of_torchvision = [m for m in models if m.get("architecture", "").startswith(_TORCHVISION)]
    return sorted({(m["architecture"], _named_weights(m)) for m in of_torchvision})


def _named_weights(model: Mapping[str, Any]) -> str:
    """Return the weights of torchvision's whose image size a network of torchvision's takes."""
    weights = model.get("weights") or ""
    return weights if _ENUM_NAME.fullmatch(weights) else "DEFAULT"


# ----------------------------------------------------------------------- checking


class _Checks:
    """What the schema can't say of a filled config whose unsound parts are cut out."""

    def __init__(self, config: Config, given: Config, base: Path) -> None:
        self._config = config
        self._given = given  # with the unsound parts, so that their names count as known
        self._base = base
        self._problems: list[Problem] = []

    def run(self) -> list[Problem]:
        """Return the problems found."""
        for section, check in (
            ("datasets", self._check_dataset),
            ("models", self._check_model),
            ("studies", self._check_study),
        ):
            for name, settings in self._config.get(section, {}).items():
                check((section, name), settings)
        return self._problems

    def _add(self, path: KeyPath, text: str) -> None:
        self._problems.append(Problem(path, text))

    def _was_given(self, path: KeyPath) -> bool:
        value: Any = self._given
        for key in path:
            if not isinstance(value, dict) or value.get(key) is None:
                return False
            value = value[key]
        return True

    # ---- data sets

    def _check_dataset(self, path: KeyPath, dataset: Config) -> None:
        source = dataset.get("source", "")
        if source == "folder":
            self._check_folder(path, dataset)
        elif source.startswith("torchvision:") and "root" in dataset and not dataset["download"]:
            self._check_exists((*path, "root"), dataset["root"], "folder", "Set download: true, or")

    def _check_folder(self, path: KeyPath, dataset: Config) -> None:
        for key, kind in (("path", "folder"), ("labels", "file"), ("classes", "file")):
            if dataset.get(key):
                self._check_exists((*path, key), dataset[key], kind)
        resize, crop = dataset.get("resize"), dataset.get("crop")
        if resize and crop and crop > resize:
            self._add(
                (*path, "crop"),
                f"{crop} is more than resize: {resize}, so the square would reach outside the "
                f"image. Set it to {resize} or less.",
            )
        presets = _presets(self._config, str(path[-1]))
        if len(presets) > 1:
            listed = " and ".join(f"{a} with {w}" for a, w in presets)
            self._add(
                path,
                f"{listed} may each see images in another size, but a data set has one. "
                "Set resize and crop, or make a data set for each.",
            )

    # ---- models

    def _check_model(self, path: KeyPath, model: Config) -> None:
        architecture = model.get("architecture", "")
        if ".py:" in architecture:
            file = architecture.rpartition(":")[0]
            self._check_exists((*path, "architecture"), file, "file")
        weights, train = (self._was_given((*path, key)) for key in ("weights", "train"))
        if not weights and not train:
            self._add(
                path,
                "has neither weights nor train. Give one; for a network with random weights say "
                "weights: random.",
            )
        elif weights and train:
            self._add(path, "has both weights and train. Delete one of them.")
        if model.get("weights"):
            self._check_weights((*path, "weights"), model["weights"], architecture)
        if model.get("train"):
            self._check_training((*path, "train"), model["train"], architecture)

    def _check_weights(self, path: KeyPath, weights: str, architecture: str) -> None:
        if weights == "random":
            return
        if not _ENUM_NAME.fullmatch(weights):
            words = [w for w in ("DEFAULT", "random") if w.lower() == weights.lower()]
            instead = f"Write {words[0]}, or" if words else ""
            self._check_exists(path, weights, "file", instead)
        elif architecture and not architecture.startswith(_TORCHVISION):
            self._add(
                path,
                f"{show(weights)} names weights of torchvision, which has none for "
                f"{show(architecture, _SHOWN)}. "
                f"Give a checkpoint file (./{weights} if that is its name), random, or train.",
            )

    def _check_training(self, path: KeyPath, train: Config, architecture: str) -> None:
        if architecture.startswith(_TORCHVISION):
            self._add(
                path,
                f"{architecture} can't be trained here. Give weights instead, or return the "
                "network from a function in a file of your own.",
            )
        for key in ("dataset", "validation"):
            if train.get(key) and self._was_given((*path, key)):
                self._check_known((*path, key), train[key], "datasets", "data set")
        late = [s for s in train.get("snapshots", ()) if s > train.get("epochs", s)]
        if late:
            self._add(
                (*path, "snapshots"),
                f"there is no epoch {late[0]}: training ends after {train['epochs']}. "
                "Take it out, or set epochs.",
            )

    # ---- studies

    def _check_study(self, path: KeyPath, study: Config) -> None:
        for key, kind in (("model", "model"), ("dataset", "data set")):
            if key in study:
                self._check_known((*path, key), study[key], f"{key}s", kind)
        self._check_embedding((*path, "analyses", "embedding"), study["analyses"]["embedding"])

    def _check_embedding(self, path: KeyPath, embedding: Config) -> None:
        neighbours, needed = embedding["neighbours"], _neighbours_for(embedding)
        if needed <= neighbours:
            return
        keys = ("perplexity", "perplexities", "neighbours")
        own = [key for key in keys if self._was_given((*path, key))]
        place = path if own else ("analyses", "embedding")
        key = "perplexity" if 3 * embedding["perplexity"] == needed else "perplexities"
        if any(problem.path == (*place, key) for problem in self._problems):
            return  # said once for all studies that take it from the config's analyses
        self._add(
            (*place, key),
            f"{needed / 3:g} needs at least {needed:g} neighbours, three times as many, but "
            f"neighbours is {neighbours}. Set neighbours to {math.ceil(needed)} or leave it out.",
        )

    # ---- names and files

    def _check_known(self, path: KeyPath, name: str, section: str, kind: str) -> None:
        known = self._given.get(section)
        if not isinstance(known, dict) or name in known:
            return
        hint = did_you_mean(name, known) or f" Known are {', '.join(map(one_line, known))}."
        self._add(path, f"there is no {kind} {show(name)} under {section}.{hint}")

    def _check_exists(self, path: KeyPath, value: str, kind: str, instead: str = "") -> None:
        target = self._base / value
        exists = target.is_dir if kind == "folder" else target.is_file
        if not _asks(exists):
            where = "" if Path(value).is_absolute() else f" in {self._base}"
            remedy = f"{instead} mend the path" if instead else "Mend the path"
            relative = " (~ isn't expanded: write it out)" if value.startswith("~") else ""
            near = did_you_mean(target.name, _siblings(target))
            self._add(
                path, f"there is no {kind} {show(value, _SHOWN)}{where}. {remedy}{relative}.{near}"
            )


def _asks(question: Callable[[], bool]) -> bool:
    """Ask the file system; a name that it can't even hold isn't there."""
    try:
        return question()
    except (OSError, ValueError):
        return False


def _siblings(path: Path) -> list[str]:
    try:
        return [entry.name for entry in islice(path.parent.iterdir(), _SIBLINGS)]
    except (OSError, ValueError):
        return []


# ---------------------------------------------------------------------- reporting


def _report(problems: Iterable[Problem], config: Config) -> str:
    """Return the problems in the order of the config, the first of each place, a line each."""
    first: dict[KeyPath, Problem] = {}
    for problem in problems:
        first.setdefault(problem.path, problem)
    ordered = sorted(first.values(), key=lambda problem: _position(problem.path, config))
    count = f"{len(ordered)} problem{'s' if ordered[1:] else ''}"
    return "\n  ".join([f"The config has {count}:", *map(str, ordered)])


def _position(path: KeyPath, value: Any) -> tuple[int, ...]:
    """Return where in a config a path is, as numbers to sort by; absent keys come last."""
    position = []
    for key in path:
        keys = list(value) if isinstance(value, dict) else []
        if isinstance(key, int):
            position.append(key)
        else:
            position.append(keys.index(key) if key in keys else len(keys))
        inside = (isinstance(value, dict) and key in keys) or (
            isinstance(value, list) and isinstance(key, int) and key < len(value)
        )
        value = value[key] if inside else None
    return tuple(position)
