"""Adapter: find the images nearest to one exhibit."""

from convatlas.job import Job
from convatlas.nearest import find_nearest

with Job.of(snakemake) as job:
    find_nearest(
        exhibit=snakemake.input.exhibit,
        activations=snakemake.input.activations,
        images=snakemake.input.images,
        output=snakemake.output.nearest,
        recipe=job.recipe,
        layers=snakemake.params.layers,
        summary=snakemake.params.summary,
        shown=snakemake.params.shown,
    )
