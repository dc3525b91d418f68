"""How the workflow is put together: its targets, profiles and habits."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import h5py
import pytest
import yaml
from running import REPOSITORY, Config, Outcome, Place

from convatlas.sizing import sized_rules, uses_gpu

RULES = sorted((REPOSITORY / "workflow/rules").glob("*.smk"))
SCRIPTS = sorted((REPOSITORY / "workflow/scripts").glob("*.py"))
PROFILES = REPOSITORY / "workflow/profiles"
PLOTS = {  # of each analysis
    "filters": {"plot_filters", "plot_frequency", "plot_redundancy", "plot_kernels"},
    "maps": {"plot_maps"},
    "patches": {"plot_patches"},
    "projections": {"plot_projections"},
    "directions": {"plot_directions"},
    "neighbours": {"plot_nearest", "plot_accuracy"},
    "embedding": {
        *("plot_scatter", "plot_grid", "plot_views", "plot_perplexities", "plot_quality"),
    },
    "occlusion": {"plot_occlusion", "plot_occlusion_score"},
    "saliency": {"plot_saliency"},
    "receptive_fields": {"plot_growth"},
    "health": {"plot_health", "plot_worst", "plot_snapshots"},
    "firing": {"plot_firing"},
    "training": {"plot_training"},
}

SHARED = {"embed_otherwise": "embed_codes"}  # rules that run the script of another
PRINTING = ("describe", "plan")  # and make nothing


def working_rules() -> dict[str, str]:
    """Return the source of every rule that does work, by name, or by its script."""
    found = {}
    for path in RULES:
        text = path.read_text()
        for loop in re.findall(r"^for .*:\n((?:\n|    .*\n)+)", text, flags=re.M):
            rule = textwrap.dedent(loop).strip()
            name = re.search(r"scripts/(\w+)\.py", rule)
            assert rule.startswith("rule:\n")
            assert name is not None
            found[name[1]] = rule
        for part in re.split(r"^(?=(?:rule|checkpoint) \w+:$)", text, flags=re.M):
            head = re.match(r"(?:rule|checkpoint) (\w+):\n", part)
            if head:
                found[head[1]] = re.split(r"^\S", part[head.end() :], maxsplit=1, flags=re.M)[0]
    return found


WORKING = working_rules()


def keywords(rule: str) -> list[str]:
    return re.findall(r"^    (\w+):", WORKING[rule], re.MULTILINE)


# -------------------------------------------------------------------------- habits


@pytest.mark.parametrize("rule", WORKING)
def test_every_rule_has_a_log_and_a_benchmark(rule: str) -> None:
    # A benchmark file would count as what `describe` makes, and it would print only once.
    expected = {"log", "script", "params"} | ({"benchmark"} if rule not in PRINTING else set())
    assert expected <= set(keywords(rule))


@pytest.mark.parametrize("rule", WORKING)
def test_every_rule_asks_for_what_it_needs(rule: str) -> None:
    """By the size of its input, and of several exhibits if it takes them."""
    asked = re.search(
        r'resources:\s+\*\*sized\("(\w+)"(, exhibits=len\(exhibits\))?\),', WORKING[rule]
    )
    assert asked is not None
    assert asked[1] == rule
    assert bool(asked[2]) == ("exhibits=exhibits" in WORKING[rule] or "of_each(" in WORKING[rule])
    assert rule in sized_rules()


@pytest.mark.parametrize("rule", WORKING)
def test_every_rule_counts_the_code_of_its_own_script(rule: str) -> None:
    """Snakemake sees neither what a script imports nor, reliably, the script itself."""
    script = re.search(r'script:\s+"\.\./scripts/(\w+)\.py"', WORKING[rule])
    counted = re.search(r'\*\*made_by\(\s*"(\w+)"', WORKING[rule])
    assert script is not None
    assert counted is not None
    assert script[1] == counted[1] == SHARED.get(rule, rule)
    assert "params:" not in WORKING[rule].replace("    params:\n        **made_by(", "", 1)


def test_rules_that_run_a_network_ask_for_a_gpu() -> None:
    asking = {rule for rule in WORKING if uses_gpu(rule)}
    assert asking == {
        "train_model",
        "extract_activations",
        "record_maps",
        "measure_fields",
        "project_patches",
        "project_strongest",
        "rank_directions",
        "record_saliency",
        "score_scenes",
        "sweep_occlusion",
        "track_health",
    }


@pytest.mark.parametrize("path", RULES, ids=lambda path: path.stem)
def test_every_rule_file_opens_by_saying_what_it_needs_and_makes(path: Path) -> None:
    opening = path.read_text().split('"""')
    assert opening[0] == ""
    if path.stem != "common":
        assert re.search(r"^Needs: .*^Makes: ", opening[1], re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_scripts_are_adapters(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert len(lines) <= 30
    assert "snakemake.config" not in path.read_text()
    tree = ast.parse(path.read_bytes())
    assert not any(isinstance(node, ast.FunctionDef | ast.ClassDef) for node in ast.walk(tree))


def test_every_script_has_its_rule() -> None:
    assert {path.stem for path in SCRIPTS} == {SHARED.get(rule, rule) for rule in WORKING}


def test_the_snakefile_only_puts_things_together() -> None:
    text = (REPOSITORY / "Snakefile").read_text()
    assert not re.search(r"^\s*(def|import|run|shell|script)\b", text, re.MULTILINE)
    included = re.findall(r'include: "workflow/rules/(\w+)\.smk"', text)
    assert sorted(included) == [path.stem for path in RULES]


def test_plotting_does_not_load_torch() -> None:
    figures = sorted((REPOSITORY / "workflow/convatlas/figures").glob("*.py"))
    names = [f"convatlas.figures.{path.stem}" for path in figures if path.stem != "__init__"]
    program = f"import sys, {', '.join([*names, 'convatlas.report.site', 'convatlas.config'])}\n"
    program += "sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_snakefmt_would_change_nothing() -> None:
    command = [sys.executable, "-m", "snakefmt", "--check", "Snakefile", "workflow"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_linter_finds_nothing(start: Place) -> None:
    outcome = start.run("--lint")
    assert outcome.code == 0, outcome.text
    assert "Congratulations" in outcome.text


# ------------------------------------------------------------------ targets, configs


def test_every_target_is_planned_from_nothing(start: Place) -> None:
    assert "describe_model" in start.plan("--", "figures", "report", "describe", *PLOTS)


@pytest.mark.parametrize(("target", "plots"), PLOTS.items(), ids=PLOTS)
def test_a_target_makes_the_figures_of_one_analysis(
    finished: Place, target: str, plots: set[str]
) -> None:
    for picture in (finished.results).glob("*/figures/**/*.png"):
        picture.unlink()
    assert set(finished.plan("--", target)) == plots


def test_the_first_filters_need_no_images_run_through(fresh: Place) -> None:
    """The checkpoint hides what comes after it, so this one is made for good."""
    outcome = fresh.run("--cores", "2", "results/pictures/figures/filters/first.0.png")
    assert outcome.code == 0, outcome.text
    assert set(outcome.planned) == {
        "import_model",
        "describe_model",
        "cut_filters",
        "plot_filters",
    }


# What is made of an exhibit, and by which rule.
OF_EXHIBITS = {
    "exhibits/{}.h5": "pick_exhibit",
    "maps/{}.h5": "record_maps",
    "saliency/{}.h5": "record_saliency",
    "nearest/{}.h5": "find_nearest",
    "occlusion/{}.h5": "sweep_occlusion",
    "strongest/{}.h5": "project_strongest",
    "figures/maps/{}.png": "plot_maps",
    "figures/maps/overlay/{}.csv": "plot_maps",
    "figures/occlusion/{}.png": "plot_occlusion",
    "figures/saliency/{}.png": "plot_saliency",
    "figures/neighbours/{}.png": "plot_nearest",
}


def test_exhibits_that_one_job_takes(atlas: Place, tmp_path: Path) -> None:
    """They are the same, byte by byte, as made by a job each, and stay together."""
    made = {}
    for several in (1, 2):
        place = atlas.copied(tmp_path / str(several))

        def ask(config: Config, exhibits: int = several + 2, several: int = several) -> None:
            config["studies"]["pictures"]["exhibits"] = exhibits
            config["exhibits_per_job"] = several
            config["analyses"]["occlusion"]["exhibits_per_job"] = several

        place.change(ask)
        files = [f"results/pictures/{name.format(2)}" for name in OF_EXHIBITS]
        outcome = place.run("--cores", "2", *files)
        assert outcome.code == 0, outcome.text
        block = "_2_to_3" if several == 2 else ""
        assert set(outcome.planned) == {f"{rule}{block}" for rule in OF_EXHIBITS.values()}
        made[several] = [(place.folder / file).read_bytes() for file in files]
    for name, one, other in zip(OF_EXHIBITS, *made.values(), strict=True):
        assert one == other, name
    with h5py.File(place.results / "pictures/occlusion/3.h5") as file:
        assert file.attrs["made_by"] == "sweep_occlusion"
        assert json.loads(file.attrs["subject"]) == {"study": "pictures", "exhibit": "3"}

    # More of them, and more a job: what was made, by one job or by several, isn't made again.
    place.change(lambda config: ask(config, 7, 3))
    planned = {rule: jobs for rule, jobs in place.plan().items() if rule[-1].isdigit()}
    assert set(planned) == {f"{rule}_4_to_6" for rule in OF_EXHIBITS.values()}
    # Fewer: a block that was made stays whole.
    place.change(lambda config: ask(config, 3, 2))
    planned = {rule for rule in place.plan() if rule in OF_EXHIBITS.values() or rule[-1].isdigit()}
    assert planned == set()
    # Listed ones are a job each.
    place.change(lambda config: config["studies"]["pictures"].update(exhibits=[4, 7, 9]))
    planned = place.plan()["record_maps"]
    assert planned == {f"study=pictures, exhibit={number}" for number in range(3)}


def test_any_figure_can_be_asked_for_by_its_file(start: Place) -> None:
    names = (
        "filters/first.0",
        "filters/frequency/first.0",
        "filters/redundancy/second.0",
        "filters/kernels/second.0",
        "maps/0",
        "maps/mosaic/0",
        "maps/overlay/0",
        "patches/first.1",
        "projections/first.1",
        "directions/first.1",
        "neighbours/0",
        "neighbours/accuracy/layers",
        "embedding/scatter/mean",
        "embedding/views/mean",
        "embedding/quality/layers",
        "embedding/perplexities/mean",
        "embedding/grid/mean",
        "occlusion/0",
        "saliency/0",
        "receptive_fields/0",
        "health/layers",
        "health/worst/first.1",
        "firing/first.1",
    )
    plan = start.plan("--", *(f"results/pictures/figures/{name}.png" for name in names))
    assert "describe_model" in plan


def test_a_configfile_replaces_the_demo(start: Place) -> None:
    own = {x for jobs in start.plan().values() for x in jobs}
    assert any("pictures" in x for x in own)
    assert not any("demo" in x or "small-zf" in x for x in own)
    demo = start.run("--dry-run", config=None)
    assert demo.code == 0, demo.text
    found = {x for jobs in demo.planned.values() for x in jobs}
    assert any("demo" in x for x in found)
    assert not any("pictures" in x for x in found)


def test_another_working_directory(start: Place, tmp_path: Path) -> None:
    for name in ("pictures", "nets", "labels.csv", "names.txt"):
        (tmp_path / name).symlink_to(start.folder / name)
    outcome = start.run("--directory", tmp_path, "--cores", "1", "results/pictures/exhibits/0.h5")
    assert outcome.code == 0, outcome.text
    assert (tmp_path / "results/pictures/exhibits/0.h5").is_file()
    assert not start.results.exists()


def test_a_path_is_relative_to_the_working_directory(start: Place, tmp_path: Path) -> None:
    outcome = start.run("--directory", tmp_path, "--dry-run")
    assert outcome.code == 1
    assert f"no folder 'pictures' in {tmp_path}" in outcome.text


@pytest.mark.parametrize("path", sorted((REPOSITORY / "config").glob("*.yaml")), ids=str)
def test_shipped_configs_are_valid(start: Place, tmp_path: Path, path: Path) -> None:
    """With stand-ins for the files that a user has."""
    config = yaml.safe_load(path.read_text())
    for dataset in config["datasets"].values():
        for key in ("labels", "classes"):
            if key in dataset:
                (tmp_path / dataset[key]).write_text("file,class_index\n")
        if "path" in dataset:
            (tmp_path / dataset["path"]).mkdir()
    for model in config["models"].values():
        for key in ("weights", "architecture"):
            file = model.get(key, "").partition(":")[0]
            if file.endswith((".py", ".pth")):
                (tmp_path / file).touch()
    outcome = start.run("--dry-run", "--directory", tmp_path, config=str(path))
    assert outcome.code == 0, outcome.text


# ------------------------------------------------------------------------- profiles


@pytest.mark.parametrize("name", ["workstation", "slurm"])
def test_a_profile_plans_the_same(start: Place, name: str) -> None:
    profile = start.project / "workflow/profiles" / name
    assert start.plan("--workflow-profile", str(profile)) == start.plan()


def test_on_a_cluster_every_job_says_how_much_it_needs(start: Place) -> None:
    outcome = start.run(
        "--dry-run", "--workflow-profile", start.project / "workflow/profiles/slurm"
    )
    blocks = [b for b in re.split(r"\n(?=\[)", outcome.text) if "    output: " in b]
    assert len(blocks) > 15
    for block in blocks:
        for resource in ("mem_mb", "runtime", "disk_mb"):
            assert re.search(rf"resources: .*\b{resource}=\d+", block), block


def test_short_jobs_are_submitted_together() -> None:
    """All plots, and of the other kinds what the SLURM profile puts together."""
    found = {
        rule: re.search(r'^    group:\n        "(\w+)"', x, re.M) for rule, x in WORKING.items()
    }
    groups = {rule: group[1] for rule, group in found.items() if group}
    plots = {rule for rule in WORKING if rule.startswith("plot_")}
    assert plots <= {rule for rule, group in groups.items() if group == "plots"}
    profile = yaml.safe_load((PROFILES / "slurm/config.yaml").read_text())
    assert set(profile["group-components"]) <= set(groups.values())


def test_on_a_workstation_gpu_jobs_queue() -> None:
    profile = yaml.safe_load((PROFILES / "workstation/config.yaml").read_text())
    assert profile["resources"]["gpu"] == 1


RUNNING = {  # a network
    *("extract_activations", "measure_fields", "project_patches", "project_strongest"),
    *("rank_directions", "record_maps", "record_saliency", "score_scenes", "sweep_occlusion"),
    *("track_health", "train_model", "import_model", "describe_model"),
    "cut_filters",  # of its weights
}
MAPPING = {"arrange_grid", "embed_codes", "find_neighbours", "measure_quality"}


def test_jobs_load_only_what_they_need(made: tuple[Place, Outcome], observed: Path) -> None:
    """These networks are not torchvision's; with it, and with torch._dynamo, start-up doubles."""
    found: dict[str, set[str]] = {}
    for record in map(json.loads, (path.read_text() for path in observed.glob("*.json"))):
        found.setdefault(record["rule"], set()).update(record["slow"])
    assert len(found) > 50
    for rule, slow in found.items():
        allowed = {"torch"} if rule in RUNNING else set()
        if rule in ("train_model", "import_model"):
            allowed |= {"torch._dynamo"}
        if rule in MAPPING:
            allowed |= {"openTSNE", "pandas", "scipy.stats", "sklearn"}
        if rule.startswith("plot_"):
            allowed |= {"matplotlib.axes"}
        assert slow <= allowed, rule
