"""convatlas: the atlas of a convolutional network."""

from snakemake.utils import min_version

min_version("9.27")


if not workflow.overwrite_configfiles:  # `--configfile` replaces the demo, it doesn't add to it

    configfile: f"{workflow.basedir}/config/config.yaml"


report: "workflow/report/workflow.rst"


pathvars:
    logs="results/logs",
    benchmarks="results/benchmarks",


include: "workflow/rules/common.smk"
include: "workflow/rules/hooks.smk"
include: "workflow/rules/datasets.smk"
include: "workflow/rules/models.smk"
include: "workflow/rules/activations.smk"
include: "workflow/rules/exhibits.smk"
include: "workflow/rules/filters.smk"
include: "workflow/rules/maps.smk"
include: "workflow/rules/patches.smk"
include: "workflow/rules/projections.smk"
include: "workflow/rules/directions.smk"
include: "workflow/rules/neighbours.smk"
include: "workflow/rules/embedding.smk"
include: "workflow/rules/occlusion.smk"
include: "workflow/rules/occlusion_score.smk"
include: "workflow/rules/saliency.smk"
include: "workflow/rules/receptive_fields.smk"
include: "workflow/rules/training.smk"
include: "workflow/rules/health.smk"
include: "workflow/rules/firing.smk"
include: "workflow/rules/figures.smk"
include: "workflow/rules/provenance.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/plan.smk"


localrules:
    all,
    figures,
    report,
    describe,
    plan,
    filters,
    maps,
    patches,
    projections,
    directions,
    neighbours,
    embedding,
    occlusion,
    occlusion_score,
    saliency,
    receptive_fields,
    training,
    health,
    firing,


rule all:
    default_target: True
    input:
        for_studies(figures_of),
        for_studies(report_of),
        for_studies(leftovers_of),


rule figures:
    input:
        for_studies(figures_of),


rule report:
    input:
        for_studies(report_of),


rule filters:
    input:
        for_studies(filter_figures),


rule maps:
    input:
        for_studies(map_figures),


rule patches:
    input:
        for_studies(patch_figures),


rule projections:
    input:
        for_studies(projection_figures),


rule directions:
    input:
        for_studies(direction_figures),


rule neighbours:
    input:
        for_studies(neighbour_figures),


rule embedding:
    input:
        for_studies(embedding_figures),


rule occlusion:
    input:
        for_studies(occlusion_figures),
        for_studies(occlusion_score_figures),


rule occlusion_score:
    input:
        for_studies(occlusion_score_figures),


rule saliency:
    input:
        for_studies(saliency_figures),


rule receptive_fields:
    input:
        for_studies(receptive_field_figures),


rule training:
    input:
        for_studies(training_figures),


rule health:
    input:
        for_studies(health_figures),


rule firing:
    input:
        for_studies(firing_figures),
