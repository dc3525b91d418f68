"""Time the occlusion sweep against the plain loop and against captum, in one run.

``uv run python tests/benchmarks/occlusion.py`` on a machine that does nothing else;
``--help`` says what can be chosen. Ours runs all positions of the occluder, set-up included;
the others may run a sample of them, and their time for all is worked out from it. Every
repeat times all of them in turn, and ratios are taken within a repeat.

Needs no data: the networks have random weights that are scaled so that the occluder moves
the probabilities.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from captum.attr import Occlusion
from common import NETWORKS, SIDE, build, environment, images, timed, wait
from tables import line, numbers, spread
from torch import Tensor, nn

from convatlas.graph.tracing import Graph, trace
from convatlas.occlusion import sweep
from convatlas.occlusion.positions import Positions
from convatlas.occlusion.spans import reaches

FILL = 0.0  # what the occluder shows
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
# What is tried of the others, and how many positions they are timed on.
BATCHES = {"cpu": [8, 16, 32, 64], "cuda": [16, 64, 128, 256, 512]}
PERTURBATIONS = {"cpu": [1, 8, 16, 32], "cuda": [1, 8, 16, 32, 64, 128, 256]}
SAMPLED = {"cpu": 128, "cuda": 1024}
TRIED_ON = 32  # positions at least, when batch sizes are tried
TRIES = {"cpu": 1, "cuda": 3}  # of each batch size; the fastest counts


@dataclass(frozen=True)
class Setting:
    """An occluder's side and stride, in pixels."""

    size: int
    stride: int

    @classmethod
    def parse(cls, text: str) -> Setting:
        """Read ``size/stride``."""
        try:
            size, stride = (int(part) for part in text.split("/"))
        except ValueError:
            size = stride = 0
        if not 0 < stride <= size <= SIDE:
            raise argparse.ArgumentTypeError(
                f"{text!r} isn't size/stride, such as 16/8, with a stride of at most the size "
                f"(captum's rule) and a size of at most {SIDE}"
            )
        return cls(size, stride)

    def __str__(self) -> str:
        return f"{self.size}/{self.stride}"

    @property
    def corners(self) -> Tensor:
        """Top and left of every position that covers the image, (P,2), row by row."""
        first = torch.arange(0, SIDE - self.size + self.stride, self.stride)
        return torch.cartesian_prod(first, first)


@dataclass(frozen=True)
class Row:
    """One line of the table: a network, a setting, and the times of each repeat."""

    network: str
    setting: str
    positions: int
    sampled: int
    bound: float
    seconds: dict[str, list[float]]  # for all positions, one for each repeat
    batches: dict[str, int]
    difference: float
    layouts: float
    clean: float
    range: tuple[float, float]

    def ratios(self, *others: str) -> list[float]:
        """Return how many times ours is faster than the fastest of some, for each repeat."""
        fastest = [min(times) for times in zip(*(self.seconds[o] for o in others), strict=True)]
        return [other / ours for other, ours in zip(fastest, self.seconds["ours"], strict=True)]

    def cells(self) -> list[str]:
        """Return what the table shows."""
        ours = statistics.median(self.seconds["ours"])
        return [
            self.network,
            self.setting,
            str(self.positions),
            f"{ours:.2f}",
            f"{1000 * ours / self.positions:.2f}",
            f"{self.bound:.1f}",
            spread(self.ratios("plain contiguous", "plain channels_last")),
            spread(self.ratios("plain contiguous")),
            spread(self.ratios("captum contiguous", "captum channels_last")),
            spread(self.ratios("captum contiguous")),
            f"{self.difference:.0e}",
            f"{self.layouts:.0e}",
        ]


HEADINGS = [
    ("network", 13),
    ("occluder", 8),
    ("positions", 9),
    ("ours s", 7),
    ("ms each", 7),
    ("bound", 6),
    ("x plain", 18),
    ("x plain contig.", 18),
    ("x captum", 18),
    ("x captum contig.", 18),
    ("max diff.", 9),
    ("layouts", 7),
]
LEGEND = """\
ours s: whole sweep with set-up, median; ms each: a position of it
bound: how many times fewer multiply-accumulates the changed rectangles alone take
x: how many times ours is faster, median of the repeats (least - greatest)
plain, captum: the faster of both memory layouts; contig.: as they come
max diff.: of any probability to the plain loop's, on the positions that it ran
layouts: the same between the plain loop's two memory layouts, as a yardstick of rounding"""


