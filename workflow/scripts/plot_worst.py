"""Adapter: draw the worst units of one layer."""

from convatlas.figures.health import plot_worst
from convatlas.job import Job

with Job.of(snakemake) as job:
    plot_worst(
        health=snakemake.input.health,
        patches=snakemake.input.patches,
        images=snakemake.input.images,
        output=snakemake.output.figure,
        formats=snakemake.params.formats,
        dpi=snakemake.params.dpi,
        about=job.about,
    )
