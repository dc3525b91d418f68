"""Adapter: draw an embedding in several colourings."""

from convatlas.figures.views import plot_views
from convatlas.job import Job

with Job.of(snakemake) as job:
    plot_views(
        embedding=snakemake.input.embedding,
        images=snakemake.input.images,
        predictions=snakemake.input.predictions,
        classes=snakemake.input.classes,
        attributes=snakemake.params.attributes,
        output=snakemake.output.figure,
        formats=snakemake.params.formats,
        dpi=snakemake.params.dpi,
        about=job.about,
    )
