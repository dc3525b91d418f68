"""Measure how much of their receptive fields the layers use; draw how the fields grow.

Needs: images, model, layers, an exhibit.
Makes: where the gradient of each chosen layer's central cell arrives, and the figure, on the
first exhibit.
"""


rule measure_fields:
    input:
        images=lambda wildcards: shown_images(dataset_of(wildcards.study)),
        layers=lambda wildcards: layers_file(wildcards.study),
        card=lambda wildcards: model_file("card", wildcards.study),
        weights=lambda wildcards: model_file("weights", wildcards.study),
    output:
        fields="<results>/{study}/fields.h5",
    log:
        "<logs>/{study}/measure_fields.log",
    benchmark:
        "<benchmarks>/{study}/measure_fields.jsonl"
    conda:
        "../../environment.yml"
    resources:
        **sized("measure_fields"),
    params:
        **made_by(
            "measure_fields",
            architecture_content=lambda wildcards: architecture_content(model_of(wildcards.study)),
            layers=lambda wildcards: chosen_layers(wildcards.study),
            images=analysis("receptive_fields", "images"),
            share=analysis("receptive_fields", "share"),
            seed=CONFIG["seed"],
            batch_size=CONFIG["batch_size"],
        ),
    script:
        "../scripts/measure_fields.py"


rule plot_growth:
    input:
        exhibit=PICKED,
        fields=rules.measure_fields.output.fields,
        layers=lambda wildcards: layers_file(wildcards.study),
    output:
        figure=report(
            "<results>/{study}/figures/receptive_fields/{exhibit}.png",
            caption="../report/receptive_fields.rst",
            category="Receptive fields",
            subcategory="{study}",
            labels={"exhibit": "{exhibit}"},
        ),
        others=other_formats("<results>/{study}/figures/receptive_fields/{exhibit}.png"),
        numbers="<results>/{study}/figures/receptive_fields/{exhibit}.csv",
    log:
        "<logs>/{study}/plot_growth/{exhibit}.log",
    benchmark:
        "<benchmarks>/{study}/plot_growth/{exhibit}.jsonl"
    group:
        "plots"
    conda:
        "../../environment.yml"
    resources:
        **sized("plot_growth"),
    params:
        **made_by(
            "plot_growth",
            layers=lambda wildcards: chosen_layers(wildcards.study),
            formats=CONFIG["figures"]["formats"],
            dpi=CONFIG["figures"]["dpi"],
        ),
    script:
        "../scripts/plot_growth.py"
