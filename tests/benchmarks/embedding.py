"""Time the maps of many images, and see what placing costs in quality.

``uv run python tests/benchmarks/embedding.py`` on a machine that does nothing else;
``--help`` says what can be chosen. Synthetic codes of known clusters, groups of clusters that
overlap, are written in the layout of a real study. Every step of the analysis then runs as a
job would, in a process of its own, whose time and peak memory are seen from outside. At the
end images that can all be embedded are, and are compared with the map of a sample of them
and the others placed.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

import numpy as np
from common import environment, line
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors

from convatlas.files import write_rows
from convatlas.store import (
    ActivationWriter,
    Embedding,
    ImageWriter,
    Neighbours,
    Others,
    Quality,
    Recipe,
    read,
)

GROUPS, CLUSTERS = 20, 10  # clusters in each group
APART, WITHIN = 3.0, 0.35  # of groups, and of the clusters of one, beside a spread of 1
LAYER = "code"
NEAR = 10  # neighbours by which clusters are told
ASKED = 2000  # images of which the neighbours are looked at
BLOCK = 1 << 14
EVERY = 0.01  # seconds between two looks at a process
RUN = """
import importlib, json, sys
from convatlas.store import Recipe
module, function, arguments = sys.argv[1:]
arguments = json.loads(arguments)
if not module.startswith("convatlas.figures"):
    arguments["recipe"] = Recipe()
getattr(importlib.import_module(module), function)(**arguments)
"""
SETTINGS = {
    "find_neighbours": {"layer": LAYER, "code": "mean", "components": 50, "neighbours": 150},
    "embed_codes": {"perplexity": 30, "iterations": 500, "early_exaggeration": 12},
}


# -- the study


def write_study(folder: Path, images: int, units: int, seed: int) -> None:
    """Write activations, images and predictions of clusters, as many as there are images."""
    generator = np.random.default_rng(seed)
    centre = np.repeat(generator.normal(0, APART, (GROUPS, units)), CLUSTERS, axis=0)
    centre += generator.normal(0, WITHIN, centre.shape)
    pixels = np.zeros((2, 2, 3), np.uint8)
    rows = []
    with (
        ActivationWriter(
            folder / "activations.h5", Recipe(), {LAYER: units}, 0, images, LAYER
        ) as codes,
        ImageWriter(folder / "images.h5", Recipe(), (2, 2)) as writer,
    ):
        for start in range(0, images, BLOCK):
            label = generator.integers(0, len(centre), min(BLOCK, images - start))
            code = (centre[label] + generator.normal(0, 1, (len(label), units))).astype(np.float32)
            where = np.zeros((*code.shape, 2), np.int16)
            codes.write(LAYER, start, {"max": code, "mean": code, "argmax": where})
            for i, one in enumerate(label.tolist(), start):
                writer.append(pixels, one, f"{i:07}.png", {"group": one // CLUSTERS})
                rows.append((i, one, int(i % 10 > 0)))
    write_rows(folder / "predictions.csv", ["image", "predicted", "correct"], rows)


# -- a step from outside


def step(module: str, function: str, arguments: Mapping[str, Any]) -> tuple[float, float]:
    """Run a function in a process of its own; return its seconds and its peak in MB."""
    plain = json.dumps(arguments, default=str)
    start = perf_counter()
    process = subprocess.Popen([sys.executable, "-c", RUN, module, function, plain])
    peak = 0
    while process.poll() is None:
        peak = max(peak, _peak(process.pid))
        sleep(EVERY)
    if process.returncode:
        raise SystemExit(f"{function} failed")
    return perf_counter() - start, peak / 1024


def _peak(process: int) -> int:
    """Return the most memory that a process has held so far, in KiB, as the kernel knows it."""
    try:
        told = Path(f"/proc/{process}/status").read_text(encoding="utf-8")
    except OSError:  # it has just ended
        return 0
    return next((int(x.split()[1]) for x in told.splitlines() if x.startswith("VmHWM")), 0)


@dataclass(frozen=True)
class Row:
    """A study with what each step took, and how often neighbours in the map are of one cluster."""

    images: int
    sample: int
    seconds: dict[str, float] = field(default_factory=dict)
    peak: dict[str, float] = field(default_factory=dict)  # MB
    quality: dict[str, float] = field(default_factory=dict)

    def lines(self) -> list[list[str]]:
        """Return what the table shows, a line a step."""
        return [
            [f"{self.images:,}", name, f"{seconds:.1f}", f"{self.peak[name]:.0f}"]
            for name, seconds in self.seconds.items()
        ]


HEADINGS = [("images", 10), ("step", 16), ("seconds", 8), ("peak MB", 8)]
LEGEND = f"""\
seconds: with the start of the process; peak MB: resident, of the step's process
one cluster: share of the {NEAR} nearest of the sample, in the map, that are of an image's cluster;
by code: the same of its nearest by code, which no map can be blamed for
recall: share of an image's {NEAR} nearest by code that are among its {NEAR} nearest in the map"""


