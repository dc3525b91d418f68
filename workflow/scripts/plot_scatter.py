"""Adapter: draw an embedding as a scatter."""

from convatlas.figures.embedding import plot_scatter
from convatlas.job import Job

with Job.of(snakemake) as job:
    plot_scatter(
        embedding=snakemake.input.embedding,
        images=snakemake.input.images,
        predictions=snakemake.input.predictions,
        classes=snakemake.input.classes,
        output=snakemake.output.figure,
        formats=snakemake.params.formats,
        dpi=snakemake.params.dpi,
        about=job.about,
    )
