"""Adapter: describe a model's layers."""

from convatlas.graph.describe import describe_model
from convatlas.job import Job
from convatlas.models.load import load_model
from convatlas.store import Images

with Job.of(snakemake):
    model = load_model(snakemake.input.card, snakemake.input.weights)
    with Images(snakemake.input.images) as data:
        size = data.size
    describe_model(
        model=model.module,
        size=(3, *size),
        output=snakemake.output.layers,
    )
