"""Adapter: project the strongest map of one sweep."""

from convatlas.job import Job
from convatlas.strongest import project_strongest

with Job.of(snakemake) as job:
    project_strongest(
        exhibit=snakemake.input.exhibit,
        occlusion=snakemake.input.occlusion,
        patches=snakemake.input.patches,
        images=snakemake.input.images,
        card=snakemake.input.card,
        weights=snakemake.input.weights,
        output=snakemake.output.strongest,
        recipe=job.recipe,
        batch_size=snakemake.params.batch_size,
    )
