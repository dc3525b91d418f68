"""What all rules share: the checked config, and what it says of a study, model or data set.

Parameters reach a rule as functions of its wildcards, made here, so that a change of
one value reruns the rules that use it and no others. Code, and files that no rule makes
(photos, weights, a user's Python file), count by their content.
"""

import json
import os
import re
import sys
import time
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path

import snakemake.jobs
from snakemake.logging import logger
from snakemake.persistence.file import FilePersistence

from convatlas.codes import PIXELS
from convatlas.config import check_keys, load
from convatlas.data.census import take_census
from convatlas.data.prepare import (
    known_classes,
    size_is_read,
    size_keys,
    source_digest,
    source_module,
)
from convatlas.digest import check_syntax, code_digest, file_digest, files_digest
from convatlas.errors import ConvatlasError
from convatlas.files import check_writable, keep_inside
from convatlas.job import HEAD
from convatlas.layers import (
    code_layer,
    filter_layers,
    find_layer,
    first_filters,
    has_spectrum,
    last_map,
    pick_units,
    read_layers,
    select_layers,
    stored_layers,
)
from convatlas.models import shaped_by_weights
from convatlas.plan import Planned, read_seconds
from convatlas.sizing import Network, Work, need, sized_rules, stand_in, uses_gpu
from convatlas.slurm import GPUS
from convatlas.startup import read_startup

STARTED = time.time()


def or_stop(function, *arguments, place=""):
    """Call a function of the package; end with its message alone if it raises one.

    `place` says what the message is about, where the function can't know.
    """
    try:
        return function(*arguments)
    except ConvatlasError as error:
        # Not through Snakemake's logger, which also writes a file, were the disk full.
        print(f"convatlas: {place}{error}", file=sys.stderr)
        sys.exit(1)  # an exception would come out with a traceback


# Jobs look whether this process is still there: an orphan of a killed run ends, and writes nothing.
os.environ[HEAD] = str(os.getpid())

# How many GPUs there are (`--resources gpu=0`) is said to the main process alone. On a cluster
# without any, also the Snakemake that a job starts on its node mustn't ask for one.
if workflow.is_main_process:
    gpus = workflow.global_resources.get("gpu").value
    os.environ[GPUS] = "" if gpus is None else str(gpus)
elif os.environ.get(GPUS):
    workflow.register_resource("gpu", int(os.environ[GPUS]))

or_stop(check_keys, map(Path, workflow.configfiles))
CONFIG = or_stop(load, config, Path.cwd())
STUDIES = CONFIG["studies"]
MODELS = CONFIG["models"]
DATASETS = CONFIG["datasets"]


def one_of(names):
    """Return a pattern that matches these names only; nothing if there are none."""
    return "|".join(map(re.escape, names)) or "(?!)"


# ------------------------------------------------------------- what is tracked

SCRIPTS = Path(workflow.basedir) / "workflow" / "scripts"

# Snakemake reruns what is older than its script. Scripts count by what they say, as all
# other code does (`made_by`): a fresh clone, whose files are all new, makes nothing stale.
snakemake.jobs.get_script_mtime = lambda path: 0.0


def made_by(script, *modules, **parameters):
    """Return these parameters of a script and three more, `code`, `tracked` and `script`.

    `code` is a digest of the script, of all that it imports, and of the modules of which
    `modules` gives the names (or None) by the wildcards: those that are imported by name.
    `tracked` holds all parameters by name once more, because Snakemake compares them as a
    set of values: from an occluder of 32 pixels to one of 8 would be no change where the
    stride is 8 and the batch size 32. `script` is its name, which several rules may share.
    """

    def code(wildcards):
        named = [module(wildcards) for module in modules]
        return code_digest(str(SCRIPTS / f"{script}.py"), *filter(None, named))

    def tracked(wildcards):
        values = {
            name: value(wildcards) if callable(value) else value
            for name, value in parameters.items()
        }
        return json.dumps(values, sort_keys=True)

    return parameters | {"code": code, "tracked": tracked, "script": script}


