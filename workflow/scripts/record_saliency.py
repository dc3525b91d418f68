"""Adapter: send one exhibit's prediction back to its pixels."""

from convatlas.job import Job
from convatlas.saliency import record_saliency

with Job.of(snakemake) as job:
    record_saliency(
        exhibit=snakemake.input.exhibit,
        card=snakemake.input.card,
        weights=snakemake.input.weights,
        output=snakemake.output.saliency,
        recipe=job.recipe,
    )
