"""Adapter: draw the patches along one layer's units and along random directions."""

from convatlas.figures.directions import plot_directions
from convatlas.job import Job

with Job.of(snakemake) as job:
    plot_directions(
        directions=snakemake.input.directions,
        patches=snakemake.input.patches,
        images=snakemake.input.images,
        units=snakemake.params.units,
        classes=snakemake.input.classes,
        output=snakemake.output.figure,
        formats=snakemake.params.formats,
        dpi=snakemake.params.dpi,
        about=job.about,
    )
