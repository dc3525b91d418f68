"""Time the extraction of all layers' summaries against a bare forward pass, in one run.

``uv run python tests/benchmarks/extraction.py`` on a machine that does nothing else; ``--help``
says what can be chosen. Ours is `extract_activations` as the workflow runs it: it loads the
network, traces it, reads ``images.h5``, normalises, runs the network, summarises what every
layer answers and writes it. The bare pass calls the network on the same inputs, which lie in
memory already, in the layout that is the fastest for it: in the same batches, and in those
that are the fastest for it. What ours takes for no more than two images is taken off: a
shard's start, which doesn't grow with its images. Every repeat times all in turn, and ratios
are taken within a repeat, of the time of the processor as of the wall.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
import torch
from common import NETWORKS, SIDE, build, environment, wait
from tables import line
from torch import Tensor, nn

from convatlas.activations import extract_activations
from convatlas.graph.describe import describe_network
from convatlas.models.load import load_model, write_model
from convatlas.store import ImageWriter, Recipe

SHOWN = ["squeezenet1_0", "resnet18"]
BATCHES = [2, 4, 8, 16]  # images a call of the bare pass to choose the best of, and --batch
LAYOUTS = {"channels last": torch.channels_last, "contiguous": torch.contiguous_format}
START = 2  # images of a run that is hardly more than its start
PIXELS = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}

Seconds = tuple[float, float]  # on the wall, and of the processor


@dataclass(frozen=True)
class Row:
    """One line of the table: a network, and the times of each repeat."""

    network: str
    layers: int
    images: int
    seconds: dict[str, list[Seconds]]  # for all images, one for each repeat
    start: list[Seconds]  # of ours
    layout: str
    best: int
    bytes: int  # of an image's summaries

    def ratios(self, other: str, clock: int) -> list[float]:
        """Return how fast ours is as a share of the bare pass, for each repeat."""
        each = zip(self.seconds[other], self.seconds["ours"], self.start, strict=True)
        return [bare[clock] / (ours[clock] - start[clock]) for bare, ours, start in each]

    def milliseconds(self, name: str) -> float:
        """Return an image's, on the wall, median."""
        taken = [seconds for seconds, _ in self.seconds[name]]
        if name == "ours":
            taken = [a - b for a, (b, _) in zip(taken, self.start, strict=True)]
        return 1000 * statistics.median(taken) / self.images

    def cells(self) -> list[str]:
        """Return what the table shows."""
        return [
            self.network,
            str(self.layers),
            f"{self.milliseconds('ours'):.1f}",
            f"{self.milliseconds('bare'):.1f}",
            f"{self.milliseconds('bare at its best'):.1f}",
            *(_spread(self.ratios("bare", clock)) for clock in (0, 1)),
            *(_spread(self.ratios("bare at its best", clock)) for clock in (0, 1)),
            str(self.best),
        ]


HEADINGS = [
    ("network", 14),
    ("layers", 6),
    ("ours ms", 7),
    ("bare ms", 7),
    ("best ms", 7),
    ("% of bare", 14),
    ("by processor", 14),
    ("% of best", 14),
    ("by processor", 14),
    ("batch", 5),
]
LEGEND = """\
ms: an image, on the wall, median; ours reads, normalises, summarises and writes besides
bare: the network alone, in the same batches; best: in those that are the fastest for it (batch)
%: how fast ours is as a share of that, median of the repeats (least - greatest)"""


def _spread(ratios: Sequence[float]) -> str:
    low, middle, high = (100 * x for x in (min(ratios), statistics.median(ratios), max(ratios)))
    return f"{middle:.0f} ({low:.0f}-{high:.0f})"


