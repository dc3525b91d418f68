"""Adapter: join the scores of all scenes, and sum them up."""

from convatlas.job import Job
from convatlas.scores import gather_scores

with Job.of(snakemake) as job:
    gather_scores(
        dict(snakemake.input.items()),
        scenes=snakemake.output.scenes,
        summary=snakemake.output.summary,
    )
