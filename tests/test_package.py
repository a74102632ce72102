"""Tests of the package as a whole: its contents, the imports between its rooms, and its start-up."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import zipfile
from graphlib import CycleError
from importlib.util import find_spec
from pathlib import Path

import pytest
from import_graph import LEAVES, floors, import_graph, imported_rooms, room_of, without_implied

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "upernet"
DATA_FILES = sorted(
    path
    for pattern in (
        "taxonomy/*.yaml",
        "recipes/*.yaml",
        "checkpoints/shipped/*.safetensors",
        "checkpoints/zoo.yaml",
        "py.typed",
    )
    for path in PACKAGE.glob(pattern)
)

# docs/architecture.md: a room may import only from rooms that come before it here
ROOMS = [
    "errors",
    "files",
    "rle",
    "version",
    "yaml_document",
    "settings",
    "taxonomy",
    "recipe",
    "overrides",
    "devices",
    "distributed",
    "ops",
    "models",
    "checkpoints",
    "data",
    "decoding",
    "inference",
    "discovery",
    "evaluation",
    "exporting",
    "training",
    "scaffold",
    "doctor",
    "serving",
    "cli",
    "__main__",
]
SOURCES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def test_every_room_has_a_place_in_the_order():
    assert {room_of(path) for path in SOURCES} <= set(ROOMS)


@pytest.mark.slow
@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path: Path):
    before = ROOMS[: ROOMS.index(room_of(path))]
    assert imported_rooms(path) <= set(before)


@pytest.mark.slow
def test_leaves_import_only_leaves():
    graph = import_graph()
    for leaf in LEAVES:
        assert graph[leaf] <= LEAVES, leaf


@pytest.mark.slow
def test_models_and_data_do_not_know_each_other():
    graph = import_graph()
    for room in ("models", "data"):
        assert graph[room] <= LEAVES | {"ops"}, room
    assert graph["ops"] == set()


def test_the_import_graph_leaves_out_only_what_follows_from_others():
    graph = {"a": {"b", "c"}, "b": {"c"}, "c": set(), "d": {"a", "c"}}
    assert without_implied(graph) == {"a": {"b"}, "b": {"c"}, "c": set(), "d": {"a"}}
    assert floors(graph) == [["c"], ["b"], ["a"], ["d"]]
    with pytest.raises(CycleError):
        floors({"a": {"b"}, "b": {"a"}})


def test_no_file_of_the_package_is_large():
    for path in PACKAGE.rglob("*"):
        if path.is_file():
            assert path.stat().st_size <= 21_000_000, path


@pytest.mark.slow
@pytest.mark.process
def test_wheel_contains_code_and_data(tmp_path: Path):
    if find_spec("hatchling") is None or find_spec("hatch_fancy_pypi_readme") is None:
        pytest.skip("hatchling or hatch-fancy-pypi-readme is not installed")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=120)
    (wheel,) = tmp_path.glob("upernet-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = archive.read(next(name for name in names if name.endswith("/METADATA"))).decode()
        entry_points = next(name for name in names if name.endswith("entry_points.txt"))
        assert "upernet = upernet.cli.main:run" in archive.read(entry_points).decode()
    expected = {path.relative_to(PACKAGE.parent).as_posix() for path in [*SOURCES, *DATA_FILES]}
    assert {"upernet/py.typed", "upernet/taxonomy/everyday.yaml"} <= expected
    assert expected <= names
    assert {name.rpartition("/")[2] for name in names if "/licenses/" in name} == {"LICENSE", "LICENSE-WEIGHTS"}
    assert "License-Expression: Apache-2.0 AND LicenseRef-upernet-weights" in metadata
    assert "Programming Language :: Python :: 3.12" in metadata and "Project-URL: " in metadata
    description = metadata.partition("\n\n")[2]
    assert "One photo in; its scene" in description and "make demo" in description
    links = re.findall(r"\]\(([^)]+)\)", description)
    assert links and all(link.startswith("https://") for link in links), (
        "a package index has no files of the repository"
    )
    recipes = re.findall(
        r"upernet (?:train|evaluate) (\S*internimage_t_camvid\S*)", (ROOT / "docs/ade20k.md").read_text()
    )
    assert recipes and all(f"upernet/recipes/{recipe}.yaml" in names for recipe in recipes)


@pytest.mark.slow
@pytest.mark.process
def test_source_distribution_contains_both_licenses(tmp_path: Path):
    if find_spec("hatchling") is None or find_spec("hatch_fancy_pypi_readme") is None:
        pytest.skip("hatchling or hatch-fancy-pypi-readme is not installed")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=120)
    (archive,) = tmp_path.glob("upernet-*.tar.gz")
    with tarfile.open(archive) as files:
        inside = {name.partition("/")[2] for name in files.getnames()}
        information = files.extractfile(next(name for name in files.getnames() if name.endswith("/PKG-INFO")))
        assert information is not None
        metadata = information.read().decode()
    assert {"LICENSE", "LICENSE-WEIGHTS"} <= inside
    assert "License-File: LICENSE-WEIGHTS" in metadata and "License-File: LICENSE\n" in metadata


@pytest.mark.slow
@pytest.mark.process
def test_help_lists_the_commands():
    run = subprocess.run([sys.executable, "-m", "upernet", "--help"], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    text = re.sub(r"\x1b\[[0-9;]*m", "", run.stdout)
    for command in ("parse", "models", "download", "train", "evaluate", "convert", "data"):
        assert re.search(rf"\b{command}\b", text), f"upernet --help does not list {command}"


def test_public_names_are_there():
    import upernet

    for name in upernet.__all__:
        assert getattr(upernet, name) is not None
    assert dir(upernet) == sorted([*upernet.__all__, "__version__"])
    assert set(upernet.__all__) == set(upernet._HOME)
