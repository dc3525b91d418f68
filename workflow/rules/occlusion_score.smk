"""Score the occlusion sweeps of many scenes by the masks of their objects.

Needs: exhibits, images with masks, model.
Makes: a table of all scenes, with the untrained network as control, in shards and as a
whole; its summary; and a figure of both.
"""


rule score_scenes:
    input:
        images=lambda wildcards: shown_images(dataset_of(wildcards.study)),
        exhibits=rules.list_exhibits.output.exhibits,
        card=lambda wildcards: model_file("card", wildcards.study),
        weights=lambda wildcards: model_file("weights", wildcards.study),
    output:
        trained="<results>/{study}/occlusion_score/trained/{shard}.csv",
        untrained="<results>/{study}/occlusion_score/untrained/{shard}.csv",
    log:
        "<logs>/{study}/score_scenes/{shard}.log",
    benchmark:
        "<benchmarks>/{study}/score_scenes/{shard}.jsonl"
    conda:
        "../../environment.yml"
    resources:
        **sized("score_scenes"),
    params:
        **made_by(
            "score_scenes",
            architecture_content=lambda wildcards: architecture_content(model_of(wildcards.study)),
            size=analysis("occlusion", "size"),
            stride=analysis("occlusion", "stride"),
            fill=analysis("occlusion", "fill"),
            score=analysis("occlusion", "score"),
            seed=CONFIG["seed"],
        ),
    script:
        "../scripts/score_scenes.py"


rule gather_scores:
    input:
        trained=lambda wildcards: scored_scenes(wildcards.study, "trained"),
        untrained=lambda wildcards: scored_scenes(wildcards.study, "untrained"),
    output:
        scenes="<results>/{study}/occlusion_score/scenes.csv",
        summary="<results>/{study}/occlusion_score/summary.csv",
    log:
        "<logs>/{study}/gather_scores.log",
    benchmark:
        "<benchmarks>/{study}/gather_scores.jsonl"
    group:
        "plots"
    conda:
        "../../environment.yml"
    resources:
        **sized("gather_scores"),
    params:
        **made_by("gather_scores"),
    script:
        "../scripts/gather_scores.py"


rule plot_occlusion_score:
    input:
        scenes=rules.gather_scores.output.scenes,
        summary=rules.gather_scores.output.summary,
        classes=lambda wildcards: class_names(dataset_of(wildcards.study)),
    output:
        figure=report(
            "<results>/{study}/figures/occlusion_score/scenes.png",
            caption="../report/occlusion_score.rst",
            category="Occlusion score",
            subcategory="{study}",
            labels={"view": "scenes"},
        ),
        others=other_formats("<results>/{study}/figures/occlusion_score/scenes.png"),
        numbers="<results>/{study}/figures/occlusion_score/scenes.csv",
    log:
        "<logs>/{study}/plot_occlusion_score.log",
    benchmark:
        "<benchmarks>/{study}/plot_occlusion_score.jsonl"
    group:
        "plots"
    conda:
        "../../environment.yml"
    resources:
        **sized("plot_occlusion_score"),
    params:
        **made_by(
            "plot_occlusion_score",
            formats=CONFIG["figures"]["formats"],
            dpi=CONFIG["figures"]["dpi"],
        ),
    script:
        "../scripts/plot_occlusion_score.py"