RESULTS = Path("results")
MEMORY = Path(".snakemake/convatlas")  # of the digests of images, which are read once


@cache
def records():
    """Return Snakemake's own records of how files were made."""
    return FilePersistence(nolock=True)


def keep_records():
    """Keep Snakemake's records of how files were made in the results folder.

    They go where it goes: another clone, or another machine, knows what is up to date.
    """
    for kind in ("metadata", "incomplete"):
        keep_inside(Path(".snakemake") / kind, RESULTS / ".snakemake" / kind)


def distrust_unrecorded():
    """Mark files of which there is no record as incomplete, so that Snakemake asks for a rerun.

    It would take them for good, whatever has changed since they were made.
    """
    for path in RESULTS.rglob("*"):
        parts = path.relative_to(RESULTS).parts
        if parts[0] in ("logs", "benchmarks") or any(part.startswith(".") for part in parts):
            continue
        if path.is_file():
            # The file, or a folder that is made as a whole. Marks first, because a job that
            # ends just now is recorded before its mark is taken away.
            keys = [str(place) for place in (path, *path.parents) if place.name]
            if not records()._filter_incomplete_keys(keys) and not any(
                map(records()._read_record, keys)
            ):
                records()._mark_incomplete(keys[0], None)


if workflow.is_main_process:  # not each job's own Snakemake: many of them start beside each other
    or_stop(check_writable, Path.cwd())  # else Snakemake ends with a traceback
    if (RESULTS / ".snakemake").is_dir() or Path(".snakemake/metadata").is_symlink():
        keep_records()
    if RESULTS.is_dir():
        distrust_unrecorded()


wildcard_constraints:
    study=one_of(STUDIES),
    model=one_of(MODELS),
    dataset=one_of(DATASETS),
    part="images|train",
    layer="[^/]+",
    exhibit=r"\d+",
    shard=r"\d+",
    perplexity="[^/]+",


# ------------------------------------------------------------------ of a study


def study(key):
    """Return a function of the wildcards: one key of the study."""
    return lambda wildcards: STUDIES[wildcards.study][key]


def analysis(name, key):
    """Return a function of the wildcards: one parameter of the study's analysis."""
    return lambda wildcards: STUDIES[wildcards.study]["analyses"][name][key]


def for_studies(function):
    """Return for each study an input function that gives what a function of its name does.

    One for all would wait for the layers of one model after the other.
    """

    def of_study(name):
        return lambda wildcards: function(name)

    return [of_study(name) for name in STUDIES]


def model_of(name):
    """Return the name of a study's model."""
    return STUDIES[name]["model"]


def dataset_of(name):
    """Return the name of a study's data set."""
    return STUDIES[name]["dataset"]


def datasets_of(name):
    """Return the names of the data sets that a study depends on: looked at, trained and judged on."""
    train = MODELS[model_of(name)]["train"] or {}
    names = [dataset_of(name), train.get("dataset"), train.get("validation")]
    return list(dict.fromkeys(x for x in names if x))


def config_of(name):
    """Return the part of the config that a study depends on."""
    common = {key: CONFIG[key] for key in ("seed", "batch_size", "shards", "figures")}
    return common | {
        "datasets": {x: DATASETS[x] for x in datasets_of(name)},
        "models": {model_of(name): MODELS[model_of(name)]},
        "studies": {name: STUDIES[name]},
    }


def sources_of(name):
    """Return the digests of the files that a study depends on and no rule makes."""
    model = model_of(name)
    found = {
        **{f"datasets.{x}": source_content(x) for x in datasets_of(name)},
        f"models.{model}.architecture": architecture_content(model),
        f"models.{model}.weights": weights_content(model),
    }
    return {key: digest for key, digest in found.items() if digest}


def exhibits_of(name):
    """Return the numbers of a study's exhibits."""
    wanted = STUDIES[name]["exhibits"]
    return range(wanted if isinstance(wanted, int) else len(wanted))


