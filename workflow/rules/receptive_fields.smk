"""Draw how the receptive field grows from layer to layer.

Needs: layers, an exhibit.
Makes: the figure, on the first exhibit.
"""


rule plot_growth:
    input:
        exhibit=rules.pick_exhibit.output.exhibit,
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
    conda:
        "../../environment.yml"
    params:
        **made_by(
            "plot_growth",
            layers=lambda wildcards: chosen_layers(wildcards.study),
            formats=CONFIG["figures"]["formats"],
            dpi=CONFIG["figures"]["dpi"],
        ),
    script:
        "../scripts/plot_growth.py"
