"""Adapter: draw an embedding at several perplexities."""

from convatlas.figures.views import plot_perplexities
from convatlas.job import Job

with Job.of(snakemake) as job:
    plot_perplexities(
        embeddings=snakemake.input.embeddings,
        quality=snakemake.input.quality,
        images=snakemake.input.images,
        classes=snakemake.input.classes,
        output=snakemake.output.figure,
        formats=snakemake.params.formats,
        dpi=snakemake.params.dpi,
        about=job.about,
    )
