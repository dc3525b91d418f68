"""Send each exhibit's prediction back to its pixels, by three methods.

Needs: exhibits, model.
Makes: the data gradient, guided backpropagation and the deconvnet of the predicted class,
and a figure of them side by side.
"""

SALIENCY = "<results>/{study}/saliency/{exhibit}.h5"
SALIENCY_FIGURE = "<results>/{study}/figures/saliency/{exhibit}.png"

for name, (exhibits, studies) in by_exhibits("record_saliency", SALIENCY).items():

    rule:
        name:
            name
        input:
            exhibits=of_each(exhibits, PICKED),
            card=lambda wildcards: model_file("card", wildcards.study),
            weights=lambda wildcards: model_file("weights", wildcards.study),
        output:
            saliency=of_each(exhibits, SALIENCY),
        log:
            f"<logs>/{{study}}/record_saliency/{exhibits[0]}.log",
        benchmark:
            f"<benchmarks>/{{study}}/record_saliency/{exhibits[0]}.jsonl"
        wildcard_constraints:
            study=one_of(studies),
        conda:
            "../../environment.yml"
        resources:
            **sized("record_saliency", exhibits=len(exhibits)),
        params:
            **made_by(
                "record_saliency",
                architecture_content=lambda wildcards: architecture_content(
                    model_of(wildcards.study)
                ),
            ),
        script:
            "../scripts/record_saliency.py"


for name, (exhibits, studies) in by_exhibits("plot_saliency", SALIENCY_FIGURE).items():

    rule:
        name:
            name
        input:
            exhibits=of_each(exhibits, PICKED),
            saliency=of_each(exhibits, SALIENCY),
            classes=lambda wildcards: class_names(dataset_of(wildcards.study)),
        output:
            figure=pictures(exhibits, SALIENCY_FIGURE, "saliency", "Saliency"),
            others=other_formats(*of_each(exhibits, SALIENCY_FIGURE)),
            numbers=of_each(exhibits, numbers_of(SALIENCY_FIGURE)),
        log:
            f"<logs>/{{study}}/plot_saliency/{exhibits[0]}.log",
        benchmark:
            f"<benchmarks>/{{study}}/plot_saliency/{exhibits[0]}.jsonl"
        wildcard_constraints:
            study=one_of(studies),
        group:
            "plots"
        conda:
            "../../environment.yml"
        resources:
            **sized("plot_saliency", exhibits=len(exhibits)),
        params:
            **made_by(
                "plot_saliency",
                formats=CONFIG["figures"]["formats"],
                dpi=CONFIG["figures"]["dpi"],
            ),
        script:
            "../scripts/plot_saliency.py"
