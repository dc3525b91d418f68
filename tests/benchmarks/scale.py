"""Measure time and memory of the analyses that go through all images, against their number.

``uv run python tests/benchmarks/scale.py --figure scale.png``; ``--help`` says what can be
chosen. For each number of images it writes synthetic activations in the real layout, with
the package's own writers and in several shards, and runs each analysis on them as the
workflow does, in a process of its own. That process's largest resident memory is read from
outside, from the system; what it had after its imports is taken off. Files in the system's
cache don't count, as they make room for whatever needs it.

The numbers are made up, like those of rectified layers: most are zero, many are equal, some
units are dead, and the places lie all over a map. The images are 8 x 8, so that a million
fit; nothing here but the search by pixels reads more than their labels and names. Needs
about 19 KB of disk an image with the layers that it has unless told otherwise, and Linux.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tables import line, numbers, processor

SIDE = 8  # of the images, in pixels
CLASSES = 1000
TILE = 2048  # rows that are made up; the others are these, each times a number of its own
BLOCK = 4096  # rows that are written at once
EXHIBIT = 5  # whose nearest images are looked for
SETTINGS = {"per_unit": 9, "threshold": 0.1, "parts": 9, "voters": 5, "sample": 2000}
RECIPE_PARAMETERS = {"synthetic": True}


# ------------------------------------------------------------------ what is written


@dataclass(frozen=True)
class Store:
    """Where everything about one number of images lies, and of what layers."""

    folder: Path
    rows: int
    units: tuple[int, ...]
    shards: int
    seed: int

    @property
    def layers(self) -> dict[str, int]:
        """Units by layer; the last one holds the class scores."""
        return {f"layer{i}": units for i, units in enumerate(self.units, start=1)}

    @property
    def output(self) -> str:
        return f"layer{len(self.units)}"

    def side(self, layer: str) -> int:
        """Return how many cells a layer's maps have along a side."""
        return 1 if layer == self.output else max(1, 56 >> int(layer.removeprefix("layer")))

    def path(self, name: str) -> Path:
        return self.folder / name

    @property
    def parts(self) -> list[Path]:
        return [self.path(f"activations/{i}.h5") for i in range(self.shards)]


def write_layers(store: Store) -> None:
    from convatlas.files import write_json
    from convatlas.layers import Layer

    entries = []
    for name, units in store.layers.items():
        side, last = store.side(name), name == store.output
        layer = Layer(
            name=name,
            kind="linear" if last else "relu",
            units=units,
            shape=(units,) if last else (units, side, side),
            size=(SIDE, SIDE),
            stride=(1, 1),
            start=(0, 0),
            exact=True,
            code=name == f"layer{max(1, len(store.units) - 1)}",
            output=last,
        )
        entries.append(layer.as_json())
    write_json(store.path("layers.json"), entries)


def write_images(store: Store) -> None:
    from convatlas.store import ImageWriter, Recipe

    generator = np.random.default_rng(store.seed)
    with ImageWriter(store.path("images.h5"), Recipe(), (SIDE, SIDE)) as writer:
        for start in range(0, store.rows, BLOCK):
            count = min(BLOCK, store.rows - start)
            pixels = generator.integers(0, 256, (count, SIDE, SIDE, 3), np.uint8)
            labels = generator.integers(0, min(CLASSES, store.units[-1]), count)
            labels[generator.random(count) < 0.02] = -1
            for i in range(count):
                name = f"n{labels[i]:08d}/image_{start + i:08d}.png"
                writer.append(pixels[i], int(labels[i]), name)