# -- timing


@torch.inference_mode()
def plain(
    model: nn.Module, image: Tensor, size: int, corners: Tensor, batch: int, layout: str
) -> Tensor:
    """Return the probabilities (P,K) under an occluder at some corners, by the plain loop."""
    found = []
    for part in torch.split(corners, batch):
        copies = (_masked if image.is_cuda else _painted)(image, size, part)
        copies = copies.contiguous(memory_format=LAYOUTS[layout])
        found.append(torch.softmax(model(copies), dim=1))
    return torch.cat(found).cpu()


def _painted(image: Tensor, size: int, corners: Tensor) -> Tensor:
    copies = image.repeat(len(corners), 1, 1, 1)
    for copy, (top, left) in zip(copies, corners.tolist(), strict=True):
        copy[:, top : top + size, left : left + size] = FILL
    return copies


def _masked(image: Tensor, size: int, corners: Tensor) -> Tensor:
    """Do as `_painted` with few operations, which is faster on a GPU."""
    pixel = torch.arange(SIDE, device=image.device)
    first = corners.to(image.device)[..., None]
    rows, columns = ((pixel >= first) & (pixel < first + size)).unbind(1)
    return image.masked_fill((rows[:, :, None] & columns[:, None])[:, None], FILL)


class _Enough(Exception):
    """Captum has been timed on enough positions."""


@torch.inference_mode()
def captum_each(
    model: nn.Module,
    image: Tensor,
    setting: Setting,
    target: int,
    most: int,
    batch: int,
    layout: str,
) -> float:
    """Return the seconds that captum takes for each position.

    Measured from its first occluded batch on, until it has run `most` positions or all.
    """
    device, calls, done = image.device, 0, 0
    start = 0.0

    def forward(copies: Tensor) -> Tensor:
        nonlocal calls, done, start
        if calls == 1:  # the first call is the image as it is
            start = wait(device)
        if done >= most:
            raise _Enough
        calls, done = calls + 1, done + (len(copies) if calls else 0)
        return torch.softmax(model(copies.contiguous(memory_format=LAYOUTS[layout])), dim=1)

    with suppress(_Enough):
        Occlusion(forward).attribute(
            image[None].contiguous(memory_format=LAYOUTS[layout]),
            sliding_window_shapes=(3, setting.size, setting.size),
            strides=(3, setting.stride, setting.stride),
            baselines=FILL,
            target=target,
            perturbations_per_eval=batch,
        )
    return (wait(device) - start) / done


