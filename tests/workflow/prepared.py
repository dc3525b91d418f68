"""Processes that come from one in which Snakemake is loaded, which takes most of a dry run."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Mapping
from pathlib import Path

PREPARED = multiprocessing.get_context("forkserver")
PREPARED.set_forkserver_preload(
    ["snakemake.cli", "snakemake_executor_plugin_slurm", "h5py", "yaml", "jsonschema", "PIL.Image"]
)


def run_snakemake(
    arguments: list[str], folder: Path, environment: Mapping[str, str], output: str
) -> None:
    """Run Snakemake in this process and end it; what it says goes into the file `output`."""
    with Path(output).open("w") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    sys.dont_write_bytecode = False  # it may have been true of the process that this comes from
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.path[:0] = environment["PYTHONPATH"].split(os.pathsep)
    sys.argv = ["snakemake", *arguments]
    from snakemake.cli import main

    main()
