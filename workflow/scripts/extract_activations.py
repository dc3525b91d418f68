"""Adapter: store the activations of one shard of the images."""

from convatlas.activations import extract_activations
from convatlas.job import Job

with Job.of(snakemake) as job:
    extract_activations(
        images=snakemake.input.images,
        card=snakemake.input.card,
        weights=snakemake.input.weights,
        layers=snakemake.input.layers,
        output=snakemake.output.shard,
        recipe=job.recipe,
        shard=int(snakemake.wildcards.shard),
        shards=snakemake.params.shards,
        batch_size=snakemake.params.batch_size,
        wanted=snakemake.params.wanted,
    )
