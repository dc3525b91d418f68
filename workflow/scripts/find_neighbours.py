"""Adapter: find the nearest neighbours by code."""

from convatlas.embedding import find_neighbours
from convatlas.job import Job

with Job.of(snakemake) as job:
    find_neighbours(
        activations=snakemake.input.get("activations"),
        images=snakemake.input.get("images"),
        output=snakemake.output.neighbours,
        recipe=job.recipe,
        layer=snakemake.wildcards.layer,
        code=snakemake.params.summary,
        components=snakemake.params.components,
        neighbours=snakemake.params.neighbours,
        sample=snakemake.params.sample,
        seed=snakemake.params.seed,
    )
