"""Adapter: draw one exhibit's maps."""

from convatlas.figures.maps import plot_maps
from convatlas.job import Job

with Job.of(snakemake) as job:
    plot_maps(
        exhibit=snakemake.input.exhibit,
        maps=snakemake.input.maps,
        layers=snakemake.params.layers,
        units=snakemake.params.units,
        classes=snakemake.input.classes,
        output=snakemake.output.figure,
        formats=snakemake.params.formats,
        dpi=snakemake.params.dpi,
        about=job.about,
    )
