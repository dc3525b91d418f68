"""Adapter: draw how often and how far the drop lies on the object."""

from convatlas.figures.occlusion_score import plot_occlusion_score
from convatlas.job import Job

with Job.of(snakemake) as job:
    plot_occlusion_score(
        scenes=snakemake.input.scenes,
        summary=snakemake.input.summary,
        classes=snakemake.input.classes,
        output=snakemake.output.figure,
        formats=snakemake.params.formats,
        dpi=snakemake.params.dpi,
        about=job.about,
    )
