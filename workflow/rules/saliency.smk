"""Send each exhibit's prediction back to its pixels, by three methods.

Needs: exhibits, model.
Makes: the data gradient, guided backpropagation and the deconvnet of the predicted class,
and a figure of them side by side.
"""


rule record_saliency:
    input:
        exhibit=rules.pick_exhibit.output.exhibit,
        card=lambda wildcards: model_file("card", wildcards.study),
        weights=lambda wildcards: model_file("weights", wildcards.study),
    output:
        saliency="<results>/{study}/saliency/{exhibit}.h5",
    log:
        "<logs>/{study}/record_saliency/{exhibit}.log",
    benchmark:
        "<benchmarks>/{study}/record_saliency/{exhibit}.jsonl"
    conda:
        "../../environment.yml"
    resources:
        gpu=1,
    params:
        **made_by(
            "record_saliency",
            architecture_content=lambda wildcards: architecture_content(model_of(wildcards.study)),
        ),
    script:
        "../scripts/record_saliency.py"


rule plot_saliency:
    input:
        exhibit=rules.pick_exhibit.output.exhibit,
        saliency=rules.record_saliency.output.saliency,
        classes=lambda wildcards: class_names(dataset_of(wildcards.study)),
    output:
        figure=report(
            "<results>/{study}/figures/saliency/{exhibit}.png",
            caption="../report/saliency.rst",
            category="Saliency",
            subcategory="{study}",
            labels={"exhibit": "{exhibit}"},
        ),
        others=other_formats("<results>/{study}/figures/saliency/{exhibit}.png"),
        numbers="<results>/{study}/figures/saliency/{exhibit}.csv",
    log:
        "<logs>/{study}/plot_saliency/{exhibit}.log",
    benchmark:
        "<benchmarks>/{study}/plot_saliency/{exhibit}.jsonl"
    conda:
        "../../environment.yml"
    params:
        **made_by(
            "plot_saliency",
            formats=CONFIG["figures"]["formats"],
            dpi=CONFIG["figures"]["dpi"],
        ),
    script:
        "../scripts/plot_saliency.py"
