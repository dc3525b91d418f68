"""Adapter: record the feature maps of one exhibit."""

from convatlas.activations import record_maps
from convatlas.job import Job

with Job.of(snakemake) as job:
    record_maps(
        exhibit=snakemake.input.exhibit,
        card=snakemake.input.card,
        weights=snakemake.input.weights,
        layers=snakemake.input.layers,
        output=snakemake.output.maps,
        recipe=job.recipe,
    )
