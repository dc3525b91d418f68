"""Adapter: write the names of a data set's classes."""

from convatlas.data.prepare import list_classes
from convatlas.files import write_text
from convatlas.job import Job

with Job.of(snakemake):
    names = list_classes(snakemake.params.source)
    write_text(snakemake.output.classes, "".join(f"{name}\n" for name in names))
