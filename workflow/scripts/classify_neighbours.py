"""Adapter: have the nearest images vote on the class of each, by the codes of one layer."""

from convatlas.job import Job
from convatlas.votes import classify_neighbours

with Job.of(snakemake) as job:
    classify_neighbours(
        images=snakemake.input.labels,
        activations=snakemake.input.get("activations"),
        output=snakemake.output.votes,
        recipe=job.recipe,
        layer=snakemake.wildcards.layer,
        summary=snakemake.params.summary,
        voters=snakemake.params.voters,
        sample=snakemake.params.sample,
        seed=snakemake.params.seed,
    )
