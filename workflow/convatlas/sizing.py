"""How large each job is, told from its input before it runs: memory, time, disk, GPU.

For each rule there is a formula of what decides its size: the number of images and their
pixels, the layers with their units and maps, and the parameters of the analysis. Its
constants were fitted to runs of three networks (small_zf on 200 to 6,000 scenes of 64 x 64,
SqueezeNet and ResNet-18 on 200 photos of 227 and 224 pixels). Memory is meant as an upper
bound, bytes are right to about a half, time is rough: machines differ.

All that Snakemake asks for and `snakemake plan` prints comes from here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from convatlas.layers import WEIGHTED, Layer, find_layer

MB = 1_000_000

# What a process holds, in bytes, and takes, in seconds, before any work: measured.
_PLAIN, _SCIENCE, _PLOT, _TORCH = "plain", "science", "plot", "torch"
_BASE = {
    _PLAIN: (65 * MB, 0.3),  # numpy and h5py
    _SCIENCE: (185 * MB, 1.3),  # openTSNE and scikit-learn
    _PLOT: (115 * MB, 0.7),  # matplotlib
    _TORCH: (660 * MB, 2.9),
}
_SAFETY = 1.4  # of memory: other allocators and libraries, pages not given back
_BESIDE = 350 * MB  # two Snakemakes, which a cluster counts as a part of the job
_CUDA = 1500 * MB  # of the host's memory, for CUDA's context and libraries
_ROUND = 100 * MB
_PATIENCE = 4  # a job may take so many times as long as estimated, on a slow node
_LEAST_MINUTES = 10
_SPARE = 2  # outputs are written beside the old ones, and put in their place at the end

_PER_MAC = 1 / 60e9  # seconds a multiply-accumulate of a batched forward pass, one core
_PER_VALUE = 2e-9  # seconds an activation, to write it and read it once
_SUMMED = 6e-9  # the same, summed up and stored too
_BACK = 3  # a forward and a backward pass take as long as so many forward passes
_DEFLATE = 30e6  # bytes a second
_READ = 200e6

# Of blocks, in bytes unless said; those of `store`, `codes` and `nearest` are a quarter of it now.
_HELD = 1 << 26  # `store.Activations.blocks`, `codes.Codes.blocks`
_WANTED = 1 << 28  # bytes of the codes searched for at once, and distances: see `nearest`
_COMPARED = 1 << 23
_SLICE = 1 << 13
_PCA = 1 << 24  # `embedding.find_neighbours`
_PLACED, _PLACED_AT_ONCE = 15, 1 << 15  # `embedding`: neighbours of each, images at a time
_WRITTEN = 256  # images that `store.ImageWriter` holds
_FIELDS = 1 << 29  # `effective_fields`
_TRAINED = 1 << 30  # `models.training`
_CONE = 1 << 26  # `projection.engine`
_HEADS = 1 << 28  # `occlusion.incremental`
_COMPRESSED_FROM = 1 << 16  # `store`
_DPI = 240  # at which the figures below were measured


@dataclass(frozen=True)
class Pictures:
    """A part of a data set.

    `images` is how many it has, `height` and `width` their size in pixels, `masks` says
    whether there are masks, and `source` where the numbers are from, for a reader:
    "" where they are known for certain.
    """

    images: int
    height: int
    width: int
    classes: int = 10
    masks: bool = False
    source: str = ""

    @property
    def values(self) -> int:
        """Numbers, and bytes, of an image."""
        return 3 * self.height * self.width


@dataclass(frozen=True)
class Network:
    """What a network's layers say of its size, and whether they are known or made up."""

    layers: tuple[Layer, ...]
    known: bool = True

    @cached_property
    def _weights(self) -> dict[str, int]:
        """Weights of each layer that has some, biases left out.

        A kernel's side follows from the receptive fields before and behind it, so a dilated
        one counts as if it were whole.
        """
        named = {layer.name: layer for layer in self.layers}
        found = {}
        for layer in self.layers:
            if layer.kind not in WEIGHTED:
                continue
            above = [named[name] for name in layer.inputs if name in named]
            if layer.kind == "linear":
                found[layer.name] = layer.units * sum(math.prod(x.shape) for x in above)
                continue
            channels = sum(x.units for x in above) if above else 3
            size = above[0].size if above else (1, 1)
            stride = above[0].stride if above else (1, 1)
            sides = [max(1, (layer.size[i] - size[i]) // max(stride[i], 1) + 1) for i in range(2)]
            found[layer.name] = layer.units * channels * sides[0] * sides[1] // layer.groups
        return found

    @cached_property
    def parameters(self) -> int:
        """Weights in all, without biases."""
        return sum(self._weights.values())

    @cached_property
    def operations(self) -> int:
        """Multiply-accumulates of a forward pass of one image."""
        cells = {layer.name: math.prod(layer.shape[1:]) for layer in self.layers}
        return sum(number * cells[name] for name, number in self._weights.items())

    @cached_property
    def values(self) -> int:
        """Activations of one image, of all layers."""
        return sum(math.prod(layer.shape) for layer in self.layers)

    @cached_property
    def largest(self) -> int:
        """Activations of one image in the largest layer."""
        return max(math.prod(layer.shape) for layer in self.layers)

    def seconds(self, per_value: float = _PER_VALUE) -> float:
        """Return the seconds that one image takes in a batch, on one core."""
        return self.operations * _PER_MAC + self.values * per_value


@dataclass(frozen=True)
class Work:
    """What a job is about: all that decides its size.

    Attributes
    ----------
    config : the config, complete; `study` and `model` are the parts of it that the job is of.
    shown, trained, validated : the images that are looked at, trained on, judged on.
    network : its layers.
    stored, chosen, compared, filtered : names of the layers whose answers are kept, that are looked
        at, whose codes are compared (the pixels with them), whose filters are cut out.
    layer : of which the job is; empty if of none.
    exhibits : how many it takes.
    """

    config: Mapping[str, Any]
    study: Mapping[str, Any]
    model: Mapping[str, Any]
    shown: Pictures
    network: Network
    trained: Pictures | None = None
    validated: Pictures | None = None
    stored: Sequence[str] = ()
    chosen: Sequence[str] = ()
    compared: Sequence[str] = ()
    filtered: Sequence[str] = ()
    layer: str = ""
    exhibits: int = 1

    @property
    def batch(self) -> int:
        """Images a pass."""
        return min(int(self.config["batch_size"]), max(self.shown.images, 1))

    def of(self, analysis: str, key: str) -> Any:
        """Return a parameter of the study's analysis."""
        return self.study["analyses"][analysis][key]

    @property
    def described(self) -> Layer | None:
        """The job's layer; None if it has none, or it is the pixels."""
        return next((x for x in self.network.layers if x.name == self.layer), None)

    @property
    def units(self) -> int:
        """Units of the job's layer; of the widest one where the layer isn't described."""
        layer = self.described
        return layer.units if layer else max(x.units for x in self.network.layers)

    @property
    def components(self) -> int:
        """Numbers of a code of the job's layer, or of the pixels."""
        layer = self.described
        return layer.units if layer else self.shown.values

    @property
    def classes(self) -> int:
        """Outputs of the network."""
        return next((x.units for x in self.network.layers if x.output), self.shown.classes)


@dataclass(frozen=True)
class Need:
    """What a job needs.

    `memory` and `stored` (what it writes) in bytes, `seconds` on one core with the start-up
    among them, `gpu` says whether it can use one. Nothing is rounded or made safe; see `asked`.
    """

    memory: float
    seconds: float
    stored: float
    gpu: bool = False

    def asked(self, attempt: int = 1) -> dict[str, int]:
        """Return what Snakemake is asked for: resources by their names.

        The more, the more often the job was tried: it may have been killed for its memory
        or its time.
        """
        memory = self.memory * _SAFETY + _BESIDE + (_CUDA if self.gpu else 0)
        found = {
            "mem_mb": attempt * math.ceil(memory / _ROUND) * _ROUND // MB,
            "runtime": attempt * max(_LEAST_MINUTES, math.ceil(self.seconds * _PATIENCE / 60)),
            "disk_mb": max(1, math.ceil(_SPARE * self.stored / MB)),
        }
        return found | ({"gpu": 1} if self.gpu else {})


Formula = Callable[[Work], tuple[float, float, float]]


@dataclass(frozen=True)
class _Rule:
    """A rule: what it imports, what it needs beyond that (bytes, seconds, bytes written)."""

    imports: str
    formula: Formula
    gpu: bool = False


_RULES: dict[str, _Rule] = {}


def _rule(name: str, imports: str, gpu: bool = False) -> Callable[[Formula], Formula]:
    def add(formula: Formula) -> Formula:
        _RULES[name] = _Rule(imports, formula, gpu)
        return formula

    return add


def sized_rules() -> list[str]:
    """Return the names of the scripts whose needs are known."""
    return sorted(_RULES)


def uses_gpu(rule: str) -> bool:
    """Say whether a rule can use a GPU."""
    return _RULES[rule].gpu


def need(rule: str, work: Work) -> Need:
    """Return what a job needs, by the name of its script."""
    found = _RULES[rule]
    held, start = _BASE[found.imports]
    memory, seconds, stored = found.formula(work)
    return Need(held + memory, start + seconds, stored, found.gpu)


# A network whose layers aren't known yet: as large as VGG's convolutions are, at half the width.
_STAND_IN = ((32, 1), (64, 2), (128, 4), (256, 8), (256, 16))


def stand_in(pictures: Pictures) -> Network:
    """Return a network to reckon with until a model's own layers are known."""
    layers: list[Layer] = []
    reach = 1
    for units, shrunk in _STAND_IN:
        shape = (units, max(pictures.height // shrunk, 1), max(pictures.width // shrunk, 1))
        reach += 2 * shrunk
        layers.append(_made_up(f"conv{len(layers)}", "conv", shape, layers, reach, shrunk))
    layers.append(_made_up("code", "linear", (1024,), layers, pictures.height, 0))
    layers.append(_made_up("output", "linear", (pictures.classes,), layers, pictures.height, 0))
    layers[-2], layers[-1] = replace(layers[-2], code=True), replace(layers[-1], output=True)
    return Network(tuple(layers), known=False)


def _made_up(
    name: str, kind: str, shape: tuple[int, ...], before: list[Layer], size: int, stride: int
) -> Layer:
    return Layer(
        name=name,
        kind=kind,
        units=shape[0],
        shape=shape,
        size=(size, size),
        stride=(stride, stride),
        start=(0, 0),
        exact=False,
        inputs=tuple(layer.name for layer in before[-1:]),
        weight=f"{name}.weight",
        stage_end=kind == "conv",
    )


# ------------------------------------------------------------------ data and models


@_rule("prepare_images", _PLAIN)
def _prepare_images(work: Work) -> tuple[float, float, float]:
    part = work.shown
    held = min(part.images, _WRITTEN)
    # A photo's decoder and its filter hold it several times; 12 million pixels are usual.
    memory = 120 * MB + held * part.values * 20 + part.images * 1000  # all names
    stored = part.images * (part.values + 700 + (part.height * part.width / 20) * part.masks)
    stored += 20_000 + 200_000 * part.masks  # attributes are stored by the thousand rows
    return memory, part.images * (1e-3 + part.values * 5e-8), stored


@_rule("list_classes", _PLAIN)
def _list_classes(work: Work) -> tuple[float, float, float]:
    # torchvision's data sets are opened for it, which loads them.
    return 300 * MB if work.shown.source else 0, 0.1, 20 * work.shown.classes


@_rule("train_model", _TORCH, gpu=True)
def _train_model(work: Work) -> tuple[float, float, float]:
    train, net = work.model["train"], work.network
    images = work.trained or work.shown
    judged = work.validated.images if work.validated else 0
    weights = 4 * net.parameters
    batch = min(train["batch_size"], max(images.images, 1))
    memory = min(images.images * images.values, _TRAINED) + 4 * weights + 16 * batch * net.values
    passes = train["epochs"] * (_BACK * images.images + judged)
    kept = 1 + len(train["snapshots"])
    return memory + 100 * MB, 3 + passes * net.seconds() * 0.8, kept * weights + 10_000


@_rule("import_model", _TORCH)
def _import_model(work: Work) -> tuple[float, float, float]:
    weights = 4 * work.network.parameters
    return 3 * weights + 60 * MB, 1 + 5 * weights / _READ, weights * 1.02 + 5_000


@_rule("describe_model", _TORCH)
def _describe_model(work: Work) -> tuple[float, float, float]:
    return 60 * MB, 1.5, 500 * len(work.network.layers)


@_rule("describe", _PLAIN)
@_rule("plan", _PLAIN)
def _prints(work: Work) -> tuple[float, float, float]:
    return 200 * MB, 5, 0


# --------------------------------------------------------------------- activations


@_rule("extract_activations", _TORCH, gpu=True)
def _extract_activations(work: Work) -> tuple[float, float, float]:
    net, shards = work.network, work.config["shards"]
    images = work.shown.images / shards
    units = sum(find_layer(net.layers, name).units for name in work.stored)
    stored = images * units * 12 + len(work.stored) * 4_500 + 10_000
    memory = work.batch * net.largest * 4 * 4 + 8 * net.parameters + work.shown.images * 20
    return memory, images * net.seconds(_SUMMED), stored


@_rule("gather_activations", _PLAIN)
def _gather_activations(work: Work) -> tuple[float, float, float]:
    layers = len(work.stored)
    # A dimension scale has a byte an image, of each layer.
    stored = layers * (4_700 + 800 * work.config["shards"] * 0.5 + work.shown.images) + 10_000
    return 10 * MB + layers * work.shown.images * 4, 0.3, stored


@_rule("score_predictions", _PLAIN)
def _score_predictions(work: Work) -> tuple[float, float, float]:
    images = work.shown.images
    block = min(_HELD, images * work.classes * 4)
    return 15 * MB + images * 400 + 4 * block, images * 1e-4, images * 60


@_rule("record_maps", _TORCH, gpu=True)
def _record_maps(work: Work) -> tuple[float, float, float]:
    net = work.network
    each = sum(_deflated(4 * math.prod(x.shape), 0.7) + 8_000 for x in net.layers if x.is_map)
    seconds = net.seconds() * 2 + 4 * net.values / _DEFLATE
    memory = 16 * net.values + 8 * net.parameters
    return memory, seconds * work.exhibits, each * work.exhibits


@_rule("pick_exhibit", _PLAIN)
def _pick_exhibit(work: Work) -> tuple[float, float, float]:
    shown = work.shown
    each = _deflated(shown.values, 0.75) + _deflated(shown.values / 3 * shown.masks, 0.1) + 12_000
    return shown.images * 150, 0.02 * work.exhibits, each * work.exhibits


@_rule("list_exhibits", _PLAIN)
def _list_exhibits(work: Work) -> tuple[float, float, float]:
    return 0, 0.01 * work.exhibits, 30 * work.exhibits


def _deflated(size: float, share: float) -> float:
    """Return the bytes of an array as it is stored: small ones aren't compressed."""
    return size * share if size >= _COMPRESSED_FROM else size


# -------------------------------------------------------------------- filters, units


@_rule("cut_filters", _TORCH)
def _cut_filters(work: Work) -> tuple[float, float, float]:
    net = work.network
    weights = 4 * net._weights.get(work.layer, net.parameters)
    alike = 4 * work.units**2
    stored = _deflated(weights, 0.92) + _deflated(alike, 0.9) + 100 * work.units + 30_000
    memory = 4 * net.parameters + 3 * weights + 8 * alike
    return memory, 0.2 + stored / _DEFLATE, stored


@_rule("rank_patches", _PLAIN)
def _rank_patches(work: Work) -> tuple[float, float, float]:
    images, units = work.shown.images, work.units
    block = min(_HELD, images * units * 8)
    table = units * (work.of("patches", "per_unit") + 1)
    places = units * work.of("patches", "per_unit")
    whole = 16 * places + _deflated(16 * places, 0.25) + _deflated(32 * places, 0.2)
    stored = whole + 30 * units + 13_000
    return 6 * block + 300 * table, images * units * 1.5e-7, stored


@_rule("rank_directions", _TORCH, gpu=True)
def _rank_directions(work: Work) -> tuple[float, float, float]:
    net, number, layer = work.network, work.of("directions", "number"), work.described
    rank = work.of("patches", "per_unit")
    cells = math.prod(layer.shape[1:]) if layer else net.largest / 64
    along = 8 * work.batch * number * cells
    codes = max((x.units for x in net.layers if x.code), default=1024)
    alike = 8 * min((work.units + number) * rank, work.shown.images) * codes
    memory = 16 * work.batch * net.largest + along + 8 * net.parameters + alike
    seconds = work.shown.images * (net.seconds() + number * work.units * cells * _PER_MAC)
    stored = number * (4 * work.units + 60 * rank) + 32 * work.units + 30_000
    return memory + 50 * MB, seconds + 1e-4 * work.units * rank, stored


@_rule("measure_health", _PLAIN)
def _measure_health(work: Work) -> tuple[float, float, float]:
    images, units = work.shown.images, work.units
    block = min(_HELD, images * units * 4)
    return 12 * block + 500 * units, images * units * 5e-8, 70 * units + 13_000


@_rule("track_health", _TORCH, gpu=True)
def _track_health(work: Work) -> tuple[float, float, float]:
    net = work.network
    epochs = len((work.model["train"] or {}).get("snapshots", ()))
    units = sum(find_layer(net.layers, name).units for name in work.chosen)
    memory = 16 * work.batch * net.largest + 8 * net.parameters + 200 * epochs * units
    seconds = epochs * work.shown.images * net.seconds(_SUMMED)
    return memory, seconds, 200 * epochs * len(work.chosen) + 12_000


@_rule("sample_firing", _PLAIN)
def _sample_firing(work: Work) -> tuple[float, float, float]:
    images, units = work.shown.images, work.units
    block = min(_HELD, images * units * 12)
    parts = work.of("firing", "images")
    memory = 7 * block + 24 * images + (16 * work.shown.classes + 200 * parts) * units
    return memory, images * units * 4e-8 * parts, units * (32 * parts + 110) + 30_000


@_rule("measure_fields", _TORCH, gpu=True)
def _measure_fields(work: Work) -> tuple[float, float, float]:
    net, number = work.network, work.of("receptive_fields", "images")
    batch = min(work.batch, number)
    memory = 2 * min(_FIELDS, 8 * batch * net.values) + 8 * net.parameters + 40 * MB
    layers = max(len(work.chosen), 1)
    pixels = work.shown.height * work.shown.width
    each = net.operations * _PER_MAC * _BACK + net.values * 2 * _PER_VALUE
    return memory, number * layers * each, _deflated(4 * layers * pixels, 0.4) + 20_000


# ------------------------------------------------------------- projections, saliency


def _boxes(layer: Layer, pictures: Pictures) -> tuple[float, float]:
    """Return the pixels of a layer's box, and how many of them lie on the image, on average."""
    rows, columns = layer.shape[1:] if len(layer.shape) == 3 else (1, 1)
    cells = np.stack(np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij"), axis=-1)
    box = layer.boxes(cells).reshape(-1, 4)
    limits = np.array([pictures.height, pictures.width])
    inside = np.minimum(box[:, 2:], limits) - np.maximum(box[:, :2], 0)
    return float(math.prod(layer.size)), float(np.clip(inside, 0, None).prod(1).mean())


def _projected(work: Work, layer: Layer | None, number: int) -> tuple[float, float]:
    """Return the bytes of some projections: as they are, and stored."""
    pixels = work.shown.height * work.shown.width
    whole, inside = _boxes(layer, work.shown) if layer else (pixels, pixels)
    raw = 12 * number * whole
    # Much of what comes back from a vector's units is zero: its maps are sparse, units are dead.
    full = 0.9 if layer and layer.is_map else 0.35
    return raw, _deflated(raw, full * inside / max(whole, 1))


def _shown_units(work: Work) -> int:
    wanted = work.of("projections", "units")
    number = wanted if isinstance(wanted, int) else len(wanted)
    return min(number, work.units)


@_rule("project_patches", _TORCH, gpu=True)
def _project_patches(work: Work) -> tuple[float, float, float]:
    net = work.network
    number = _shown_units(work) * work.of("patches", "per_unit")
    raw, stored = _projected(work, work.described, number)
    each = net.operations * _PER_MAC * 2 + net.values * _PER_VALUE
    memory = 3 * raw + 3 * _CONE + 8 * net.parameters
    return memory, number * each + raw / _DEFLATE, stored + 80 * number + 12_000


@_rule("project_strongest", _TORCH, gpu=True)
def _project_strongest(work: Work) -> tuple[float, float, float]:
    net = work.network
    deep = max((x for x in net.layers if x.is_map), key=lambda x: math.prod(x.size), default=None)
    number = 4  # the exhibit, and three images beside it
    raw, stored = _projected(work, work.described or deep, number)
    each = net.operations * _PER_MAC * 2 + net.values * _PER_VALUE
    memory = 3 * raw + 2 * _CONE + 8 * net.parameters
    seconds = number * each + raw / _DEFLATE + 0.1
    return memory, seconds * work.exhibits, (stored * 1.25 + 20_000) * work.exhibits


@_rule("record_saliency", _TORCH, gpu=True)
def _record_saliency(work: Work) -> tuple[float, float, float]:
    net = work.network
    memory = 12 * net.values + 8 * net.parameters + 20 * MB
    seconds = 3 * (net.operations * _PER_MAC * 2 + net.values * 2 * _PER_VALUE) + 0.1
    each = 3 * _deflated(4 * work.shown.values, 0.75) + 12_000
    return memory, seconds * work.exhibits, each * work.exhibits


# --------------------------------------------------------------------- occlusion


def positions(extent: int, size: Any, stride: Any, axis: int) -> int:
    """Return how many places an occluder has along an axis of so many pixels.

    `size` and `stride` are as in the config: pixels, or shares of the side below one,
    for both axes or for each.
    """
    window, step = (
        max(1, round(value * extent if value < 1 else value))
        for value in (x if isinstance(x, int | float) else x[axis] for x in (size, stride))
    )
    return len(range(0, min(max(extent - window, 0) + step, extent), step))


def _swept(work: Work) -> int:
    given = work.of("occlusion", "size"), work.of("occlusion", "stride")
    sides = (work.shown.height, work.shown.width)
    return math.prod(positions(side, *given, axis) for axis, side in enumerate(sides))


def _sweep(work: Work, places: int) -> tuple[float, float]:
    """Return the memory and the time of a sweep."""
    net = work.network
    dense = max((math.prod(x.shape) for x in net.layers if x.code), default=net.largest)
    memory = 44 * net.values + min(_HEADS, 4 * places * dense) + 12 * net.parameters + 40 * MB
    return memory + 4 * places * work.classes, places * net.seconds() * 0.4


@_rule("sweep_occlusion", _TORCH, gpu=True)
def _sweep_occlusion(work: Work) -> tuple[float, float, float]:
    places = _swept(work)
    memory, seconds = _sweep(work, places)
    each = _deflated(4 * places * work.classes, 0.9) + 4 * places + 4 * work.classes + 11_000
    return memory, (0.2 + seconds) * work.exhibits, each * work.exhibits


def _scenes(work: Work) -> int:
    return int(min(work.of("occlusion", "score")["scenes"], work.shown.images))


@_rule("score_scenes", _TORCH, gpu=True)
def _score_scenes(work: Work) -> tuple[float, float, float]:
    score = work.of("occlusion", "score")
    scenes = math.ceil(_scenes(work) / score["shards"])
    memory, seconds = _sweep(work, _swept(work))
    # By the network and by its control.
    return memory + 80 * MB, 1.5 + 2 * scenes * (0.02 + seconds), 2 * scenes * 120 + 500


@_rule("gather_scores", _PLAIN)
def _gather_scores(work: Work) -> tuple[float, float, float]:
    return 20 * MB, 0.2, 240 * _scenes(work) + 1_000


# ------------------------------------------------------------ neighbours, embedding


def _searched(work: Work, components: int, asked: int) -> float:
    """Return the memory of a search for the nearest codes, see `nearest.nearest`."""
    images = work.shown.images
    block = min(_HELD, 4 * images * components)
    wanted = min(_WANTED, 4 * asked * components)
    at_once = max(1, wanted // (4 * components))
    distances = min(_COMPARED, images * at_once)
    rows = block // (4 * components)
    slices = 8 * min(components, _SLICE) * (rows + at_once)
    return 1.4 * block + wanted + 4 * 8 * distances + slices + 40 * images


@_rule("find_nearest", _PLAIN)
def _find_nearest(work: Work) -> tuple[float, float, float]:
    shown, layers = work.shown, max(len(work.compared), 1)
    values = work.shown.values + sum(
        x.units for x in work.network.layers if x.name in work.compared
    )
    memory = _searched(work, shown.values, work.exhibits) + 2 * _HELD
    seconds = shown.images * values * (2e-9 + 1e-10 * work.exhibits) + 0.1
    return memory, seconds, (9_000 + 20 * layers * 16) * work.exhibits


@_rule("classify_neighbours", _PLAIN)
def _classify_neighbours(work: Work) -> tuple[float, float, float]:
    images = work.shown.images
    asked, voters = min(work.of("neighbours", "sample"), images), work.of("neighbours", "voters")
    pairs = images * asked
    seconds = pairs * (work.components * 6e-11 + 5e-8) + asked * 1e-4 + 0.5
    memory = _searched(work, work.components, asked) + 100 * MB
    return memory, seconds, asked * (25 + 11 * voters) + 20_000


def _sampled(work: Work) -> tuple[int, int, int]:
    """Return how many images are embedded, the neighbours that each keeps, and the other images."""
    images = work.shown.images
    embedded = min(images, work.of("embedding", "sample"))
    near = min(work.of("embedding", "neighbours"), max(embedded - 1, 1))
    return embedded, near, images - embedded


@_rule("find_neighbours", _SCIENCE)
def _find_neighbours(work: Work) -> tuple[float, float, float]:
    numbers = work.components
    embedded, near, others = _sampled(work)
    kept = min(work.of("embedding", "components"), numbers, embedded)
    rows = min(max(kept, _PCA // (4 * numbers)), embedded)
    memory = 48 * (rows + kept + 1) * numbers + embedded * (30 * near + 16 * kept) + 40 * MB
    blocks = math.ceil(embedded / max(rows, 1))
    searched = embedded * work.shown.images * (kept + 20) * 2e-10
    seconds = blocks * (rows + kept) * numbers * 1.7e-7 + searched
    stored = embedded * (4 * kept * 0.9 + near * (1.8 + 3.4)) + 15_000
    each = 8 + 4 * kept + _PLACED * (4 + 4)  # of those that are placed among them
    memory += work.shown.images * 16
    return memory, seconds + work.shown.images * numbers * 4e-9, stored + others * each


def _embedded(work: Work, perplexity: float) -> tuple[float, float, float]:
    embedded, near, others = _sampled(work)
    passes = 250 + work.of("embedding", "iterations")
    memory = embedded * (30 * near + 200 * min(perplexity, near / 3)) + 15 * MB
    memory += others * 40 + min(others, _PLACED_AT_ONCE) * _PLACED * 60
    seconds = 0.3 + embedded * passes * 4.5e-6 + others * 250 * 2e-6
    return memory, seconds, 9 * (embedded + others) + 8_500


@_rule("embed_codes", _SCIENCE)
def _embed_codes(work: Work) -> tuple[float, float, float]:
    return _embedded(work, work.of("embedding", "perplexity"))


@_rule("embed_otherwise", _SCIENCE)
def _embed_otherwise(work: Work) -> tuple[float, float, float]:
    return _embedded(work, max(work.of("embedding", "perplexities"), default=30))


@_rule("measure_quality", _SCIENCE)
def _measure_quality(work: Work) -> tuple[float, float, float]:
    images = work.shown.images
    _, near, _ = _sampled(work)
    trusted = min(images, 2000)
    maps = len(work.compared) + len(work.of("embedding", "perplexities")) + 1
    memory = 40 * trusted**2 + images * (12 * near + 4 * work.of("embedding", "components") + 2500)
    return memory, maps * (trusted**2 * 1.2e-7 + images * 5e-5), 12_000


def _cells(work: Work) -> int:
    wanted, fits = work.of("embedding", "grid"), int(math.sqrt(max(work.shown.images, 1)))
    return int(min(40 if wanted == "auto" else int(wanted), fits)) ** 2


@_rule("arrange_grid", _SCIENCE)
def _arrange_grid(work: Work) -> tuple[float, float, float]:
    cells = _cells(work)
    images = min(work.shown.images, 4 * cells)
    memory = 20 * cells * images + 100 * work.shown.images
    return memory, cells * images * 3e-7, 8 * cells + 8_500


# ----------------------------------------------------------------------- figures


def _figure(
    work: Work, png: float, csv: float, seconds: float, page: float = 40, more: float = 0
) -> tuple[float, float, float]:
    """Return what a figure needs.

    Parameters
    ----------
    png, csv : bytes of the picture at the usual resolution, and of its numbers.
    page : MB that drawing takes at that resolution.
    more : bytes that it holds besides.
    """
    scale = work.config["figures"]["dpi"] / _DPI
    kinds = len(work.config["figures"]["formats"])
    memory = page * MB * max(scale, 0.25) ** 2 + more
    drawn = seconds * (0.4 + 0.6 * scale**1.5) * kinds
    png = png * scale**1.2 + 8_000
    # An SVG holds the same pictures as text, and each letter's outline.
    return memory, drawn, png + (kinds - 1) * (1.35 * png + 40_000) + csv


def _layer_png(work: Work, small: float, large: float) -> float:
    """Return the bytes of rows of patches, by how many pixels a patch has."""
    layer = work.described
    pixels = _boxes(layer, work.shown)[1] if layer else work.shown.values / 3
    return small + (large - small) * min(1.0, pixels / 8_000)


def _rows(work: Work) -> float:
    """Return how many units a figure shows, as a share of the usual sixteen."""
    return _shown_units(work) / 16


@_rule("plot_filters", _PLOT)
def _plot_filters(work: Work) -> tuple[float, float, float]:
    weights = work.network._weights.get(work.layer, 10_000)
    return _figure(work, 140_000, 22 * weights, 0.5)


@_rule("plot_frequency", _PLOT)
def _plot_frequency(work: Work) -> tuple[float, float, float]:
    return _figure(work, 180_000, 90 * work.units, 0.6)


@_rule("plot_redundancy", _PLOT)
def _plot_redundancy(work: Work) -> tuple[float, float, float]:
    return _figure(work, 150_000 + 250 * work.units, 20 * work.units, 0.6, 60)


@_rule("plot_kernels", _PLOT)
def _plot_kernels(work: Work) -> tuple[float, float, float]:
    weights = work.network._weights.get(work.layer, 10_000)
    shown = min(1.0, 16 / work.units) * weights
    return _figure(work, 160_000, 22 * shown, 0.6, 60, 8 * weights)


@_rule("plot_maps", _PLOT)
def _plot_maps(work: Work) -> tuple[float, float, float]:
    values = max((math.prod(x.shape) for x in _chosen(work)), default=0)
    total = sum(math.prod(x.shape) for x in _chosen(work))
    units = sum(x.units for x in _chosen(work))
    seen = min(1.0, work.shown.values / 150_000)
    # The strongest maps, and over the image, a layer each; the mosaic of all.
    png = len(work.chosen) * (130_000 + 500_000 * seen) + 150_000 + min(2.6e6, 2 * total)
    found = _figure(work, png, 60 * units + 2_000, 1.8, 150, 12 * values)
    return found[0], found[1] * work.exhibits, found[2] * work.exhibits


@_rule("plot_patches", _PLOT)
def _plot_patches(work: Work) -> tuple[float, float, float]:
    png = _layer_png(work, 150_000, 3_800_000) * _rows(work)
    layer = work.described
    held = 3 * _shown_units(work) * 9 * (math.prod(layer.size) if layer else 0)
    return _figure(work, png, 8_500 * _rows(work), 1.4, 40, held)


@_rule("plot_projections", _PLOT)
def _plot_projections(work: Work) -> tuple[float, float, float]:
    png = _layer_png(work, 200_000, 7_500_000) * _rows(work)
    raw, _ = _projected(work, work.described, _shown_units(work) * work.of("patches", "per_unit"))
    return _figure(work, png, 13_000 * _rows(work), 2.4, 60, 1.5 * raw)


@_rule("plot_directions", _PLOT)
def _plot_directions(work: Work) -> tuple[float, float, float]:
    csv = 35 * (2 * work.units + work.of("directions", "number"))
    layer = work.described
    held = 3 * 108 * (math.prod(layer.size) if layer else 0)
    return _figure(work, _layer_png(work, 450_000, 2_000_000), csv, 0.9, 40, held)


@_rule("plot_firing", _PLOT)
def _plot_firing(work: Work) -> tuple[float, float, float]:
    csv = work.units * (80 + 35 * work.of("firing", "images") + 130)
    return _figure(work, 1_900_000, csv, 1.0)


@_rule("plot_health", _PLOT)
def _plot_health(work: Work) -> tuple[float, float, float]:
    units = sum(x.units for x in _chosen(work))
    return _figure(work, 115_000, 75 * units + 5_000, 0.5, 40, 1_000 * units)


@_rule("plot_worst", _PLOT)
def _plot_worst(work: Work) -> tuple[float, float, float]:
    return _figure(work, _layer_png(work, 700_000, 3_300_000), 75 * work.units, 1.1)


@_rule("plot_snapshots", _PLOT)
def _plot_snapshots(work: Work) -> tuple[float, float, float]:
    epochs = len((work.model["train"] or {}).get("snapshots", ()))
    return _figure(work, 160_000, 120 * epochs * max(len(work.chosen), 1), 0.5)


@_rule("plot_training", _PLOT)
def _plot_training(work: Work) -> tuple[float, float, float]:
    return _figure(work, 100_000, 50 * (work.model["train"] or {}).get("epochs", 1), 0.4)


@_rule("plot_nearest", _PLOT)
def _plot_nearest(work: Work) -> tuple[float, float, float]:
    shown = (1 + work.of("neighbours", "shown")) / 8
    png = 430_000 * max(len(work.compared), 1) * shown + 300_000
    found = _figure(work, png, 350 * len(work.compared), 1.0, 50)
    return found[0], found[1] * work.exhibits, found[2] * work.exhibits


@_rule("plot_accuracy", _PLOT)
def _plot_accuracy(work: Work) -> tuple[float, float, float]:
    return _figure(work, 80_000, 70 * len(work.compared), 0.4)


@_rule("plot_scatter", _PLOT)
def _plot_scatter(work: Work) -> tuple[float, float, float]:
    images = work.shown.images
    png = 200_000 + min(images * 60, 2e6)
    return _figure(work, png, 52 * images, 0.4 + images * 2e-5, 40, 1_000 * images)


@_rule("plot_views", _PLOT)
def _plot_views(work: Work) -> tuple[float, float, float]:
    images = work.shown.images
    views = 6 if work.shown.masks else 1
    png = views * (120_000 + min(images * 60, 2e6))
    return _figure(work, png, 270 * images, 0.5 + images * 5e-5, 40, 2_000 * images)


@_rule("plot_perplexities", _PLOT)
def _plot_perplexities(work: Work) -> tuple[float, float, float]:
    images, maps = work.shown.images, 1 + len(work.of("embedding", "perplexities"))
    png = maps * (65_000 + min(images * 20, 1e6))
    return _figure(work, png, 30 * maps * images, 0.4 + images * 3e-5, 40, 1_000 * images)


@_rule("plot_quality", _PLOT)
def _plot_quality(work: Work) -> tuple[float, float, float]:
    images, maps = work.shown.images, max(len(work.compared), 1)
    png = maps * (70_000 + min(images * 20, 1e6))
    return _figure(work, png, 120 * maps, 0.5 + images * 3e-5, 40, 500 * maps * images)


@_rule("plot_grid", _PLOT)
def _plot_grid(work: Work) -> tuple[float, float, float]:
    cells = _cells(work)
    png = 10.5e6 * (cells / 961) ** 0.5
    memory = 300 + 0.45 * cells
    return _figure(work, png, 32 * cells, 1.0 + 2e-3 * cells, memory, cells * work.shown.values)


@_rule("plot_occlusion", _PLOT)
def _plot_occlusion(work: Work) -> tuple[float, float, float]:
    seen = min(1.0, work.shown.values / 150_000)
    found = _figure(work, 260_000 + 300_000 * seen, 68 * _swept(work), 0.8, 55)
    return found[0], found[1] * work.exhibits, found[2] * work.exhibits


@_rule("plot_occlusion_score", _PLOT)
def _plot_occlusion_score(work: Work) -> tuple[float, float, float]:
    return _figure(work, 135_000, 80 * _scenes(work), 0.4)


@_rule("plot_saliency", _PLOT)
def _plot_saliency(work: Work) -> tuple[float, float, float]:
    seen = min(1.0, work.shown.values / 150_000)
    found = _figure(work, 70_000 + 1_100_000 * seen, 420, 0.5)
    return found[0], found[1] * work.exhibits, found[2] * work.exhibits


@_rule("plot_growth", _PLOT)
def _plot_growth(work: Work) -> tuple[float, float, float]:
    seen = min(1.0, work.shown.values / 150_000)
    png = max(len(work.chosen), 1) * (55_000 + 110_000 * seen)
    return _figure(work, png, 120 * len(work.chosen), 0.6, 60)


def _chosen(work: Work) -> list[Layer]:
    return [layer for layer in work.network.layers if layer.name in work.chosen]


# ------------------------------------------------------------- of a whole study

_OF_LAYERS = ("plot_patches", "plot_projections", "plot_directions", "plot_firing", "plot_worst")
_OF_FILTERS = ("plot_kernels", "plot_redundancy")
_OF_EXHIBITS = ("plot_maps", "plot_nearest", "plot_occlusion", "plot_saliency")
_OF_STUDY = (
    *("plot_filters", "plot_health", "plot_accuracy", "plot_scatter", "plot_views"),
    *("plot_perplexities", "plot_quality", "plot_grid", "plot_growth"),
)


def _drawn(work: Work) -> float:
    """Return the bytes of a study's figures."""
    count = work.study["exhibits"]
    shown = count if isinstance(count, int) else len(count)
    jobs = [
        *((rule, replace(work, layer=name)) for name in work.chosen for rule in _OF_LAYERS),
        *((rule, replace(work, layer=name)) for name in work.filtered for rule in _OF_FILTERS),
        *((rule, replace(work, layer="", exhibits=shown)) for rule in _OF_EXHIBITS),
        *((rule, replace(work, layer="")) for rule in _OF_STUDY),
    ]
    return sum(need(rule, job).stored for rule, job in jobs)


@_rule("record_provenance", _PLAIN)
def _record_provenance(work: Work) -> tuple[float, float, float]:
    return 60 * MB, 3 + _drawn(work) / _READ, 150_000 + 8_000 * len(work.chosen)


@_rule("build_report", _PLAIN)
def _build_report(work: Work) -> tuple[float, float, float]:
    drawn = _drawn(work)
    return 20 * MB + 100 * work.shown.images, 0.3 + drawn / _READ, drawn + 300_000
