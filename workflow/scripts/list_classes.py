"""Adapter: write the names of a data set's classes."""

from convatlas.data.prepare import write_classes
from convatlas.job import Job

with Job.of(snakemake):
    write_classes(
        names=snakemake.params.names,
        source=snakemake.params.source,
        output=snakemake.output.classes,
    )
