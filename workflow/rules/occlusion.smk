"""Slide an occluder over each exhibit and watch what the network says.

Needs: exhibits, images, model, layers; for panel (c) of the figure also patches.
Makes: all class probabilities for every position, projections of the strongest map,
and the five-panel figure.

A sweep takes longer than other work on exhibits, so how many a job takes is said apart.
"""

SWEPT = "<results>/{study}/occlusion/{exhibit}.h5"
STRONGEST = "<results>/{study}/strongest/{exhibit}.h5"
OCCLUSION_FIGURE = "<results>/{study}/figures/occlusion/{exhibit}.png"

for name, (exhibits, studies) in by_exhibits("sweep_occlusion", SWEPT, swept_per_job).items():

    rule:
        name:
            name
        input:
            exhibits=of_each(exhibits, PICKED),
            images=lambda wildcards: shown_images(dataset_of(wildcards.study)),
            card=lambda wildcards: model_file("card", wildcards.study),
            weights=lambda wildcards: model_file("weights", wildcards.study),
            layers=lambda wildcards: layers_file(wildcards.study),
        output:
            occlusion=of_each(exhibits, SWEPT),
        log:
            f"<logs>/{{study}}/sweep_occlusion/{exhibits[0]}.log",
        benchmark:
            f"<benchmarks>/{{study}}/sweep_occlusion/{exhibits[0]}.jsonl"
        wildcard_constraints:
            study=one_of(studies),
        conda:
            "../../environment.yml"
        resources:
            **sized("sweep_occlusion", exhibits=len(exhibits)),
        params:
            **made_by(
                "sweep_occlusion",
                architecture_content=lambda wildcards: architecture_content(
                    model_of(wildcards.study)
                ),
                size=analysis("occlusion", "size"),
                stride=analysis("occlusion", "stride"),
                fill=analysis("occlusion", "fill"),
                layer=lambda wildcards: occluded_layer(wildcards.study),
                unit=analysis("occlusion", "unit"),
            ),
        script:
            "../scripts/sweep_occlusion.py"


for name, (exhibits, studies) in by_exhibits("project_strongest", STRONGEST).items():

    rule:
        name:
            name
        input:
            exhibits=of_each(exhibits, PICKED),
            occlusion=of_each(exhibits, SWEPT),
            patches=lambda wildcards: expand(
                rules.rank_patches.output.patches,
                study=wildcards.study,
                layer=occluded_layer(wildcards.study),
            )[0],
            images=lambda wildcards: shown_images(dataset_of(wildcards.study)),
            card=lambda wildcards: model_file("card", wildcards.study),
            weights=lambda wildcards: model_file("weights", wildcards.study),
        output:
            strongest=of_each(exhibits, STRONGEST),
        log:
            f"<logs>/{{study}}/project_strongest/{exhibits[0]}.log",
        benchmark:
            f"<benchmarks>/{{study}}/project_strongest/{exhibits[0]}.jsonl"
        wildcard_constraints:
            study=one_of(studies),
        conda:
            "../../environment.yml"
        resources:
            **sized("project_strongest", exhibits=len(exhibits)),
        params:
            **made_by(
                "project_strongest",
                architecture_content=lambda wildcards: architecture_content(
                    model_of(wildcards.study)
                ),
                batch_size=CONFIG["batch_size"],
            ),
        script:
            "../scripts/project_strongest.py"


for name, (exhibits, studies) in by_exhibits("plot_occlusion", OCCLUSION_FIGURE).items():

    rule:
        name:
            name
        input:
            exhibits=of_each(exhibits, PICKED),
            occlusion=of_each(exhibits, SWEPT),
            strongest=lambda wildcards, exhibits=exhibits: strongest_of(
                wildcards.study, in_block(exhibits, wildcards)
            ),
            layers=lambda wildcards: layers_file(wildcards.study),
            classes=lambda wildcards: class_names(dataset_of(wildcards.study)),
        output:
            figure=pictures(exhibits, OCCLUSION_FIGURE, "occlusion", "Occlusion"),
            others=other_formats(*of_each(exhibits, OCCLUSION_FIGURE)),
            numbers=of_each(exhibits, numbers_of(OCCLUSION_FIGURE)),
        log:
            f"<logs>/{{study}}/plot_occlusion/{exhibits[0]}.log",
        benchmark:
            f"<benchmarks>/{{study}}/plot_occlusion/{exhibits[0]}.jsonl"
        wildcard_constraints:
            study=one_of(studies),
        group:
            "plots"
        conda:
            "../../environment.yml"
        resources:
            **sized("plot_occlusion", exhibits=len(exhibits)),
        params:
            **made_by(
                "plot_occlusion",
                reason=lambda wildcards: why_not_projected(
                    wildcards.study, occluded_layer(wildcards.study)
                )
                or "",
                formats=CONFIG["figures"]["formats"],
                dpi=CONFIG["figures"]["dpi"],
            ),
        script:
            "../scripts/plot_occlusion.py"
