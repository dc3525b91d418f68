"""Find what makes the units of each chosen layer fire, and draw it.

Needs: activations, the units' health, layers, images.
Makes: for each chosen layer images from all over its units' firing range, the classes of
those on which a unit fires, and how selective it is; a figure of some, and their ranking.
"""


rule sample_firing:
    input:
        activations=rules.gather_activations.output.activations,
        shards=rules.gather_activations.input.shards,
        health=rules.measure_health.output.health,
        layers=lambda wildcards: layers_file(wildcards.study),
        images=lambda wildcards: shown_images(dataset_of(wildcards.study)),
    output:
        firing="<results>/{study}/firing/{layer}.h5",
    log:
        "<logs>/{study}/sample_firing/{layer}.log",
    benchmark:
        "<benchmarks>/{study}/sample_firing/{layer}.jsonl"
    group:
        "layers"
    conda:
        "../../environment.yml"
    resources:
        **sized("sample_firing"),
    params:
        **made_by(
            "sample_firing",
            threshold=analysis("firing", "threshold"),
            parts=analysis("firing", "images"),
        ),
    script:
        "../scripts/sample_firing.py"


rule plot_firing:
    input:
        firing=rules.sample_firing.output.firing,
        images=lambda wildcards: shown_images(dataset_of(wildcards.study)),
        classes=lambda wildcards: class_names(dataset_of(wildcards.study)),
    output:
        figure=report(
            "<results>/{study}/figures/firing/{layer}.png",
            caption="../report/firing.rst",
            category="Firing",
            subcategory="{study}",
            labels={"layer": "{layer}"},
        ),
        others=other_formats("<results>/{study}/figures/firing/{layer}.png"),
        numbers="<results>/{study}/figures/firing/{layer}.csv",
        sampled="<results>/{study}/figures/firing/images/{layer}.csv",
        counted="<results>/{study}/figures/firing/classes/{layer}.csv",
    log:
        "<logs>/{study}/plot_firing/{layer}.log",
    benchmark:
        "<benchmarks>/{study}/plot_firing/{layer}.jsonl"
    group:
        "plots"
    conda:
        "../../environment.yml"
    resources:
        **sized("plot_firing"),
    params:
        **made_by(
            "plot_firing",
            units=analysis("firing", "units"),
            formats=CONFIG["figures"]["formats"],
            dpi=CONFIG["figures"]["dpi"],
        ),
    script:
        "../scripts/plot_firing.py"
