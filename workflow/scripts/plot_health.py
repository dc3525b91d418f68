"""Adapter: draw how healthy the units of all layers are."""

from convatlas.figures.health import plot_health
from convatlas.job import Job

with Job.of(snakemake) as job:
    plot_health(
        snakemake.input.health,
        output=snakemake.output.figure,
        summary=snakemake.output.summary,
        population=snakemake.output.population,
        formats=snakemake.params.formats,
        dpi=snakemake.params.dpi,
        about=job.about,
    )