def blocks_of(name, rule, made, each):
    """Return a study's exhibits in blocks, each the work of one job of a rule.

    Those that were made in one block stay one, so that neither more nor fewer exhibits nor
    another number a job make them anew. The rest is cut into blocks of `each`. Those that
    the config lists are a job each: it may change one of them.

    `made` is the path of what is made of an exhibit.
    """
    numbers, blocks, rest = exhibits_of(name), [], []
    if not isinstance(STUDIES[name]["exhibits"], int):
        return [[number] for number in numbers]

    def cut():
        blocks.extend(rest[start : start + each] for start in range(0, len(rest), each))
        rest.clear()

    after = 0  # the last known block
    for number in numbers:
        if number < after:
            continue
        path = made.format(study=name, exhibit=number).replace("<results>", str(RESULTS))
        record = records()._read_record(path) if RESULTS.is_dir() else None
        maker = (record and record.rule) or ""
        first, last = (number, number) if maker == rule else block_in(maker, rule)
        if first == number:
            cut()
            after = last + 1
            if after > len(numbers):  # as far as there are images, should these have changed
                images = pictures_of_part(dataset_of(name), "images").images
                after = max(min(after, images), len(numbers))
            blocks.append(list(range(number, after)))
        else:
            rest.append(number)
    cut()
    return blocks


def block_in(name, rule=r"\w+?"):
    """Return the first and the last exhibit of a rule for one block, by its name; else None, twice.

    `rule` is the one that it stands for, if only its own count.
    """
    found = re.fullmatch(rf"{rule}_(\d+)(?:_to_(\d+))?", name)
    return (int(found[1]), int(found[2] or found[1])) if found else (None, None)


def by_exhibits(rule, made, each=lambda name: CONFIG["exhibits_per_job"]):
    """Return the rules that together do for all exhibits what `rule` does for any one.

    By the name of each: the exhibits that a job of it takes, and the studies that it is for.
    A study without a block of several needs the first only, which is for any one exhibit.
    """
    found = {rule: (["{exhibit}"], [])}
    for name in STUDIES:
        blocks = blocks_of(name, rule, made, each(name))
        if all(len(block) == 1 for block in blocks):
            found[rule][1].append(name)
            continue
        for block in blocks:
            several = f"_to_{block[-1]}" if len(block) > 1 else ""
            found.setdefault(f"{rule}_{block[0]}{several}", (block, []))[1].append(name)
    return found


def swept_per_job(name):
    """Return how many of a study's exhibits a job sweeps."""
    return STUDIES[name]["analyses"]["occlusion"]["exhibits_per_job"]


def in_block(exhibits, wildcards):
    """Return the numbers of the exhibits that a job takes."""
    return [int(str(exhibit).format(**dict(wildcards))) for exhibit in exhibits]


def of_each(exhibits, pattern):
    """Return the file of each of a job's exhibits."""
    return expand(pattern, exhibit=exhibits, allow_missing=True)


def exhibit_index(name, number):
    """Return the image that a study names as an exhibit; None if one is to be picked."""
    wanted = STUDIES[name]["exhibits"]
    return None if isinstance(wanted, int) else wanted[number]


def seed_if(needed):
    """Return the config's seed for what draws by it; else 0, so that its change reruns nothing."""
    return CONFIG["seed"] if needed else 0


def model_file(kind, name):
    """Return the file of a study's model, its `weights` or its `card`."""
    return expand(rules.import_model.output[kind], model=model_of(name))[0]


def layers_file(name):
    """Return the description of the layers of a study's model."""
    return checkpoints.describe_model.get(model=model_of(name)).output.layers


def of_layers(name, function, *arguments):
    """Call a function of the layers of a study's model; end with its message if it raises one."""
    return or_stop(function, *arguments, place=f"study {name}: ")


def every_layer(name):
    """Return all layers of a study's model; known once it is there."""
    return or_stop(read_layers, layers_file(name))


