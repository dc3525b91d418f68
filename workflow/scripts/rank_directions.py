"""Adapter: rank the patches along random directions of one layer."""

from convatlas.directions import rank_directions
from convatlas.job import Job

with Job.of(snakemake) as job:
    rank_directions(
        images=snakemake.input.images,
        activations=snakemake.input.activations,
        patches=snakemake.input.patches,
        layers=snakemake.input.layers,
        card=snakemake.input.card,
        weights=snakemake.input.weights,
        output=snakemake.output.directions,
        recipe=job.recipe,
        number=snakemake.params.number,
        seed=snakemake.params.seed,
        batch_size=snakemake.params.batch_size,
    )
