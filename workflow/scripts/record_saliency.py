"""Adapter: send the prediction for one exhibit or several back to the pixels."""

from convatlas.job import Job
from convatlas.saliency import record_saliency

with Job.of(snakemake) as job:
    record_saliency(
        exhibits=snakemake.input.exhibits,
        card=snakemake.input.card,
        weights=snakemake.input.weights,
        outputs=snakemake.output.saliency,
        recipes=job.recipes(snakemake.input.exhibits, "exhibits"),
    )
