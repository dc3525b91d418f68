"""Adapter: sweep the occluder over one exhibit."""

from convatlas.job import Job
from convatlas.occlusion.sweeps import sweep_occlusion

with Job.of(snakemake) as job:
    sweep_occlusion(
        exhibit=snakemake.input.exhibit,
        images=snakemake.input.images,
        card=snakemake.input.card,
        weights=snakemake.input.weights,
        output=snakemake.output.occlusion,
        recipe=job.recipe,
        size=snakemake.params.size,
        stride=snakemake.params.stride,
        fill=snakemake.params.fill,
        layer=snakemake.params.layer,
        batch_size=snakemake.params.batch_size,
    )
