"""Which figures each study has: the workflow's targets, and what its report shows.

Needs: the layers of the study's model, through a checkpoint.
Makes: lists of files. The rules that make the files are in the file of each analysis.
"""


def drawn(plot, **wildcards):
    """Return the files that a plotting rule writes for these wildcards, in all formats.

    All are named, because Snakemake doesn't miss a file that nothing asks for.
    """
    return expand([plot.output.figure, *plot.output.others], **wildcards)


def figures_of(name):
    """Return all figures of a study."""
    kinds = (
        filter_figures,
        map_figures,
        patch_figures,
        projection_figures,
        embedding_figures,
        occlusion_figures,
        receptive_field_figures,
        training_figures,
    )
    return [figure for kind in kinds for figure in kind(name)]


def pictures_of(name):
    """Return a study's figures as the report shows them, the PNG files."""
    return [figure for figure in figures_of(name) if figure.endswith(".png")]


def artifacts_of(name):
    """Return the artifacts of a study that no figure is made from, but the contract names."""
    return expand(rules.list_exhibits.output.exhibits, study=name)


def filter_figures(study):
    """Return the filter figures of a study: none if its first layer isn't a convolution."""
    layer = first_filters(described_layers(study))
    return drawn(rules.plot_filters, study=study, layer=layer or [])


def map_figures(study):
    """Return the map figures of a study: none if no chosen layer is made of maps."""
    exhibits = exhibits_of(study) if chosen_maps(study) else []
    return drawn(rules.plot_maps, study=study, exhibit=exhibits)


def patch_figures(study):
    """Return the patch figures of a study, one a chosen layer."""
    return drawn(rules.plot_patches, study=study, layer=chosen_layers(study))


def projection_figures(study):
    """Return the projection figures of a study, one a layer where the deconvnet is defined."""
    layers = [x for x in chosen_layers(study) if not why_not_projected(study, x)]
    return drawn(rules.plot_projections, study=study, layer=layers)


def embedding_figures(study):
    """Return the figures of a study's embedding."""
    layer = embedded_layer(study)
    plots = (rules.plot_scatter, rules.plot_grid)
    return [file for plot in plots for file in drawn(plot, study=study, layer=layer)]


def strongest_of(study, exhibit):
    """Return the projections for panel (c): none where the deconvnet isn't defined."""
    undefined = why_not_projected(study, occluded_layer(study))
    exhibits = [] if undefined else exhibit
    return expand(rules.project_strongest.output.strongest, study=study, exhibit=exhibits)


def occlusion_figures(study):
    """Return the occlusion figures of a study, one an exhibit."""
    return drawn(rules.plot_occlusion, study=study, exhibit=exhibits_of(study))


def receptive_field_figures(study):
    """Return the figure of a study's receptive fields."""
    return drawn(rules.plot_growth, study=study, exhibit=0)


def training_figures(study):
    """Return the training figure of a study: none if its model was imported."""
    trained = [study] if model_of(study) in TRAINED else []
    return drawn(rules.plot_training, study=trained)


def report_of(study):
    """Return a study's report."""
    return expand(rules.build_report.output.page, study=study)
