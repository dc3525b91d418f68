"""Adapter: sample what makes the units of one layer fire."""

from convatlas.firing import sample_firing
from convatlas.job import Job

with Job.of(snakemake) as job:
    sample_firing(
        activations=snakemake.input.activations,
        health=snakemake.input.health,
        layers=snakemake.input.layers,
        images=snakemake.input.images,
        output=snakemake.output.firing,
        recipe=job.recipe,
        threshold=snakemake.params.threshold,
        parts=snakemake.params.parts,
    )
