"""What happens before all jobs, and after a failure.

Needs: a results folder that can be written.
Makes: nothing but Snakemake's records' place in it.
"""


onstart:
    RESULTS.mkdir(exist_ok=True)
    or_stop(check_writable, RESULTS)
    keep_records()


onerror:
    if any("SIGKILL" in Path(file).read_text() for file in log):
        logger.error(
            "convatlas: a job was killed from outside. If nobody did it, the memory was full: run "
            "fewer jobs at once (--cores), or set a smaller batch_size. What is finished is kept; "
            "run the workflow again."
        )
