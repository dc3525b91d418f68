"""Draw the training of a network that was trained here.

Needs: the training's history.
Makes: its curves.
"""


rule plot_training:
    input:
        history=lambda wildcards: expand(
            rules.train_model.output.history, model=model_of(wildcards.study)
        )[0],
    output:
        figure=report(
            "<results>/{study}/figures/training/curves.png",
            caption="../report/training.rst",
            category="Training",
            subcategory="{study}",
            labels={"view": "curves"},
        ),
        others=other_formats("<results>/{study}/figures/training/curves.png"),
        numbers="<results>/{study}/figures/training/curves.csv",
    log:
        "<logs>/{study}/plot_training.log",
    benchmark:
        "<benchmarks>/{study}/plot_training.jsonl"
    group:
        "plots"
    conda:
        "../../environment.yml"
    resources:
        **sized("plot_training"),
    params:
        **made_by(
            "plot_training",
            formats=CONFIG["figures"]["formats"],
            dpi=CONFIG["figures"]["dpi"],
        ),
    script:
        "../scripts/plot_training.py"
