"""Adapter: measure how much of their receptive fields the layers use."""

from convatlas.effective_fields import measure_fields
from convatlas.job import Job

with Job.of(snakemake) as job:
    measure_fields(
        images=snakemake.input.images,
        card=snakemake.input.card,
        weights=snakemake.input.weights,
        layers=snakemake.input.layers,
        output=snakemake.output.fields,
        recipe=job.recipe,
        wanted=snakemake.params.layers,
        number=snakemake.params.images,
        share=snakemake.params.share,
        seed=snakemake.params.seed,
        batch_size=snakemake.params.batch_size,
    )
