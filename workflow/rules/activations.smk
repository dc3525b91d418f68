"""Run each study's images through its model once, and keep what every layer answers.

Needs: images, model, layers.
Makes: per-unit summaries for all layers, in shards and as one virtual file; the
network's predictions.
"""


rule extract_activations:
    input:
        images=lambda wildcards: shown_images(dataset_of(wildcards.study)),
        card=lambda wildcards: model_file("card", wildcards.study),
        weights=lambda wildcards: model_file("weights", wildcards.study),
        layers=lambda wildcards: layers_file(wildcards.study),
    output:
        shard="<results>/{study}/activations/{shard}.h5",
    log:
        "<logs>/{study}/extract_activations/{shard}.log",
    benchmark:
        "<benchmarks>/{study}/extract_activations/{shard}.jsonl"
    conda:
        "../../environment.yml"
    resources:
        **sized("extract_activations"),
    params:
        **made_by(
            "extract_activations",
            architecture_content=lambda wildcards: architecture_content(model_of(wildcards.study)),
            shards=CONFIG["shards"],
            batch_size=CONFIG["batch_size"],
            wanted=study("extract"),
        ),
    script:
        "../scripts/extract_activations.py"


rule gather_activations:
    input:
        shards=expand(
            rules.extract_activations.output.shard,
            shard=range(CONFIG["shards"]),
            allow_missing=True,
        ),
    output:
        activations="<results>/{study}/activations.h5",
    log:
        "<logs>/{study}/gather_activations.log",
    benchmark:
        "<benchmarks>/{study}/gather_activations.jsonl"
    group:
        "gather"
    conda:
        "../../environment.yml"
    resources:
        **sized("gather_activations"),
    params:
        **made_by("gather_activations"),
    script:
        "../scripts/gather_activations.py"


rule score_predictions:
    input:
        activations=rules.gather_activations.output.activations,
        shards=rules.gather_activations.input.shards,  # which the activations are read from
        layers=lambda wildcards: layers_file(wildcards.study),
        images=lambda wildcards: shown_images(dataset_of(wildcards.study)),
    output:
        predictions="<results>/{study}/predictions.csv",
    log:
        "<logs>/{study}/score_predictions.log",
    benchmark:
        "<benchmarks>/{study}/score_predictions.jsonl"
    group:
        "gather"
    conda:
        "../../environment.yml"
    resources:
        **sized("score_predictions"),
    params:
        **made_by("score_predictions"),
    script:
        "../scripts/score_predictions.py"