def run(folder: Path, images: int, sample: int, options: argparse.Namespace) -> Row:
    """Run all steps on a study of so many images."""
    row = Row(images, sample)
    base = Path(tempfile.mkdtemp(dir=folder, prefix=f"{images}-"))
    write_study(base, images, options.units, options.seed)
    files = {name: str(base / f"{name}.h5") for name in ("activations", "images", "neighbours")}
    embedding, grid, quality = (str(base / f"{x}.h5") for x in ("embedding", "grid", "quality"))
    seed = {"seed": options.seed}
    drawn = {"embedding": embedding, "images": files["images"]}
    drawn["predictions"] = str(base / "predictions.csv")
    steps: dict[str, tuple[str, dict[str, Any]]] = {
        "find_neighbours": (
            "embedding",
            {"activations": files["activations"], "output": files["neighbours"], "sample": sample}
            | SETTINGS["find_neighbours"]
            | seed,
        ),
        "embed_codes": (
            "embedding",
            {"neighbours": files["neighbours"], "output": embedding}
            | SETTINGS["embed_codes"]
            | seed,
        ),
        "measure_quality": (
            "embedding",
            {"neighbours": [files["neighbours"]], "embeddings": [embedding], "output": quality}
            | {"images": files["images"]}
            | seed,
        ),
        "arrange_grid": (
            "embedding",
            {"embedding": embedding, "output": grid, "side": "auto"} | seed,
        ),
        "plot_scatter": ("figures.embedding", {"output": str(base / "scatter.png")} | drawn),
        "plot_views": ("figures.views", {"output": str(base / "views.png")} | drawn),
    }
    for name, (module, arguments) in steps.items():
        if images not in options.images and module != "embedding":
            continue  # of the comparison
        row.seconds[name], row.peak[name] = step(f"convatlas.{module}", name, arguments)
        print(line(row.lines()[-1], HEADINGS), flush=True)
    judged = read(Quality, quality)
    for key in ("trustworthiness", "recall", "map_accuracy", "code_accuracy", "kl_divergence"):
        row.quality[key] = float(getattr(judged, key)[0])
    row.quality.update(one_cluster(base, options.seed))
    if not options.keep:
        shutil.rmtree(base)
    return row


def one_cluster(base: Path, seed: int) -> dict[str, float]:
    """Return how often what is near in the map is of one cluster, of those embedded and placed."""
    placed = read(Embedding, base / "embedding.h5")
    told = np.loadtxt(base / "predictions.csv", delimiter=",", skiprows=1, usecols=1, dtype=int)
    embedded = np.ones(len(told), bool) if placed.embedded is None else placed.embedded > 0
    sample, others = np.flatnonzero(embedded), np.flatnonzero(~embedded)
    search = NearestNeighbors(n_neighbors=NEAR + 1).fit(placed.position[sample])
    generator = np.random.default_rng(seed)

    def share(images: NDArray[np.int64], near: NDArray[Any]) -> float:
        return float((told[sample[near[:, :NEAR]]] == told[images][:, None]).mean())

    asked = generator.choice(len(sample), min(ASKED, len(sample)), replace=False)
    near = search.kneighbors(placed.position[sample[asked]], return_distance=False)
    known = read(Neighbours, base / "neighbours.h5")
    found = {
        "one cluster, embedded": share(sample[asked], near[:, 1:]),  # the first is itself
        "by code": share(sample[asked], known.neighbour[asked]),
    }
    if len(others):
        with Others(base / "neighbours.h5") as stored:
            image, block = next(stored.blocks(("neighbour",), ASKED * 10))
        asked = generator.choice(len(image), min(ASKED, len(image)), replace=False)
        near = search.kneighbors(placed.position[image[asked]], return_distance=False)
        found["one cluster, placed"] = share(image[asked], near)
        found["theirs by code"] = share(image[asked], block["neighbour"][asked])
    return found


def show(row: Row) -> None:
    """Print what is known of a map's quality."""
    told = ", ".join(f"{key} {value:.3f}" for key, value in row.quality.items())
    print(f"{row.images:,} images, {min(row.sample, row.images):,} embedded: {told}", flush=True)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description="Time the embedding of many images, step by step, and compare placing with "
        f"embedding. Codes are {GROUPS * CLUSTERS} overlapping clusters.",
        epilog=LEGEND,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    counts = [10_000, 100_000, 1_000_000]
    add(
        "--images",
        nargs="*",
        type=int,
        default=counts,
        metavar="N",
        help=f"sizes of the studies (default: {' '.join(map(str, counts))})",
    )
    add("--units", type=int, default=64, metavar="N", help="of the layer (default: 64)")
    add("--sample", type=int, default=20_000, metavar="N", help="embedded (default: 20000)")
    add(
        "--both",
        nargs="*",
        type=int,
        default=[40_000],
        metavar="N",
        help="sizes at which all are embedded, and half and a tenth of them (default: 40000)",
    )
    add("--folder", type=Path, help="where to work (default: a temporary one)")
    add("--keep", action="store_true", help="leave the files there")
    add("--seed", type=int, default=0, metavar="N", help="of everything (default: 0)")
    add("--json", type=Path, metavar="FILE", help="also write all numbers here")
    options = parser.parse_args(arguments)
    options.device, options.repeats = "cpu", 1
    if min(options.units, options.sample, *options.images, *options.both, 100) < 10:
        parser.error("all numbers must be at least 10")
    return options


def main() -> None:
    """Run the benchmark and print the table."""
    options = parse()
    around = environment(options)
    print(*(f"{key}: {value}" for key, value in around.items()), sep=", ")
    print(line([heading for heading, _ in HEADINGS], HEADINGS), flush=True)
    folder = Path(tempfile.mkdtemp(dir=options.folder, prefix="embedding-"))
    wanted = [(images, options.sample) for images in options.images]
    for images in options.both:
        wanted += [(images, images), (images, images // 2), (images, images // 10)]
    rows: list[Row] = []
    try:
        for images, sample in wanted:
            rows.append(run(folder, images, sample, options))
            show(rows[-1])
            if options.json:
                content = {"environment": around, "rows": [asdict(row) for row in rows]}
                options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    finally:
        if not options.keep:
            shutil.rmtree(folder)
    print(LEGEND)


if __name__ == "__main__":
    main()
