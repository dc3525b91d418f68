"""Adapter: take the filters of one layer out of the weights."""

from convatlas.filters import cut_filters
from convatlas.job import Job

with Job.of(snakemake) as job:
    cut_filters(
        weights=snakemake.input.weights,
        layers=snakemake.input.layers,
        card=snakemake.input.card,
        output=snakemake.output.filters,
        recipe=job.recipe,
        layer=snakemake.params.layer,
    )
