"""Rank the images along random directions of each chosen layer, as a control for its units.

Needs: patches, activations, images, model, layers.
Makes: the strongest patches along the directions with numbers of how alike they are, and a
figure of them beside the units'.
"""


rule rank_directions:
    input:
        images=lambda wildcards: shown_images(dataset_of(wildcards.study)),
        activations=rules.gather_activations.output.activations,
        patches=rules.rank_patches.output.patches,
        layers=lambda wildcards: layers_file(wildcards.study),
        card=lambda wildcards: model_file("card", wildcards.study),
        weights=lambda wildcards: model_file("weights", wildcards.study),
    output:
        directions="<results>/{study}/directions/{layer}.h5",
    log:
        "<logs>/{study}/rank_directions/{layer}.log",
    benchmark:
        "<benchmarks>/{study}/rank_directions/{layer}.jsonl"
    conda:
        "../../environment.yml"
    resources:
        **sized("rank_directions"),
    params:
        **made_by(
            "rank_directions",
            architecture_content=lambda wildcards: architecture_content(model_of(wildcards.study)),
            number=analysis("directions", "number"),
            seed=CONFIG["seed"],
            batch_size=CONFIG["batch_size"],
        ),
    script:
        "../scripts/rank_directions.py"


rule plot_directions:
    input:
        directions=rules.rank_directions.output.directions,
        patches=rules.rank_patches.output.patches,
        layers=lambda wildcards: layers_file(wildcards.study),
        images=lambda wildcards: shown_images(dataset_of(wildcards.study)),
        classes=lambda wildcards: class_names(dataset_of(wildcards.study)),
    output:
        figure=report(
            "<results>/{study}/figures/directions/{layer}.png",
            caption="../report/directions.rst",
            category="Directions",
            subcategory="{study}",
            labels={"layer": "{layer}"},
        ),
        others=other_formats("<results>/{study}/figures/directions/{layer}.png"),
        numbers="<results>/{study}/figures/directions/{layer}.csv",
    log:
        "<logs>/{study}/plot_directions/{layer}.log",
    benchmark:
        "<benchmarks>/{study}/plot_directions/{layer}.jsonl"
    group:
        "plots"
    conda:
        "../../environment.yml"
    resources:
        **sized("plot_directions"),
    params:
        **made_by(
            "plot_directions",
            units=lambda wildcards: chosen_units(wildcards.study, wildcards.layer)[:6],
            formats=CONFIG["figures"]["formats"],
            dpi=CONFIG["figures"]["dpi"],
        ),
    script:
        "../scripts/plot_directions.py"
