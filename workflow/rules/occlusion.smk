"""Slide an occluder over each exhibit and watch what the network says.

Needs: exhibits, images, model, layers; for panel (c) of the figure also patches.
Makes: all class probabilities for every position, projections of the strongest map,
and the five-panel figure.

A job sweeps one exhibit, or several where the config asks for that: then a rule for each
such block of exhibits stands beside the first.
"""

for name, exhibits in all_sweeps().items():

    rule:
        name:
            name
        input:
            exhibits=expand(rules.pick_exhibit.output.exhibit, exhibit=exhibits, allow_missing=True),
            images=lambda wildcards: shown_images(dataset_of(wildcards.study)),
            card=lambda wildcards: model_file("card", wildcards.study),
            weights=lambda wildcards: model_file("weights", wildcards.study),
            layers=lambda wildcards: layers_file(wildcards.study),
        output:
            occlusion=expand(
                "<results>/{study}/occlusion/{exhibit}.h5", exhibit=exhibits, allow_missing=True
            ),
        log:
            f"<logs>/{{study}}/sweep_occlusion/{exhibits[0]}.log",
        benchmark:
            f"<benchmarks>/{{study}}/sweep_occlusion/{exhibits[0]}.jsonl"
        wildcard_constraints:
            study=one_of(studies_swept_by(name)),
        conda:
            "../../environment.yml"
        resources:
            gpu=1,
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


rule project_strongest:
    input:
        exhibit=rules.pick_exhibit.output.exhibit,
        occlusion=rules.sweep_occlusion.output[0],
        patches=lambda wildcards: expand(
            rules.rank_patches.output.patches,
            study=wildcards.study,
            layer=occluded_layer(wildcards.study),
        )[0],
        images=lambda wildcards: shown_images(dataset_of(wildcards.study)),
        card=lambda wildcards: model_file("card", wildcards.study),
        weights=lambda wildcards: model_file("weights", wildcards.study),
    output:
        strongest="<results>/{study}/strongest/{exhibit}.h5",
    log:
        "<logs>/{study}/project_strongest/{exhibit}.log",
    benchmark:
        "<benchmarks>/{study}/project_strongest/{exhibit}.jsonl"
    conda:
        "../../environment.yml"
    resources:
        gpu=1,
    params:
        **made_by(
            "project_strongest",
            architecture_content=lambda wildcards: architecture_content(model_of(wildcards.study)),
            batch_size=CONFIG["batch_size"],
        ),
    script:
        "../scripts/project_strongest.py"


rule plot_occlusion:
    input:
        exhibit=rules.pick_exhibit.output.exhibit,
        occlusion=rules.sweep_occlusion.output[0],
        strongest=lambda wildcards: strongest_of(wildcards.study, wildcards.exhibit),
        layers=lambda wildcards: layers_file(wildcards.study),
        classes=lambda wildcards: class_names(dataset_of(wildcards.study)),
    output:
        figure=report(
            "<results>/{study}/figures/occlusion/{exhibit}.png",
            caption="../report/occlusion.rst",
            category="Occlusion",
            subcategory="{study}",
            labels={"exhibit": "{exhibit}"},
        ),
        others=other_formats("<results>/{study}/figures/occlusion/{exhibit}.png"),
        numbers="<results>/{study}/figures/occlusion/{exhibit}.csv",
    log:
        "<logs>/{study}/plot_occlusion/{exhibit}.log",
    benchmark:
        "<benchmarks>/{study}/plot_occlusion/{exhibit}.jsonl"
    conda:
        "../../environment.yml"
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
