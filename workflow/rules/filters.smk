"""Draw the filters of a network's first convolution.

Needs: weights and layers.
Makes: the filters as an artifact, and their picture.
"""


rule cut_filters:
    input:
        weights=lambda wildcards: model_file("weights", wildcards.study),
        layers=lambda wildcards: layers_file(wildcards.study),
    output:
        filters="<results>/{study}/filters.h5",
    log:
        "<logs>/{study}/cut_filters.log",
    benchmark:
        "<benchmarks>/{study}/cut_filters.jsonl"
    conda:
        "../../environment.yml"
    params:
        **made_by("cut_filters"),
    script:
        "../scripts/cut_filters.py"


rule plot_filters:
    input:
        filters=rules.cut_filters.output.filters,
    output:
        figure=report(
            "<results>/{study}/figures/filters/{layer}.png",
            caption="../report/filters.rst",
            category="Filters",
            subcategory="{study}",
            labels={"layer": "{layer}"},
        ),
        others=other_formats("<results>/{study}/figures/filters/{layer}.png"),
        numbers="<results>/{study}/figures/filters/{layer}.csv",
    log:
        "<logs>/{study}/plot_filters/{layer}.log",
    benchmark:
        "<benchmarks>/{study}/plot_filters/{layer}.jsonl"
    conda:
        "../../environment.yml"
    params:
        **made_by(
            "plot_filters",
            formats=CONFIG["figures"]["formats"],
            dpi=CONFIG["figures"]["dpi"],
        ),
    script:
        "../scripts/plot_filters.py"
