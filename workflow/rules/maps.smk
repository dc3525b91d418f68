"""Draw the feature maps of each exhibit.

Needs: the exhibit and its maps.
Makes: a figure for each exhibit with the strongest maps of every chosen layer.
"""


rule plot_maps:
    input:
        exhibit=rules.pick_exhibit.output.exhibit,
        maps=rules.record_maps.output.maps,
        layers=lambda wildcards: layers_file(wildcards.study),
        classes=lambda wildcards: class_names(dataset_of(wildcards.study)),
    output:
        figure=report(
            "<results>/{study}/figures/maps/{exhibit}.png",
            caption="../report/maps.rst",
            category="Maps",
            subcategory="{study}",
            labels={"exhibit": "{exhibit}"},
        ),
        others=other_formats("<results>/{study}/figures/maps/{exhibit}.png"),
        numbers="<results>/{study}/figures/maps/{exhibit}.csv",
    log:
        "<logs>/{study}/plot_maps/{exhibit}.log",
    benchmark:
        "<benchmarks>/{study}/plot_maps/{exhibit}.jsonl"
    conda:
        "../../environment.yml"
    params:
        **made_by(
            "plot_maps",
            layers=lambda wildcards: chosen_maps(wildcards.study),
            units=analysis("maps", "units"),
            formats=CONFIG["figures"]["formats"],
            dpi=CONFIG["figures"]["dpi"],
        ),
    script:
        "../scripts/plot_maps.py"
