"""Rank the image patches that excite each unit of a layer most, and draw them.

Needs: activations, layers, images.
Makes: for each chosen layer the strongest patches of all its units, and a figure of some.
"""


rule rank_patches:
    input:
        activations=rules.gather_activations.output.activations,
        shards=rules.gather_activations.input.shards,
        layers=lambda wildcards: layers_file(wildcards.study),
        images=lambda wildcards: shown_images(dataset_of(wildcards.study)),
    output:
        patches="<results>/{study}/patches/{layer}.h5",
    log:
        "<logs>/{study}/rank_patches/{layer}.log",
    benchmark:
        "<benchmarks>/{study}/rank_patches/{layer}.jsonl"
    group:
        "layers"
    conda:
        "../../environment.yml"
    resources:
        **sized("rank_patches"),
    params:
        **made_by(
            "rank_patches",
            per_unit=analysis("patches", "per_unit"),
        ),
    script:
        "../scripts/rank_patches.py"


rule plot_patches:
    input:
        patches=rules.rank_patches.output.patches,
        layers=lambda wildcards: layers_file(wildcards.study),
        images=lambda wildcards: shown_images(dataset_of(wildcards.study)),
        classes=lambda wildcards: class_names(dataset_of(wildcards.study)),
    output:
        figure=report(
            "<results>/{study}/figures/patches/{layer}.png",
            caption="../report/patches.rst",
            category="Patches",
            subcategory="{study}",
            labels={"layer": "{layer}"},
        ),
        others=other_formats("<results>/{study}/figures/patches/{layer}.png"),
        numbers="<results>/{study}/figures/patches/{layer}.csv",
    log:
        "<logs>/{study}/plot_patches/{layer}.log",
    benchmark:
        "<benchmarks>/{study}/plot_patches/{layer}.jsonl"
    group:
        "plots"
    conda:
        "../../environment.yml"
    resources:
        **sized("plot_patches"),
    params:
        **made_by(
            "plot_patches",
            units=lambda wildcards: chosen_units(wildcards.study, wildcards.layer),
            formats=CONFIG["figures"]["formats"],
            dpi=CONFIG["figures"]["dpi"],
        ),
    script:
        "../scripts/plot_patches.py"
