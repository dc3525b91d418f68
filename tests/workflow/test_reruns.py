"""After a change, the jobs that depend on it run again, all of them and no others."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from running import Config, Place

SCENES, PICTURES = "study=scenes", "study=pictures"

PLOTS = {
    "plot_filters",
    "plot_maps",
    "plot_patches",
    "plot_projections",
    "plot_scatter",
    "plot_grid",
    "plot_occlusion",
    "plot_growth",
    "plot_training",
}
EXHIBITS = {f"{PICTURES}, exhibit={n}" for n in (0, 1)}
ALL_EXHIBITS = EXHIBITS | {f"{SCENES}, exhibit=0"}
ALL_LAYERS = {f"{PICTURES}, layer=first.1", f"{PICTURES}, layer=second.1", f"{SCENES}, layer=relu2"}


def studies(config: Config) -> dict[str, Config]:
    return config["studies"]


def replace_text(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_nothing_is_to_be_done_twice(atlas: Place) -> None:
    outcome = atlas.run("--dry-run")
    assert "Nothing to be done" in outcome.text
    assert outcome.planned == {}


def test_touched_files_and_comments_rerun_nothing(finished: Place) -> None:
    for path in (finished.folder / "pictures/amber/0.png", finished.folder / "nets/tiny.pth"):
        os.utime(path)
    for name in ("activations.py", "figures/style.py", "data/folder.py"):
        with (finished.project / "workflow/convatlas" / name).open("a") as file:
            file.write("\n# a remark\n")
    assert finished.plan() == {}


def test_a_layer_more(finished: Place) -> None:
    finished.change(lambda c: studies(c)["pictures"]["layers"].append("first.2"))
    new = {f"{PICTURES}, layer=first.2"}
    assert finished.plan() == {
        "rank_patches": new,
        "project_patches": new,
        "plot_patches": new,
        "plot_projections": new,
        "plot_maps": EXHIBITS,  # they list the layers
        "plot_growth": {f"{PICTURES}, exhibit=0"},
        "build_report": {PICTURES},
    }


def test_a_layer_less_draws_again_only_what_lists_it(finished: Place) -> None:
    finished.change(lambda c: studies(c)["pictures"].update(layers=["second.1"]))
    assert finished.plan() == {
        "plot_maps": EXHIBITS,
        "plot_growth": {f"{PICTURES}, exhibit=0"},
        "build_report": {PICTURES},
    }


def test_an_exhibit_more(finished: Place) -> None:
    finished.change(lambda c: studies(c)["pictures"].update(exhibits=3))
    new = {f"{PICTURES}, exhibit=2"}
    assert finished.plan() == {
        "pick_exhibit": new,
        "record_maps": new,
        "sweep_occlusion": new,
        "project_strongest": new,
        "plot_maps": new,
        "plot_occlusion": new,
        "list_exhibits": {PICTURES},
        "build_report": {PICTURES},
    }


def test_another_format_or_resolution_only_plots(finished: Place) -> None:
    expected = PLOTS | {"build_report"}
    finished.change(lambda c: c["figures"].update(formats=["png", "svg"]))
    assert set(finished.plan()) == expected
    finished.change(lambda c: c.update(figures={"dpi": 90}))
    plan = finished.plan()
    assert set(plan) == expected
    assert plan["plot_maps"] == ALL_EXHIBITS


def test_a_parameter_of_one_analysis_in_one_study(finished: Place) -> None:
    occlusion = {"analyses": {"occlusion": {"fill": "grey"}}}
    finished.change(lambda c: studies(c)["pictures"].update(occlusion))
    assert finished.plan() == {
        "sweep_occlusion": EXHIBITS,
        "project_strongest": EXHIBITS,
        "plot_occlusion": EXHIBITS,
        "build_report": {PICTURES},
    }


def test_a_perplexity_reuses_the_neighbours(finished: Place) -> None:
    finished.change(lambda c: c["analyses"]["embedding"].update(perplexity=4))
    plan = finished.plan()
    assert set(plan) == {"embed_codes", "arrange_grid", "plot_scatter", "plot_grid", "build_report"}
    assert plan["embed_codes"] == {f"{PICTURES}, layer=mean", f"{SCENES}, layer=relu5"}


def test_units_and_the_seed_pick_again(finished: Place) -> None:
    finished.change(lambda c: c["analyses"]["projections"].update(units=3))
    shown = {"project_patches", "plot_patches", "plot_projections", "build_report"}
    plan = finished.plan()
    assert set(plan) == shown
    assert plan["project_patches"] == ALL_LAYERS
    # Exhibits and units that are named, and weights that aren't random, need no seed.
    finished.change(lambda c: c["analyses"]["projections"].update(units=[0, 1]))
    finished.change(lambda c: studies(c)["pictures"].update(exhibits=[0, 5]))
    before = finished.plan()
    finished.change(lambda c: c.update(seed=7))
    after = finished.plan()
    changed = {rule for rule in after if after[rule] != before.get(rule)}
    assert "import_model" not in after
    assert changed <= {
        "pick_exhibit",
        "record_maps",
        "sweep_occlusion",
        "project_strongest",
        "list_exhibits",
        "plot_maps",
        "plot_occlusion",
        "plot_growth",
        "build_report",
    }
    assert after["pick_exhibit"] - before["pick_exhibit"] == {f"{SCENES}, exhibit=0"}


@pytest.mark.parametrize(
    ("module", "rules"),
    [
        ("figures/receptive_fields.py", {"plot_growth"}),
        ("figures/patches.py", {"plot_patches", "plot_projections"}),  # one shows the other
        ("figures/style.py", PLOTS),  # imported by all of them
        ("report/site.py", set()),
        (
            "embedding.py",
            {"find_neighbours", "embed_codes", "arrange_grid", "plot_scatter", "plot_grid"},
        ),
        (
            "patches.py",
            {
                "rank_patches",
                "project_patches",
                "project_strongest",
                "plot_patches",
                "plot_projections",
                "plot_occlusion",
            },
        ),
        ("projection.py", {"project_patches", "plot_projections"} | {"project_strongest"}),
        ("exhibits.py", None),
    ],
)
def test_an_edited_module(finished: Place, module: str, rules: set[str] | None) -> None:
    with (finished.project / "workflow/convatlas" / module).open("a") as file:
        file.write("\n_EDITED = True\n")
    plan = finished.plan()
    if rules is None:  # all that begins with an exhibit
        rules = {"pick_exhibit", "list_exhibits", "record_maps", "sweep_occlusion"}
        rules |= {"project_strongest", "plot_maps", "plot_occlusion", "plot_growth"}
    if module == "projection.py":
        plan.pop("plot_occlusion", None)
    assert set(plan) == rules | {"build_report"}


def test_an_edited_helper_of_the_users_network(finished: Place) -> None:
    replace_text(finished.folder / "nets/parts.py", "padding=1", "padding=(1, 1)")
    plan = finished.plan()
    assert plan["import_model"] == {"model=mine"}
    assert plan["describe_model"] == {"model=mine"}
    assert "train_model" not in plan


def test_other_weights_of_the_same_name_and_size(finished: Place) -> None:
    path = finished.folder / "nets/tiny.pth"
    size, times = path.stat().st_size, path.stat().st_mtime_ns
    saved = torch.load(path, weights_only=True)
    saved["state_dict"] = {name: -value for name, value in saved["state_dict"].items()}
    torch.save(saved, path)
    os.utime(path, ns=(times, times))
    assert path.stat().st_size == size
    plan = finished.plan()
    assert plan["import_model"] == {"model=mine"}
    assert all(PICTURES in x or "model=mine" in x for jobs in plan.values() for x in jobs)
    # What comes after the checkpoint is known once that has run.
    outcome = finished.run("--cores", "2")
    assert outcome.code == 0, outcome.text
    done = outcome.planned
    assert all(PICTURES in x or "model=mine" in x for jobs in done.values() for x in jobs)
    assert set(done) == {
        "import_model",
        "describe_model",
        "extract_activations",
        "gather_activations",
        "score_predictions",
        "cut_filters",
        "record_maps",
        "rank_patches",
        "project_patches",
        "find_neighbours",
        "embed_codes",
        "arrange_grid",
        "sweep_occlusion",
        "project_strongest",
        "build_report",
    } | (PLOTS - {"plot_training", "plot_growth"})  # the geometry is as it was
    assert finished.plan() == {}


def test_an_image_more(finished: Place) -> None:
    pictures = finished.folder / "pictures"
    (pictures / "blue/6.png").write_bytes((pictures / "coral/0.png").read_bytes())
    plan = finished.plan()
    assert plan["prepare_images"] == {"dataset=pictures, part=images"}
    assert plan["pick_exhibit"] == EXHIBITS
    assert all("scenes" not in x for jobs in plan.values() for x in jobs)
    assert "import_model" not in plan


def test_more_scenes_to_test_on_leave_those_to_train_on(finished: Place) -> None:
    finished.change(lambda c: c["datasets"]["scenes"].update(test=30))
    assert finished.plan()["prepare_images"] == {"dataset=scenes, part=images"}


def test_a_second_study_shares_model_and_images(finished: Place) -> None:
    finished.change(lambda c: studies(c).update(again=dict(studies(c)["pictures"])))
    plan = finished.plan()
    assert not {"prepare_images", "import_model", "describe_model", "train_model"} & set(plan)
    assert all("study=again" in x for jobs in plan.values() for x in jobs)


def test_two_runs_give_the_same_bytes(atlas: Place, fresh: Place) -> None:
    """Only a part of the atlas, one of each kind of file, is made a second time."""
    targets = [
        "results/pictures/figures/projections/first.1.png",
        "results/pictures/figures/occlusion/0.png",
        "results/pictures/figures/embedding/grid/mean.png",
    ]
    outcome = fresh.run("--cores", "2", *targets)
    assert outcome.code == 0, outcome.text
    kinds = {".h5", ".png", ".csv", ".json", ".pt", ".txt"}
    made = [p for p in fresh.results.rglob("*") if p.suffix in kinds]
    assert len(made) > 15
    for path in made:
        twin = atlas.results / path.relative_to(fresh.results)
        assert path.read_bytes() == twin.read_bytes(), path
