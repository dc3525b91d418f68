"""Time the deconvnet's projections against captum's, in one run.

``uv run python tests/benchmarks/projection.py`` on a machine that does nothing else;
``--help`` says what can be chosen. Projected are the strongest patches of some units, as
the atlas does it: for each unit the images and the places that excite it most. Ours runs
all of them, set-up included. Captum's `NeuronDeconvolution` runs a call a unit with all of
its images, or as many images a call as is fastest for it; both run a sample of the units,
and their time for all is worked out from it. Every repeat times all of them in turn, and
ratios are taken within a repeat.
"""

from __future__ import annotations

import argparse
import json
import statistics
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from captum.attr import NeuronDeconvolution
from common import NETWORKS, SIDE, build, environment, images, timed
from numpy.typing import NDArray
from tables import line, numbers, spread
from torch import Tensor, nn

from convatlas.activations import run_layers
from convatlas.graph.tracing import trace
from convatlas.projection import project

LAYERS = {  # network -> layers of it; captum knows them by the same names
    "alexnet": ["features.3", "features.10"],
    "vgg16": ["features.14", "features.28"],
    "resnet18": ["layer2.0.conv2", "layer4.1.conv2"],
}
BATCHES = {"cpu": [4, 16, 32, 64], "cuda": [32, 128, 256]}  # images a call of captum's
POOL = 96  # images of which the strongest are taken
TIE = 1e-4  # a difference above this share of the signal is a max-pool's switch that flipped


@dataclass(frozen=True)
class Row:
    """One line of the table: a layer, and the times of each repeat."""

    network: str
    layer: str
    projections: int
    seconds: dict[str, list[float]]  # for all projections, one for each repeat
    batch: int
    difference: float
    flipped: int

    def ratios(self, other: str) -> list[float]:
        """Return how many times ours is faster, for each repeat."""
        pairs = zip(self.seconds[other], self.seconds["ours"], strict=True)
        return [other / ours for other, ours in pairs]

    def cells(self) -> list[str]:
        """Return what the table shows."""
        ours = statistics.median(self.seconds["ours"])
        return [
            self.network,
            self.layer,
            str(self.projections),
            f"{ours:.2f}",
            f"{1000 * ours / self.projections:.2f}",
            spread(self.ratios("captum a unit")),
            spread(self.ratios("captum batched")),
            str(self.batch),
            f"{self.difference:.0e}",
            str(self.flipped),
        ]


HEADINGS = [
    ("network", 10),
    ("layer", 16),
    ("projections", 11),
    ("ours s", 7),
    ("ms each", 7),
    ("x a call a unit", 20),
    ("x captum batched", 20),
    ("batch", 5),
    ("difference", 10),
    ("flipped", 7),
]
LEGEND = f"""\
ours s: all projections with set-up, median; ms each: one of them
x: how many times ours is faster, median of the repeats (least - greatest)
a call a unit: captum.attr.NeuronDeconvolution with the images of one unit at a time
captum batched: the same with as many images a call as is fastest for it (batch)
difference: of any value to captum's, as a share of the projection's largest one
flipped: projections that differ by more than {TIE}, through a max-pool whose two largest
values are equal but for rounding; they are left out of the difference"""


