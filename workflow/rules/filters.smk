"""Draw the filters of the first convolution and of those behind the chosen layers.

Needs: weights, layers and the model's card.
Makes: a layer's filters as an artifact, with numbers of how smooth, strong and alike they are;
pictures of the first filters and their frequencies, of deeper kernels, and of filters that are alike.
"""


rule cut_filters:
    input:
        weights=lambda wildcards: model_file("weights", wildcards.study),
        layers=lambda wildcards: layers_file(wildcards.study),
        card=lambda wildcards: model_file("card", wildcards.study),
    output:
        filters="<results>/{study}/filters/{layer}.h5",
    log:
        "<logs>/{study}/cut_filters/{layer}.log",
    benchmark:
        "<benchmarks>/{study}/cut_filters/{layer}.jsonl"
    group:
        "layers"
    conda:
        "../../environment.yml"
    resources:
        **sized("cut_filters"),
    params:
        **made_by(
            "cut_filters",
            layer=lambda wildcards: wildcards.layer,
        ),
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
            labels={"kind": "pictures", "layer": "{layer}"},
        ),
        others=other_formats("<results>/{study}/figures/filters/{layer}.png"),
        numbers="<results>/{study}/figures/filters/{layer}.csv",
    log:
        "<logs>/{study}/plot_filters/{layer}.log",
    benchmark:
        "<benchmarks>/{study}/plot_filters/{layer}.jsonl"
    group:
        "plots"
    conda:
        "../../environment.yml"
    resources:
        **sized("plot_filters"),
    params:
        **made_by(
            "plot_filters",
            formats=CONFIG["figures"]["formats"],
            dpi=CONFIG["figures"]["dpi"],
        ),
    script:
        "../scripts/plot_filters.py"


rule plot_frequency:
    input:
        filters=rules.cut_filters.output.filters,
    output:
        figure=report(
            "<results>/{study}/figures/filters/frequency/{layer}.png",
            caption="../report/frequency.rst",
            category="Filters",
            subcategory="{study}",
            labels={"kind": "frequencies", "layer": "{layer}"},
        ),
        others=other_formats("<results>/{study}/figures/filters/frequency/{layer}.png"),
        numbers="<results>/{study}/figures/filters/frequency/{layer}.csv",
    log:
        "<logs>/{study}/plot_frequency/{layer}.log",
    benchmark:
        "<benchmarks>/{study}/plot_frequency/{layer}.jsonl"
    group:
        "plots"
    conda:
        "../../environment.yml"
    resources:
        **sized("plot_frequency"),
    params:
        **made_by(
            "plot_frequency",
            formats=CONFIG["figures"]["formats"],
            dpi=CONFIG["figures"]["dpi"],
        ),
    script:
        "../scripts/plot_frequency.py"


rule plot_redundancy:
    input:
        filters=rules.cut_filters.output.filters,
    output:
        figure=report(
            "<results>/{study}/figures/filters/redundancy/{layer}.png",
            caption="../report/redundancy.rst",
            category="Filters",
            subcategory="{study}",
            labels={"kind": "redundancy", "layer": "{layer}"},
        ),
        others=other_formats("<results>/{study}/figures/filters/redundancy/{layer}.png"),
        numbers="<results>/{study}/figures/filters/redundancy/{layer}.csv",
    log:
        "<logs>/{study}/plot_redundancy/{layer}.log",
    benchmark:
        "<benchmarks>/{study}/plot_redundancy/{layer}.jsonl"
    group:
        "plots"
    conda:
        "../../environment.yml"
    resources:
        **sized("plot_redundancy"),
    params:
        **made_by(
            "plot_redundancy",
            similar=analysis("filters", "similar"),
            formats=CONFIG["figures"]["formats"],
            dpi=CONFIG["figures"]["dpi"],
        ),
    script:
        "../scripts/plot_redundancy.py"


rule plot_kernels:
    input:
        filters=rules.cut_filters.output.filters,
        layers=lambda wildcards: layers_file(wildcards.study),
    output:
        figure=report(
            "<results>/{study}/figures/filters/kernels/{layer}.png",
            caption="../report/kernels.rst",
            category="Filters",
            subcategory="{study}",
            labels={"kind": "kernels", "layer": "{layer}"},
        ),
        others=other_formats("<results>/{study}/figures/filters/kernels/{layer}.png"),
        numbers="<results>/{study}/figures/filters/kernels/{layer}.csv",
    log:
        "<logs>/{study}/plot_kernels/{layer}.log",
    benchmark:
        "<benchmarks>/{study}/plot_kernels/{layer}.jsonl"
    group:
        "plots"
    conda:
        "../../environment.yml"
    resources:
        **sized("plot_kernels"),
    params:
        **made_by(
            "plot_kernels",
            units=lambda wildcards: kernel_units(wildcards.study, wildcards.layer),
            formats=CONFIG["figures"]["formats"],
            dpi=CONFIG["figures"]["dpi"],
        ),
    script:
        "../scripts/plot_kernels.py"
