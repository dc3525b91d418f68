"""Adapter: draw which filters of one layer are alike."""

from convatlas.figures.redundancy import plot_redundancy
from convatlas.job import Job

with Job.of(snakemake) as job:
    plot_redundancy(
        filters=snakemake.input.filters,
        similar=snakemake.params.similar,
        output=snakemake.output.figure,
        formats=snakemake.params.formats,
        dpi=snakemake.params.dpi,
        about=job.about,
    )
