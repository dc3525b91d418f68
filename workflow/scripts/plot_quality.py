"""Adapter: draw the embeddings of all layers, and how good they are."""

from convatlas.figures.views import plot_quality
from convatlas.job import Job

with Job.of(snakemake) as job:
    plot_quality(
        embeddings=snakemake.input.embeddings,
        quality=snakemake.input.quality,
        images=snakemake.input.images,
        classes=snakemake.input.classes,
        output=snakemake.output.figure,
        formats=snakemake.params.formats,
        dpi=snakemake.params.dpi,
        about=job.about,
    )
