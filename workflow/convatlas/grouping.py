"""Keep Snakemake's groups of jobs right when the workflow grows while they run.

Each time that a checkpoint is done, Snakemake 9.27 groups all jobs anew, and takes up groups
that it made before. Such a one keeps the order of its former jobs: a job that joins it is lost
(a KeyError ends the run, https://github.com/snakemake/snakemake/issues/2151), and where it is
on the cluster already, what joins it never runs, or its jobs run twice.
"""

from __future__ import annotations

from functools import wraps
from typing import Any


def mend_groups(kind: Any) -> None:
    """Have Snakemake's class of DAGs group anew only what doesn't run yet, in new groups.

    To do it a second time changes nothing.
    """
    group_all = kind.update_groups
    if hasattr(group_all, "__wrapped__"):
        return

    @wraps(group_all)
    def group_waiting(dag: Any) -> None:
        held = {job: group for group in dag._running if group.is_group() for job in group}
        running = dag._needrun & held.keys()
        dag.group_job_factory = type(dag.group_job_factory)()
        dag._needrun -= running
        try:
            group_all(dag)
        finally:
            dag._needrun |= running
        dag._group.update(held)

    kind.update_groups = group_waiting
