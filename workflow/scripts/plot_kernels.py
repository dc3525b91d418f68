"""Adapter: draw the kernels of one layer's chosen units."""

from convatlas.figures.kernels import plot_kernels
from convatlas.job import Job

with Job.of(snakemake) as job:
    plot_kernels(
        filters=snakemake.input.filters,
        units=snakemake.params.units,
        output=snakemake.output.figure,
        formats=snakemake.params.formats,
        dpi=snakemake.params.dpi,
        about=job.about,
    )
