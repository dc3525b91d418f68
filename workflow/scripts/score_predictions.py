"""Adapter: write what the network says of each image."""

from convatlas.job import Job
from convatlas.predictions import score_predictions

with Job.of(snakemake):
    score_predictions(
        activations=snakemake.input.activations,
        layers=snakemake.input.layers,
        images=snakemake.input.images,
        output=snakemake.output.predictions,
    )
