"""Print what a full run will make, before it is run.

Needs: the layers of all models, which are described first.
Makes: nothing else. The jobs are those that Snakemake itself would run for the target `all`.
"""

from convatlas.plan import Planned, read_seconds
from convatlas.sizing import sized_rules


def planned_jobs(dag):
    """Return the jobs of a run, in the order of their rules, and what each needs.

    `dag` is Snakemake's own; jobs of target rules, which do nothing, are left out.
    """
    order = {x.name: i for i, x in enumerate(workflow.rules)}
    jobs = sorted(
        (job for job in dag.jobs if job.output),
        key=lambda job: (order[job.rule.name], list(job.output)),
    )
    place = {job: i for i, job in enumerate(jobs)}
    return [
        Planned(
            script_of(job),
            need=needed_by(job),
            memory=job.resources.mem_mb,
            cores=job.threads,
            to_run=dag.needrun(job),
            outputs=list(job.output),
            waits=[place[x] for x in dag.dependencies[job] if x in place],
            took=read_seconds(job.benchmark) if job.benchmark else None,
        )
        for job in jobs
    ]


def script_of(job):
    """Return the name by which a job is sized: its rule's, or of a block of exhibits the script's."""
    return job.rule.name if job.rule.name in sized_rules() else job.params.script


def needed_by(job):
    """Return what a job needs, by the same estimate by which it asks for resources."""
    found = re.search(r"_(\d+)(?:_to_(\d+))?$", job.rule.name)
    exhibits = 1 + int(found[2] or found[1]) - int(found[1]) if found else 1
    return need_of(script_of(job), job.wildcards, exhibits)


def guesses():
    """Return what is guessed of the studies' data sets, a sentence each."""
    names = dict.fromkeys(x for name in STUDIES for x in datasets_of(name))
    return [
        f"data set {name}: {pictures.source}"
        for name in names
        if (pictures := pictures_of_part(name, "images")).source
    ]


# Without an output or a benchmark file, so that it prints whenever it is asked to.
rule plan:
    input:
        layers=expand(rules.describe_model.output.layers, model=USED_MODELS),
    log:
        "<logs>/plan.log",
    conda:
        "../../environment.yml"
    resources:
        **sized("plan"),
    params:
        **made_by(
            "plan",
            snakefile=workflow.main_snakefile,
            configfiles=[str(path) for path in workflow.config_settings.configfiles],
            config=dict(workflow.config_settings.config),
            cores=lambda wildcards: workflow.cores,
            results=str(RESULTS),
        ),
    script:
        "../scripts/plan.py"
