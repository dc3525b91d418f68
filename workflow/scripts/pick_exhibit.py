"""Adapter: pick one exhibit."""

from convatlas.exhibits import pick_exhibit
from convatlas.job import Job

with Job.of(snakemake) as job:
    pick_exhibit(
        images=snakemake.input.images,
        output=snakemake.output.exhibit,
        recipe=job.recipe,
        number=int(snakemake.wildcards.exhibit),
        index=snakemake.params.index,
        seed=snakemake.params.seed,
    )
