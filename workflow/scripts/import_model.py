"""Adapter: make a model from weights that exist."""

from convatlas.job import Job
from convatlas.models.load import import_model

with Job.of(snakemake) as job:
    import_model(
        architecture=snakemake.params.architecture,
        options=snakemake.params.options,
        weights=snakemake.params.weights,
        normalize=snakemake.params.normalize,
        seed=snakemake.params.seed,
        weights_out=snakemake.output.weights,
        card_out=snakemake.output.card,
        recipe=job.recipe,
    )
