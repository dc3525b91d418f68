"""Adapter: judge how well all maps keep neighbours."""

from convatlas.embedding import measure_quality
from convatlas.job import Job

with Job.of(snakemake) as job:
    measure_quality(
        neighbours=snakemake.input.neighbours,
        embeddings=snakemake.input.embeddings,
        images=snakemake.input.images,
        output=snakemake.output.quality,
        recipe=job.recipe,
        seed=snakemake.params.seed,
    )