class Bench:
    """A network with everything that it is timed with."""

    def __init__(self, name: str, options: argparse.Namespace) -> None:
        self.name, self.options = name, options
        self.device = torch.device(options.device)
        self.model = build(name, options.seed).to(self.device)
        for module in self.model.modules():
            if isinstance(module, nn.ReLU):
                module.inplace = False  # captum's hooks can't do with it
        self.images = images(POOL, options.seed).to(self.device)

    def compare(self, layer: str) -> Row:
        """Time everything in turn, as often as asked for, each time with another one first."""
        options = self.options
        units, rows, places = self._strongest(layer)
        found: dict[str, NDArray[Any]] = {}
        sample = slice(0, options.sampled * options.per_unit)
        share = len(units) / len(units[sample])

        def ours() -> float:
            run = partial(project, self.model, self.images[rows], layer, units, places)
            seconds, (boxes, signal) = timed(run, self.device)
            found["ours"] = _back_in_place(signal[sample], boxes[sample])
            return seconds

        def captum(batch: int) -> float:
            run = partial(self._captum, layer, units[sample], rows[sample], places[sample], batch)
            seconds, signal = timed(run, self.device)
            found["captum"] = signal.numpy()
            return seconds * share

        ours()  # to warm up
        batch = min(options.batches, key=captum)
        runs: dict[str, Callable[[], float]] = {
            "ours": ours,
            "captum a unit": partial(captum, options.per_unit),
            "captum batched": partial(captum, batch),
        }
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        for repeat in range(options.repeats):
            names = list(runs)
            first = repeat % len(names)
            for name in names[first:] + names[:first]:
                seconds[name].append(runs[name]())
        scale = np.abs(found["captum"]).max(axis=(1, 2, 3))
        off = np.abs(found["ours"] - found["captum"]).max(axis=(1, 2, 3)) / scale
        flipped = off > TIE
        return Row(
            network=self.name,
            layer=layer,
            projections=len(units),
            seconds=seconds,
            batch=batch,
            difference=float(off[~flipped].max(initial=0)),
            flipped=int(flipped.sum()),
        )

    def _strongest(self, layer: str) -> tuple[NDArray[np.int64], ...]:
        """Return units, the images that excite each most, and where: a row a projection."""
        options = self.options
        graph = trace(self.model, (3, SIDE, SIDE))
        best, where = [], []
        for batch in torch.split(self.images, 16):
            for _, value in run_layers(graph, {layer}, batch):
                largest, cell = value.flatten(2).max(2)
                best.append(largest.cpu())
                where.append(torch.stack([cell // value.shape[3], cell % value.shape[3]], 2).cpu())
        strength, places = torch.cat(best).numpy(), torch.cat(where).numpy()
        generator = np.random.default_rng(options.seed)
        chosen = generator.choice(strength.shape[1], min(options.units, strength.shape[1]), False)
        rows = np.argsort(-strength[:, chosen], axis=0)[: options.per_unit].T.ravel()
        units = np.repeat(chosen, options.per_unit)
        return units, rows, places[rows, units]

    def _captum(
        self,
        layer: str,
        units: NDArray[np.int64],
        rows: NDArray[np.int64],
        places: NDArray[np.int64],
        batch: int,
    ) -> Tensor:
        """Return captum's whole images, `batch` of them a call."""
        method = NeuronDeconvolution(self.model, self.model.get_submodule(layer))
        found = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it sets hooks
            for start in range(0, len(units), batch):
                some = slice(start, start + batch)
                unit = torch.from_numpy(units[some])
                y, x = torch.from_numpy(places[some].T.copy())
                pick = partial(_pick, unit=unit, y=y, x=x)
                found.append(method.attribute(self.images[rows[some]], pick).detach().cpu())
        return torch.cat(found)


def _pick(out: Tensor, unit: Tensor, y: Tensor, x: Tensor) -> Tensor:
    return out[torch.arange(len(unit)), unit, y, x]


def _back_in_place(signal: NDArray[Any], boxes: NDArray[np.int64]) -> NDArray[Any]:
    """Return images with the projections where they belong."""
    whole = np.zeros((len(signal), signal.shape[1], SIDE, SIDE), signal.dtype)
    for image, part, (top, left, bottom, right) in zip(whole, signal, boxes, strict=True):
        y, x = slice(max(top, 0), min(bottom, SIDE)), slice(max(left, 0), min(right, SIDE))
        image[:, y, x] = part[:, y.start - top : y.stop - top, x.start - left : x.stop - left]
    return whole


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description="Time convatlas.projection.project against captum.attr.NeuronDeconvolution. "
        f"Images are {SIDE}x{SIDE}, weights random.",
        epilog=LEGEND,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    known = [f"{network}/{layer}" for network, layers in LAYERS.items() for layer in layers]
    add(
        "--layers",
        nargs="+",
        default=known,
        metavar="NETWORK/LAYER",
        help=f"a module of one of torchvision's {', '.join(NETWORKS)} (default: {' '.join(known)})",
    )
    add("--units", type=int, default=64, metavar="N", help="of each layer (default: 64)")
    add("--per-unit", type=int, default=9, metavar="N", help="images a unit (default: 9)")
    add("--sampled", type=int, default=8, metavar="N", help="units for captum (default: 8)")
    add("--repeats", type=int, default=3, metavar="N", help="how often all are timed (default: 3)")
    add("--device", choices=["cpu", "cuda"], default="cpu", help="(default: cpu)")
    add(
        "--batches",
        nargs="+",
        type=int,
        metavar="N",
        help="captum's images a call to choose the best of (default: "
        f"{numbers(BATCHES['cpu'])}; {numbers(BATCHES['cuda'])} on CUDA)",
    )
    add("--seed", type=int, default=0, metavar="N", help="of weights and images (default: 0)")
    add("--json", type=Path, metavar="FILE", help="also write all times here, in seconds")
    options = parser.parse_args(arguments)
    options.batches = options.batches or BATCHES[options.device]
    if min(options.units, options.per_unit, options.sampled, options.repeats) < 1:
        parser.error("all numbers must be at least 1")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch finds no CUDA device")
    if wrong := [x for x in options.layers if x.partition("/")[0] not in NETWORKS]:
        parser.error(f"{wrong[0]!r} isn't a layer of {', '.join(NETWORKS)}")
    return options


def main() -> None:
    """Run the benchmark and print the table."""
    options = parse()
    around = environment(options)
    print(*(f"{key}: {value}" for key, value in around.items()), sep=", ")
    print(line([heading for heading, _ in HEADINGS], HEADINGS), flush=True)
    rows: list[Row] = []
    bench: Bench | None = None
    for wanted in options.layers:
        network, _, layer = wanted.partition("/")
        if bench is None or bench.name != network:
            bench = Bench(network, options)
        rows.append(bench.compare(layer))
        print(line(rows[-1].cells(), HEADINGS), flush=True)
        if options.json:
            content = {"environment": around, "rows": [asdict(row) for row in rows]}
            options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(LEGEND)


if __name__ == "__main__":
    main()