def described_layers(name):
    """Return the layers that a study stores; known once its model is there."""
    return of_layers(name, stored_layers, every_layer(name), STUDIES[name]["extract"])


def chosen_layers(name):
    """Return the names of the layers that a study looks at."""
    return of_layers(name, select_layers, described_layers(name), STUDIES[name]["layers"])


def chosen_maps(name):
    """Return those of the chosen layers that are made of maps."""
    maps = {layer.name for layer in described_layers(name) if layer.is_map}
    return [layer for layer in chosen_layers(name) if layer in maps]


def chosen_layer(name, analysis, auto):
    """Return the layer that a study's analysis names, or by `auto` what to take for it."""
    described = described_layers(name)
    layer = STUDIES[name]["analyses"][analysis]["layer"]
    return (
        of_layers(name, auto, described)
        if layer == "auto"
        else of_layers(name, find_layer, described, layer).name
    )


def embedded_layer(name):
    """Return the layer whose codes a study embeds."""
    return chosen_layer(name, "embedding", code_layer)


def compared_layers(name):
    """Return the chosen layers of a study with its images' pixels before them.

    Without the pixels where a layer bears their name.
    """
    layers = chosen_layers(name)
    return layers if pixels_are_a_layer(name) else [PIXELS, *layers]


def pixels_are_a_layer(name):
    """Say whether a layer bears the name that else stands for the images themselves."""
    return any(layer.name == PIXELS for layer in described_layers(name))


def summary_for(name):
    """Return a function of the wildcards: how an analysis sums up a map, which pixels don't need."""
    return lambda wildcards: (
        "mean" if wildcards.layer == PIXELS else analysis(name, "code")(wildcards)
    )


def codes_of(wildcards):
    """Return the files that hold the codes of a layer, or the pixels."""
    if wildcards.layer == PIXELS and not pixels_are_a_layer(wildcards.study):
        return {"images": shown_images(dataset_of(wildcards.study))}
    activations = rules.gather_activations
    shards = expand(activations.input.shards, study=wildcards.study)
    return {
        "activations": expand(activations.output.activations, study=wildcards.study)[0],
        "shards": shards,  # which the activations are read from
    }


def mapped_layers(name):
    """Return the layers of which a study maps the codes: one, or all that are compared."""
    if not STUDIES[name]["analyses"]["embedding"]["compare"]:
        return [embedded_layer(name)]
    return list(dict.fromkeys([*compared_layers(name), embedded_layer(name)]))


def maps_of(name, layers):
    """Return a study's maps by the codes of some layers."""
    return expand(rules.embed_codes.output.embedding, study=name, layer=layers)


def other_maps(name, layer):
    """Return a study's maps of a layer at other perplexities."""
    embedding = STUDIES[name]["analyses"]["embedding"]
    others = [f"{x:g}" for x in embedding["perplexities"] if x != embedding["perplexity"]]
    return expand(
        rules.embed_otherwise.output.embedding, study=name, layer=layer, perplexity=others
    )


def judged_maps(name):
    """Return all of a study's maps, and for each the neighbours that it is to keep."""
    layers, layer = mapped_layers(name), embedded_layer(name)
    others = other_maps(name, layer)
    graph = rules.find_neighbours.output.neighbours
    return {
        "neighbours": expand(graph, study=name, layer=[*layers, *([layer] * len(others))]),
        "embeddings": [*maps_of(name, layers), *others],
    }


def occluded_layer(name):
    """Return the layer whose strongest map an occlusion sweep sums."""
    return chosen_layer(name, "occlusion", last_map)


def chosen_units(name, layer):
    """Return the units of a layer that are shown."""
    wanted = STUDIES[name]["analyses"]["projections"]["units"]
    found = of_layers(name, find_layer, described_layers(name), layer)
    return of_layers(name, pick_units, found, wanted, CONFIG["seed"]).tolist()


