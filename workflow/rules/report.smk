"""Put a study's figures into a report that opens from disk.

Needs: all figures of the study and their captions, the model's card and layers, the data
set's manifest and class names, predictions, exhibits.
Makes: a page, and the figures beside it.
"""

from convatlas.report import TEMPLATES

CAPTIONS = Path(workflow.basedir) / "workflow" / "report"


rule build_report:
    input:
        figures=lambda wildcards: pictures_of(wildcards.study),
        others=lambda wildcards: sorted(
            set(figures_of(wildcards.study)) - set(pictures_of(wildcards.study))
        ),
        card=lambda wildcards: model_file("card", wildcards.study),
        layers=lambda wildcards: layers_file(wildcards.study),
        manifest=lambda wildcards: manifest_file(dataset_of(wildcards.study)),
        classes=lambda wildcards: class_names(dataset_of(wildcards.study)),
        predictions=rules.score_predictions.output.predictions,
        exhibits=rules.list_exhibits.output.exhibits,
        provenance=rules.record_provenance.output.provenance,
    output:
        page="<results>/{study}/report/index.html",
        assets=directory("<results>/{study}/report/assets"),
    log:
        "<logs>/{study}/build_report.log",
    benchmark:
        "<benchmarks>/{study}/build_report.jsonl"
    group:
        "report"
    conda:
        "../../environment.yml"
    resources:
        **sized("build_report"),
    params:
        **made_by(
            "build_report",
            captions=files_digest(sorted(CAPTIONS.glob("*.rst")), CAPTIONS),
            templates=files_digest(sorted(TEMPLATES.glob("*.[cj]*")), TEMPLATES),
            study=lambda wildcards: STUDIES[wildcards.study],
            model=lambda wildcards: MODELS[model_of(wildcards.study)],
            dataset=lambda wildcards: DATASETS[dataset_of(wildcards.study)],
            seed=CONFIG["seed"],
            batch_size=CONFIG["batch_size"],
        ),
    script:
        "../scripts/build_report.py"
