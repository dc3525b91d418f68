"""Adapter: print what a full run will make, by Snakemake's own plan of it."""

from pathlib import Path

from snakemake.api import SnakemakeApi
from snakemake.settings.types import (
    ConfigSettings,
    DAGSettings,
    OutputSettings,
    Quietness,
    ResourceSettings,
)

from convatlas.job import Job
from convatlas.plan import Machine, describe_plan

params = snakemake.params
quiet = OutputSettings(dryrun=True, quiet={Quietness.ALL})

with Job.of(snakemake), SnakemakeApi(quiet) as api:
    settings = ConfigSettings(config=params.config, configfiles=[*map(Path, params.configfiles)])
    cores = ResourceSettings(cores=params.cores)
    found = api.workflow(cores, config_settings=settings, snakefile=Path(params.snakefile))
    found.dag(DAGSettings(targets={"all"}))
    run = found._workflow  # the API itself prints plans, it doesn't give them
    run._prepare_dag(forceall=False, ignore_incomplete=True, lock_warn_only=True, nolock=True)
    run._build_dag()
    jobs, notes = run.globals["planned_jobs"](run.dag), run.globals["guesses"]()
    here = Machine.here(params.cores, Path(snakemake.input.layers[0]).parents[2], params.memory)
    print(describe_plan(jobs, here, notes))
