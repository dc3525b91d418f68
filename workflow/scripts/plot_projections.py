"""Adapter: draw the projections of one layer."""

from convatlas.figures.projections import plot_projections
from convatlas.job import Job

with Job.of(snakemake) as job:
    plot_projections(
        projections=snakemake.input.projections,
        patches=snakemake.input.patches,
        images=snakemake.input.images,
        output=snakemake.output.figure,
        formats=snakemake.params.formats,
        dpi=snakemake.params.dpi,
        about=job.about,
    )
