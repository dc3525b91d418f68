"""Adapter: draw what sends the prediction for one exhibit or several back."""

from convatlas.figures.saliency import plot_saliency
from convatlas.job import Job

inputs, outputs, params = snakemake.input, snakemake.output, snakemake.params

with Job.of(snakemake) as job:
    for i, about in enumerate(job.abouts(inputs.exhibits, "exhibits", "saliency")):
        plot_saliency(
            exhibit=inputs.exhibits[i],
            saliency=inputs.saliency[i],
            classes=inputs.classes,
            output=outputs.figure[i],
            formats=params.formats,
            dpi=params.dpi,
            about=about,
        )
