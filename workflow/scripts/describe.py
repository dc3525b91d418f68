"""Adapter: print the layers of all models."""

from convatlas.job import Job
from convatlas.layers import layer_table, read_layers

with Job.of(snakemake):
    for name, path in zip(snakemake.params.names, snakemake.input.layers, strict=True):
        print(f"{name}\n{layer_table(read_layers(path))}\n")
