"""Record what everything in a study was made from.

Needs: all figures and artifacts of the study, its model and its images.
Makes: one file by which a figure can be followed to what it came from.
"""


rule record_provenance:
    input:
        figures=lambda wildcards: figures_of(wildcards.study),
        artifacts=lambda wildcards: artifacts_of(wildcards.study),
    output:
        provenance="<results>/{study}/provenance.json",
    log:
        "<logs>/{study}/record_provenance.log",
    benchmark:
        "<benchmarks>/{study}/record_provenance.jsonl"
    group:
        "report"
    conda:
        "../../environment.yml"
    resources:
        **sized("record_provenance"),
    params:
        **made_by(
            "record_provenance",
            config=lambda wildcards: config_of(wildcards.study),
            sources=lambda wildcards: sources_of(wildcards.study),
            readers=lambda wildcards: list(map(reader, datasets_of(wildcards.study))),
        ),
    script:
        "../scripts/record_provenance.py"
