"""Measure how healthy the units of each chosen layer are, also while the network was trained.

Needs: activations, patches, images; layers, model and its snapshots for the training.
Makes: for each chosen layer how often each unit is active, how sparse its answers are, and
whether it is dead; the same of the snapshots in brief; and figures of all layers, of the
worst units of each, and of the training.
"""


rule measure_health:
    input:
        activations=rules.gather_activations.output.activations,
        shards=rules.gather_activations.input.shards,
    output:
        health="<results>/{study}/health/{layer}.h5",
    log:
        "<logs>/{study}/measure_health/{layer}.log",
    benchmark:
        "<benchmarks>/{study}/measure_health/{layer}.jsonl"
    group:
        "layers"
    conda:
        "../../environment.yml"
    resources:
        **sized("measure_health"),
    params:
        **made_by("measure_health"),
    script:
        "../scripts/measure_health.py"


rule track_health:
    input:
        images=lambda wildcards: shown_images(dataset_of(wildcards.study)),
        layers=lambda wildcards: layers_file(wildcards.study),
        card=lambda wildcards: model_file("card", wildcards.study),
        weights=lambda wildcards: model_file("weights", wildcards.study),
        snapshots=lambda wildcards: snapshots_of(wildcards.study)[0],
    output:
        history="<results>/{study}/health_snapshots.h5",
    log:
        "<logs>/{study}/track_health.log",
    benchmark:
        "<benchmarks>/{study}/track_health.jsonl"
    wildcard_constraints:
        study=one_of(TRACKED),
    conda:
        "../../environment.yml"
    resources:
        **sized("track_health"),
    params:
        **made_by(
            "track_health",
            architecture_content=lambda wildcards: architecture_content(model_of(wildcards.study)),
            epochs=lambda wildcards: MODELS[model_of(wildcards.study)]["train"]["epochs"],
            epochs_kept=lambda wildcards: MODELS[model_of(wildcards.study)]["train"]["snapshots"],
            layers=lambda wildcards: chosen_layers(wildcards.study),
            batch_size=CONFIG["batch_size"],
        ),
    script:
        "../scripts/track_health.py"


rule plot_health:
    input:
        health=lambda wildcards: expand(
            rules.measure_health.output.health,
            study=wildcards.study,
            layer=chosen_layers(wildcards.study),
        ),
    output:
        figure=report(
            "<results>/{study}/figures/health/layers.png",
            caption="../report/health.rst",
            category="Health",
            subcategory="{study}",
            labels={"view": "all layers"},
        ),
        others=other_formats("<results>/{study}/figures/health/layers.png"),
        numbers="<results>/{study}/figures/health/layers.csv",
        summary="<results>/{study}/figures/health/layers_summary.csv",
        population="<results>/{study}/figures/health/layers_population.csv",
    log:
        "<logs>/{study}/plot_health.log",
    benchmark:
        "<benchmarks>/{study}/plot_health.jsonl"
    group:
        "plots"
    conda:
        "../../environment.yml"
    resources:
        **sized("plot_health"),
    params:
        **made_by(
            "plot_health",
            formats=CONFIG["figures"]["formats"],
            dpi=CONFIG["figures"]["dpi"],
        ),
    script:
        "../scripts/plot_health.py"


rule plot_worst:
    input:
        health=rules.measure_health.output.health,
        patches=rules.rank_patches.output.patches,
        images=lambda wildcards: shown_images(dataset_of(wildcards.study)),
    output:
        figure=report(
            "<results>/{study}/figures/health/worst/{layer}.png",
            caption="../report/worst.rst",
            category="Health",
            subcategory="{study}",
            labels={"view": "worst units", "layer": "{layer}"},
        ),
        others=other_formats("<results>/{study}/figures/health/worst/{layer}.png"),
        numbers="<results>/{study}/figures/health/worst/{layer}.csv",
    log:
        "<logs>/{study}/plot_worst/{layer}.log",
    benchmark:
        "<benchmarks>/{study}/plot_worst/{layer}.jsonl"
    group:
        "plots"
    conda:
        "../../environment.yml"
    resources:
        **sized("plot_worst"),
    params:
        **made_by(
            "plot_worst",
            formats=CONFIG["figures"]["formats"],
            dpi=CONFIG["figures"]["dpi"],
        ),
    script:
        "../scripts/plot_worst.py"


rule plot_snapshots:
    input:
        history=rules.track_health.output.history,
    output:
        figure=report(
            "<results>/{study}/figures/health/snapshots/curves.png",
            caption="../report/snapshots.rst",
            category="Health",
            subcategory="{study}",
            labels={"view": "training"},
        ),
        others=other_formats("<results>/{study}/figures/health/snapshots/curves.png"),
        numbers="<results>/{study}/figures/health/snapshots/curves.csv",
    log:
        "<logs>/{study}/plot_snapshots.log",
    benchmark:
        "<benchmarks>/{study}/plot_snapshots.jsonl"
    group:
        "plots"
    conda:
        "../../environment.yml"
    resources:
        **sized("plot_snapshots"),
    params:
        **made_by(
            "plot_snapshots",
            formats=CONFIG["figures"]["formats"],
            dpi=CONFIG["figures"]["dpi"],
        ),
    script:
        "../scripts/plot_snapshots.py"
