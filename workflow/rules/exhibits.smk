"""Pick the exhibits, the images shown one by one, and record their feature maps.

Needs: images; for the maps also model and layers.
Makes: a file for each exhibit, its maps, and the list of all exhibits.
"""


rule pick_exhibit:
    input:
        images=lambda wildcards: shown_images(dataset_of(wildcards.study)),
    output:
        exhibit="<results>/{study}/exhibits/{exhibit}.h5",
    log:
        "<logs>/{study}/pick_exhibit/{exhibit}.log",
    benchmark:
        "<benchmarks>/{study}/pick_exhibit/{exhibit}.jsonl"
    conda:
        "../../environment.yml"
    params:
        **made_by(
            "pick_exhibit",
            index=lambda wildcards: exhibit_index(wildcards.study, int(wildcards.exhibit)),
            seed=lambda wildcards: seed_if(isinstance(STUDIES[wildcards.study]["exhibits"], int)),
        ),
    script:
        "../scripts/pick_exhibit.py"


rule list_exhibits:
    input:
        exhibits=lambda wildcards: expand(
            rules.pick_exhibit.output.exhibit,
            study=wildcards.study,
            exhibit=exhibits_of(wildcards.study),
        ),
    output:
        exhibits="<results>/{study}/exhibits.csv",
    log:
        "<logs>/{study}/list_exhibits.log",
    benchmark:
        "<benchmarks>/{study}/list_exhibits.jsonl"
    conda:
        "../../environment.yml"
    params:
        **made_by("list_exhibits"),
    script:
        "../scripts/list_exhibits.py"


rule record_maps:
    input:
        exhibit=rules.pick_exhibit.output.exhibit,
        card=lambda wildcards: model_file("card", wildcards.study),
        weights=lambda wildcards: model_file("weights", wildcards.study),
        layers=lambda wildcards: layers_file(wildcards.study),
    output:
        maps="<results>/{study}/maps/{exhibit}.h5",
    log:
        "<logs>/{study}/record_maps/{exhibit}.log",
    benchmark:
        "<benchmarks>/{study}/record_maps/{exhibit}.jsonl"
    conda:
        "../../environment.yml"
    resources:
        gpu=1,
    params:
        **made_by(
            "record_maps",
            architecture_content=lambda wildcards: architecture_content(model_of(wildcards.study)),
        ),
    script:
        "../scripts/record_maps.py"
