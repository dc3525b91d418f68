"""The exact versions of what our dependencies need in turn.

``uv run python tests/pins.py`` writes those of this environment into pyproject.toml
(on Linux with the oldest Python that we support, which fits the newer ones too). To
take newer ones, empty the list there and run ``uv sync`` first.
"""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PYPROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"

_LIST = re.compile(r"^constraint-dependencies = \[.*?^\]\n", re.MULTILINE | re.DOTALL)


def read_project() -> dict[str, Any]:
    """Return pyproject.toml."""
    return tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))


def direct_requirements() -> list[Requirement]:
    """Return what pyproject.toml asks for itself, for running and for developing."""
    project = read_project()
    listed = project["project"]["dependencies"] + project["dependency-groups"]["dev"]
    return [Requirement(text) for text in listed]


def installed_pins() -> list[str]:
    """Return ``name==version`` of every installed package that only others ask for, sorted."""
    direct = {canonicalize_name(requirement.name) for requirement in direct_requirements()}
    waiting = direct_requirements()
    seen: set[tuple[str, str]] = set()
    versions: dict[str, str] = {}
    while waiting:
        requirement = waiting.pop()
        package = distribution(requirement.name)
        name = canonicalize_name(requirement.name)
        versions[name] = package.version
        for extra in ("", *requirement.extras):
            if (name, extra) not in seen:
                seen.add((name, extra))
                waiting += _needed(package.requires or [], extra)
    return [f"{name}=={versions[name]}" for name in sorted(versions.keys() - direct)]


def _needed(requirements: list[str], extra: str) -> list[Requirement]:
    """Return those of a package's requirements that hold here, with one of its extras."""
    parsed = [Requirement(text) for text in requirements]
    return [r for r in parsed if r.marker is None or r.marker.evaluate({"extra": extra})]


def main() -> None:
    """Write the list into pyproject.toml."""
    lines = "".join(f'    "{pin}",\n' for pin in installed_pins())
    text = PYPROJECT.read_text(encoding="utf-8")
    text, count = _LIST.subn(f"constraint-dependencies = [\n{lines}]\n", text)
    if count != 1:
        raise SystemExit(f"{PYPROJECT} has {count} lists constraint-dependencies, not one.")
    PYPROJECT.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
