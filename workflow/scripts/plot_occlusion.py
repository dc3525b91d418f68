"""Adapter: draw one occlusion sweep or several."""

from convatlas.figures.occlusion import plot_occlusion
from convatlas.job import Job

inputs, outputs, params = snakemake.input, snakemake.output, snakemake.params

with Job.of(snakemake) as job:
    own = ("exhibits", "occlusion", "strongest")
    for i, about in enumerate(job.abouts(inputs.exhibits, *own)):
        plot_occlusion(
            exhibit=inputs.exhibits[i],
            occlusion=inputs.occlusion[i],
            strongest=inputs.strongest[i] if inputs.strongest else None,
            reason=params.reason,
            classes=inputs.classes,
            output=outputs.figure[i],
            formats=params.formats,
            dpi=params.dpi,
            about=about,
        )
