"""Adapter: pick one exhibit or several."""

from convatlas.exhibits import pick_exhibits
from convatlas.job import Job

with Job.of(snakemake) as job:
    pick_exhibits(
        images=snakemake.input.images,
        outputs=snakemake.output.exhibits,
        recipes=job.recipes(snakemake.output.exhibits, "indices"),
        indices=snakemake.params.indices,
        seed=snakemake.params.seed,
    )