class Bench:
    """A network with everything that it is timed with."""

    def __init__(self, name: str, folder: Path, options: argparse.Namespace) -> None:
        self.name, self.folder, self.options = name, folder, options
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model = build(name, options.seed)
        if name in options.weights:
            model.load_state_dict(torch.load(options.weights[name], weights_only=True))
        write_model(
            model,
            architecture=f"torchvision/{name}",
            options=NETWORKS[name],
            weights="random",
            normalize=PIXELS,
            training=None,
            weights_out=self.path("weights.pt"),
            card_out=self.path("model.json"),
            recipe=Recipe(),
        )
        describe_network(model, (3, SIDE, SIDE), self.path("layers.json"))
        generator = np.random.default_rng(options.seed)
        self.pixels = generator.integers(0, 256, (options.images, SIDE, SIDE, 3), np.uint8)
        for count in (START, options.images):
            with ImageWriter(self.path(f"{count}.h5"), Recipe(), (SIDE, SIDE)) as writer:
                for i, image in enumerate(self.pixels[:count]):
                    writer.append(image, 0, f"{i}.png")

    def path(self, name: str) -> Path:
        return self.folder / f"{self.name}.{name}"

    def extract(self, count: int) -> Seconds:
        return self.timed(
            partial(
                extract_activations,
                images=self.path(f"{count}.h5"),
                card=self.path("model.json"),
                weights=self.path("weights.pt"),
                layers=self.path("layers.json"),
                output=self.path(f"activations.{count}.h5"),
                recipe=Recipe(),
                shard=0,
                shards=1,
                batch_size=self.options.batch,
            )
        )

    def timed(self, run: Callable[[], Any]) -> Seconds:
        wall, processor = wait(self.device), process_time()
        run()
        return wait(self.device) - wall, process_time() - processor

    def compare(self) -> Row:
        """Time everything in turn, as often as asked for, each time with another one first."""
        loaded = load_model(self.path("model.json"), self.path("weights.pt"))
        inputs = loaded.prepare(self.pixels)
        layout, best = self._fastest(loaded.module, inputs)
        model = loaded.module.to(memory_format=LAYOUTS[layout])  # type: ignore[call-overload]
        inputs = inputs.contiguous(memory_format=LAYOUTS[layout])
        runs: dict[str, Callable[[], Seconds]] = {
            "ours": partial(self.extract, self.options.images),
            "start": partial(self.extract, START),
            "bare": lambda: self.timed(partial(bare, model, inputs, self.options.batch)),
            "bare at its best": lambda: self.timed(partial(bare, model, inputs, best)),
        }
        runs["ours"]()  # to warm up
        seconds: dict[str, list[Seconds]] = {name: [] for name in runs}
        for repeat in range(self.options.repeats):
            names = list(runs)
            first = repeat % len(names)
            for name in names[first:] + names[:first]:
                seconds[name].append(runs[name]())
        start = [
            (wall * (1 - share), processor * (1 - share))
            for wall, processor in seconds.pop("start")
            for share in [START / self.options.images]
        ]
        return Row(
            network=self.name,
            layers=len(json.loads(self.path("layers.json").read_text(encoding="utf-8"))),
            images=self.options.images,
            seconds=seconds,
            start=start,
            layout=layout,
            best=best,
            bytes=self.path(f"activations.{self.options.images}.h5").stat().st_size
            // self.options.images,
        )

    def _fastest(self, model: nn.Module, inputs: Tensor) -> tuple[str, int]:
        """Return the layout and the batch in which the bare pass is the fastest."""
        taken: dict[tuple[str, int], float] = {}
        for name, layout in LAYOUTS.items():
            model.to(memory_format=layout)  # type: ignore[call-overload]
            some = inputs[: max(32, self.options.batch)].contiguous(memory_format=layout)
            for batch in sorted({*BATCHES, self.options.batch}):
                bare(model, some, batch)  # to warm up
                run = partial(bare, model, some, batch)
                taken[name, batch] = min(self.timed(run)[1] for _ in range(3))
        return min(taken, key=lambda key: taken[key])


@torch.inference_mode()
def bare(model: nn.Module, inputs: Tensor, batch: int) -> None:
    """Run the network and forget what it says."""
    for part in inputs.split(batch):
        model(part)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description="Time convatlas.activations.extract_activations against the network alone. "
        f"Images are {SIDE}x{SIDE}.",
        epilog=LEGEND,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--networks",
        nargs="+",
        choices=sorted(NETWORKS),
        default=SHOWN,
        metavar="NAME",
        help=f"torchvision's {', '.join(NETWORKS)} (default: {' '.join(SHOWN)})",
    )
    add(
        "--weights",
        nargs="+",
        default=[],
        metavar="NAME=FILE",
        help="of a network, its state dict; random ones else",
    )
    add("--images", type=int, default=128, metavar="N", help="(default: 128)")
    add("--batch", type=int, default=32, metavar="N", help="batch_size of ours (default: 32)")
    add("--repeats", type=int, default=5, metavar="N", help="how often all are timed (default: 5)")
    add(
        "--threads",
        type=int,
        metavar="N",
        help=f"of the processor (default: torch's choice, {torch.get_num_threads()} here)",
    )
    add("--seed", type=int, default=0, metavar="N", help="of weights and images (default: 0)")
    add("--json", type=Path, metavar="FILE", help="also write all times here, in seconds")
    options = parser.parse_args(arguments)
    if min(options.images - START, options.batch, options.repeats, options.threads or 1) < 1:
        parser.error("all numbers must be at least 1, images 3")
    options.weights = dict(item.split("=", 1) for item in options.weights)
    options.device = "cuda" if torch.cuda.is_available() else "cpu"
    return options


def main() -> None:
    """Run the benchmark and print the table."""
    options = parse()
    if options.threads:
        torch.set_num_threads(options.threads)
    around = environment(options) | {"batch": options.batch, "images": options.images}
    print(*(f"{key}: {value}" for key, value in around.items()), sep=", ")
    print(line([heading for heading, _ in HEADINGS], HEADINGS), flush=True)
    rows: list[Row] = []
    for name in options.networks:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(Bench(name, Path(folder), options).compare())
        print(line(rows[-1].cells(), HEADINGS), flush=True)
        print(
            f"  the bare pass: {rows[-1].layout}; {rows[-1].bytes / 1000:.0f} KB kept of an image"
        )
        if options.json:
            content = {"environment": around, "rows": [asdict(row) for row in rows]}
            options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(LEGEND)


if __name__ == "__main__":
    main()
