"""Tests of the project's own tooling: Makefile, workflow, version, oldest dependencies."""

from __future__ import annotations

import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml

import upernet

ROOT = Path(__file__).parents[1]
PYPROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")  # tomllib is not in Python 3.10


def workflow() -> dict[str, Any]:
    return yaml.safe_load((ROOT / ".github/workflows/test.yml").read_text(encoding="utf-8"))


def test_the_version_is_written_once() -> None:
    assert version("upernet") == upernet.__version__
    assert not re.search(r"^version = ", PYPROJECT, re.MULTILINE)


def test_the_workflow_covers_every_supported_python_and_system() -> None:
    supported = re.findall(r"Programming Language :: Python :: (3\.\d+)", PYPROJECT)
    matrix = workflow()["jobs"]["test"]["strategy"]["matrix"]
    assert matrix["python"] == supported
    systems = {*matrix["os"], *(entry["os"] for entry in matrix["include"])}
    assert systems == {"ubuntu-latest", "macos-latest", "windows-latest"}
    assert all(entry["python"] in supported for entry in matrix["include"])
    oldest = re.search(r'requires-python = ">=(.+)"', PYPROJECT)
    assert oldest and oldest[1] == supported[0]
    steps = workflow()["jobs"]["oldest"]["steps"]
    assert supported[0] in [step.get("with", {}).get("python-version") for step in steps]


def test_the_workflow_calls_only_make_targets_that_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    for job in workflow()["jobs"].values():
        for step in job["steps"]:
            if (command := step.get("run", "").split()) and command[0] == "make":
                assert {word for word in command[1:] if "=" not in word} <= targets
    documented = set(re.findall(r"^# make ([a-z]+)", makefile, re.MULTILINE))
    assert documented | {"help", "format"} == targets


def test_constraints_are_the_lower_bounds_of_the_dependencies() -> None:
    dependencies = re.search(r"^dependencies = \[(.*?)^\]", PYPROJECT, re.DOTALL | re.MULTILINE)
    assert dependencies
    bounds = re.findall(r'"([\w.-]+)>=([\d.]+)"', dependencies[1])
    lines = (ROOT / "constraints-oldest.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if not line.startswith("#")] == [f"{name}=={bound}" for name, bound in bounds]


def test_every_test_file_says_what_it_tests() -> None:
    for file in sorted((ROOT / "tests").rglob("test_*.py")):
        first = file.read_text(encoding="utf-8").partition("\n")[0]
        assert first.startswith('"""Tests '), f"{file.name}: begin with a docstring: Tests of MODULE"


def test_documented_commands_of_make_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for page in ("README.md", "CONTRIBUTING.md", "docs/extending.md"):
        for target in re.findall(r"\bmake ([a-z]+)\b(?! )", (ROOT / page).read_text(encoding="utf-8")):
            if f"`make {target}" in (ROOT / page).read_text(encoding="utf-8"):
                assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"{page}: make {target}"


@pytest.mark.parametrize("file", [".pre-commit-config.yaml", ".github/workflows/test.yml"])
def test_configuration_files_are_valid_yaml(file: str) -> None:
    assert isinstance(yaml.safe_load((ROOT / file).read_text(encoding="utf-8")), dict)
