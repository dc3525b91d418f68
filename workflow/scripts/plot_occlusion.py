"""Adapter: draw one occlusion sweep."""

from convatlas.figures.occlusion import plot_occlusion
from convatlas.job import Job

with Job.of(snakemake) as job:
    plot_occlusion(
        exhibit=snakemake.input.exhibit,
        occlusion=snakemake.input.occlusion,
        strongest=next(iter(snakemake.input.strongest), None),
        reason=snakemake.params.reason,
        classes=snakemake.input.classes,
        output=snakemake.output.figure,
        formats=snakemake.params.formats,
        dpi=snakemake.params.dpi,
        about=job.about,
    )
