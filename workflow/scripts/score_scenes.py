"""Adapter: sweep and score one shard of the scenes."""

from convatlas.job import Job
from convatlas.occlusion.score import score_scenes

with Job.of(snakemake) as job:
    score_scenes(
        images=snakemake.input.images,
        exhibits=snakemake.input.exhibits,
        card=snakemake.input.card,
        weights=snakemake.input.weights,
        output=snakemake.output.scores,
        size=snakemake.params.size,
        stride=snakemake.params.stride,
        fill=snakemake.params.fill,
        scenes=snakemake.params.score["scenes"],
        shard=int(snakemake.wildcards.shard),
        shards=snakemake.params.score["shards"],
        seed=snakemake.params.seed,
        control=snakemake.wildcards.network == "untrained",
    )
