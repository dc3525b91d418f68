"""Adapter: draw the patches of one layer."""

from convatlas.figures.patches import plot_patches
from convatlas.job import Job

with Job.of(snakemake) as job:
    plot_patches(
        patches=snakemake.input.patches,
        images=snakemake.input.images,
        units=snakemake.params.units,
        classes=snakemake.input.classes,
        output=snakemake.output.figure,
        formats=snakemake.params.formats,
        dpi=snakemake.params.dpi,
        about=job.about,
    )
