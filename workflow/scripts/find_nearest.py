"""Adapter: find the images nearest to one exhibit or several."""

from convatlas.job import Job
from convatlas.nearest import find_nearest

with Job.of(snakemake) as job:
    find_nearest(
        exhibits=snakemake.input.exhibits,
        activations=snakemake.input.activations,
        images=snakemake.input.images,
        outputs=snakemake.output.nearest,
        recipes=job.recipes(snakemake.input.exhibits, "exhibits"),
        layers=snakemake.params.layers,
        summary=snakemake.params.summary,
        shown=snakemake.params.shown,
    )
