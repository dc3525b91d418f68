"""Adapter: take the first filters out of the weights."""

from convatlas.filters import cut_filters
from convatlas.job import Job

with Job.of(snakemake) as job:
    cut_filters(
        weights=snakemake.input.weights,
        layers=snakemake.input.layers,
        output=snakemake.output.filters,
        recipe=job.recipe,
    )
