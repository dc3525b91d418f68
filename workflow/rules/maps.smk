"""Draw the feature maps of each exhibit.

Needs: the exhibit and its maps.
Makes: for each exhibit a figure with the strongest maps of every chosen layer, one with the
maps of all units, and one with the strongest over the image, where their cells look.
"""

MAPS = "<results>/{study}/figures/maps/{exhibit}.png"
MOSAIC = "<results>/{study}/figures/maps/mosaic/{exhibit}.png"
OVERLAY = "<results>/{study}/figures/maps/overlay/{exhibit}.png"

for name, (exhibits, studies) in by_exhibits("plot_maps", MAPS).items():

    rule:
        name:
            name
        input:
            exhibits=of_each(exhibits, PICKED),
            maps=of_each(exhibits, MAPPED),
            layers=lambda wildcards: layers_file(wildcards.study),
            classes=lambda wildcards: class_names(dataset_of(wildcards.study)),
        output:
            figure=pictures(exhibits, MAPS, "maps", "Maps", figure="maps"),
            others=other_formats(*of_each(exhibits, MAPS)),
            numbers=of_each(exhibits, numbers_of(MAPS)),
            mosaic=pictures(exhibits, MOSAIC, "mosaic", "Maps", figure="mosaic"),
            mosaic_others=other_formats(*of_each(exhibits, MOSAIC)),
            mosaic_numbers=of_each(exhibits, numbers_of(MOSAIC)),
            overlay=pictures(exhibits, OVERLAY, "overlay", "Maps", figure="overlay"),
            overlay_others=other_formats(*of_each(exhibits, OVERLAY)),
            overlay_numbers=of_each(exhibits, numbers_of(OVERLAY)),
        log:
            f"<logs>/{{study}}/plot_maps/{exhibits[0]}.log",
        benchmark:
            f"<benchmarks>/{{study}}/plot_maps/{exhibits[0]}.jsonl"
        wildcard_constraints:
            study=one_of(studies),
        group:
            "plots"
        conda:
            "../../environment.yml"
        resources:
            **sized("plot_maps", exhibits=len(exhibits)),
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
