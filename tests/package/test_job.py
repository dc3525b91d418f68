"""What a job says when it fails, and where."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from convatlas.errors import ConfigError, did_you_mean
from convatlas.files import write_text
from convatlas.job import Job, log, progress
from convatlas.store import Grid, Recipe, write


class Named(dict):
    """As Snakemake's objects: items by name, or by place."""

    def __getitem__(self, key: object) -> object:
        return list(self.values())[key] if isinstance(key, int) else super().__getitem__(key)


def run(tmp_path: Path, raising: str) -> tuple[int, str, str]:
    """Run a job that raises in a process of its own; return exit code, terminal and log."""
    path = tmp_path / "logs" / "job.log"
    script = (
        "from convatlas.errors import *\nfrom convatlas.job import Job, log\n"
        f"with Job(log={os.fspath(path)!r}):\n    log.info('began')\n    {raising}\n"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    return found.returncode, found.stderr, path.read_text()


def test_an_error_of_the_users_is_said_without_a_traceback(tmp_path: Path) -> None:
    code, terminal, written = run(tmp_path, "raise ConfigError('size: -1 is too small')")
    assert code == 1
    assert terminal == "convatlas: size: -1 is too small\n"
    assert "began" in written
    assert "ERROR size: -1 is too small" in written
    assert "Traceback" not in written


def test_a_file_that_isnt_there_is_the_users_too(tmp_path: Path) -> None:
    code, terminal, written = run(tmp_path, "open('/no/such/file')")
    assert code == 1
    assert terminal == "convatlas: No such file or directory: /no/such/file\n"
    assert "Traceback" in written


def test_another_error_is_ours_with_its_traceback_in_the_log(tmp_path: Path) -> None:
    code, terminal, written = run(tmp_path, "raise RuntimeError('oh')")
    assert code == 1
    assert "please report it with" in terminal
    assert "job.log" in terminal
    assert "Traceback" in written
    assert "RuntimeError: oh" in written


@pytest.mark.parametrize("raising", ["raise KeyboardInterrupt", "raise SystemExit(3)"])
def test_being_stopped_isnt_an_error_of_ours(raising: str, tmp_path: Path) -> None:
    code, terminal, written = run(tmp_path, raising)
    assert code != 0
    assert "please report" not in terminal + written


def test_a_job_that_ends_well(tmp_path: Path) -> None:
    handlers = list(log.handlers)
    with Job(log=tmp_path / "job.log"):
        log.info("half way")
        log.warning("look")
    written = (tmp_path / "job.log").read_text()
    assert "INFO half way" in written
    assert "WARNING look" in written
    assert re.search(r"done in \d+\.\d\d s on 1 core, after \d+\.\d\d s of start-up$", written)
    assert log.handlers == handlers
    with pytest.raises(SystemExit), Job(log=tmp_path / "job.log"):
        raise ConfigError("x")
    assert log.handlers == handlers


def test_a_rule_becomes_a_recipe(tmp_path: Path) -> None:
    write(tmp_path / "grid.h5", Grid(image=[[0]]), Recipe("abc"))
    (tmp_path / "list.csv").write_text("a\n")
    rule = SimpleNamespace(
        log=[str(tmp_path / "job.log")],
        params=Named(code="c0de", size=16, tracked="{}"),
        input=Named(grid=str(tmp_path / "grid.h5"), lists=[str(tmp_path / "list.csv")]),
        output=[str(tmp_path / "figure.png")],
        wildcards=Named(study="demo"),
        rule="plot_grid",
        threads=1,
    )
    job = Job.of(rule)
    assert job.recipe.code == "c0de"
    assert dict(job.recipe.parameters) == {"size": 16}
    assert job.recipe.inputs["grid"] == Recipe("abc").attributes()["digest"]
    about = job.about
    assert about["study"] == "demo"
    assert about["made_by"] == "plot_grid"
    assert {"code", "parameters", "inputs", "digest"} < set(about)


@pytest.mark.parametrize(
    ("raising", "said"),
    [
        ("raise MemoryError", "memory is full"),
        ("import torch; torch.empty(1 << 50)", "memory is full"),
        ("raise OSError(28, 'No space left on device')", "the disk is full"),
        (
            'raise OSError("Can\'t write data (file write failed: errno = 28, error")',
            "disk is full",
        ),
        ("raise RuntimeError('unable to close file, errno = 28')", "the disk is full"),
        ("raise OSError(30, 'Read-only file system', 'results/a')", "results/a can't be written"),
    ],
)
def test_what_the_system_refuses_is_said_plainly(tmp_path: Path, raising: str, said: str) -> None:
    code, terminal, written = run(tmp_path, raising)
    assert code == 1
    assert said in terminal
    assert "Traceback" not in terminal
    assert "Traceback" in written  # for us


def test_outputs_appear_when_the_job_is_done(tmp_path: Path) -> None:
    outputs = [tmp_path / "a", tmp_path / "b"]
    with Job(log=tmp_path / "log", outputs=outputs):
        write_text(outputs[0], "1")
        write_text(outputs[1], "2")
        assert not any(path.exists() for path in outputs)
    assert all(path.exists() for path in outputs)


@pytest.mark.parametrize("listed", [True, False])
def test_a_damaged_input_is_put_aside(tmp_path: Path, listed: bool) -> None:
    path = tmp_path / "a.h5"
    path.write_text("no HDF5")
    program = (
        "import sys\nfrom convatlas.job import Job\nfrom convatlas.store import Grid, read\n"
        "inputs = {'a': [sys.argv[2]]} if sys.argv[3] == 'True' else {}\n"
        "with Job(log=sys.argv[1], inputs=inputs):\n    read(Grid, sys.argv[2])\n"
    )
    command = [sys.executable, "-c", program, tmp_path / "log", path, str(listed)]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 1
    assert f"{path} is not a whole HDF5 file" in found.stderr
    assert path.exists() is not listed
    assert path.with_name("a.h5.damaged").exists() is listed
    assert ("It is now" if listed else "Delete it") in found.stderr


def test_a_job_whose_run_is_gone_writes_nothing(tmp_path: Path) -> None:
    """The head starts a job, and is killed while that works."""
    path = tmp_path / "a"
    job = (
        "import sys, time\nfrom convatlas.job import Job\nfrom convatlas.files import write_text\n"
        "with Job(log=sys.argv[1] + '.log', outputs=[sys.argv[1]]):\n"
        "    write_text(sys.argv[1], 'x')\n    print('works', flush=True)\n    time.sleep(3)\n"
    )
    head = (
        "import os, subprocess, sys\n"
        "os.environ['CONVATLAS_HEAD'] = str(os.getpid())\n"
        "job = subprocess.Popen([sys.executable, '-c', *sys.argv[1:]], stdout=subprocess.PIPE)\n"
        "job.stdout.readline()\nprint(job.pid, flush=True)\nos.kill(os.getpid(), 9)\n"
    )
    started = subprocess.Popen(
        [sys.executable, "-c", head, job, path], stdout=subprocess.PIPE, text=True
    )
    assert started.stdout is not None
    orphan = psutil.Process(int(started.stdout.readline()))
    started.wait()
    psutil.wait_procs([orphan], timeout=30)
    assert "is gone" in path.with_name("a.log").read_text()
    assert [p.name for p in tmp_path.iterdir()] == ["a.log"]


def test_progress_says_how_far(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "convatlas"):
        assert list(progress(iter("abcd"), 4, "letters", every=1000)) == list("abcd")
        assert list(progress([], 0, "nothing")) == []
    assert caplog.messages == ["letters: 4 of 4, about 0 s left"]


def test_did_you_mean_offers_the_nearest() -> None:
    assert did_you_mean("conv", ["conv1", "zebra"]) == " Did you mean 'conv1'?"
    assert did_you_mean("xyz", ["conv1"]) == ""
