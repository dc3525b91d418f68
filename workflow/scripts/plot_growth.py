"""Adapter: draw how the receptive field grows, in theory and as it is measured."""

from convatlas.figures.receptive_fields import plot_growth
from convatlas.job import Job

with Job.of(snakemake) as job:
    plot_growth(
        exhibit=snakemake.input.exhibit,
        layers_json=snakemake.input.layers,
        fields=snakemake.input.fields,
        layers=snakemake.params.layers,
        output=snakemake.output.figure,
        formats=snakemake.params.formats,
        dpi=snakemake.params.dpi,
        about=job.about,
    )
