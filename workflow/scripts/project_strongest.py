"""Adapter: project the strongest map of one sweep or several."""

from convatlas.job import Job
from convatlas.strongest import project_strongest

with Job.of(snakemake) as job:
    project_strongest(
        exhibits=snakemake.input.exhibits,
        occlusion=snakemake.input.occlusion,
        patches=snakemake.input.patches,
        images=snakemake.input.images,
        card=snakemake.input.card,
        weights=snakemake.input.weights,
        outputs=snakemake.output.strongest,
        recipes=job.recipes(snakemake.input.exhibits, "exhibits", "occlusion"),
        batch_size=snakemake.params.batch_size,
    )
