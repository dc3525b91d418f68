"""Adapter: follow the health of the layers' units through the training."""

from pathlib import Path

from convatlas.job import Job
from convatlas.snapshots import track_health

snapshots = Path(snakemake.input.snapshots)

with Job.of(snakemake) as job:
    track_health(
        images=snakemake.input.images,
        card=snakemake.input.card,
        layers=snakemake.input.layers,
        weights={
            **{epoch: snapshots / f"{epoch}.pt" for epoch in snakemake.params.epochs_kept},
            snakemake.params.epochs: snakemake.input.weights,
        },
        output=snakemake.output.history,
        recipe=job.recipe,
        wanted=snakemake.params.layers,
        batch_size=snakemake.params.batch_size,
    )
