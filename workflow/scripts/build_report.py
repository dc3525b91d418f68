"""Adapter: build a study's report."""

from pathlib import Path

from convatlas.job import Job
from convatlas.report.site import Figure, build_report
from convatlas.startup import read_startup

captions = Path(snakemake.scriptdir).parent / "report"
logs, study = Path(snakemake.log[0]).parents[1], snakemake.wildcards.study

with Job.of(snakemake) as job:
    build_report(
        output=snakemake.output.page,
        study=study,
        dataset=snakemake.params.study["dataset"],
        figures=[Figure.at(path, captions) for path in snakemake.input.figures],
        card=snakemake.input.card,
        layers=snakemake.input.layers,
        manifest=snakemake.input.manifest,
        predictions=snakemake.input.predictions,
        exhibits=snakemake.input.exhibits,
        classes=snakemake.input.classes,
        provenance=snakemake.input.provenance,
        recipe=job.recipe,
        startup=read_startup([logs / kind for kind in (study, "models", "datasets")]),
    )
