"""Draw the feature maps of each exhibit.

Needs: the exhibit and its maps.
Makes: for each exhibit a figure with the strongest maps of every chosen layer, one with the
maps of all units, and one with the strongest over the image, where their cells look.
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
            labels={"exhibit": "{exhibit}", "figure": "maps"},
        ),
        others=other_formats("<results>/{study}/figures/maps/{exhibit}.png"),
        numbers="<results>/{study}/figures/maps/{exhibit}.csv",
        mosaic=report(
            "<results>/{study}/figures/maps/mosaic/{exhibit}.png",
            caption="../report/mosaic.rst",
            category="Maps",
            subcategory="{study}",
            labels={"exhibit": "{exhibit}", "figure": "mosaic"},
        ),
        mosaic_others=other_formats("<results>/{study}/figures/maps/mosaic/{exhibit}.png"),
        mosaic_numbers="<results>/{study}/figures/maps/mosaic/{exhibit}.csv",
        overlay=report(
            "<results>/{study}/figures/maps/overlay/{exhibit}.png",
            caption="../report/overlay.rst",
            category="Maps",
            subcategory="{study}",
            labels={"exhibit": "{exhibit}", "figure": "overlay"},
        ),
        overlay_others=other_formats("<results>/{study}/figures/maps/overlay/{exhibit}.png"),
        overlay_numbers="<results>/{study}/figures/maps/overlay/{exhibit}.csv",
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
            large=analysis("maps", "large"),
            formats=CONFIG["figures"]["formats"],
            dpi=CONFIG["figures"]["dpi"],
        ),
    script:
        "../scripts/plot_maps.py"
