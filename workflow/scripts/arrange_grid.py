"""Adapter: lay an embedding out as a grid."""

from convatlas.embedding import arrange_grid
from convatlas.job import Job

with Job.of(snakemake) as job:
    arrange_grid(
        embedding=snakemake.input.embedding,
        output=snakemake.output.grid,
        recipe=job.recipe,
        side=snakemake.params.side,
        seed=snakemake.params.seed,
    )
