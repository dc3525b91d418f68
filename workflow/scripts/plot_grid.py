"""Adapter: draw an embedding as a grid of pictures."""

from convatlas.figures.embedding import plot_grid
from convatlas.job import Job

with Job.of(snakemake) as job:
    plot_grid(
        grid=snakemake.input.grid,
        images=snakemake.input.images,
        classes=snakemake.input.classes,
        output=snakemake.output.figure,
        formats=snakemake.params.formats,
        dpi=snakemake.params.dpi,
        about=job.about,
    )