def write_shards(store: Store) -> None:
    """Write the shards one after the other, each as `extract_activations` would."""
    from convatlas.store import ActivationWriter, Recipe

    made = {name: _Rows(store, name) for name in store.layers}
    bounds = [store.rows * i // store.shards for i in range(store.shards + 1)]
    for part, start, stop in zip(store.parts, bounds, bounds[1:], strict=False):
        recipe = Recipe(parameters=RECIPE_PARAMETERS | {"start": start})
        with ActivationWriter(part, recipe, store.layers, start, stop, store.output) as writer:
            for first in range(start, stop, BLOCK):
                for name, rows in made.items():
                    writer.write(name, first, rows.make(first, min(first + BLOCK, stop)))


class _Rows:
    """Make up what a layer answers."""

    def __init__(self, store: Store, layer: str) -> None:
        units, side = store.layers[layer], store.side(layer)
        self._key = (store.seed, int(layer.removeprefix("layer")))
        generator = np.random.default_rng(self._key)
        rare = generator.uniform(0, 2, units)  # standard deviations above which a unit answers
        value = generator.standard_normal((TILE, units)) - rare
        if layer != store.output:
            value = np.maximum(value, 0)
            value[:, ::16] = 0  # dead
        self._value = value.round(2).astype(np.float32)
        place = generator.integers(0, side, (TILE, units, 2)) if side > 1 else None
        self._place = None if place is None else place.astype(np.int16)
        self._share = np.float32(1 if side == 1 else 0.1)

    def make(self, start: int, stop: int) -> dict[str, NDArray[Any]]:
        """Return the summaries of images `start` to `stop`."""
        generator = np.random.default_rng((*self._key, start))
        rows = generator.integers(0, TILE, stop - start)
        times = generator.integers(64, 128, (stop - start, 1)).astype(np.float32) / 100
        value = self._value[rows] * times
        found: dict[str, NDArray[Any]] = {"max": value, "mean": value * self._share}
        if self._place is not None:
            found["argmax"] = self._place[rows]
        return found


def gather(store: Store) -> None:
    from convatlas.store import Recipe, gather_activations

    gather_activations(store.parts, store.path("activations.h5"), Recipe())


# -------------------------------------------------------------------- what is measured


def rank(store: Store) -> None:
    from convatlas.patches import rank_patches
    from convatlas.store import Recipe

    for layer in store.layers:
        rank_patches(
            activations=store.path("activations.h5"),
            layers=store.path("layers.json"),
            images=store.path("images.h5"),
            output=store.path(f"patches/{layer}.h5"),
            recipe=Recipe(),
            layer=layer,
            per_unit=SETTINGS["per_unit"],
        )


def health(store: Store) -> None:
    from convatlas.health import measure_health
    from convatlas.store import Recipe

    for layer in store.layers:
        measure_health(
            activations=store.path("activations.h5"),
            output=store.path(f"health/{layer}.h5"),
            recipe=Recipe(),
            layer=layer,
        )


def firing(store: Store) -> None:
    from convatlas.firing import sample_firing
    from convatlas.store import Recipe

    for layer in store.layers:
        sample_firing(
            activations=store.path("activations.h5"),
            health=store.path(f"health/{layer}.h5"),
            layers=store.path("layers.json"),
            images=store.path("images.h5"),
            output=store.path(f"firing/{layer}.h5"),
            recipe=Recipe(),
            threshold=SETTINGS["threshold"],
            parts=SETTINGS["parts"],
        )


def predictions(store: Store) -> None:
    from convatlas.predictions import score_predictions

    score_predictions(
        activations=store.path("activations.h5"),
        layers=store.path("layers.json"),
        images=store.path("images.h5"),
        output=store.path("predictions.csv"),
    )


def votes(store: Store) -> None:
    from convatlas.store import Recipe
    from convatlas.votes import classify_neighbours

    for layer in store.layers:
        classify_neighbours(
            images=store.path("images.h5"),
            activations=store.path("activations.h5"),
            output=store.path(f"votes/{layer}.h5"),
            recipe=Recipe(),
            layer=layer,
            summary="mean",
            voters=SETTINGS["voters"],
            sample=SETTINGS["sample"],
            seed=store.seed,
        )


def nearest(store: Store) -> None:
    from convatlas.codes import PIXELS
    from convatlas.exhibits import pick_exhibit
    from convatlas.nearest import find_nearest
    from convatlas.store import Recipe

    images, exhibit = store.path("images.h5"), store.path("exhibit.h5")
    pick_exhibit(
        images=images, output=exhibit, recipe=Recipe(), number=0, index=EXHIBIT, seed=store.seed
    )
    find_nearest(
        exhibit=exhibit,
        activations=store.path("activations.h5"),
        images=images,
        output=store.path("nearest.h5"),
        recipe=Recipe(),
        layers=[PIXELS, *store.layers],
        summary="mean",
        shown=9,
    )


def accuracy(store: Store) -> None:
    from convatlas.figures.neighbours import plot_accuracy

    paths = [store.path(f"votes/{layer}.h5") for layer in store.layers]
    plot_accuracy(paths, store.path("predictions.csv"), output=store.path("accuracy.png"))


@dataclass(frozen=True)
class Step:
    """One thing that is measured: what runs, and how many bytes a row of units it goes through.

    Attributes
    ----------
    all_layers : bytes that it reads, or writes, of each unit of all layers for an image.
    scores : likewise of the layer of the class scores alone.
    """

    run: Callable[[Store], None]
    what: str
    all_layers: int = 0
    scores: int = 0


STEPS = {
    "images": Step(write_images, "images.h5 is written"),
    "write": Step(write_shards, "shards are written", 12),
    "gather": Step(gather, "shards are gathered"),
    "rank": Step(rank, "strongest patches", 8),
    "health": Step(health, "unit health", 4),
    "firing": Step(firing, "what makes units fire", 12),
    "predictions": Step(predictions, "predictions.csv", 0, 4),
    "votes": Step(votes, "votes of the neighbours", 4),
    "nearest": Step(nearest, "nearest to an exhibit", 4),
    "accuracy": Step(accuracy, "figure of the accuracies"),
}
PREPARING = ("images", "write", "gather")  # whatever is asked for
NEEDS = {"firing": ["health"], "accuracy": ["votes", "predictions"]}
IMPORTS = (
    *("exhibits", "files", "firing", "health", "layers", "nearest", "patches", "predictions"),
    *("store", "votes", "figures.neighbours"),
)


# -------------------------------------------------------------- processes and memory


def child(name: str, store: Store) -> None:
    """Run a step in this process, with a pause before it and after it."""
    for module in IMPORTS:  # so that their memory isn't counted
        __import__(f"convatlas.{module}")
    print("ready", flush=True)
    sys.stdin.readline()
    STEPS[name].run(store)
    print("done", flush=True)
    sys.stdin.readline()


@dataclass(frozen=True)
class Row:
    """One line of the table: a step at one number of images."""

    step: str
    rows: int
    seconds: float  # on the wall
    processor: float  # seconds
    bytes: int  # of the store that it goes through
    base: int  # largest resident memory after the imports, in bytes
    peak: int  # and at the end

    def cells(self) -> list[str]:
        """Return what the table shows."""
        return [
            STEPS[self.step].what,
            f"{self.rows:,}",
            f"{self.seconds:.2f}",
            f"{self.processor:.2f}",
            f"{self.rows / self.seconds:,.0f}",
            f"{self.bytes / self.seconds / 1e6:.0f}" if self.bytes else "",
            f"{(self.peak - self.base) / 1e6:.0f}",
        ]


HEADINGS = [
    ("what", 26),
    ("images", 10),
    ("s", 8),
    ("processor", 9),
    ("images/s", 10),
    ("MB/s", 6),
    ("memory MB", 9),
]
LEGEND = """\
s: wall time, all layers one after the other, imports left out; processor: its time, likewise
MB/s: of the activations that it reads or writes; from the disk or the system's cache
memory: largest resident memory of the process as the system saw it, above that after imports"""


def measure(name: str, store: Store) -> Row:
    """Run a step in a process of its own."""
    command = [sys.executable, str(Path(__file__).resolve()), "--child", name, *_as_options(store)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin
        assert process.stdout
        _expect(process, "ready")
        base, before = _peak(process.pid), _processor_time(process.pid)
        start = perf_counter()
        print(file=process.stdin, flush=True)
        _expect(process, "done")
        seconds = perf_counter() - start
        peak, after = _peak(process.pid), _processor_time(process.pid)
        print(file=process.stdin, flush=True)
    step = STEPS[name]
    count = store.rows * (step.all_layers * sum(store.units) + step.scores * store.units[-1])
    if step.all_layers > 4:  # of a vector no places are kept
        count -= store.rows * 4 * store.units[-1]
    return Row(name, store.rows, seconds, after - before, count, base, peak)


def _expect(process: subprocess.Popen[str], word: str) -> None:
    assert process.stdout
    if (said := process.stdout.readline().strip()) != word:
        raise SystemExit(f"a step failed: {said or 'see above'}")


def _peak(pid: int) -> int:
    """Return the largest resident memory that a process has had, in bytes."""
    for entry in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
        if entry.startswith("VmHWM:"):
            return 1024 * int(entry.split()[1])
    raise SystemExit("/proc doesn't tell a process's memory here")


def _processor_time(pid: int) -> float:
    """Return the processor's seconds that a process has had, the system's for it included."""
    # What follows the command's name, which may have blanks and brackets in it.
    told = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(told[11]) + int(told[12])) / os.sysconf("SC_CLK_TCK")


def _as_options(store: Store) -> list[str]:
    return [
        *("--folder", str(store.folder), "--rows", str(store.rows), "--seed", str(store.seed)),
        *("--shards", str(store.shards), "--units", *map(str, store.units)),
    ]


# ------------------------------------------------------------------------ the figure


def draw(rows: Sequence[Row], output: Path) -> None:
    """Draw memory and time of each analysis against the number of images."""
    from convatlas.figures import style

    # What stands in the table alone: what only makes the store ready, and a figure.
    shown = [name for name in STEPS if name not in ("images", "gather", "accuracy")]
    with style.page(output, size=(style.PAGE, 3.1), title="Scale", dpi=150) as figure:
        paper = style.paper(figure)
        most = max(row.rows for row in rows)
        style.head(
            paper,
            f"Memory and time up to {most:,} images",
            "each analysis in a process of its own, over all layers; memory as the system sees it, "
            "above that after imports",
        )
        for place, (what, value) in enumerate(
            {
                "resident memory (MB)": lambda row: max(row.peak - row.base, 1) / 1e6,
                "time (s)": lambda row: row.seconds,
            }.items()
        ):
            axes = style.panel(figure, 0.55 + 2.6 * place, style.HEADING + 0.1, 1.85, 2.1)
            axes.set_xscale("log")
            axes.set_yscale("log")
            for i, name in enumerate(shown):
                of = sorted((row for row in rows if row.step == name), key=lambda row: row.rows)
                if not of:
                    continue
                colour, marker = style.COLOURS[i], style.MARKERS[i]
                x, y = [row.rows for row in of], [value(row) for row in of]
                axes.plot(x, y, color=colour, marker=marker, markersize=3)
                if place == 1:
                    top = style.HEADING + 0.2 + 0.26 * i
                    drawn = axes.get_lines()[-1]
                    _key(paper, drawn.get_color(), marker, top - 0.03)
                    told = STEPS[name].what
                    if len(of) > 1:
                        told += f", slope {slope(of):.2f}"
                    style.write(paper, 5.42, top, told, size=style.SMALL)
            if place == 0:
                axes.set_ylim(10, 2000)
            for axis in (axes.xaxis, axes.yaxis):  # the house's letters have no formulas
                axis.set_major_formatter(lambda x, _: f"{x:,.0f}" if x >= 1 else f"{x:g}")
                axis.set_minor_formatter(lambda x, _: "")
            axes.set_xlabel("images")
            axes.set_ylabel(what)


def _key(paper: Any, colour: str, marker: str, top: float) -> None:
    paper.plot([5.22, 5.36], [top, top], color=colour, linewidth=1.2)
    paper.plot([5.29], [top], color=colour, marker=marker, markersize=3)


def slope(rows: Sequence[Row]) -> float:
    """Return by which power of the number of images the time grows, between the last two."""
    a, b = rows[-2:]
    return math.log(b.seconds / a.seconds) / math.log(b.rows / a.rows)


# ------------------------------------------------------------------------- command


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description="Measure time and memory of the analyses that go through all images, on "
        "synthetic activations.",
        epilog=LEGEND,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    rows, units = [10_000, 100_000, 1_000_000], [64, 256, 512, 1000]
    chosen = [name for name in STEPS if name not in PREPARING]
    add(
        "--rows",
        nargs="+",
        type=int,
        default=rows,
        metavar="N",
        help=f"numbers of images (default: {numbers(rows)})",
    )
    add(
        "--units",
        nargs="+",
        type=int,
        default=units,
        metavar="N",
        help=f"of each layer, that of the class scores last (default: {numbers(units)})",
    )
    add(
        "--steps",
        nargs="+",
        choices=chosen,
        default=chosen,
        metavar="STEP",
        help=f"what to measure (default: {' '.join(chosen)})",
    )
    add("--shards", type=int, default=8, metavar="N", help="of the activations (default: 8)")
    add("--seed", type=int, default=0, metavar="N", help="(default: 0)")
    add(
        "--folder",
        type=Path,
        metavar="FOLDER",
        help="where a folder for the files is made, and deleted at the end (default: the "
        "system's for temporary files)",
    )
    add("--json", type=Path, metavar="FILE", help="also write all numbers here")
    add("--figure", type=Path, metavar="FILE", help="also draw them, as a PNG")
    add("--child", choices=list(STEPS), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if min(*options.rows, *options.units, options.shards) < 1:
        parser.error("all numbers must be at least 1")
    for name, needed in NEEDS.items():
        if name in options.steps and not set(needed) <= set(options.steps):
            parser.error(f"{name} needs {' and '.join(needed)}")
    if not options.child and not Path("/proc/self/status").exists():
        parser.error("this needs Linux: the memory is read from /proc")
    return options


def measured(options: argparse.Namespace, folder: Path) -> Iterator[Row]:
    """Yield the line of each step, for one number of images after the other."""
    for count in options.rows:
        store = Store(
            folder / str(count), count, tuple(options.units), options.shards, options.seed
        )
        store.folder.mkdir(parents=True)
        write_layers(store)
        for name in [*PREPARING, *options.steps]:
            yield measure(name, store)
        shutil.rmtree(store.folder)


def main() -> None:
    """Run the benchmark and print the table."""
    options = parse()
    if options.child:
        (count,) = options.rows
        store = Store(options.folder, count, tuple(options.units), options.shards, options.seed)
        child(options.child, store)
        return
    around = {
        "device": processor(),
        "cores": os.cpu_count(),
        "load before": round(os.getloadavg()[0], 2),
        "numpy": np.__version__,
        "python": platform.python_version(),
        "units": numbers(options.units),
        "shards": options.shards,
        "seed": options.seed,
    }
    print(*(f"{key}: {value}" for key, value in around.items()), sep=", ")
    print(line([heading for heading, _ in HEADINGS], HEADINGS), flush=True)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for row in measured(options, Path(folder)):
            rows.append(row)
            print(line(row.cells(), HEADINGS), flush=True)
            if options.json:
                content = {"environment": around, "rows": [asdict(row) for row in rows]}
                options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(LEGEND)
    for name in STEPS:
        of = sorted((row for row in rows if row.step == name), key=lambda row: row.rows)
        if len(of) > 1:
            print(f"{STEPS[name].what}: time grows as the number of images to the {slope(of):.2f}")
    if options.figure:
        draw(rows, options.figure)


if __name__ == "__main__":
    main()
