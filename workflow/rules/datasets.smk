"""Read the images of each data set once.

Needs: the source named in the config.
Makes: the resized images as uint8 with labels and attributes, in one file that all else
reads; what became of each file; the names of the classes.
"""


rule prepare_images:
    output:
        images="<results>/datasets/{dataset}/{part}.h5",
        manifest="<results>/datasets/{dataset}/{part}.manifest.csv",
    log:
        "<logs>/datasets/{dataset}/prepare_images/{part}.log",
    benchmark:
        "<benchmarks>/datasets/{dataset}/prepare_images/{part}.jsonl"
    conda:
        "../../environment.yml"
    resources:
        **sized("prepare_images"),
    params:
        **made_by(
            "prepare_images",
            lambda wildcards: reader(wildcards.dataset),
            source=lambda wildcards: image_source(wildcards.dataset, wildcards.part),
            content=lambda wildcards: source_content(wildcards.dataset),
        ),
    script:
        "../scripts/prepare_images.py"


rule list_classes:
    output:
        classes="<results>/datasets/{dataset}/classes.txt",
    log:
        "<logs>/datasets/{dataset}/list_classes.log",
    benchmark:
        "<benchmarks>/datasets/{dataset}/list_classes.jsonl"
    group:
        "inputs"
    conda:
        "../../environment.yml"
    resources:
        **sized("list_classes"),
    params:
        **made_by(
            "list_classes",
            lambda wildcards: reader_of_classes(wildcards.dataset),
            names=lambda wildcards: classes_of(wildcards.dataset),
            source=lambda wildcards: unlisted_source(wildcards.dataset),
        ),
    script:
        "../scripts/list_classes.py"
