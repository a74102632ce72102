"""Tests of `upernet download`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from helpers.command_line import Run

from upernet.checkpoints import list_zoo, zoo_entry

MODEL = "upernet_internimage_t_512_160k_ade20k"
BACKBONE, BACKBONE_FILE = "internimage_t", "internimage_t_1k_224.pth"
CONTENT = b"PK\3\4 not really weights"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where downloads are kept."""
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    (mirror / f"{MODEL}.pth").write_bytes(CONTENT)
    (mirror / BACKBONE_FILE).write_bytes(CONTENT)
    monkeypatch.setenv("UPERNET_MIRROR", mirror.as_uri())
    monkeypatch.setenv("UPERNET_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("UPERNET_OFFLINE", raising=False)
    return tmp_path / "home" / "checkpoints"


def test_paths_are_printed_and_licenses_beside_them(run: Run, folder: Path) -> None:
    path = folder / f"{MODEL}.pth"
    for _ in range(2):
        result = run("download", MODEL, MODEL)
        assert (result.status, result.stdout) == (0, f"{path}\n")
        assert f"{MODEL}: MIT" in result.stderr
    assert path.read_bytes() == CONTENT


def test_damage_is_found_on_demand(run: Run, folder: Path) -> None:
    path = folder / f"{MODEL}.pth"
    run("download", MODEL)
    time = path.stat().st_mtime_ns
    path.write_bytes(CONTENT[::-1])
    os.utime(path, ns=(time, time))
    assert run("download", MODEL).status == 0
    result = run("download", "--verify", MODEL)
    assert (result.status, result.stdout) == (2, "")
    assert f"{path}: damaged or not the right file" in result.stderr


def test_what_is_not_the_published_file_is_not_kept(run: Run, folder: Path) -> None:
    result = run("download", BACKBONE)
    assert result.status == 2
    assert BACKBONE_FILE in result.stderr and "not 119874895 as published" in result.stderr
    assert not [path for path in folder.iterdir() if path.suffix != ".lock"]


def test_everything(run: Run, folder: Path) -> None:
    result = run("download", "--all")
    assert (result.status, result.stdout) == (2, f"{folder / MODEL}.pth\n")  # the mirror has no more
    assert f"{list_zoo()[1]}.pth" in result.stderr


@pytest.mark.parametrize("names", [[], [MODEL, "internimage_z"]])
def test_names_that_the_zoo_has_are_listed(run: Run, folder: Path, names: list[str]) -> None:
    result = run("download", *names)
    assert (result.status, result.stdout) == (2, "")
    assert all(name in result.stderr for name in list_zoo())
    assert not folder.exists()


def test_offline(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UPERNET_MIRROR")
    monkeypatch.setenv("UPERNET_OFFLINE", "1")
    result = run("download", MODEL)
    assert result.status == 2
    entry = zoo_entry(MODEL)
    assert entry is not None and f"fetch {entry.url}" in result.stderr
