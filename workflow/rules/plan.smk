"""Print what a full run will make, before it is run.

Needs: the layers of all models, which are described first.
Makes: nothing else. The jobs are those that Snakemake itself would run for the target `all`.
"""


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
            memory=lambda wildcards: workflow.global_resources.get("mem_mb").value,
        ),
    script:
        "../scripts/plan.py"
