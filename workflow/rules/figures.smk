"""Which figures each study has: the workflow's targets, and what its report shows.

Needs: the layers of the study's model, through a checkpoint.
Makes: lists of files. The rules that make the files are in the file of each analysis.
"""


def drawn(plot, **wildcards):
    """Return the files that a plotting rule writes for these wildcards, the numbers too.

    All are named, because Snakemake doesn't miss a file that nothing asks for.
    """
    return expand(list(plot.output), **wildcards)


def figures_of(name):
    """Return all figures of a study."""
    kinds = (
        filter_figures,
        map_figures,
        patch_figures,
        projection_figures,
        direction_figures,
        neighbour_figures,
        embedding_figures,
        occlusion_figures,
        occlusion_score_figures,
        saliency_figures,
        receptive_field_figures,
        training_figures,
        health_figures,
        firing_figures,
    )
    return [figure for kind in kinds for figure in kind(name)]


def pictures_of(name):
    """Return a study's figures as the report shows them, the PNG files."""
    return [figure for figure in figures_of(name) if figure.endswith(".png")]


def artifacts_of(name):
    """Return all that a study's figures are made from, its images and its model among it."""

    def made(rule, **wildcards):
        return expand(list(rule.output), study=name, **wildcards)

    exhibits = exhibits_of(name)
    strongest = strongest_of(name, exhibits)
    ranked = [*chosen_layers(name), *([occluded_layer(name)] if strongest else [])]
    return [
        *images_of(name),
        *model_of_study(name),
        *made(rules.extract_activations, shard=range(CONFIG["shards"])),
        *made(rules.gather_activations),
        *made(rules.score_predictions),
        *made(rules.pick_exhibit, exhibit=exhibits),
        *made(rules.list_exhibits),
        *made(rules.cut_filters, layer=filtered_layers(name)),
        *made(rules.record_maps, exhibit=exhibits if chosen_maps(name) else []),
        *made(rules.rank_patches, layer=dict.fromkeys(ranked)),
        *made(rules.project_patches, layer=projected_layers(name)),
        *made(rules.rank_directions, layer=directed_layers(name)),
        *made(rules.find_nearest, exhibit=exhibits),
        *made(rules.classify_neighbours, layer=compared_layers(name)),
        *made(rules.find_neighbours, layer=mapped_layers(name)),
        *judged_maps(name)["embeddings"],
        *made(rules.measure_quality),
        *made(rules.arrange_grid, layer=embedded_layer(name)),
        *made(rules.sweep_occlusion, exhibit=exhibits),
        *strongest,
        *made(rules.record_saliency, exhibit=exhibits),
        *made(rules.measure_fields),
        *(scored_scenes(name, "trained") if is_scored(name) else []),
        *(scored_scenes(name, "untrained") if is_scored(name) else []),
        *(made(rules.gather_scores) if is_scored(name) else []),
        *made(rules.measure_health, layer=chosen_layers(name)),
        *(made(rules.track_health) if name in TRACKED else []),
        *made(rules.sample_firing, layer=chosen_layers(name)),
    ]


def images_of(name):
    """Return the images of a study and of its model's training, and what is said of them."""
    dataset, train = dataset_of(name), MODELS[model_of(name)]["train"]
    files = [shown_images(dataset), manifest_file(dataset), class_names(dataset)]
    if train:
        files.append(training_images(train["dataset"]))
        files += [shown_images(train["validation"])] if train["validation"] else []
    return dict.fromkeys(files)


def model_of_study(name):
    """Return the files of a study's model, with history and snapshots if it is trained here."""
    history = expand(
        rules.train_model.output.history,
        model=[model_of(name)] if model_of(name) in TRAINED else [],
    )
    files = [model_file("weights", name), model_file("card", name), layers_file(name)]
    return [*files, *history, *snapshots_of(name)]


def leftovers_of(name):
    """Return what a study has besides figures and report.

    It is named, because Snakemake doesn't miss what nothing asks for: a file or a folder
    that was deleted by hand is made again (not so a file in a folder that is still there).
    """
    trained = [model_of(name)] if model_of(name) in TRAINED else []
    return [
        *artifacts_of(name),
        *expand(rules.record_provenance.output.provenance, study=name),
        *expand(rules.train_model.output.snapshots, model=trained),
        *expand(rules.build_report.output.assets, study=name),
    ]


def filtered_layers(study):
    """Return the layers whose filters are shown: the first convolution, those behind the chosen."""
    return of_layers(study, filter_layers, every_layer(study), chosen_layers(study))


