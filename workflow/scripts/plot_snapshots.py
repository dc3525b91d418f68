"""Adapter: draw the health of the layers' units in the course of training."""

from convatlas.figures.snapshots import plot_snapshots
from convatlas.job import Job

with Job.of(snakemake) as job:
    plot_snapshots(
        history=snakemake.input.history,
        output=snakemake.output.figure,
        formats=snakemake.params.formats,
        dpi=snakemake.params.dpi,
        about=job.about,
    )
