"""One Slurm for all tests on it, a copy of the workflow, and folders to run it in."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from running import copy_workflow
from slurm import PACKAGES, Slurm, missing

HEAD = Path(__file__).with_name("head.py")
PATIENCE = 900.0  # seconds that a run may take, so that a hung one ends

# What isn't as users have it: this cluster is asked often, as it has nothing else to do.
OVERRIDES = ("--slurm-init-seconds-before-status-checks=1", "--max-status-checks-per-second=1")

CONFIG = """\
datasets:
  scenes: {source: shapes, train: 8, test: 24}
models:
  small: {architecture: small_zf, weights: random}
studies:
  tiny: {model: small, dataset: scenes, layers: [relu2], exhibits: 1}
shards: 2
batch_size: 8
analyses:
  patches: {per_unit: 3}
  projections: {units: 2}
  directions: {number: 4}
  neighbours: {shown: 3}
  embedding: {perplexity: 3, perplexities: [3], iterations: 50, compare: false}
  receptive_fields: {images: 4}
  occlusion: {size: 8, stride: 8, score: {scenes: 0}}
figures: {dpi: 60}
"""


@dataclass(frozen=True)
class Ended:
    """What a run ended with, its two streams joined."""

    code: int
    text: str

    @property
    def finished(self) -> Counter[str]:
        """How often the jobs of each rule were finished; those that only name targets left out."""
        rules = re.findall(r"^Finished jobid: \d+ \(Rule: (\w+)\)", self.text, re.MULTILINE)
        return Counter(rule for rule in rules if rule != "all")


@dataclass
class Folder:
    """A folder in which Snakemake is run, here or on the cluster."""

    path: Path
    project: Path
    slurm: Slurm
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def results(self) -> Path:
        return self.path / "results"

    def start(
        self, *arguments: str, cluster: bool = True, snakefile: Path | None = None
    ) -> subprocess.Popen[str]:
        """Start Snakemake in a process group of its own, with the profile that users get."""
        profile = ["--workflow-profile", self.project / "workflow/profiles/slurm", *OVERRIDES]
        config = [] if snakefile else ["--configfile", "config.yaml"]
        command = [sys.executable, HEAD, "--snakefile", snakefile or self.project / "Snakefile"]
        own = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        own |= {"PYTHONPATH": str(self.project / "workflow"), "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(
            [*command, *arguments, *config, *(profile if cluster else [])],
            cwd=self.path,
            env=own | self.slurm.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.started.append(process)
        return process

    def run(self, *arguments: str, cluster: bool = True) -> Ended:
        """Run Snakemake to its end, see `start`."""
        return end_of(self.start(*arguments, cluster=cluster))

    def locally(self, *arguments: str) -> Ended:
        """Run Snakemake on this machine alone."""
        return self.run(*arguments, "--cores=2", cluster=False)

    def copied(self, path: Path) -> Folder:
        """Return a copy in another folder, as a user moves results, all times kept."""
        shutil.copytree(self.path, path, symlinks=True, dirs_exist_ok=True)
        return Folder(path, self.project, self.slurm, self.started)


def end_of(process: subprocess.Popen[str]) -> Ended:
    """Wait for the end of a run; kill it if it doesn't come."""
    try:
        text, _ = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        text, _ = process.communicate()
        raise AssertionError(f"the run didn't end:\n{text}") from None
    return Ended(process.returncode, text)


@pytest.fixture(scope="session")
def slurm() -> Iterator[Slurm]:
    """A Slurm that takes jobs, for all tests."""
    if absent := missing():
        pytest.skip(f"no {', '.join(absent)} here: {PACKAGES}")
    slurm = Slurm()
    try:
        slurm.start()
        yield slurm
    finally:
        slurm.stop()


@pytest.fixture(scope="session")
def empty(slurm: Slurm, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Folder]:
    """A folder in which nothing was run. All that is begun in it or a copy ends with the tests."""
    project = tmp_path_factory.mktemp("project")
    copy_workflow(project)
    folder = Folder(tmp_path_factory.mktemp("empty"), project, slurm)
    (folder.path / "config.yaml").write_text(CONFIG)
    try:
        yield folder
    finally:
        for process in folder.started:
            with suppress(ProcessLookupError):
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
