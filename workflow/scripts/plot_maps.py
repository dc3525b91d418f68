"""Adapter: draw each exhibit's maps: the strongest, all of them, the strongest over the image."""

from convatlas.figures.maps import plot_maps
from convatlas.figures.mosaic import plot_mosaic
from convatlas.figures.overlay import plot_overlay
from convatlas.job import Job

inputs, outputs, params = snakemake.input, snakemake.output, snakemake.params

with Job.of(snakemake) as job:
    for i, about in enumerate(job.abouts(inputs.exhibits, "exhibits", "maps")):
        common = {
            "exhibit": inputs.exhibits[i],
            "maps": inputs.maps[i],
            "layers": params.layers,
            "formats": params.formats,
            "dpi": params.dpi,
            "about": about,
        }
        named = {"classes": inputs.classes}
        plot_maps(output=outputs.figure[i], units=params.units, **named, **common)
        plot_mosaic(output=outputs.mosaic[i], **common)
        plot_overlay(
            output=outputs.overlay[i],
            layers_json=inputs.layers,
            units=params.large,
            **named,
            **common,
        )
