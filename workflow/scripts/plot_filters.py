"""Adapter: draw the first filters."""

from convatlas.figures.filters import plot_filters
from convatlas.job import Job

with Job.of(snakemake) as job:
    plot_filters(
        filters=snakemake.input.filters,
        output=snakemake.output.figure,
        formats=snakemake.params.formats,
        dpi=snakemake.params.dpi,
        about=job.about,
    )