def filter_figures(study):
    """Return the filter figures of a study: none of a network without convolutions.

    Of the first, its filters, and their frequencies where its weights lie on pixels; of the
    others the chosen units' kernels; and which filters are alike, if a group has two.
    """
    layers = every_layer(study)
    shown = [find_layer(layers, name) for name in filtered_layers(study)]
    first = [x.name for x in shown if x.name == first_filters(layers)]
    kinds = {
        rules.plot_filters: first,
        rules.plot_frequency: [x for x in first if has_spectrum(layers, x)],
        rules.plot_kernels: [
            x.name for x in shown if x.name not in first and kernel_units(study, x.name)
        ],
        rules.plot_redundancy: [x.name for x in shown if x.units > x.groups],
    }
    return [file for plot, names in kinds.items() for file in drawn(plot, study=study, layer=names)]


def map_figures(study):
    """Return the map figures of a study: none if no chosen layer is made of maps."""
    exhibits = exhibits_of(study) if chosen_maps(study) else []
    return drawn(rules.plot_maps, study=study, exhibit=exhibits)


def patch_figures(study):
    """Return the patch figures of a study, one a chosen layer."""
    return drawn(rules.plot_patches, study=study, layer=chosen_layers(study))


def projected_layers(study):
    """Return the chosen layers of a study for which the deconvnet is defined."""
    return [x for x in chosen_layers(study) if not why_not_projected(study, x)]


def projection_figures(study):
    """Return the projection figures of a study, one a layer where the deconvnet is defined."""
    return drawn(rules.plot_projections, study=study, layer=projected_layers(study))


def directed_layers(study):
    """Return the layers whose units are compared with random directions: the chosen ones."""
    wanted = STUDIES[study]["analyses"]["directions"]["number"]
    return chosen_layers(study) if wanted else []


def direction_figures(study):
    """Return the figures of a study's random directions, one a chosen layer."""
    return drawn(rules.plot_directions, study=study, layer=directed_layers(study))


def neighbour_figures(study):
    """Return the figures of a study's nearest images: one an exhibit, and one of all votes."""
    return [
        *drawn(rules.plot_nearest, study=study, exhibit=exhibits_of(study)),
        *drawn(rules.plot_accuracy, study=study),
    ]


def embedding_figures(study):
    """Return the figures of a study's embedding, and of its maps beside each other."""
    layer = embedded_layer(study)
    plots = [rules.plot_scatter, rules.plot_views, rules.plot_grid]
    if other_maps(study, layer):
        plots.append(rules.plot_perplexities)
    compared = [study] if len(mapped_layers(study)) > 1 else []
    return [
        *(file for plot in plots for file in drawn(plot, study=study, layer=layer)),
        *drawn(rules.plot_quality, study=compared),
    ]


def strongest_of(study, exhibits):
    """Return the projections for panel (c): none where the deconvnet isn't defined."""
    undefined = why_not_projected(study, occluded_layer(study))
    return expand(STRONGEST, study=study, exhibit=[] if undefined else exhibits)


def occlusion_figures(study):
    """Return the occlusion figures of a study, one an exhibit."""
    return drawn(rules.plot_occlusion, study=study, exhibit=exhibits_of(study))


def is_scored(study):
    """Say whether a study's sweeps are scored: where the masks of its images are known."""
    wanted = STUDIES[study]["analyses"]["occlusion"]["score"]["scenes"]
    return bool(wanted) and DATASETS[dataset_of(study)]["source"] == "shapes"


def scored_scenes(study, network):
    """Return the scores of a study's scenes by a network, in shards."""
    shards = STUDIES[study]["analyses"]["occlusion"]["score"]["shards"]
    return expand(rules.score_scenes.output[network], study=study, shard=range(shards))


def occlusion_score_figures(study):
    """Return the figure of a study's scores: none where there are none."""
    return drawn(rules.plot_occlusion_score, study=[study] if is_scored(study) else [])


def saliency_figures(study):
    """Return the saliency figures of a study, one an exhibit."""
    return drawn(rules.plot_saliency, study=study, exhibit=exhibits_of(study))


def receptive_field_figures(study):
    """Return the figure of a study's receptive fields."""
    return drawn(rules.plot_growth, study=study, exhibit=0)


def training_figures(study):
    """Return the training figure of a study: none if its model was imported."""
    trained = [study] if model_of(study) in TRAINED else []
    return drawn(rules.plot_training, study=trained)


def health_figures(study):
    """Return the figures of the units' health: of all layers, of each, and of the training."""
    tracked = [study] if study in TRACKED else []
    return [
        *drawn(rules.plot_health, study=study),
        *drawn(rules.plot_worst, study=study, layer=chosen_layers(study)),
        *drawn(rules.plot_snapshots, study=tracked),
    ]


def firing_figures(study):
    """Return the figures of what makes units fire, one a chosen layer."""
    return drawn(rules.plot_firing, study=study, layer=chosen_layers(study))


def report_of(study):
    """Return a study's report."""
    return expand(rules.build_report.output.page, study=study)
