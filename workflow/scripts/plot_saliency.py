"""Adapter: draw what sends one exhibit's prediction back."""

from convatlas.figures.saliency import plot_saliency
from convatlas.job import Job

with Job.of(snakemake) as job:
    plot_saliency(
        exhibit=snakemake.input.exhibit,
        saliency=snakemake.input.saliency,
        classes=snakemake.input.classes,
        output=snakemake.output.figure,
        formats=snakemake.params.formats,
        dpi=snakemake.params.dpi,
        about=job.about,
    )
