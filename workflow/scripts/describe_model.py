"""Adapter: describe a model's layers."""

from convatlas.job import Job
from convatlas.models.describe import describe_model

with Job.of(snakemake):
    describe_model(
        architecture=snakemake.params.architecture,
        options=snakemake.params.options,
        weights=snakemake.params.weights[0],
        classes=snakemake.params.classes,
        images=snakemake.params.images,
        output=snakemake.output.layers,
    )