def kernel_units(name, layer):
    """Return the units of a convolution whose kernels are shown: at most 16, of listed ones those it has."""
    wanted = STUDIES[name]["analyses"]["projections"]["units"]
    found = of_layers(name, find_layer, every_layer(name), layer)
    if not isinstance(wanted, int):
        wanted = [unit for unit in wanted if unit < found.units]
    return of_layers(name, pick_units, found, wanted, CONFIG["seed"]).tolist()[:16]


def why_not_projected(name, layer):
    """Return why the deconvnet isn't defined for a layer, or None if it is."""
    return of_layers(name, find_layer, described_layers(name), layer).deconvnet


# ------------------------------------------------- of a model, of a data set


def model(key):
    """Return a function of the wildcards: one key of the model."""
    return lambda wildcards: MODELS[wildcards.model][key]


def training(key):
    """Return a function of the wildcards: one key of the model's training."""
    return lambda wildcards: MODELS[wildcards.model]["train"][key]


@cache
def architecture_content(name):
    """Return a digest of a user's own architecture file; empty for any other architecture."""
    path, _, function = MODELS[name]["architecture"].rpartition(":")
    if not path.endswith(".py"):
        return ""
    or_stop(check_syntax, path)
    return code_digest(path)


@cache
def weights_content(name):
    """Return the digest of a model's weights file; empty where there is no file."""
    weights = MODELS[name]["weights"]
    return file_digest(weights) if weights and Path(weights).is_file() else ""


def weights_that_shape(name):
    """Return the weights of a model as far as its layers depend on them, and their content.

    A name of torchvision's may come with options. A file does so for some of torchvision's
    networks, if it is torchvision's own; the values in any other mean nothing here.
    """
    architecture, weights = MODELS[name]["architecture"], MODELS[name]["weights"]
    content = weights_content(name)
    if content and not shaped_by_weights(architecture):
        return ["random", ""]
    return [weights, content]


def classes_to_learn(name):
    """Return how many classes a model is trained on; None if it isn't, or if its labels tell."""
    train = MODELS[name]["train"]
    return count_of_classes(train["dataset"]) if train else None


def reference_dataset(name):
    """Return the data set at whose image size a model's layers are described."""
    if MODELS[name]["train"]:
        return MODELS[name]["train"]["dataset"]
    return next(study["dataset"] for study in STUDIES.values() if study["model"] == name)


def training_images(name):
    """Return the file with the images of a data set to train on."""
    part = "images" if DATASETS[name]["source"] == "folder" else "train"
    return expand(rules.prepare_images.output.images, dataset=name, part=part)[0]


def shown_images(name):
    """Return the file with the images of a data set to look at."""
    return expand(rules.prepare_images.output.images, dataset=name, part="images")[0]


def validation_images(name):
    """Return the file with the images that a model's training is judged on, if there is one."""
    dataset = MODELS[name]["train"]["validation"]
    return shown_images(dataset) if dataset else []


def reader(name):
    """Return the name of the module that reads a data set's source."""
    return source_module(DATASETS[name])


def reader_of_classes(name):
    """Return the module that reads a data set's classes in a job, if one does."""
    return reader(name) if classes_of(name) is None else None


def reader_of_size(name):
    """Return the module that finds out the size of a data set's images in a job, if one does."""
    return reader(name) if size_is_read(size_of(name)) else None


@cache
def size_of(name):
    """Return what decides the size of a data set's images."""
    return or_stop(size_keys, DATASETS[name], lambda: source_content(name))


@cache
def source_content(name):
    """Return a digest of the files that a data set is made from."""
    return or_stop(source_digest, DATASETS[name], MEMORY / f"{name}.json")


@cache
def classes_of(name):
    """Return the names of a data set's classes; None if only a job can find them out."""
    return or_stop(known_classes, DATASETS[name])


def unlisted_source(name):
    """Return a data set's source where a job has to find out its classes, else None."""
    return DATASETS[name] if classes_of(name) is None else None


