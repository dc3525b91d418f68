"""Draw the feature maps of each exhibit.

Needs: the exhibit and its maps.
Makes: a figure for each exhibit with the strongest maps of every chosen layer.
"""


rule plot_maps:
    input:
        exhibit=rules.pick_exhibit.output.exhibit,
        maps=rules.record_maps.output.maps,
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
    params:
        code=code_digest("convatlas.figures.maps"),
        layers=lambda wildcards: chosen_maps(wildcards.study),
        units=analysis("maps", "units"),
        formats=CONFIG["figures"]["formats"],
        dpi=CONFIG["figures"]["dpi"],
    script:
        "../scripts/plot_maps.py"


def map_figures(study):
    """Return the map figures of a study: none if no chosen layer is made of maps."""
    exhibits = exhibits_of(study) if chosen_maps(study) else []
    return expand(rules.plot_maps.output.figure, study=study, exhibit=exhibits)
