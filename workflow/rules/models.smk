"""Train or import each network, and describe its layers.

Needs: the architecture and the weights named in the config, or images to train on.
Makes: the weights as a plain state dict, a card that says how to build the network, the
training's history and snapshots, and a description of every layer.
"""


rule train_model:
    input:
        images=lambda wildcards: training_images(training("dataset")(wildcards)),
        validation=lambda wildcards: validation_images(wildcards.model),
    output:
        weights="<results>/models/{model}/weights.pt",
        card="<results>/models/{model}/model.json",
        history="<results>/models/{model}/training.csv",
        # Which epochs is said in the config of one model, so the files can't be listed here.
        snapshots=directory("<results>/models/{model}/snapshots"),
    log:
        "<logs>/models/{model}/train_model.log",
    benchmark:
        "<benchmarks>/models/{model}/train_model.jsonl"
    wildcard_constraints:
        model=one_of(TRAINED),
    conda:
        "../../environment.yml"
    threads: 2  # it always uses two, so that its bytes don't depend on the cores at hand
    resources:
        **sized("train_model"),
    params:
        **made_by(
            "train_model",
            architecture=model("architecture"),
            architecture_content=lambda wildcards: architecture_content(wildcards.model),
            options=model("options"),
            classes=lambda wildcards: classes_to_learn(wildcards.model),
            normalize=model("normalize"),
            epochs=training("epochs"),
            batch_size=training("batch_size"),
            learning_rate=training("learning_rate"),
            weight_decay=training("weight_decay"),
            seed=training("seed"),
            epochs_kept=training("snapshots"),
        ),
    script:
        "../scripts/train_model.py"


rule import_model:
    output:
        weights="<results>/models/{model}/weights.pt",
        card="<results>/models/{model}/model.json",
    log:
        "<logs>/models/{model}/import_model.log",
    benchmark:
        "<benchmarks>/models/{model}/import_model.jsonl"
    wildcard_constraints:
        model=one_of(IMPORTED),
    group:
        "inputs"
    conda:
        "../../environment.yml"
    resources:
        **sized("import_model"),
    params:
        **made_by(
            "import_model",
            architecture=model("architecture"),
            architecture_content=lambda wildcards: architecture_content(wildcards.model),
            options=model("options"),
            weights=model("weights"),
            weights_content=lambda wildcards: weights_content(wildcards.model),
            normalize=model("normalize"),
            seed=lambda wildcards: seed_if(MODELS[wildcards.model]["weights"] == "random"),
        ),
    script:
        "../scripts/import_model.py"


checkpoint describe_model:
    output:
        layers="<results>/models/{model}/layers.json",
    log:
        "<logs>/models/{model}/describe_model.log",
    benchmark:
        "<benchmarks>/models/{model}/describe_model.jsonl"
    conda:
        "../../environment.yml"
    resources:
        **sized("describe_model"),
    params:
        **made_by(
            "describe_model",
            lambda wildcards: reader_of_size(reference_dataset(wildcards.model)),
            architecture=model("architecture"),
            architecture_content=lambda wildcards: architecture_content(wildcards.model),
            options=model("options"),
            weights=lambda wildcards: weights_that_shape(wildcards.model),
            classes=lambda wildcards: classes_to_learn(wildcards.model),
            images=lambda wildcards: size_of(reference_dataset(wildcards.model)),
        ),
    script:
        "../scripts/describe_model.py"


# Without an output or a benchmark file, so that it prints its table whenever it is asked to.
rule describe:
    input:
        layers=expand(rules.describe_model.output.layers, model=USED_MODELS),
    log:
        "<logs>/describe.log",
    conda:
        "../../environment.yml"
    resources:
        **sized("describe"),
    params:
        **made_by(
            "describe",
            names=USED_MODELS,
        ),
    script:
        "../scripts/describe.py"
