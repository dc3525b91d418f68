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
from running import REPOSITORY, Place

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
    expected = {"log", "script", "params"} | ({"benchmark"} if rule != "describe" else set())
    assert expected <= set(keywords(rule))


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
    asking = {rule for rule, text in WORKING.items() if "gpu=1" in text}
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


def test_exhibits_that_one_job_sweeps(finished: Place) -> None:
    """Their files say of which exhibit they are, and of no rule that has no script."""
    occlusion = {"exhibits_per_job": 2}
    finished.change(lambda c: c["analyses"]["occlusion"].update(occlusion))
    before = {n: (finished.results / f"pictures/occlusion/{n}.h5") for n in range(2)}
    swept = {n: h5py.File(path)["probability"][()] for n, path in before.items()}
    outcome = finished.run("--cores", "2", "results/pictures/provenance.json")
    assert outcome.code == 0, outcome.text
    assert "sweep_occlusion_0_to_1" in outcome.planned
    for n, path in before.items():
        with h5py.File(path) as file:
            assert file.attrs["made_by"] == "sweep_occlusion"
            assert json.loads(file.attrs["subject"]) == {"study": "pictures", "exhibit": str(n)}
            assert (file["probability"][()] == swept[n]).all()


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
        assert re.search(r"resources: .*mem_mb=\d+.*runtime=\d+", block), block


def test_on_a_workstation_gpu_jobs_queue() -> None:
    profile = yaml.safe_load((PROFILES / "workstation/config.yaml").read_text())
    assert profile["resources"]["gpu"] == 1
