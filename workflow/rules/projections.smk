"""Project the strongest patches back to the pixels that caused them.

Needs: patches, images, model, layers.
Makes: deconvnet projections of some units of each chosen layer, and a figure of them
beside their patches; nothing for layers where the deconvnet isn't defined.
"""


rule project_patches:
    input:
        patches=rules.rank_patches.output.patches,
        images=lambda wildcards: shown_images(dataset_of(wildcards.study)),
        card=lambda wildcards: model_file("card", wildcards.study),
        weights=lambda wildcards: model_file("weights", wildcards.study),
        layers=lambda wildcards: layers_file(wildcards.study),
    output:
        projections="<results>/{study}/projections/{layer}.h5",
    log:
        "<logs>/{study}/project_patches/{layer}.log",
    benchmark:
        "<benchmarks>/{study}/project_patches/{layer}.jsonl"
    conda:
        "../../environment.yml"
    resources:
        **sized("project_patches"),
    params:
        **made_by(
            "project_patches",
            architecture_content=lambda wildcards: architecture_content(model_of(wildcards.study)),
            units=lambda wildcards: chosen_units(wildcards.study, wildcards.layer),
            batch_size=CONFIG["batch_size"],
        ),
    script:
        "../scripts/project_patches.py"


rule plot_projections:
    input:
        projections=rules.project_patches.output.projections,
        patches=rules.rank_patches.output.patches,
        images=lambda wildcards: shown_images(dataset_of(wildcards.study)),
    output:
        figure=report(
            "<results>/{study}/figures/projections/{layer}.png",
            caption="../report/projections.rst",
            category="Projections",
            subcategory="{study}",
            labels={"layer": "{layer}"},
        ),
        others=other_formats("<results>/{study}/figures/projections/{layer}.png"),
        numbers="<results>/{study}/figures/projections/{layer}.csv",
    log:
        "<logs>/{study}/plot_projections/{layer}.log",
    benchmark:
        "<benchmarks>/{study}/plot_projections/{layer}.jsonl"
    group:
        "plots"
    conda:
        "../../environment.yml"
    resources:
        **sized("plot_projections"),
    params:
        **made_by(
            "plot_projections",
            formats=CONFIG["figures"]["formats"],
            dpi=CONFIG["figures"]["dpi"],
        ),
    script:
        "../scripts/plot_projections.py"
