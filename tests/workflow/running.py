"""Run the workflow in a folder of its own, as a user would, and read what it says."""

from __future__ import annotations

import copy
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from prepared import PREPARED, run_snakemake

REPOSITORY = Path(__file__).resolve().parents[2]
Config = dict[str, Any]

# How Snakemake tells of a job; those of a group are indented.
_JOB = re.compile(r"^( *)(?:local)?(?:rule|checkpoint) (\w+):\n((?:\1 {4}.*\n)+)", re.MULTILINE)


@dataclass(frozen=True)
class Outcome:
    """What a run of Snakemake ended with, its two streams joined."""

    code: int
    text: str

    @property
    def planned(self) -> dict[str, set[str]]:
        """Rule -> wildcards (``study=a, layer=b``) of each of its jobs; target rules left out."""
        jobs = defaultdict(set)
        for _, rule, block in _JOB.findall(self.text):
            if re.search(r"^ +(?:output|log): ", block, re.MULTILINE):
                wildcards = re.search(r"^ +wildcards: (.*)$", block, re.MULTILINE)
                jobs[rule].add(wildcards[1] if wildcards else "")
        return dict(jobs)


@dataclass(frozen=True)
class Place:
    """A working directory with a config, and the copy of the workflow that is run in it."""

    project: Path
    folder: Path

    @property
    def results(self) -> Path:
        return self.folder / "results"

    @property
    def config(self) -> Config:
        return dict(yaml.safe_load((self.folder / "config.yaml").read_text()))

    def change(self, edit: Callable[[Config], object]) -> None:
        """Edit the config."""
        config = copy.deepcopy(self.config)
        edit(config)
        (self.folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))

    def start(
        self, *arguments: str | Path, config: str | None = "config.yaml", **environment: str | Path
    ) -> subprocess.Popen[str]:
        """Start Snakemake in the folder, in a process group of its own.

        `config` None means the config that it finds itself.
        """
        chosen = ["--configfile", config] if config else []
        command = [sys.executable, "-m", "snakemake", "--snakefile", self.project / "Snakefile"]
        return subprocess.Popen(
            [*command, *chosen, *arguments],
            cwd=self.folder,
            env=_environment(self.project) | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(
        self, *arguments: str | Path, config: str | None = "config.yaml", **environment: str | Path
    ) -> Outcome:
        """Run Snakemake in the folder to its end, see `start`."""
        process = self.start(*arguments, config=config, **environment)
        text, _ = process.communicate()
        return Outcome(process.returncode, text)

    def plan(self, *arguments: str) -> dict[str, set[str]]:
        """Return the jobs that a run would do."""
        chosen = ["--snakefile", str(self.project / "Snakefile"), "--configfile", "config.yaml"]
        with tempfile.NamedTemporaryFile("r") as said:
            process = PREPARED.Process(
                target=run_snakemake,
                args=(
                    [*chosen, "--dry-run", *arguments],
                    self.folder,
                    _environment(self.project),
                    said.name,
                ),
            )
            process.start()
            process.join()
            outcome = Outcome(process.exitcode or 0, said.read())
        assert outcome.code == 0, outcome.text
        return outcome.planned

    def copied(self, folder: Path, linked: bool = False) -> Place:
        """Return the same in another folder, the workflow too, with all times kept.

        `linked` has the results' files be the same ones, for runs that don't write any.
        """
        shutil.copytree(self.project, folder / "project")
        results = shutil.ignore_patterns("results")
        shutil.copytree(self.folder, folder / "work", symlinks=True, ignore=results)
        if self.results.exists():
            copy = os.link if linked else shutil.copy2
            target = folder / "work" / "results"
            shutil.copytree(self.results, target, symlinks=True, copy_function=copy)
        return Place(folder / "project", folder / "work")


def digests(results: Path) -> dict[str, str]:
    """Return the SHA-256 of everything that a run has made, by its path in the results.

    Logs and benchmarks aren't among it, nor a report's own word on start-up: they tell how
    long it took. Nor is what is hidden:
    what is still being made, and Snakemake's own.
    """
    files = (path for path in sorted(results.rglob("*")) if path.is_file())
    named = {path.relative_to(results): path for path in files}
    return {
        str(name): hashlib.sha256(path.read_bytes()).hexdigest()
        for name, path in named.items()
        if name.parts[0] not in ("logs", "benchmarks")
        and name.name != "startup.html"
        and not any(part.startswith(".") for part in name.parts)
    }


def differing(first: dict[str, str], second: dict[str, str]) -> list[str]:
    """Return the files that aren't in both, or aren't the same."""
    return sorted(
        name for name in first.keys() | second.keys() if first.get(name) != second.get(name)
    )


def copy_workflow(folder: Path) -> None:
    """Copy what makes up the workflow, with its times."""
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("workflow", "config"):
        shutil.copytree(REPOSITORY / name, folder / name, ignore=ignored)
    for name in ("Snakefile", "environment.yml"):
        shutil.copy2(REPOSITORY / name, folder)


def _environment(project: Path) -> dict[str, str]:
    """Return an environment in which `convatlas` is the project's, and its bytecode is kept."""
    own = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    paths = [str(project / "workflow"), str(Path(__file__).parent / "observing")]
    return own | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", "COLUMNS": "100"}


def user_net(folder: Path) -> torch.nn.Module:
    """Build the network that a user has in `folder`, without the package's help."""
    sys.path.insert(0, str(folder))
    try:
        spec = importlib.util.spec_from_file_location("tiny", folder / "tiny.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.build(3)
    finally:
        sys.path.remove(str(folder))
        sys.modules.pop("parts", None)
