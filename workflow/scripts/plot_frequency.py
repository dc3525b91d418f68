"""Adapter: draw the frequencies of the first filters."""

from convatlas.figures.frequency import plot_frequency
from convatlas.job import Job

with Job.of(snakemake) as job:
    plot_frequency(
        filters=snakemake.input.filters,
        output=snakemake.output.figure,
        formats=snakemake.params.formats,
        dpi=snakemake.params.dpi,
        about=job.about,
    )