def count_of_classes(name):
    """Return how many classes a data set has; None where its labels tell."""
    names = classes_of(name)
    return None if names is None else len(names)


def image_source(name, part):
    """Return the keys of a data set that its images depend on."""
    other = {"images": "train", "train": "test"}[part]
    return {key: value for key, value in DATASETS[name].items() if key != other}


def manifest_file(name):
    """Return the list of what became of each of a data set's files."""
    return expand(rules.prepare_images.output.manifest, dataset=name, part="images")[0]


def class_names(name):
    """Return the file with a data set's class names."""
    return expand(rules.list_classes.output.classes, dataset=name)[0]


USED_MODELS = list(dict.fromkeys(study["model"] for study in STUDIES.values()))
TRAINED = [name for name, model in MODELS.items() if model["train"]]
IMPORTED = [name for name, model in MODELS.items() if not model["train"]]
# Studies whose model was also kept in the course of its training.
TRACKED = [name for name in STUDIES if (MODELS[model_of(name)]["train"] or {}).get("snapshots")]


def snapshots_of(name):
    """Return the folder with the snapshots of a study's model; none if there are none."""
    model = [model_of(name)] if name in TRACKED else []
    return expand(rules.train_model.output.snapshots, model=model)


# ------------------------------------------------------------------ what jobs need


def sized(script, exhibits=1):
    """Return what jobs of a script ask Snakemake for, as functions of wildcards and attempt.

    `exhibits` is how many of them a job takes.
    """

    def ask(key):
        return lambda wildcards, attempt: need_of(script, wildcards, exhibits).asked(attempt)[key]

    asked = {key: ask(key) for key in ("mem_mb", "runtime", "disk_mb")}
    return asked | ({"gpu": 1} if uses_gpu(script) else {})


def need_of(script, wildcards, exhibits=1):
    """Return what a job needs, by the script that it runs and its wildcards."""
    about = {key: wildcards.get(key) for key in ("study", "model", "dataset", "part", "layer")}
    path = expand(rules.describe_model.output.layers, model=about_model(about))[0]
    changed = Path(path).stat().st_mtime_ns if Path(path).is_file() else None
    return need_by(script, exhibits, path, changed, *about.values())


def about_model(about):
    """Return the name of the model that a job is of, or of one that its data set is for."""
    if about["study"] or about["model"]:
        return about["model"] or model_of(about["study"])
    found = [model_of(name) for name in STUDIES if about["dataset"] in datasets_of(name)]
    return (found or [*MODELS])[0]


@cache
def need_by(script, exhibits, path, changed, study, model, dataset, part, layer):
    """Return what a job needs; `path` is of the layers of its model, None in `changed` if not there.

    It doesn't wait for the layers, as the rules' inputs do: Snakemake asks for it before they
    are known. Then it is reckoned with a network of a usual size.
    """
    work = work_by(path, changed, study, model, dataset, part)
    return need(script, replace(work, layer=layer or "", exhibits=exhibits))


@cache
def work_by(path, changed, study, model, dataset, part):
    """Return what decides the size of the jobs of a study, a model or a part of a data set."""
    model = model or about_model({"study": study, "model": model, "dataset": dataset})
    study = study or next((x for x in STUDIES if model_of(x) == model), next(iter(STUDIES)))
    train = MODELS[model]["train"]
    shown = pictures_of_part(dataset or (dataset_of(study)), part or "images")
    network = known_network(path, changed) if changed else None
    network = network or stand_in(pictures_of_part(reference_dataset(model), "images"))
    layers = network.layers
    stored, chosen, filtered = [], [], []
    with suppress(ConvatlasError):  # of a network that the config no longer fits; told elsewhere
        described = stored_layers(layers, STUDIES[study]["extract"])
        stored = [layer.name for layer in described]
        chosen = select_layers(described, STUDIES[study]["layers"])
        filtered = filter_layers(layers, chosen)
    return Work(
        config=CONFIG,
        study=STUDIES[study],
        model=MODELS[model],
        shown=shown,
        network=network,
        trained=training_pictures(train["dataset"]) if train else None,
        validated=(
            pictures_of_part(train["validation"], "images")
            if train and train["validation"]
            else None
        ),
        stored=stored or [layer.name for layer in layers],
        chosen=chosen or [layer.name for layer in layers if layer.stage_end],
        compared=[PIXELS, *chosen],
        filtered=filtered,
    )


