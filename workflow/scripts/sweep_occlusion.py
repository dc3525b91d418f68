"""Adapter: sweep the occluder over one exhibit or several."""

from convatlas.job import Job
from convatlas.occlusion.sweeps import sweep_occlusion

with Job.of(snakemake) as job:
    sweep_occlusion(
        exhibits=snakemake.input.exhibits,
        images=snakemake.input.images,
        card=snakemake.input.card,
        weights=snakemake.input.weights,
        outputs=snakemake.output.occlusion,
        recipes=job.recipes(snakemake.input.exhibits, "exhibits"),
        size=snakemake.params.size,
        stride=snakemake.params.stride,
        fill=snakemake.params.fill,
        layer=snakemake.params.layer,
        unit=snakemake.params.unit,
    )
