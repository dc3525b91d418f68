"""Compare the images by pixels and by codes: which are nearest, and do they tell the class?

Needs: exhibits, activations, images; predictions for the figure.
Makes: each exhibit's nearest images; for the pixels and for each chosen layer, the vote of
the nearest images on the class of every image; a figure of each, the votes over all layers.
"""

NEAREST_FIGURE = "<results>/{study}/figures/neighbours/{exhibit}.png"


NEAREST = "<results>/{study}/nearest/{exhibit}.h5"

for name, (exhibits, studies) in by_exhibits("find_nearest", NEAREST).items():

    rule:
        name:
            name
        input:
            exhibits=of_each(exhibits, PICKED),
            activations=rules.gather_activations.output.activations,
            shards=rules.gather_activations.input.shards,
            layers=lambda wildcards: layers_file(wildcards.study),
            images=lambda wildcards: shown_images(dataset_of(wildcards.study)),
        output:
            nearest=of_each(exhibits, NEAREST),
        log:
            f"<logs>/{{study}}/find_nearest/{exhibits[0]}.log",
        benchmark:
            f"<benchmarks>/{{study}}/find_nearest/{exhibits[0]}.jsonl"
        wildcard_constraints:
            study=one_of(studies),
        group:
            "layers"
        conda:
            "../../environment.yml"
        resources:
            **sized("find_nearest", exhibits=len(exhibits)),
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
    group:
        "layers"
    conda:
        "../../environment.yml"
    resources:
        **sized("classify_neighbours"),
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


for name, (exhibits, studies) in by_exhibits("plot_nearest", NEAREST_FIGURE).items():

    rule:
        name:
            name
        input:
            nearest=of_each(exhibits, NEAREST),
            images=lambda wildcards: shown_images(dataset_of(wildcards.study)),
            classes=lambda wildcards: class_names(dataset_of(wildcards.study)),
        output:
            figure=pictures(exhibits, NEAREST_FIGURE, "neighbours", "Neighbours"),
            others=other_formats(*of_each(exhibits, NEAREST_FIGURE)),
            numbers=of_each(exhibits, numbers_of(NEAREST_FIGURE)),
        log:
            f"<logs>/{{study}}/plot_nearest/{exhibits[0]}.log",
        benchmark:
            f"<benchmarks>/{{study}}/plot_nearest/{exhibits[0]}.jsonl"
        wildcard_constraints:
            study=one_of(studies),
        group:
            "plots"
        conda:
            "../../environment.yml"
        resources:
            **sized("plot_nearest", exhibits=len(exhibits)),
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
    group:
        "plots"
    conda:
        "../../environment.yml"
    resources:
        **sized("plot_accuracy"),
    params:
        **made_by(
            "plot_accuracy",
            formats=CONFIG["figures"]["formats"],
            dpi=CONFIG["figures"]["dpi"],
        ),
    script:
        "../scripts/plot_accuracy.py"
