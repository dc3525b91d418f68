"""Adapter: train a model."""

from pathlib import Path

from convatlas.files import make_folder
from convatlas.job import Job
from convatlas.models.training import train_model

with Job.of(snakemake) as job:
    snapshots = Path(snakemake.output.snapshots)
    make_folder(snapshots)
    train_model(
        architecture=snakemake.params.architecture,
        options=snakemake.params.options,
        images=snakemake.input.images,
        test=snakemake.input.validation or None,
        classes=snakemake.params.classes,
        normalize=snakemake.params.normalize,
        epochs=snakemake.params.epochs,
        batch_size=snakemake.params.batch_size,
        learning_rate=snakemake.params.learning_rate,
        weight_decay=snakemake.params.weight_decay,
        seed=snakemake.params.seed,
        snapshots=snakemake.params.epochs_kept,
        weights_out=snakemake.output.weights,
        card_out=snakemake.output.card,
        history_out=snakemake.output.history,
        recipe=job.recipe,
        snapshots_out=[snapshots / f"{epoch}.pt" for epoch in snakemake.params.epochs_kept],
    )
