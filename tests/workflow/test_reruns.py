"""The rerun matrix: after a change, the jobs that depend on it run again, and no others.

A row is a change and the rules whose jobs it touches first; what comes after them is
read off `AFTER`, written down by hand. All rows are dry runs on copies of one atlas,
two at a time.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from running import REPOSITORY, Config, Outcome, Place

from convatlas.schema import read_schema

Plan = dict[str, set[str]]

SCENES, PICTURES = {"study": "scenes"}, {"study": "pictures"}
STUDIES = {  # what each is of
    "scenes": {"dataset": "scenes", "model": "small", "occluded": "relu4"},
    "pictures": {"dataset": "pictures", "model": "mine", "occluded": "second.1"},
}

# --------------------------------------------------------- what follows from what

RUNNING = {  # what runs a network
    "extract_activations",
    "record_maps",
    "sweep_occlusion",
    "score_scenes",
    "project_patches",
    "project_strongest",
    "rank_directions",
    "record_saliency",
    "measure_fields",
    "track_health",
}
PLOTS = {
    "plot_filters",
    "plot_frequency",
    "plot_redundancy",
    "plot_kernels",
    "plot_maps",
    "plot_patches",
    "plot_projections",
    "plot_directions",
    "plot_saliency",
    "plot_nearest",
    "plot_accuracy",
    "plot_scatter",
    "plot_views",
    "plot_grid",
    "plot_perplexities",
    "plot_quality",
    "plot_occlusion",
    "plot_occlusion_score",
    "plot_growth",
    "plot_training",
    "plot_health",
    "plot_worst",
    "plot_snapshots",
    "plot_firing",
}
END = {"record_provenance", "build_report"}

VIEWS = {"plot_views", "plot_perplexities", "plot_quality"}

AFTER: dict[str, set[str]] = {
    "prepare_images": {
        *("train_model", "extract_activations", "score_predictions", "rank_patches"),
        *("pick_exhibit", "project_patches", "project_strongest", "sweep_occlusion"),
        *("score_scenes", "plot_patches", "plot_projections", "plot_scatter", "plot_grid"),
        *("rank_directions", "plot_directions", "find_nearest", "plot_nearest"),
        *("classify_neighbours", "find_neighbours", "measure_quality", *VIEWS),
        *("measure_fields", "track_health", "plot_worst", "sample_firing", "plot_firing"),
    },
    "list_classes": {
        *("plot_maps", "plot_patches", "plot_scatter", "plot_grid", "plot_occlusion"),
        *("plot_occlusion_score", "plot_saliency", "plot_directions", "plot_nearest", *VIEWS),
        "plot_firing",
    },
    "import_model": {*RUNNING, "cut_filters"},
    "train_model": {*RUNNING, "cut_filters", "plot_training"},
    "describe_model": {  # but see `affected`
        *(RUNNING - {"score_scenes", "record_saliency"}),
        *("cut_filters", "score_predictions", "rank_patches", "sample_firing"),
        *("plot_maps", "plot_patches", "plot_directions", "plot_occlusion", "plot_growth"),
        *("find_nearest", "plot_kernels"),
    },
    "extract_activations": {
        *("gather_activations", "score_predictions", "rank_patches", "find_neighbours"),
        *("rank_directions", "find_nearest", "classify_neighbours"),
        *("measure_health", "sample_firing"),
    },
    "gather_activations": {
        *("score_predictions", "rank_patches", "find_neighbours", "rank_directions"),
        *("find_nearest", "classify_neighbours"),
        *("measure_health", "sample_firing"),
    },
    "score_predictions": {"plot_scatter", "plot_views", "plot_accuracy"},
    "pick_exhibit": {
        *("list_exhibits", "record_maps", "sweep_occlusion", "project_strongest"),
        *("plot_maps", "plot_occlusion", "plot_growth", "record_saliency", "plot_saliency"),
        "find_nearest",
    },
    "list_exhibits": {"score_scenes"},
    "record_maps": {"plot_maps"},
    "cut_filters": {"plot_filters", "plot_frequency", "plot_redundancy", "plot_kernels"},
    "rank_patches": {
        *("project_patches", "project_strongest", "plot_patches", "plot_projections"),
        *("rank_directions", "plot_directions", "plot_worst"),
    },
    "rank_directions": {"plot_directions"},
    "measure_health": {"plot_health", "plot_worst", "sample_firing"},
    "track_health": {"plot_snapshots"},
    "sample_firing": {"plot_firing"},
    "record_saliency": {"plot_saliency"},
    "measure_fields": {"plot_growth"},
    "project_patches": {"plot_projections"},
    "find_nearest": {"plot_nearest"},
    "classify_neighbours": {"plot_accuracy"},
    "find_neighbours": {"embed_codes", "embed_otherwise", "measure_quality"},
    "embed_codes": {"arrange_grid", "plot_scatter", "measure_quality", *VIEWS},
    "embed_otherwise": {"measure_quality", "plot_perplexities"},
    "measure_quality": {"plot_quality", "plot_perplexities"},
    "arrange_grid": {"plot_grid"},
    "sweep_occlusion": {"project_strongest", "plot_occlusion"},
    "project_strongest": {"plot_occlusion"},
    "score_scenes": {"gather_scores"},
    "gather_scores": {"plot_occlusion_score"},
}
# Snakemake knows what else there is of a study once its layers are known.
BEFORE_LAYERS = {
    *("prepare_images", "list_classes", "train_model", "import_model", "describe_model"),
    *("extract_activations", "gather_activations", "score_predictions", "pick_exhibit"),
    *("list_exhibits", "record_provenance", "build_report"),
}


def wildcards_of(job: str) -> dict[str, str]:
    return dict(pair.split("=") for pair in job.split(", ") if pair)


def studies_of(rule: str, wildcards: Mapping[str, str]) -> set[str]:
    """Return the studies that a job is of."""
    if "study" in wildcards:
        return {wildcards["study"]}
    kind = "dataset" if "dataset" in wildcards else "model"
    return {name for name, of in STUDIES.items() if of[kind] == wildcards[kind]}


def follows(rule: str, job: str, after: str, later: str) -> bool:
    """Say whether the job `later` of the rule `after` uses what a job makes."""
    if after not in AFTER.get(rule, set()) | (END if rule not in END else {"build_report"}):
        return False
    first, second = wildcards_of(job), wildcards_of(later)
    if not studies_of(rule, first) & studies_of(after, second):
        return False
    if rule == "prepare_images" and first["part"] == "train":
        return after in {"train_model", *END}
    if rule == "prepare_images" and after == "train_model":
        return True  # it is judged on the images
    if rule in ("extract_activations", "gather_activations") and second.get("layer") == "pixels":
        return after in END
    if after == "plot_growth" and rule == "pick_exhibit":
        return first["exhibit"] == "0"
    if rule == "rank_patches" and after == "project_strongest":
        return first["layer"] == STUDIES[first["study"]]["occluded"]
    shared = first.keys() & second.keys() & {"study", "layer", "exhibit"}
    return all(first[key] == second[key] for key in shared)


def affected(jobs: Plan, first: Plan) -> Plan:
    """Return all jobs that must run again where the jobs `first` do."""
    found = {(rule, job) for rule, named in first.items() for job in named}
    waiting = list(found)
    while waiting:
        rule, job = waiting.pop()
        for after, named in jobs.items():
            for later in named:
                if (after, later) not in found and follows(rule, job, after, later):
                    found.add((after, later))
                    waiting.append((after, later))
    redescribed = {
        study
        for rule, job in found
        if rule == "describe_model"
        for study in studies_of(rule, wildcards_of(job))
    }
    plan: Plan = {}
    for rule, job in found:
        known = not studies_of(rule, wildcards_of(job)) & redescribed
        if known or rule in BEFORE_LAYERS:
            plan.setdefault(rule, set()).add(job)
    return plan


def select(jobs: Plan, rules: set[str] | frozenset[str], wanted: Mapping[str, str]) -> Plan:
    """Return the jobs of some rules that have the wanted wildcards, or are of their study."""

    def fits(rule: str, job: str) -> bool:
        own = wildcards_of(job)
        if set(wanted) == {"study"}:
            return wanted["study"] in studies_of(rule, own)
        return all(own.get(key) == value for key, value in wanted.items())

    return {rule: {job for job in jobs[rule] if fits(rule, job)} for rule in rules}


# ----------------------------------------------------------------------- the rows


@dataclass(frozen=True)
class Row:
    """A change, and what it touches.

    `rules` are touched in all their jobs that have the wildcards `of`; `new` are jobs that
    weren't there before, with what comes after them where that isn't said in `rules`.
    """

    name: str
    edit: Callable[[Place], object]
    rules: frozenset[str] = frozenset()
    of: Mapping[str, str] = field(default_factory=dict)
    new: Mapping[str, set[str]] = field(default_factory=dict)
    gone: Mapping[str, str] = field(default_factory=dict)  # jobs of the atlas no longer wanted
    without: frozenset[str] = frozenset()  # rules of which no job is wanted any longer
    unknown: str = ""  # the study whose layers aren't known

    def expected(self, jobs: Plan) -> Plan:
        kept = {
            rule: {
                job
                for job in named
                if not self.gone
                or any(wildcards_of(job).get(key) != value for key, value in self.gone.items())
            }
            for rule, named in jobs.items()
            if rule not in self.without
        }
        plan = affected(kept, select(kept, self.rules, self.of)) if self.rules else {}
        for rule, named in self.new.items():
            plan.setdefault(rule, set()).update(named)
        for rule in plan.keys() - BEFORE_LAYERS:
            plan[rule] = {job for job in plan[rule] if f"study={self.unknown}" not in job}
        return {rule: named for rule, named in plan.items() if named}


def row(
    name: str,
    edit: Callable[[Place], object],
    *rules: str,
    of: Mapping[str, str] | None = None,
    new: Mapping[str, set[str]] | None = None,
    gone: Mapping[str, str] | None = None,
    without: str = "",
    unknown: str = "none",
) -> Row:
    left_out = frozenset(without.split())
    return Row(name, edit, frozenset(rules), of or {}, new or {}, gone or {}, left_out, unknown)


def put(path: str, value: Any) -> Callable[[Place], None]:
    """Return an edit that sets a key of the config, given with dots."""

    def change(config: Config) -> None:
        *above, last = path.split("/")
        for key in above:
            config = config.setdefault(key, {})
        config[last] = value

    return lambda place: place.change(change)


def again(section: str, name: str) -> Callable[[Place], None]:
    """Return an edit that lists a model or data set once more, as `again`."""
    return lambda place: place.change(lambda c: c[section].update(again=dict(c[section][name])))


def both(*edits: Callable[[Place], object]) -> Callable[[Place], None]:
    def edit(place: Place) -> None:
        for each in edits:
            each(place)

    return edit


def swap(name: str, old: str, new: str) -> Callable[[Place], None]:
    """Return an edit that replaces a text in a file of the working directory."""

    def edit(place: Place) -> None:
        replace_text(place.folder / name, old, new)

    return edit


def replace_text(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def append(path: str, text: str) -> Callable[[Place], None]:
    """Return an edit that adds a text to files of the workflow, `path` a glob."""

    def edit(place: Place) -> None:
        found = sorted(place.project.glob(path))
        assert found, path
        for file in found:
            with file.open("a") as opened:
                opened.write(text)

    return edit


def other_weights(place: Place) -> None:
    """Put other weights of the same name, size and time in the place of those there."""
    path = place.folder / "nets/tiny.pth"
    size, times = path.stat().st_size, path.stat().st_mtime_ns
    saved = torch.load(path, weights_only=True)
    saved["state_dict"] = {name: -value for name, value in saved["state_dict"].items()}
    torch.save(saved, path)
    os.utime(path, ns=(times, times))
    assert path.stat().st_size == size


def touch_all(place: Place) -> None:
    """Touch all that is no result: the workflow, the images, the weights, the network."""
    for path in [*place.project.rglob("*"), *place.folder.glob("*"), *place.folder.glob("*/*/*")]:
        if "results" not in path.parts and ".snakemake" not in path.parts:
            os.utime(path)


def remark_everywhere(place: Place) -> None:
    """Write remarks into all modules and scripts, and other docstrings into all modules."""
    for path in [*place.project.glob("workflow/scripts/*.py"), place.folder / "nets/tiny.py"]:
        path.write_text(f"# A remark.\n{path.read_text()}# Another.\n")
    for path in place.project.glob("workflow/convatlas/**/*.py"):
        path.write_text(
            f"{path.read_text().replace(chr(34) * 3, chr(34) * 3 + 'Now: ', 1)}\n# So.\n"
        )


def reorder(place: Place) -> None:
    def backwards(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: backwards(value[key]) for key in reversed(value)}
        return value

    def change(config: Config) -> None:
        turned = backwards(config)
        config.clear()
        config.update(turned)

    place.change(change)


def label_more(name: str) -> Callable[[Place], None]:
    def edit(place: Place) -> None:
        with (place.folder / "labels.csv").open("a") as file:
            file.write(f"{name},1\n")

    return edit


def copy_of(old: str, new: str) -> Callable[[Place], None]:
    return lambda place: shutil.copy2(place.folder / old, place.folder / new) and None


def move(old: str, new: str) -> Callable[[Place], None]:
    return lambda place: (place.folder / old).rename(place.folder / new) and None


def forget_times(place: Place) -> None:
    """Leave of the folder what a fresh clone beside old results has."""
    shutil.rmtree(place.folder / ".snakemake")
    touch_all(place)


def of(study: str, **wildcards: str) -> set[str]:
    return {", ".join(f"{key}={value}" for key, value in {"study": study, **wildcards}.items())}


LAYER = {
    **{rule: of("pictures", layer="first.2") for rule in ("rank_patches", "project_patches")},
    **{rule: of("pictures", layer="first.2") for rule in ("plot_patches", "plot_projections")},
    **{rule: of("pictures", layer="first.2") for rule in ("rank_directions", "plot_directions")},
    **{rule: of("pictures", layer="first.2") for rule in ("find_neighbours", "embed_codes")},
    "classify_neighbours": of("pictures", layer="first.2"),
    **{rule: of("pictures", layer="first.2") for rule in ("measure_health", "plot_worst")},
    **{rule: of("pictures", layer="first.2") for rule in ("sample_firing", "plot_firing")},
}
NEW_EXHIBITS = {  # from two to six
    rule: set().union(*(of("pictures", exhibit=str(n)) for n in range(2, 6)))
    for rule in (
        *("pick_exhibit", "record_maps", "sweep_occlusion", "project_strongest"),
        *("plot_maps", "plot_occlusion", "record_saliency", "plot_saliency"),
        *("find_nearest", "plot_nearest"),
    )
}
HEAD = {
    **{
        rule: of("pictures", layer="head")
        for rule in (
            *("find_neighbours", "embed_codes", "arrange_grid", "plot_scatter", "plot_grid"),
            *("plot_views", "plot_perplexities"),
        )
    },
    "embed_otherwise": of("pictures", layer="head", perplexity="5"),
}
OTHERWISE = {
    "embed_otherwise": of("pictures", layer="mean", perplexity="4")
    | of("scenes", layer="relu5", perplexity="4")
}
LISTING = (  # they list the layers
    *("find_nearest", "plot_accuracy", "measure_quality", "measure_fields", "plot_health"),
)
EMBEDDING_RULES = ("embed_codes", "embed_otherwise")
SHARDS = of("scenes", shard="2") | of("pictures", shard="2")
SCORE_SHARDS = of("scenes", shard="1")
SWEEPING = ("sweep_occlusion", "score_scenes")
ENDS = {rule: {"study=scenes", "study=pictures"} for rule in END}
ENDS_OF_PICTURES = {rule: {"study=pictures"} for rule in END}
ENDS_OF_SCENES = {rule: {"study=scenes"} for rule in END}
PREPARED = ("prepare_images",)
ALL_IMAGES = {"dataset": "scenes"}

EMBEDDING, OCCLUSION = "analyses/embedding/", "analyses/occlusion/"
FIELDS = "analyses/receptive_fields/"
DATA, MINE, SMALL = "datasets/pictures/", "models/mine/", "models/small/"
OWN = "studies/pictures/"

CONFIG_ROWS = [
    # ---- the analyses' parameters
    row("analyses.filters.similar", put("analyses/filters/similar", 0.8), "plot_redundancy", *END),
    row("analyses.maps.units", put("analyses/maps/units", 3), "plot_maps", *END),
    row("analyses.maps.large", put("analyses/maps/large", 3), "plot_maps"),
    row("analyses.receptive_fields.images", put(FIELDS + "images", 5), "measure_fields"),
    row("analyses.receptive_fields.share", put(FIELDS + "share", 0.5), "measure_fields"),
    row("analyses.patches.per_unit", put("analyses/patches/per_unit", 2), "rank_patches", *END),
    row(
        "analyses.projections.units",
        put("analyses/projections/units", 3),
        *("project_patches", "plot_patches", "plot_directions", "plot_kernels", *END),
    ),
    row(
        "analyses.directions.number", put("analyses/directions/number", 5), "rank_directions", *END
    ),
    row(
        "no directions",
        put("analyses/directions/number", 0),
        *END,
    ),
    row("analyses.neighbours.shown", put("analyses/neighbours/shown", 2), "find_nearest"),
    row("analyses.neighbours.voters", put("analyses/neighbours/voters", 2), "classify_neighbours"),
    row("analyses.neighbours.sample", put("analyses/neighbours/sample", 9), "classify_neighbours"),
    row(
        "analyses.neighbours.code",
        put("analyses/neighbours/code", "max"),
        *("find_nearest", "classify_neighbours"),
        gone={"layer": "pixels"},  # which aren't touched by it
    ),
    row(
        "analyses.embedding.layer",
        put(OWN + EMBEDDING + "layer", "head"),
        *("measure_quality", *END),
        of=PICTURES,
        new=HEAD,
        gone={"layer": "mean"},
    ),
    row(
        "analyses.embedding.code",
        put(EMBEDDING + "code", "max"),
        "find_neighbours",
        gone={"layer": "pixels"},
    ),
    row("analyses.embedding.components", put(EMBEDDING + "components", 4), "find_neighbours"),
    row("analyses.embedding.neighbours", put(EMBEDDING + "neighbours", 20), "find_neighbours"),
    row("analyses.embedding.sample", put(EMBEDDING + "sample", 10), "find_neighbours"),
    row("analyses.embedding.perplexity", put(EMBEDDING + "perplexity", 4), "embed_codes"),
    row(
        "analyses.embedding.perplexities",
        put(EMBEDDING + "perplexities", [4]),
        *("measure_quality", *END),
        new=OTHERWISE,
        gone={"perplexity": "5"},
    ),
    row(
        "analyses.embedding.compare",
        put(EMBEDDING + "compare", False),
        *("measure_quality", *END),
        without="plot_quality",
    ),
    row("analyses.embedding.attributes", put(EMBEDDING + "attributes", []), "plot_views"),
    *(
        row(f"analyses.embedding.{key}", put(EMBEDDING + key, value), *EMBEDDING_RULES)
        for key, value in (("iterations", 60), ("early_exaggeration", 6))
    ),
    row(
        "analyses.embedding.seed",
        put(EMBEDDING + "seed", 5),
        *("find_neighbours", *EMBEDDING_RULES, "arrange_grid", "measure_quality"),
    ),
    row("analyses.embedding.grid", put(EMBEDDING + "grid", 4), "arrange_grid"),
    row("analyses.occlusion.size", put(OCCLUSION + "size", 16), *SWEEPING),
    # As a set, the numbers 8, 8 and 32 (the batch size) are those before.
    row("size as another number", put(OCCLUSION + "size", 32), *SWEEPING),
    row("analyses.occlusion.stride", put(OCCLUSION + "stride", 16), *SWEEPING),
    row("analyses.occlusion.fill", put(OCCLUSION + "fill", "grey"), *SWEEPING),
    row(
        "analyses.occlusion.score.scenes",
        put(OCCLUSION + "score/scenes", 6),
        *("score_scenes", *END),
    ),
    row(
        "analyses.occlusion.score.shards",
        put(OCCLUSION + "score/shards", 2),
        *("score_scenes", *END),
        new={"score_scenes": SCORE_SHARDS},
    ),
    row(
        "analyses.occlusion.exhibits_per_job",
        put(OCCLUSION + "exhibits_per_job", 2),
        *END,  # which tell the config: what was made by one job stays as it is
    ),
    row("exhibits_per_job", put("exhibits_per_job", 2)),
    row(
        "no scenes to score",
        put(OCCLUSION + "score/scenes", 0),
        *END,
    ),
    row(
        "analyses.occlusion.layer",
        put(OWN + OCCLUSION + "layer", "first.1"),
        "sweep_occlusion",
        of=PICTURES,
    ),
    row("analyses.occlusion.unit", put(OCCLUSION + "unit", 2), "sweep_occlusion"),
    row(
        "of one study alone",
        put(OWN + OCCLUSION + "fill", [0, 128, 255]),
        "sweep_occlusion",
        of=PICTURES,
    ),
    row("analyses.firing.threshold", put("analyses/firing/threshold", 0.25), "sample_firing"),
    row("analyses.firing.images", put("analyses/firing/images", 5), "sample_firing"),
    row("analyses.firing.units", put("analyses/firing/units", 3), "plot_firing", *END),
    # ---- of the whole config
    row("figures.formats", put("figures/formats", ["png", "svg", "pdf"]), *PLOTS),
    row("figures.dpi", put("figures/dpi", 90), *PLOTS),
    row(
        "seed",
        put("seed", 7),
        *("pick_exhibit", "score_scenes", "project_patches", "plot_patches"),
        *("rank_directions", "plot_directions", "classify_neighbours", "plot_kernels"),
        "measure_fields",
    ),
    row(
        "batch_size",
        put("batch_size", 8),
        *("extract_activations", "project_patches", "project_strongest", "rank_directions"),
        "measure_fields",
        "track_health",
    ),
    row("shards", put("shards", 3), "extract_activations", new={"extract_activations": SHARDS}),
    # ---- of data sets
    row(
        "datasets.shapes.train",
        put("datasets/scenes/train", 70),
        *PREPARED,
        of={"dataset": "scenes", "part": "train"},
    ),
    row(
        "datasets.shapes.test",
        put("datasets/scenes/test", 30),
        *PREPARED,
        of={"dataset": "scenes", "part": "images"},
    ),
    row(
        "datasets.shapes.size",
        put("datasets/scenes/size", 40),
        *(*PREPARED, "describe_model"),
        of=SCENES,
    ),
    row("datasets.shapes.seed", put("datasets/scenes/seed", 1), *PREPARED, of=ALL_IMAGES),
    row(
        "datasets.folder.path",
        both(move("pictures", "photos"), put(DATA + "path", "photos")),
        *PREPARED,
        of=PICTURES,
    ),
    row(
        "datasets.folder.labels",
        both(move("labels.csv", "l.csv"), put(DATA + "labels", "l.csv")),
        *PREPARED,
        of=PICTURES,
    ),
    row(
        "datasets.folder.classes",
        both(move("names.txt", "n.txt"), put(DATA + "classes", "n.txt")),
        *PREPARED,
        of=PICTURES,
    ),
    row(
        "datasets.folder.resize",
        put(DATA + "resize", 40),
        *(*PREPARED, "describe_model"),
        of=PICTURES,
    ),
    row(
        "datasets.folder.crop",
        put(DATA + "crop", 24),
        *(*PREPARED, "describe_model"),
        of=PICTURES,
    ),
    row(
        "datasets.folder.interpolation",
        put(DATA + "interpolation", "bicubic"),
        *PREPARED,
        of=PICTURES,
    ),
    row("datasets.folder.on_error", put(DATA + "on_error", "skip"), *PREPARED, of=PICTURES),
    # ---- of models
    row(
        "models.architecture",
        both(
            copy_of("nets/tiny.py", "nets/small.py"),
            put(MINE + "architecture", "nets/small.py:build"),
        ),
        *("import_model", "describe_model"),
        of=PICTURES,
    ),
    row(
        "models.options",
        put(MINE + "options/note", "x"),
        *("import_model", "describe_model"),
        of=PICTURES,
    ),
    row(
        "models.weights",
        both(move("nets/tiny.pth", "nets/t.pth"), put(MINE + "weights", "nets/t.pth")),
        "import_model",
        of=PICTURES,
    ),
    row(
        "models.normalize.mean",
        put(MINE + "normalize/mean", [0.4] * 3),
        "import_model",
        of=PICTURES,
    ),
    row(
        "models.normalize.std", put(MINE + "normalize/std", [0.2] * 3), "import_model", of=PICTURES
    ),
    *(
        row(f"models.train.{key}", put(f"{SMALL}train/{key}", value), "train_model", of=SCENES)
        for key, value in (
            ("epochs", 2),
            ("batch_size", 16),
            ("learning_rate", 0.01),
            ("weight_decay", 0.5),
            ("seed", 1),
            ("snapshots", [1]),
        )
    ),
    row(
        "models.train.validation",
        put(SMALL + "train/validation", "pictures"),
        *("train_model", *END),
        of=SCENES,
    ),
    row(
        "models.train.dataset",
        both(put(SMALL + "train/dataset", "pictures"), put(SMALL + "train/validation", "scenes")),
        *("train_model", "describe_model"),
        of=SCENES,
    ),
    # ---- of studies
    row(
        "studies.model",
        both(
            again("models", "mine"),
            put(OWN + "model", "again"),
        ),
        *("extract_activations", "gather_activations", "score_predictions", *END),
        of=PICTURES,
        new={"import_model": {"model=again"}, "describe_model": {"model=again"}},
        unknown="pictures",
    ),
    row(
        "studies.dataset",
        both(
            again("datasets", "pictures"),
            put(OWN + "dataset", "again"),
        ),
        *(AFTER["prepare_images"] - {"train_model"} | AFTER["list_classes"]),
        of=PICTURES,
        new={
            "prepare_images": {"dataset=again, part=images"},
            "list_classes": {"dataset=again"},
        },
    ),
    row(
        "studies.layers",
        put(OWN + "layers", ["first.1", "second.1", "first.2"]),
        *("plot_maps", "plot_growth", *LISTING, *END),
        of=PICTURES,
        new=LAYER,
    ),
    row(
        "a layer less",
        put(OWN + "layers", ["second.1"]),
        *("plot_maps", "plot_growth", *LISTING, *END),
        of=PICTURES,
        gone={"study": "pictures", "layer": "first.1"},
    ),
    row(
        "studies.exhibits",
        put(OWN + "exhibits", 6),
        *("list_exhibits", *END),
        of=PICTURES,
        new=NEW_EXHIBITS,
    ),
    row(
        "studies.extract",
        put(OWN + "extract", ["*", "first.*"]),
        "extract_activations",
        of=PICTURES,
    ),
    row(
        "a study more",
        lambda place: place.change(
            lambda c: c["studies"].update(again={"model": "mine", "dataset": "pictures"})
        ),
    ),
    row("a study less", lambda place: place.change(lambda c: c["studies"].pop("scenes"))),
    row("the keys in another order", reorder),
    row("thirty as 30.0", put(EMBEDDING + "perplexity", 3.0)),
    row(
        "what isn't used",
        lambda place: place.change(lambda c: c["datasets"].update(more={"source": "digits"})),
    ),
]

FILE_ROWS = [
    row(
        "an image changed",
        lambda place: shutil.copy(
            place.folder / "pictures/blue/1.png", place.folder / "pictures/blue/2.png"
        ),
        *PREPARED,
        of=PICTURES,
    ),
    row(
        "an image more",
        both(copy_of("pictures/blue/1.png", "pictures/blue/6.png"), label_more("blue/6.png")),
        *PREPARED,
        of=PICTURES,
    ),
    row(
        "an image less",
        both(
            lambda place: (place.folder / "pictures/blue/5.png").unlink(),
            swap("labels.csv", "blue/5.png,1\n", ""),
        ),
        *PREPARED,
        of=PICTURES,
    ),
    row("an image that isn't listed", copy_of("pictures/blue/1.png", "pictures/blue/7.png")),
    row(
        "another label", swap("labels.csv", "blue/5.png,1", "blue/5.png,2"), *PREPARED, of=PICTURES
    ),
    row("a class's name", swap("names.txt", "blue", "azure"), "list_classes", of=PICTURES),
    row(
        "a class more",
        swap("names.txt", "coral\n", "coral\ndun\n"),
        *("list_classes", "prepare_images"),
        of=PICTURES,
    ),
    row("weights of the same name, size and time", other_weights, "import_model", of=PICTURES),
    row(
        "the network's file",
        swap("nets/tiny.py", "x.mean((2, 3))", "x.amax((2, 3))"),
        *("import_model", "describe_model"),
        of=PICTURES,
    ),
    row(
        "a module that it imports",
        swap("nets/parts.py", "padding=1", "padding=(1, 1)"),
        *("import_model", "describe_model"),
        of=PICTURES,
    ),
    row("a caption", append("workflow/report/patches.rst", "\nMore.\n"), "build_report"),
    row(
        "the page", append("workflow/convatlas/report/templates/style.css", "/**/"), "build_report"
    ),
    row("remarks and docstrings everywhere", remark_everywhere),
    row("all touched", touch_all),
    row("a fresh clone over old results", forget_times),
    row(
        "the results in another place",
        lambda place: place.folder.rename(place.folder.with_name("moved")),
    ),
    row("other software listed", append("environment.yml", "  - more=1.0\n")),
    row("another number of threads", append("workflow/profiles/workstation/config.yaml", "\n")),
]

SHARED = {"embed_codes": EMBEDDING_RULES}  # scripts of several rules

SCRIPT_ROWS = [
    row(
        f"script {path.stem}",
        append(f"workflow/scripts/{path.name}", "\n_EDITED = 1\n"),
        *SHARED.get(path.stem, (path.stem,)),
    )
    for path in sorted((REPOSITORY / "workflow/scripts").glob("*.py"))
    if path.stem not in ("describe", "plan")  # make nothing
]

MODULES = sorted(
    path.relative_to(REPOSITORY / "workflow").with_suffix("")
    for path in (REPOSITORY / "workflow/convatlas").rglob("*.py")
)


def dotted(path: Path) -> str:
    return ".".join(path.parts).removesuffix(".__init__")


MODULE_ROWS = [
    row(f"module {dotted(path)}", append(f"workflow/{path}.py", "\n_EDITED = 1\n"))
    for path in MODULES
]
# For torchvision's networks, imported where they are needed, which isn't in this atlas.
NOT_LOADED = {
    "convatlas.models.zoo": {"import_model", "train_model", "describe_model", *RUNNING},
}

ROWS = [*CONFIG_ROWS, *FILE_ROWS, *SCRIPT_ROWS, *MODULE_ROWS]


# ------------------------------------------------------------------------ the runs


@pytest.fixture(scope="module")
def jobs(made: tuple[Place, Outcome]) -> Plan:
    """All jobs of the atlas."""
    return made[1].planned


@pytest.fixture(scope="module")
def plans(
    request: pytest.FixtureRequest, atlas: Place, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Mapping[str, Future[Plan]]]:
    """What a run would do after the change of each row that is asked for."""
    wanted = {
        item.callspec.params["row"].name
        for item in request.session.items
        if isinstance(item, pytest.Function) and "row" in getattr(item, "fixturenames", ())
        if hasattr(item, "callspec")
    }

    def plan(one: Row, folder: Path) -> Plan:
        place = atlas.copied(folder, linked=True)  # nothing is written into the results
        one.edit(place)
        if not place.folder.exists():
            place = Place(place.project, place.folder.with_name("moved"))
        found = place.plan()
        shutil.rmtree(folder)
        return found

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        folders = {r.name: tmp_path_factory.mktemp("row") for r in ROWS if r.name in wanted}
        yield {r.name: pool.submit(plan, r, folders[r.name]) for r in ROWS if r.name in folders}
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("row", [*CONFIG_ROWS, *FILE_ROWS, *SCRIPT_ROWS], ids=lambda r: r.name)
def test_a_change(row: Row, plans: Mapping[str, Future[Plan]], jobs: Plan) -> None:
    plan = plans[row.name].result()
    if row.name == "a study more":
        assert plan
        assert all("study=again" in job for named in plan.values() for job in named)
    else:
        assert plan == row.expected(jobs)


@pytest.mark.parametrize("row", MODULE_ROWS, ids=lambda r: r.name)
def test_an_edited_module(
    row: Row, plans: Mapping[str, Future[Plan]], jobs: Plan, observed: Path
) -> None:
    """The rules that run again are those whose jobs have loaded the module when they ran."""
    module = row.name.removeprefix("module ")
    rules = {
        record["rule"]
        for record in map(json.loads, (path.read_text() for path in observed.glob("*.json")))
        if module in record["modules"]
    } | NOT_LOADED.get(module, set())
    touched = select(jobs, frozenset(rules), {})
    if reader := re.fullmatch(r"convatlas\.data\.(folder|shapes)", module):
        own = {"folder": "pictures", "shapes": "scenes"}[reader[1]]
        touched["prepare_images"] = {x for x in jobs["prepare_images"] if f"dataset={own}" in x}
    if module == "convatlas.data.presets":  # for folders without a size, imported where needed
        touched["prepare_images"] = {"dataset=pictures, part=images"}
    assert plans[row.name].result() == affected(jobs, touched)


def test_the_matrix_has_a_row_for_every_key_of_the_config() -> None:
    def leaves(schema: Mapping[str, Any], above: str) -> Iterator[str]:
        for key, inner in schema.get("properties", {}).items():
            name = f"{above}.{key}"
            yield from leaves(inner, name) if inner.get("properties") else [name]

    kinds_of_data = [rule["then"] for rule in read_schema("datasets")["allOf"]]
    definitions = {schema["title"]: schema for schema in kinds_of_data}
    keys = {
        *leaves(read_schema("analyses"), "analyses"),
        *(key for key in leaves(read_schema("models"), "models")),
        *(key for key in leaves(read_schema("studies"), "studies") if ".analyses." not in key),
        *(f"{key}" for key in ("figures.formats", "figures.dpi", "seed", "batch_size", "shards")),
        *leaves(definitions["shapes"], "datasets.shapes"),
        *leaves(definitions["folder"], "datasets.folder"),
    }
    without = {f"analyses.{name}" for name in ("saliency", "health")}  # no keys
    kinds = {"datasets.shapes.source", "datasets.folder.source"}  # another kind of data set
    assert keys - without - kinds <= {r.name for r in CONFIG_ROWS}


def test_the_matrix_has_a_row_for_every_module_and_rule(jobs: Plan) -> None:
    scripts = {rule: script for script, rules in SHARED.items() for rule in rules}
    assert {f"script {scripts.get(rule, rule)}" for rule in jobs} == {r.name for r in SCRIPT_ROWS}
    assert len(MODULE_ROWS) > 50


def test_the_matrix_can_fail(finished: Place, jobs: Plan) -> None:
    """Without the digests that rules have as parameters, an edited module goes unseen."""
    changed = next(r for r in MODULE_ROWS if r.name == "module convatlas.directions")
    changed.edit(finished)
    expected = affected(jobs, select(jobs, frozenset({"rank_directions"}), {}))
    assert set(finished.plan()) == set(expected)
    assert finished.plan("--rerun-triggers", "mtime", "input", "code") == {}


def test_new_weights_are_carried_through_to_the_end(finished: Place, jobs: Plan) -> None:
    other_weights(finished)
    planned = finished.plan()
    outcome = finished.run("--cores", "2")
    assert outcome.code == 0, outcome.text
    assert outcome.planned == planned
    assert finished.plan() == {}


def test_what_comes_after_new_layers_runs_too(finished: Place, jobs: Plan) -> None:
    """The dry run can't say, so it is run for good."""
    swap("nets/tiny.py", "x.mean((2, 3))", "x.amax((2, 3))")(finished)
    outcome = finished.run("--cores", "2")
    assert outcome.code == 0, outcome.text
    rules = {"import_model", "describe_model", *AFTER["import_model"], *AFTER["describe_model"]}
    # Of scenes only, which no imported model looks at here, and of a training.
    rules -= {"score_scenes", "track_health"}
    assert rules | {"embed_codes", "plot_occlusion"} <= set(outcome.planned)
    assert not any("scenes" in job for named in outcome.planned.values() for job in named)
    assert finished.plan() == {}


def test_nothing_is_to_be_done_twice(atlas: Place) -> None:
    outcome = atlas.run("--dry-run")
    assert "Nothing to be done" in outcome.text
    assert outcome.planned == {}
