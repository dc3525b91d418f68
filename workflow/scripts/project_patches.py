"""Adapter: project the patches of one layer."""

from convatlas.job import Job
from convatlas.projection.patches import project_patches

with Job.of(snakemake) as job:
    project_patches(
        patches=snakemake.input.patches,
        images=snakemake.input.images,
        card=snakemake.input.card,
        weights=snakemake.input.weights,
        output=snakemake.output.projections,
        recipe=job.recipe,
        units=snakemake.params.units,
        batch_size=snakemake.params.batch_size,
    )
