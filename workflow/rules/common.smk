"""What all rules share: the checked config, and what it says of a study, model or data set.

Parameters reach a rule as functions of its wildcards, made here, so that a change of
one value reruns the rules that use it and no others. Files that no rule makes (photos,
weights, a user's Python file) count by their content.
"""

import re
import sys
from pathlib import Path

from snakemake.logging import logger

from convatlas.config import load
from convatlas.data.prepare import source_files, source_module
from convatlas.digest import code_digest, file_digest, files_digest
from convatlas.errors import ConvatlasError
from convatlas.layers import (
    code_layer,
    find_layer,
    first_filters,
    last_map,
    pick_units,
    read_layers,
    select_layers,
    stored_layers,
)


def or_stop(function, *arguments, place=""):
    """Call a function of the package; end with its message alone if it raises one.

    `place` says what the message is about, where the function can't know.
    """
    try:
        return function(*arguments)
    except ConvatlasError as error:
        logger.error(f"convatlas: {place}{error}")
        sys.exit(1)  # an exception would come out with a traceback


CONFIG = or_stop(load, config, Path.cwd())
STUDIES = CONFIG["studies"]
MODELS = CONFIG["models"]
DATASETS = CONFIG["datasets"]


def one_of(names):
    """Return a pattern that matches these names only; nothing if there are none."""
    return "|".join(map(re.escape, names)) or "(?!)"


wildcard_constraints:
    study=one_of(STUDIES),
    model=one_of(MODELS),
    dataset=one_of(DATASETS),
    part="images|train",
    layer="[^/]+",
    exhibit=r"\d+",
    shard=r"\d+",
    kind="scatter|grid",


# ------------------------------------------------------------------ of a study


def study(key):
    """Return a function of the wildcards: one key of the study."""
    return lambda wildcards: STUDIES[wildcards.study][key]


def analysis(name, key):
    """Return a function of the wildcards: one parameter of the study's analysis."""
    return lambda wildcards: STUDIES[wildcards.study]["analyses"][name][key]


def for_studies(function):
    """Return an input function that joins what a function of a study's name gives for all."""
    return lambda wildcards: [path for name in STUDIES for path in function(name)]


def model_of(name):
    """Return the name of a study's model."""
    return STUDIES[name]["model"]


def dataset_of(name):
    """Return the name of a study's data set."""
    return STUDIES[name]["dataset"]


def exhibits_of(name):
    """Return the numbers of a study's exhibits."""
    wanted = STUDIES[name]["exhibits"]
    return range(wanted if isinstance(wanted, int) else len(wanted))


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


def described_layers(name):
    """Return the layers that a study stores; known once its model is there."""
    described = read_layers(layers_file(name))
    return of_layers(name, stored_layers, described, STUDIES[name]["extract"])


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


def occluded_layer(name):
    """Return the layer whose strongest map an occlusion sweep sums."""
    return chosen_layer(name, "occlusion", last_map)


def chosen_units(name, layer):
    """Return the units of a layer that are shown."""
    wanted = STUDIES[name]["analyses"]["projections"]["units"]
    found = of_layers(name, find_layer, described_layers(name), layer)
    return of_layers(name, pick_units, found, wanted, CONFIG["seed"]).tolist()


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


def architecture_content(name):
    """Return a digest of a user's own architecture file; empty for any other architecture."""
    path, _, function = MODELS[name]["architecture"].rpartition(":")
    return code_digest(path) if path.endswith(".py") else ""


def weights_content(name):
    """Return the digest of a model's weights file; empty where there is no file."""
    weights = MODELS[name]["weights"]
    return file_digest(weights) if weights and Path(weights).is_file() else ""


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


def source_code(name):
    """Return the digest of the code that reads a data set's source."""
    return code_digest("convatlas.data.prepare", source_module(DATASETS[name]))


def source_content(name):
    """Return a digest of the files that a data set is made from."""
    return files_digest(or_stop(source_files, DATASETS[name]))


def image_source(name, part):
    """Return the keys of a data set that its images depend on."""
    other = {"images": "train", "train": "test"}[part]
    return {key: value for key, value in DATASETS[name].items() if key != other}


def manifest_file(name):
    """Return the list of what became of each of a data set's files."""
    return expand(rules.prepare_images.output.manifest, dataset=name, part="images")[0]


def class_names(name):
    """Return the file with a data set's class names: the user's own, or one that is made."""
    own = DATASETS[name].get("classes")
    return own or expand(rules.list_classes.output.classes, dataset=name)[0]


USED_MODELS = list(dict.fromkeys(study["model"] for study in STUDIES.values()))
TRAINED = [name for name, model in MODELS.items() if model["train"]]
IMPORTED = [name for name, model in MODELS.items() if not model["train"]]


# ---------------------------------------------------------------- of the figures


def other_formats(figure):
    """Return the files that a figure is written to besides the PNG."""
    return [figure.replace(".png", f".{kind}") for kind in CONFIG["figures"]["formats"][1:]]
