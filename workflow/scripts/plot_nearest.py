"""Adapter: draw the images nearest to one exhibit."""

from convatlas.figures.neighbours import plot_nearest
from convatlas.job import Job

with Job.of(snakemake) as job:
    plot_nearest(
        nearest=snakemake.input.nearest,
        images=snakemake.input.images,
        classes=snakemake.input.classes,
        output=snakemake.output.figure,
        formats=snakemake.params.formats,
        dpi=snakemake.params.dpi,
        about=job.about,
    )
