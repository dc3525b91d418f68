"""Adapter: draw the images nearest to one exhibit or several."""

from convatlas.figures.neighbours import plot_nearest
from convatlas.job import Job

with Job.of(snakemake) as job:
    for i, about in enumerate(job.abouts(snakemake.input.nearest, "nearest")):
        plot_nearest(
            nearest=snakemake.input.nearest[i],
            images=snakemake.input.images,
            classes=snakemake.input.classes,
            output=snakemake.output.figure[i],
            formats=snakemake.params.formats,
            dpi=snakemake.params.dpi,
            about=about,
        )
