"""Adapter: draw how well the nearest images tell the class, over the layers."""

from convatlas.figures.neighbours import plot_accuracy
from convatlas.job import Job

with Job.of(snakemake) as job:
    plot_accuracy(
        votes=snakemake.input.votes,
        predictions=snakemake.input.predictions,
        output=snakemake.output.figure,
        formats=snakemake.params.formats,
        dpi=snakemake.params.dpi,
        about=job.about,
    )
