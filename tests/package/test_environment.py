"""What gets installed: the same for uv and conda, and the same tomorrow as today."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from pins import direct_requirements, installed_pins, read_project

REPOSITORY = Path(__file__).resolve().parents[2]
CONDA_NAMES = {"torch": "pytorch"}


def test_conda_users_get_the_same_versions() -> None:
    environment = yaml.safe_load((REPOSITORY / "environment.yml").read_bytes())
    listed = {item for item in environment["dependencies"] if isinstance(item, str)}
    project = read_project()["project"]
    expected = {f"python{project['requires-python']}", "pip"}
    for text in project["dependencies"]:
        requirement = Requirement(text)
        name = canonicalize_name(requirement.name)
        (version,) = requirement.specifier
        expected.add(f"{CONDA_NAMES.get(name, name)}={version.version}")
    assert listed == expected


def test_direct_requirements_are_pinned() -> None:
    for requirement in direct_requirements():
        assert str(requirement.specifier).startswith("=="), requirement


@pytest.mark.skipif(sys.platform != "linux", reason="other platforms need other packages")
def test_all_else_that_is_installed_is_pinned() -> None:
    pins = set(read_project()["tool"]["uv"]["constraint-dependencies"])
    missing = [pin for pin in installed_pins() if pin not in pins]
    assert not missing, "Run: uv run python tests/pins.py"
