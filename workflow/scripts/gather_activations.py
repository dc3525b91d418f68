"""Adapter: join the shards of the activations."""

from convatlas.job import Job
from convatlas.store import gather_activations

with Job.of(snakemake) as job:
    gather_activations(
        shards=snakemake.input.shards,
        path=snakemake.output.activations,
        recipe=job.recipe,
    )
