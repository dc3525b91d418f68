"""Python reads this at its start: each job of a run says at its end what it has loaded and held.

Only where CONVATLAS_OBSERVED names a folder, as the tests' run of the whole atlas does.
"""

import atexit
import json
import os
import re
import sys
from pathlib import Path

# What takes from a third of a second to two to import; torch._dynamo comes with sympy.
_SLOW = (
    *("torch", "torch._dynamo", "torchvision", "openTSNE"),
    *("sklearn", "scipy.stats", "pandas", "matplotlib.axes", "matplotlib.pyplot"),
)


def _tell(folder: str) -> None:
    # Snakemake runs a copy of the script: tmpabc.rank_patches.py
    script = re.fullmatch(r"tmp\w+\.(\w+)\.py", Path(sys.argv[0]).name)
    if script:
        loaded = [name for name in sys.modules if name.partition(".")[0] == "convatlas"]
        slow = [name for name in _SLOW if name in sys.modules]
        record = {"rule": script[1], "modules": sorted(loaded), "slow": slow, "peak": _peak()}
        (Path(folder) / f"{script[1]}-{os.getpid()}.json").write_text(json.dumps(record))


def _peak() -> int:
    """Return the most memory that this process has held, in bytes."""
    # Not getrusage's: it begins with what the process held from which this one was forked.
    status = Path("/proc/self/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return 1024 * int(found[1]) if found else 0


if os.environ.get("CONVATLAS_OBSERVED"):
    atexit.register(_tell, os.environ["CONVATLAS_OBSERVED"])
