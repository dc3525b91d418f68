"""Adapter: measure how healthy the units of one layer are."""

from convatlas.health import measure_health
from convatlas.job import Job

with Job.of(snakemake) as job:
    measure_health(
        activations=snakemake.input.activations,
        output=snakemake.output.health,
        recipe=job.recipe,
        layer=snakemake.wildcards.layer,
    )
