"""Adapter: draw what makes the units of one layer fire."""

from convatlas.figures.firing import plot_firing
from convatlas.job import Job

with Job.of(snakemake) as job:
    plot_firing(
        firing=snakemake.input.firing,
        images=snakemake.input.images,
        units=snakemake.params.units,
        classes=snakemake.input.classes,
        output=snakemake.output.figure,
        sampled=snakemake.output.sampled,
        counted=snakemake.output.counted,
        formats=snakemake.params.formats,
        dpi=snakemake.params.dpi,
        about=job.about,
    )