class Bench:
    """A network with everything that it is timed with.

    Parameters
    ----------
    name : of the network.
    options : from the command line.
    """

    def __init__(self, name: str, options: argparse.Namespace) -> None:
        self.name, self.options = name, options
        self.device = torch.device(options.device)
        model = build(name, options.seed).to(self.device)
        last: Any = torch.channels_last
        self.models = {"contiguous": model, "channels_last": deepcopy(model).to(memory_format=last)}
        self.image = images(1, options.seed)[0].to(self.device)
        with torch.inference_mode():
            self.target = int(model(self.image[None]).argmax())
        sweep(model, self.image, SIDE // 2, SIDE // 2, FILL, progress=False)  # to warm up
        self.batches = self._choose()

    def compare(self, setting: Setting) -> Row:
        """Time everything in turn, as often as asked for, each time with another one first."""
        everywhere = setting.corners
        generator = np.random.default_rng(self.options.seed)
        count: int = min(self.options.positions, len(everywhere))
        sample = torch.from_numpy(np.sort(generator.permutation(len(everywhere))[:count]))
        corners = everywhere[sample]
        found: dict[str, Tensor] = {}

        def ours() -> float:
            model, size, stride = self.models["contiguous"], setting.size, setting.stride
            run = partial(sweep, model, self.image, size, stride, FILL, progress=False)
            seconds, swept = timed(run, self.device)
            found["ours"] = torch.from_numpy(swept.probability).flatten(0, 1)
            return seconds

        def loop(layout: str) -> float:
            name = f"plain {layout}"
            run = partial(self._plain, layout, self.batches[name], setting.size, corners)
            seconds, found[name] = timed(run, self.device)
            return seconds / count * len(everywhere)

        def other(layout: str) -> float:
            batch = self.batches[f"captum {layout}"]
            return self._captum(layout, batch, setting, count) * len(everywhere)

        runs: dict[str, Callable[[], float]] = {"ours": ours}
        runs |= {f"plain {layout}": partial(loop, layout) for layout in LAYOUTS}
        runs |= {f"captum {layout}": partial(other, layout) for layout in LAYOUTS}
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        for repeat in range(self.options.repeats):
            names = list(runs)
            first = repeat % len(names)
            for name in names[first:] + names[:first]:
                seconds[name].append(runs[name]())
        if len(found["ours"]) != len(everywhere):
            raise RuntimeError(f"ours ran {len(found['ours'])} positions, not {len(everywhere)}")
        clean = torch.softmax(self.models["contiguous"](self.image[None]), 1)[0, self.target]
        likely = found["ours"][:, self.target]
        return Row(
            network=self.name,
            setting=str(setting),
            positions=len(everywhere),
            sampled=count,
            bound=bound(self.models["contiguous"], (3, SIDE, SIDE), _grid(setting)),
            seconds=seconds,
            batches=self.batches,
            difference=_furthest(found["ours"][sample], found["plain contiguous"]),
            layouts=_furthest(found["plain channels_last"], found["plain contiguous"]),
            clean=float(clean),
            range=(float(likely.min()), float(likely.max())),
        )

    def _plain(self, layout: str, batch: int, size: int, corners: Tensor) -> Tensor:
        return plain(self.models[layout], self.image, size, corners, batch, layout)

    def _captum(self, layout: str, batch: int, setting: Setting, most: int) -> float:
        model = self.models[layout]
        return captum_each(model, self.image, setting, self.target, most, batch, layout)

    def _choose(self) -> dict[str, int]:
        """Return the fastest batch size of each peer, tried on a few positions."""
        setting, options = Setting(16, 8), self.options
        corners = setting.corners

        def loop(layout: str, batch: int) -> float:
            some = corners[: max(batch, TRIED_ON)]
            run = partial(self._plain, layout, batch, setting.size, some)
            return timed(run, self.device)[0] / len(some)

        def other(layout: str, batch: int) -> float:
            return self._captum(layout, batch, setting, max(batch, TRIED_ON))

        chosen = {}
        for layout in LAYOUTS:
            loop(layout, 8)  # to warm up
            for kind, run, sizes in (
                ("plain", loop, options.batches or BATCHES[options.device]),
                ("captum", other, options.perturbations or PERTURBATIONS[options.device]),
            ):
                sizes = [n for n in sizes if n <= options.positions] or [options.positions]
                tries = range(TRIES[options.device])
                times = {n: min(run(layout, n) for _ in tries) for n in sizes}
                chosen[f"{kind} {layout}"] = min(times, key=times.__getitem__)
        return chosen


def _furthest(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max())


# -- the bound


def _grid(setting: Setting) -> Positions:
    size, stride = (setting.size,) * 2, (setting.stride,) * 2
    return Positions.covering((SIDE, SIDE), size, stride)


def bound(model: nn.Module, size: tuple[int, int, int], positions: Positions) -> float:
    """Return how many times fewer multiply-accumulates the changed rectangles alone take.

    Of convolutions and linear layers; these see vectors, so they run in full.
    """
    graph = trace(model, size)
    reached = reaches(graph, positions)
    whole, changed = 0.0, 0.0
    for node in graph.nodes:
        if graph.operations[node].kind not in ("conv", "linear"):
            continue
        work = _weights(graph, str(node.target))
        if node in reached:
            y, x = reached[node]
            whole += work * y.size * x.size
            changed += work * float(y.lengths.mean() * x.lengths.mean())  # of all pairs
        else:
            whole += work
            changed += work
    return whole / changed


def _weights(graph: Graph, path: str) -> int:
    """Return the multiply-accumulates that one cell of a layer's output takes, all channels."""
    weight = graph.module.get_submodule(path).weight
    assert isinstance(weight, Tensor)
    return weight.numel()


# -- the command


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description="Time convatlas.occlusion.sweep against the plain batched loop and "
        "captum.attr.Occlusion, both in both memory layouts and at their best batch size. "
        f"Images are {SIDE}x{SIDE}, weights random.",
        epilog=LEGEND,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--networks",
        nargs="+",
        choices=list(NETWORKS),
        default=list(NETWORKS),
        metavar="NAME",
        help=f"torchvision networks, of: {', '.join(NETWORKS)} (default: all)",
    )
    add(
        "--settings",
        nargs="+",
        type=Setting.parse,
        default=[Setting(16, 4), Setting(16, 8), Setting(32, 8)],
        metavar="SIZE/STRIDE",
        help="occluders, in pixels (default: 16/4 16/8 32/8)",
    )
    add("--repeats", type=int, default=3, metavar="N", help="how often all are timed (default: 3)")
    add(
        "--positions",
        type=int,
        metavar="N",
        help="positions that the plain loop (a random sample) and captum (its first ones) are "
        "timed on; their time for all positions is worked out from these. Ours always runs all. "
        f"Best a multiple of the batch sizes. (default: {SAMPLED['cpu']}; "
        f"{SAMPLED['cuda']} on CUDA)",
    )
    add("--device", choices=["cpu", "cuda"], default="cpu", help="(default: cpu)")
    add(
        "--threads",
        type=int,
        metavar="N",
        help=f"of the processor (default: torch's choice, {torch.get_num_threads()} here)",
    )
    add(
        "--batches",
        nargs="+",
        type=int,
        metavar="N",
        help="batch sizes of the plain loop to choose the best of (default: "
        f"{numbers(BATCHES['cpu'])}; {numbers(BATCHES['cuda'])} on CUDA)",
    )
    add(
        "--perturbations",
        nargs="+",
        type=int,
        metavar="N",
        help="captum's perturbations_per_eval to choose the best of (default: "
        f"{numbers(PERTURBATIONS['cpu'])}; {numbers(PERTURBATIONS['cuda'])} on CUDA)",
    )
    add("--seed", type=int, default=0, metavar="N", help="of weights and images (default: 0)")
    add(
        "--json",
        type=Path,
        metavar="FILE",
        help="also write all times here, in seconds; written anew after each line",
    )
    options = parser.parse_args(arguments)
    if options.positions is None:
        options.positions = SAMPLED[options.device]
    least = [options.positions, options.repeats, options.threads or 1]
    if min(least + (options.batches or []) + (options.perturbations or [])) < 1:
        parser.error("repeats, positions, threads and batch sizes must be at least 1")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch finds no CUDA device")
    return options


def main() -> None:
    """Run the benchmark and print the table."""
    options = parse()
    if options.threads:
        torch.set_num_threads(options.threads)
    around = environment(options)
    print(*(f"{key}: {value}" for key, value in around.items()), sep=", ")
    print(line([heading for heading, _ in HEADINGS], HEADINGS), flush=True)
    rows: list[Row] = []
    for name in options.networks:
        bench = Bench(name, options)
        for setting in options.settings:
            row = bench.compare(setting)
            rows.append(row)
            print(line(row.cells(), HEADINGS), flush=True)
            if options.json:
                content = {"environment": around, "rows": [asdict(row) for row in rows]}
                options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        chosen = ", ".join(f"{peer} {batch}" for peer, batch in bench.batches.items())
        low = min(row.range[0] for row in rows if row.network == name)
        high = max(row.range[1] for row in rows if row.network == name)
        print(f"  fastest batches: {chosen}")
        print(f"  its class: {rows[-1].clean:.2f} as it is, {low:.2f} to {high:.2f} occluded")
    print(LEGEND)


if __name__ == "__main__":
    main()
