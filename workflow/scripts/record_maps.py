"""Adapter: record the feature maps of one exhibit or several."""

from convatlas.activations import record_maps
from convatlas.job import Job

with Job.of(snakemake) as job:
    record_maps(
        exhibits=snakemake.input.exhibits,
        card=snakemake.input.card,
        weights=snakemake.input.weights,
        layers=snakemake.input.layers,
        outputs=snakemake.output.maps,
        recipes=job.recipes(snakemake.input.exhibits, "exhibits"),
    )
