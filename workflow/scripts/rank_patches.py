"""Adapter: rank the patches of one layer."""

from convatlas.job import Job
from convatlas.patches import rank_patches

with Job.of(snakemake) as job:
    rank_patches(
        activations=snakemake.input.activations,
        layers=snakemake.input.layers,
        images=snakemake.input.images,
        output=snakemake.output.patches,
        recipe=job.recipe,
        layer=snakemake.wildcards.layer,
        per_unit=snakemake.params.per_unit,
    )