@cache
def known_network(path, changed):
    """Return a network as its file of layers tells of it; None if that is damaged."""
    with suppress(ConvatlasError):
        return Network(tuple(read_layers(path)))


@cache
def pictures_of_part(name, part):
    """Return how many images a part of a data set has, and their size."""
    path = expand(rules.prepare_images.output.images, dataset=name, part=part)[0]
    uptodate = not workflow.is_main_process  # which has seen to it before it started this job
    return or_stop(take_census, DATASETS[name], part, path, classes_of(name), uptodate)


def training_pictures(name):
    """Return how many images a data set has to train on, and their size."""
    return pictures_of_part(name, "images" if DATASETS[name]["source"] == "folder" else "train")


def planned_jobs(dag):
    """Return the jobs of a run, in the order of their rules, and what each needs.

    `dag` is Snakemake's own; jobs of target rules, which do nothing, are left out.
    """
    order = {x.name: i for i, x in enumerate(workflow.rules)}
    jobs = sorted(
        (job for job in dag.jobs if job.output),
        key=lambda job: (order[job.rule.name], list(job.output)),
    )
    place = {job: i for i, job in enumerate(jobs)}
    return [
        Planned(
            script_of(job),
            need=needed_by(job),
            memory=job.resources.mem_mb,
            cores=job.threads,
            to_run=dag.needrun(job),
            outputs=list(job.output),
            waits=[place[x] for x in dag.dependencies[job] if x in place],
            took=read_seconds(job.benchmark) if job.benchmark else None,
        )
        for job in jobs
    ]


def script_of(job):
    """Return the name by which a job is sized: its rule's, or of a block of exhibits the script's."""
    return job.rule.name if job.rule.name in sized_rules() else job.params.script


def needed_by(job):
    """Return what a job needs, by the same estimate by which it asks for resources."""
    first, last = block_in(job.rule.name)
    exhibits = 1 if first is None else last - first + 1
    return need_of(script_of(job), job.wildcards, exhibits)


def guesses():
    """Return what is guessed of the studies' data sets, a sentence each."""
    names = dict.fromkeys(x for name in STUDIES for x in datasets_of(name))
    return [
        f"data set {name}: {pictures.source}"
        for name in names
        if (pictures := pictures_of_part(name, "images")).source
    ]


# ---------------------------------------------------------- before and after a run


def is_alone():
    """Say whether no other run holds files in this folder; two may go if they share none."""
    return len(list(Path(".snakemake/locks").glob("*.output.lock"))) <= 1


def tell_startup():
    """Say how much of the run's jobs was start-up."""
    if (found := read_startup([RESULTS / "logs"], since=STARTED)).jobs:
        logger.info(f"convatlas: {found}.")


# ---------------------------------------------------------------- of the figures


def other_formats(*figures):
    """Return the files that figures are written to besides the PNG."""
    kinds = CONFIG["figures"]["formats"][1:]
    return [figure.replace(".png", f".{kind}") for figure in figures for kind in kinds]


def numbers_of(figure):
    """Return the file with the numbers of a figure."""
    return figure.replace(".png", ".csv")


in_report = report  # a line that begins with that name would be Snakemake's


def pictures(exhibits, path, caption, category, **labels):
    """Return the figure of each of a job's exhibits, as Snakemake's own report shows it."""
    return [
        in_report(
            path.replace("{exhibit}", str(exhibit)),
            caption=f"../report/{caption}.rst",
            category=category,
            subcategory="{study}",
            labels={"exhibit": str(exhibit), **labels},
        )
        for exhibit in exhibits
    ]
