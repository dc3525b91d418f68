"""What happens before all jobs, after them, and once a killed run's folder is unlocked.

Needs: a results folder that can be written.
Makes: Snakemake's records' place in it; how much of the jobs' time was start-up.
"""

from snakemake.dag import DAG

from convatlas.grouping import mend_groups
from convatlas.slurm import await_jobs, cancel_jobs

mend_groups(DAG)

# Whoever unlocks says that no run is going here: what is in the queue is of one that was killed.
if "--unlock" in sys.argv and (cancelled := or_stop(cancel_jobs, Path.cwd())):
    print(
        f"convatlas: cancelled what a killed run had in SLURM's queue: {', '.join(cancelled)}",
        file=sys.stderr,
    )


onstart:
    RESULTS.mkdir(exist_ok=True)
    or_stop(check_writable, RESULTS)
    keep_records()
    if is_alone():
        or_stop(await_jobs, Path.cwd())


onsuccess:
    tell_startup()


onerror:
    tell_startup()
    if any("SIGKILL" in Path(file).read_text() for file in log):
        logger.error(
            "convatlas: a job was killed from outside. If nobody did it, the memory was full: run "
            "fewer jobs at once (--cores), or set a smaller batch_size. What is finished is kept; "
            "run the workflow again."
        )
    # Interrupted while it asks for their state, the SLURM plugin leaves its jobs in the queue.
    if is_alone():
        or_stop(cancel_jobs, Path.cwd())
