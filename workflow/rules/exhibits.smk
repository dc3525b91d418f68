"""Pick the exhibits, the images shown one by one, and record their feature maps.

Needs: images; for the maps also model and layers.
Makes: a file for each exhibit, its maps, and the list of all exhibits.
"""

PICKED = "<results>/{study}/exhibits/{exhibit}.h5"
MAPPED = "<results>/{study}/maps/{exhibit}.h5"

for name, (exhibits, studies) in by_exhibits("pick_exhibit", PICKED).items():

    rule:
        name:
            name
        input:
            images=lambda wildcards: shown_images(dataset_of(wildcards.study)),
        output:
            exhibits=of_each(exhibits, PICKED),
        log:
            f"<logs>/{{study}}/pick_exhibit/{exhibits[0]}.log",
        benchmark:
            f"<benchmarks>/{{study}}/pick_exhibit/{exhibits[0]}.jsonl"
        wildcard_constraints:
            study=one_of(studies),
        group:
            "exhibits"
        conda:
            "../../environment.yml"
        resources:
            **sized("pick_exhibit", exhibits=len(exhibits)),
        params:
            **made_by(
                "pick_exhibit",
                indices=lambda wildcards, exhibits=exhibits: [
                    exhibit_index(wildcards.study, number)
                    for number in in_block(exhibits, wildcards)
                ],
                seed=lambda wildcards: seed_if(
                    isinstance(STUDIES[wildcards.study]["exhibits"], int)
                ),
            ),
        script:
            "../scripts/pick_exhibit.py"


rule list_exhibits:
    input:
        exhibits=lambda wildcards: expand(
            PICKED,
            study=wildcards.study,
            exhibit=exhibits_of(wildcards.study),
        ),
    output:
        exhibits="<results>/{study}/exhibits.csv",
    log:
        "<logs>/{study}/list_exhibits.log",
    benchmark:
        "<benchmarks>/{study}/list_exhibits.jsonl"
    group:
        "exhibits"
    conda:
        "../../environment.yml"
    resources:
        **sized("list_exhibits"),
    params:
        **made_by("list_exhibits"),
    script:
        "../scripts/list_exhibits.py"


for name, (exhibits, studies) in by_exhibits("record_maps", MAPPED).items():

    rule:
        name:
            name
        input:
            exhibits=of_each(exhibits, PICKED),
            card=lambda wildcards: model_file("card", wildcards.study),
            weights=lambda wildcards: model_file("weights", wildcards.study),
            layers=lambda wildcards: layers_file(wildcards.study),
        output:
            maps=of_each(exhibits, MAPPED),
        log:
            f"<logs>/{{study}}/record_maps/{exhibits[0]}.log",
        benchmark:
            f"<benchmarks>/{{study}}/record_maps/{exhibits[0]}.jsonl"
        wildcard_constraints:
            study=one_of(studies),
        conda:
            "../../environment.yml"
        resources:
            **sized("record_maps", exhibits=len(exhibits)),
        params:
            **made_by(
                "record_maps",
                architecture_content=lambda wildcards: architecture_content(
                    model_of(wildcards.study)
                ),
            ),
        script:
            "../scripts/record_maps.py"
