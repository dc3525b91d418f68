"""Snakemake's command line, asking Slurm every second for the state of jobs.

The plugin waits ten seconds longer after each question that brought nothing new, which is
right for a cluster and slow for tests. Ctrl-C is heard also where tests run in the background,
whose shell has it ignored.
"""

import signal

from snakemake.cli import main
from snakemake_executor_plugin_slurm import Executor

Executor.next_seconds_between_status_checks = property(lambda _: 1, lambda *_: None)
signal.signal(signal.SIGINT, signal.default_int_handler)
main()
