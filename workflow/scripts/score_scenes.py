"""Adapter: sweep and score one shard of the scenes, by the network and by its control."""

from convatlas.job import Job
from convatlas.occlusion.score import score_scenes

inputs, params = snakemake.input, snakemake.params

with Job.of(snakemake):
    for network, output in snakemake.output.items():
        score_scenes(
            images=inputs.images,
            exhibits=inputs.exhibits,
            card=inputs.card,
            weights=inputs.weights,
            output=output,
            size=params.size,
            stride=params.stride,
            fill=params.fill,
            scenes=params.score["scenes"],
            shard=int(snakemake.wildcards.shard),
            shards=params.score["shards"],
            seed=params.seed,
            control=network == "untrained",
        )
