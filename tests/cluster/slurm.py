"""A real Slurm of one node for the tests: munged, slurmctld and slurmd in a folder of their own.

Nothing outside the folder is read or written, no port or socket of another Slurm is used,
and any user may start it. A guard stops it should the tests be killed.
"""

from __future__ import annotations

import getpass
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "scancel")
PACKAGES = "apt-get install --no-install-recommends slurmctld slurmd slurm-client munge"

CPUS = 4
MEMORY = 64_000  # MB, as it says; what the machine has is not looked at
PATIENCE = 60.0  # seconds that a daemon may take to start or to end

# It decides at once. The sizes are not the machine's.
CONFIG = """\
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0
DefMemPerCPU=512
EnforcePartLimits=ALL
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/none
MinJobAge=7200
MessageTimeout=2
KillWait=2
ReturnToService=2
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory} Gres=gpu:1 State=UNKNOWN
PartitionName=cpu Nodes={host} Default=YES MaxTime=INFINITE State=UP
PartitionName=gpu Nodes={host} MaxTime=INFINITE State=UP
"""
GPUS = "NodeName={host} Name=gpu File=/dev/null\n"

# What accounts would say, from the controller: there is no data base here to keep them in.
SACCT = """\
#!/bin/sh
case "$*" in
*" --name "*) exec squeue --states=all --noheader --format='%i|%T' --name "${*##* }" ;;
esac
"""

# Reads until the tests' end of the pipe is closed, which it is even when they are killed.
GUARD = """\
cat > /dev/null
timeout 10 scancel --user {user}
sleep 3
cat {folder}/*.pid | xargs -r kill 2> /dev/null
sleep 3
cat {folder}/*.pid | xargs -r kill -9 2> /dev/null
rm -rf {folder}
"""


def missing() -> list[str]:
    """Return the programs of Slurm that aren't installed."""
    return [name for name in PROGRAMS if find(name) is None]


def find(program: str) -> str | None:
    """Return where a program is; an ordinary user's PATH may lack the system's."""
    return shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")


@dataclass
class Slurm:
    """A Slurm of one node with one GPU that isn't there, from `start` until `stop`."""

    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="slurm-")))

    @property
    def environment(self) -> dict[str, str]:
        """What a program needs to find this Slurm."""
        paths = [self.folder / "bin", os.environ["PATH"], "/usr/sbin", "/sbin"]
        return {
            "SLURM_CONF": str(self.folder / "slurm.conf"),
            "PATH": os.pathsep.join(map(str, paths)),
        }

    def start(self) -> None:
        """Start the daemons and wait until the node takes jobs."""
        for name in ("state", "spool", "bin"):
            (self.folder / name).mkdir()
        self._write("munge.key", secrets.token_bytes(128))
        values = {
            "folder": self.folder,
            "host": socket.gethostname().partition(".")[0],
            "user": getpass.getuser(),
            "controller_port": _free_port(),
            "node_port": _free_port(),
            "cpus": CPUS,
            "memory": MEMORY,
        }
        self._write("slurm.conf", CONFIG.format(**values).encode())
        self._write("gres.conf", GPUS.format(**values).encode())
        # What the jobstep plugin starts has no SLURM_CONF; other clusters need none.
        real = find("srun")
        wrapper = f'#!/bin/sh\nSLURM_CONF={self.folder}/slurm.conf exec {real} "$@"\n'
        self._write("bin/srun", wrapper.encode(), mode=0o755)
        self._write("bin/sacct", SACCT.encode(), mode=0o755)
        self._guard = subprocess.Popen(
            ["sh", "-c", GUARD.format(**values)],
            env=os.environ | self.environment,
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
        self._begin("munged", "--force", "--num-threads=1", *self._munge_files())
        self.start_controller()
        self._begin("slurmd", "-N", values["host"])
        self.wait_until(lambda: "State=IDLE" in self.ask("scontrol", "show", "nodes"))

    def start_controller(self) -> None:
        """Start slurmctld, for the first time or again."""
        self._begin("slurmctld")
        self.wait_until(lambda: "UP" in self.ask("scontrol", "ping"))

    def stop_controller(self) -> None:
        """Stop slurmctld; what is running on the node goes on."""
        self._end("slurmctld")

    def stop(self) -> None:
        """Cancel all jobs, stop the daemons and remove the folder."""
        with suppress(AssertionError):
            self.ask("scancel", "--user", getpass.getuser())
            self.wait_until(lambda: not self.ask("squeue", "-h"))
        for name in ("slurmd", "slurmctld", "munged"):
            self._end(name)
        self._guard.kill()
        self._guard.communicate()
        shutil.rmtree(self.folder, ignore_errors=True)

    def ask(self, *command: str) -> str:
        """Return what a program of Slurm's says; nothing if it fails."""
        answer = subprocess.run(
            command,
            env=os.environ | self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE,
        )
        return answer.stdout.strip() if answer.returncode == 0 else ""

    def queue(self, *states: str) -> list[str]:
        """Return the numbers of the jobs in the queue, or of those in these states."""
        chosen = ["--states", ",".join(states)] if states else []
        return self.ask("squeue", "--noheader", "--format=%i", *chosen).split()

    def jobs(self) -> list[dict[str, str]]:
        """Return all that Slurm still knows of each job, the finished ones too, the first first."""
        blocks = self.ask("scontrol", "--oneliner", "show", "jobs").splitlines()
        pairs = [[word.partition("=")[::2] for word in x.split() if "=" in word] for x in blocks]
        return sorted((dict(x) for x in pairs if x), key=lambda job: int(job["JobId"]))

    def wait_until(self, true: Callable[[], object], patience: float = PATIENCE) -> None:
        """Wait for something; show the daemons' logs if it doesn't come."""
        end = time.monotonic() + patience
        while not true():
            if time.monotonic() > end:
                logs = [f"{x.name}:\n{x.read_text()[-2000:]}" for x in self.folder.glob("*.log")]
                raise AssertionError("\n".join(["Slurm didn't get there in time.", *logs]))
            time.sleep(0.1)

    def _write(self, name: str, content: bytes, mode: int = 0o600) -> None:
        path = self.folder / name
        path.write_bytes(content)
        path.chmod(mode)

    def _munge_files(self) -> list[str]:
        names = {"key-file": "key", "socket": "socket", "log-file": "log", "seed-file": "seed"}
        files = [f"--{option}={self.folder}/munge.{name}" for option, name in names.items()]
        return [*files, f"--pid-file={self.folder}/munged.pid"]

    def _begin(self, name: str, *arguments: str) -> None:
        """Start a daemon, which goes into the background by itself."""
        with (self.folder / f"{name}.out.log").open("w") as said:
            done = subprocess.run(
                [find(name) or name, *arguments],
                env=os.environ | self.environment,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                check=False,
                timeout=PATIENCE,
                start_new_session=True,
            )
        assert done.returncode == 0, Path(said.name).read_text()

    def _end(self, name: str) -> None:
        """Stop a daemon by its pid file, if need be by force."""
        try:
            number = int((self.folder / f"{name}.pid").read_text())
        except (FileNotFoundError, ValueError):
            return
        with suppress(ProcessLookupError):
            os.kill(number, signal.SIGTERM)
            end = time.monotonic() + PATIENCE / 3
            while time.monotonic() < end:
                os.kill(number, 0)
                time.sleep(0.05)
            os.kill(number, signal.SIGKILL)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
