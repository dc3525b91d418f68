"""Adapter: list the exhibits."""

from convatlas.exhibits import list_exhibits
from convatlas.job import Job

with Job.of(snakemake):
    list_exhibits(
        exhibits=snakemake.input.exhibits,
        output=snakemake.output.exhibits,
    )
