"""Map the images by their codes.

Needs: activations; images for the figures.
Makes: each image's nearest neighbours by code, a t-SNE map of them, its layout as a
grid; the map as a scatter and as a grid of pictures.
"""


rule find_neighbours:
    input:
        activations=rules.gather_activations.output.activations,
        shards=rules.gather_activations.input.shards,
    output:
        neighbours="<results>/{study}/neighbours/{layer}.h5",
    log:
        "<logs>/{study}/find_neighbours/{layer}.log",
    benchmark:
        "<benchmarks>/{study}/find_neighbours/{layer}.jsonl"
    conda:
        "../../environment.yml"
    params:
        **made_by(
            "find_neighbours",
            summary=analysis("embedding", "code"),
            components=analysis("embedding", "components"),
            neighbours=analysis("embedding", "neighbours"),
        ),
    script:
        "../scripts/find_neighbours.py"


rule embed_codes:
    input:
        neighbours=rules.find_neighbours.output.neighbours,
    output:
        embedding="<results>/{study}/embedding/{layer}.h5",
    log:
        "<logs>/{study}/embed_codes/{layer}.log",
    benchmark:
        "<benchmarks>/{study}/embed_codes/{layer}.jsonl"
    conda:
        "../../environment.yml"
    params:
        **made_by(
            "embed_codes",
            perplexity=analysis("embedding", "perplexity"),
            iterations=analysis("embedding", "iterations"),
            early_exaggeration=analysis("embedding", "early_exaggeration"),
            seed=analysis("embedding", "seed"),
        ),
    script:
        "../scripts/embed_codes.py"


rule arrange_grid:
    input:
        embedding=rules.embed_codes.output.embedding,
    output:
        grid="<results>/{study}/grid/{layer}.h5",
    log:
        "<logs>/{study}/arrange_grid/{layer}.log",
    benchmark:
        "<benchmarks>/{study}/arrange_grid/{layer}.jsonl"
    conda:
        "../../environment.yml"
    params:
        **made_by(
            "arrange_grid",
            side=analysis("embedding", "grid"),
            seed=analysis("embedding", "seed"),
        ),
    script:
        "../scripts/arrange_grid.py"


rule plot_scatter:
    input:
        embedding=rules.embed_codes.output.embedding,
        images=lambda wildcards: shown_images(dataset_of(wildcards.study)),
        predictions=rules.score_predictions.output.predictions,
        classes=lambda wildcards: class_names(dataset_of(wildcards.study)),
    output:
        figure=report(
            "<results>/{study}/figures/embedding/scatter/{layer}.png",
            caption="../report/scatter.rst",
            category="Embedding",
            subcategory="{study}",
            labels={"layer": "{layer}", "view": "scatter"},
        ),
        others=other_formats("<results>/{study}/figures/embedding/scatter/{layer}.png"),
        numbers="<results>/{study}/figures/embedding/scatter/{layer}.csv",
    log:
        "<logs>/{study}/plot_scatter/{layer}.log",
    benchmark:
        "<benchmarks>/{study}/plot_scatter/{layer}.jsonl"
    conda:
        "../../environment.yml"
    params:
        **made_by(
            "plot_scatter",
            formats=CONFIG["figures"]["formats"],
            dpi=CONFIG["figures"]["dpi"],
        ),
    script:
        "../scripts/plot_scatter.py"


rule plot_grid:
    input:
        grid=rules.arrange_grid.output.grid,
        images=lambda wildcards: shown_images(dataset_of(wildcards.study)),
        classes=lambda wildcards: class_names(dataset_of(wildcards.study)),
    output:
        figure=report(
            "<results>/{study}/figures/embedding/grid/{layer}.png",
            caption="../report/grid.rst",
            category="Embedding",
            subcategory="{study}",
            labels={"layer": "{layer}", "view": "pictures"},
        ),
        others=other_formats("<results>/{study}/figures/embedding/grid/{layer}.png"),
        numbers="<results>/{study}/figures/embedding/grid/{layer}.csv",
    log:
        "<logs>/{study}/plot_grid/{layer}.log",
    benchmark:
        "<benchmarks>/{study}/plot_grid/{layer}.jsonl"
    conda:
        "../../environment.yml"
    params:
        **made_by(
            "plot_grid",
            formats=CONFIG["figures"]["formats"],
            dpi=CONFIG["figures"]["dpi"],
        ),
    script:
        "../scripts/plot_grid.py"
