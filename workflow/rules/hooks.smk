"""What happens before all jobs, and after them.

Needs: a results folder that can be written.
Makes: Snakemake's records' place in it; how much of the jobs' time was start-up.
"""


onstart:
    RESULTS.mkdir(exist_ok=True)
    or_stop(check_writable, RESULTS)
    keep_records()


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
