"""Compare the images by pixels and by codes: which are nearest, and do they tell the class?

Needs: exhibits, activations, images; predictions for the figure.
Makes: each exhibit's nearest images; for the pixels and for each chosen layer, the vote of
the nearest images on the class of every image; a figure of each, the votes over all layers.
"""


rule find_nearest:
    input:
        exhibit=rules.pick_exhibit.output.exhibit,
        activations=rules.gather_activations.output.activations,
        shards=rules.gather_activations.input.shards,
        layers=lambda wildcards: layers_file(wildcards.study),
        images=lambda wildcards: shown_images(dataset_of(wildcards.study)),
    output:
        nearest="<results>/{study}/nearest/{exhibit}.h5",
    log:
        "<logs>/{study}/find_nearest/{exhibit}.log",
    benchmark:
        "<benchmarks>/{study}/find_nearest/{exhibit}.jsonl"
    conda:
        "../../environment.yml"
    params:
        **made_by(
            "find_nearest",
            layers=lambda wildcards: compared_layers(wildcards.study),
            summary=analysis("neighbours", "code"),
            shown=analysis("neighbours", "shown"),
        ),
    script:
        "../scripts/find_nearest.py"


rule classify_neighbours:
    input:
        unpack(codes_of),
        # The labels; the pixels are codes of their own.
        labels=lambda wildcards: shown_images(dataset_of(wildcards.study)),
    output:
        votes="<results>/{study}/votes/{layer}.h5",
    log:
        "<logs>/{study}/classify_neighbours/{layer}.log",
    benchmark:
        "<benchmarks>/{study}/classify_neighbours/{layer}.jsonl"
    conda:
        "../../environment.yml"
    params:
        **made_by(
            "classify_neighbours",
            summary=summary_for("neighbours"),
            voters=analysis("neighbours", "voters"),
            sample=analysis("neighbours", "sample"),
            seed=CONFIG["seed"],
        ),
    script:
        "../scripts/classify_neighbours.py"


rule plot_nearest:
    input:
        nearest=rules.find_nearest.output.nearest,
        images=lambda wildcards: shown_images(dataset_of(wildcards.study)),
        classes=lambda wildcards: class_names(dataset_of(wildcards.study)),
    output:
        figure=report(
            "<results>/{study}/figures/neighbours/{exhibit}.png",
            caption="../report/neighbours.rst",
            category="Neighbours",
            subcategory="{study}",
            labels={"exhibit": "{exhibit}"},
        ),
        others=other_formats("<results>/{study}/figures/neighbours/{exhibit}.png"),
        numbers="<results>/{study}/figures/neighbours/{exhibit}.csv",
    log:
        "<logs>/{study}/plot_nearest/{exhibit}.log",
    benchmark:
        "<benchmarks>/{study}/plot_nearest/{exhibit}.jsonl"
    conda:
        "../../environment.yml"
    params:
        **made_by(
            "plot_nearest",
            formats=CONFIG["figures"]["formats"],
            dpi=CONFIG["figures"]["dpi"],
        ),
    script:
        "../scripts/plot_nearest.py"


rule plot_accuracy:
    input:
        votes=lambda wildcards: expand(
            rules.classify_neighbours.output.votes,
            study=wildcards.study,
            layer=compared_layers(wildcards.study),
        ),
        predictions=rules.score_predictions.output.predictions,
    output:
        figure=report(
            "<results>/{study}/figures/neighbours/accuracy/layers.png",
            caption="../report/accuracy.rst",
            category="Neighbours",
            subcategory="{study}",
            labels={"view": "accuracy over depth"},
        ),
        others=other_formats("<results>/{study}/figures/neighbours/accuracy/layers.png"),
        numbers="<results>/{study}/figures/neighbours/accuracy/layers.csv",
    log:
        "<logs>/{study}/plot_accuracy.log",
    benchmark:
        "<benchmarks>/{study}/plot_accuracy.jsonl"
    conda:
        "../../environment.yml"
    params:
        **made_by(
            "plot_accuracy",
            formats=CONFIG["figures"]["formats"],
            dpi=CONFIG["figures"]["dpi"],
        ),
    script:
        "../scripts/plot_accuracy.py"
