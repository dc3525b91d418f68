"""Adapter: draw the training curves."""

from convatlas.figures.training import plot_training
from convatlas.job import Job

with Job.of(snakemake) as job:
    plot_training(
        history=snakemake.input.history,
        output=snakemake.output.figure,
        formats=snakemake.params.formats,
        dpi=snakemake.params.dpi,
        about=job.about,
    )
