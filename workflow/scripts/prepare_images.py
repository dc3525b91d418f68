"""Adapter: write a data set's images."""

from pathlib import Path

from convatlas.data.prepare import prepare_images
from convatlas.job import Job

with Job.of(snakemake) as job:
    prepare_images(
        source=snakemake.params.source,
        part=snakemake.wildcards.part,
        output=Path(snakemake.output.images),
        manifest=Path(snakemake.output.manifest),
        recipe=job.recipe,
        preset=snakemake.params.source.get("preset"),
    )
