"""Adapter: embed the codes by t-SNE."""

from convatlas.embedding import embed_codes
from convatlas.job import Job

with Job.of(snakemake) as job:
    embed_codes(
        neighbours=snakemake.input.neighbours,
        output=snakemake.output.embedding,
        recipe=job.recipe,
        perplexity=snakemake.params.perplexity,
        iterations=snakemake.params.iterations,
        early_exaggeration=snakemake.params.early_exaggeration,
        seed=snakemake.params.seed,
    )
