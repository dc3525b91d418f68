"""Map the images by their codes, and by their pixels.

Needs: activations, images.
Makes: each image's nearest neighbours by code (of very many images within a sample), a t-SNE map
of them, more of these at other perplexities, the layout of one as a grid, how well all of them keep
neighbours; the map as a scatter, as a grid of pictures and in several colourings, and maps beside
each other.
"""


rule find_neighbours:
    input:
        unpack(codes_of),
    output:
        neighbours="<results>/{study}/neighbours/{layer}.h5",
    log:
        "<logs>/{study}/find_neighbours/{layer}.log",
    benchmark:
        "<benchmarks>/{study}/find_neighbours/{layer}.jsonl"
    conda:
        "../../environment.yml"
    resources:
        **sized("find_neighbours"),
    params:
        **made_by(
            "find_neighbours",
            summary=summary_for("embedding"),
            components=analysis("embedding", "components"),
            neighbours=analysis("embedding", "neighbours"),
            sample=analysis("embedding", "sample"),
            seed=analysis("embedding", "seed"),
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
    resources:
        **sized("embed_codes"),
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


# A rule of its own, since the one map that others are made from has no perplexity in its path.
rule embed_otherwise:
    input:
        neighbours=rules.find_neighbours.output.neighbours,
    output:
        embedding="<results>/{study}/perplexities/{layer}/{perplexity}.h5",
    log:
        "<logs>/{study}/embed_otherwise/{layer}/{perplexity}.log",
    benchmark:
        "<benchmarks>/{study}/embed_otherwise/{layer}/{perplexity}.jsonl"
    conda:
        "../../environment.yml"
    resources:
        **sized("embed_otherwise"),
    params:
        **made_by(
            "embed_codes",
            perplexity=lambda wildcards: float(wildcards.perplexity),
            iterations=analysis("embedding", "iterations"),
            early_exaggeration=analysis("embedding", "early_exaggeration"),
            seed=analysis("embedding", "seed"),
        ),
    script:
        "../scripts/embed_codes.py"


rule measure_quality:
    input:
        neighbours=lambda wildcards: judged_maps(wildcards.study)["neighbours"],
        embeddings=lambda wildcards: judged_maps(wildcards.study)["embeddings"],
        images=lambda wildcards: shown_images(dataset_of(wildcards.study)),
    output:
        quality="<results>/{study}/quality.h5",
    log:
        "<logs>/{study}/measure_quality.log",
    benchmark:
        "<benchmarks>/{study}/measure_quality.jsonl"
    conda:
        "../../environment.yml"
    resources:
        **sized("measure_quality"),
    params:
        **made_by(
            "measure_quality",
            seed=analysis("embedding", "seed"),
        ),
    script:
        "../scripts/measure_quality.py"


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
    resources:
        **sized("arrange_grid"),
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
    group:
        "plots"
    conda:
        "../../environment.yml"
    resources:
        **sized("plot_scatter"),
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
    group:
        "plots"
    conda:
        "../../environment.yml"
    resources:
        **sized("plot_grid"),
    params:
        **made_by(
            "plot_grid",
            formats=CONFIG["figures"]["formats"],
            dpi=CONFIG["figures"]["dpi"],
        ),
    script:
        "../scripts/plot_grid.py"


rule plot_views:
    input:
        embedding=rules.embed_codes.output.embedding,
        images=lambda wildcards: shown_images(dataset_of(wildcards.study)),
        predictions=rules.score_predictions.output.predictions,
        classes=lambda wildcards: class_names(dataset_of(wildcards.study)),
    output:
        figure=report(
            "<results>/{study}/figures/embedding/views/{layer}.png",
            caption="../report/views.rst",
            category="Embedding",
            subcategory="{study}",
            labels={"layer": "{layer}", "view": "by attribute"},
        ),
        others=other_formats("<results>/{study}/figures/embedding/views/{layer}.png"),
        numbers="<results>/{study}/figures/embedding/views/{layer}.csv",
    log:
        "<logs>/{study}/plot_views/{layer}.log",
    benchmark:
        "<benchmarks>/{study}/plot_views/{layer}.jsonl"
    group:
        "plots"
    conda:
        "../../environment.yml"
    resources:
        **sized("plot_views"),
    params:
        **made_by(
            "plot_views",
            attributes=analysis("embedding", "attributes"),
            formats=CONFIG["figures"]["formats"],
            dpi=CONFIG["figures"]["dpi"],
        ),
    script:
        "../scripts/plot_views.py"


rule plot_perplexities:
    input:
        embeddings=lambda wildcards: [
            *maps_of(wildcards.study, [wildcards.layer]),
            *other_maps(wildcards.study, wildcards.layer),
        ],
        quality=rules.measure_quality.output.quality,
        images=lambda wildcards: shown_images(dataset_of(wildcards.study)),
        classes=lambda wildcards: class_names(dataset_of(wildcards.study)),
    output:
        figure=report(
            "<results>/{study}/figures/embedding/perplexities/{layer}.png",
            caption="../report/perplexities.rst",
            category="Embedding",
            subcategory="{study}",
            labels={"layer": "{layer}", "view": "perplexities"},
        ),
        others=other_formats("<results>/{study}/figures/embedding/perplexities/{layer}.png"),
        numbers="<results>/{study}/figures/embedding/perplexities/{layer}.csv",
    log:
        "<logs>/{study}/plot_perplexities/{layer}.log",
    benchmark:
        "<benchmarks>/{study}/plot_perplexities/{layer}.jsonl"
    group:
        "plots"
    conda:
        "../../environment.yml"
    resources:
        **sized("plot_perplexities"),
    params:
        **made_by(
            "plot_perplexities",
            formats=CONFIG["figures"]["formats"],
            dpi=CONFIG["figures"]["dpi"],
        ),
    script:
        "../scripts/plot_perplexities.py"


rule plot_quality:
    input:
        embeddings=lambda wildcards: maps_of(wildcards.study, mapped_layers(wildcards.study)),
        quality=rules.measure_quality.output.quality,
        images=lambda wildcards: shown_images(dataset_of(wildcards.study)),
        classes=lambda wildcards: class_names(dataset_of(wildcards.study)),
    output:
        figure=report(
            "<results>/{study}/figures/embedding/quality/layers.png",
            caption="../report/quality.rst",
            category="Embedding",
            subcategory="{study}",
            labels={"view": "layers"},
        ),
        others=other_formats("<results>/{study}/figures/embedding/quality/layers.png"),
        numbers="<results>/{study}/figures/embedding/quality/layers.csv",
    log:
        "<logs>/{study}/plot_quality.log",
    benchmark:
        "<benchmarks>/{study}/plot_quality.jsonl"
    group:
        "plots"
    conda:
        "../../environment.yml"
    resources:
        **sized("plot_quality"),
    params:
        **made_by(
            "plot_quality",
            formats=CONFIG["figures"]["formats"],
            dpi=CONFIG["figures"]["dpi"],
        ),
    script:
        "../scripts/plot_quality.py"
