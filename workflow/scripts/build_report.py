"""Adapter: build a study's report."""

from pathlib import Path

from convatlas.job import Job
from convatlas.report.site import Figure, build_report
from convatlas.startup import read_startup

captions = Path(snakemake.scriptdir).parent / "report"

params = snakemake.params
train = params.model["train"] or {}
datasets = {params.study["dataset"], train.get("dataset"), train.get("validation")} - {None}
logs = Path(snakemake.log[0]).parents[1]
folders = [logs / snakemake.wildcards.study, logs / "models" / params.study["model"]]
folders += [logs / "datasets" / name for name in datasets]

with Job.of(snakemake) as job:
    build_report(
        output=snakemake.output.page,
        study=snakemake.wildcards.study,
        dataset=params.study["dataset"],
        figures=[Figure.at(path, captions) for path in snakemake.input.figures],
        card=snakemake.input.card,
        layers=snakemake.input.layers,
        manifest=snakemake.input.manifest,
        predictions=snakemake.input.predictions,
        exhibits=snakemake.input.exhibits,
        classes=snakemake.input.classes,
        provenance=snakemake.input.provenance,
        recipe=job.recipe,
        startup=read_startup(folders),
    )
