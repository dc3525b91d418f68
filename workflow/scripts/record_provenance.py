"""Adapter: record what a study was made from."""

from itertools import chain

from convatlas.job import Job
from convatlas.provenance import record_provenance

with Job.of(snakemake):
    record_provenance(
        list(chain(snakemake.input.figures, snakemake.input.artifacts)),
        output=snakemake.output.provenance,
        config=snakemake.params.config,
        sources=snakemake.params.sources,
        scripts=snakemake.scriptdir,
        readers=snakemake.params.readers,
    )
