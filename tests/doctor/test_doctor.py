"""Tests of upernet.doctor: requirements, variables, caches and the machine."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from upernet.doctor import Examination, Finding
from upernet.doctor.caches import examine_caches
from upernet.doctor.kernels import run_dcnv3
from upernet.doctor.machine import available_memory, examine_torch, size_of
from upernet.doctor.packages import extras_of, install_command, is_met, requirements_of
from upernet.doctor.variables import VARIABLES, examine_variables
from upernet.ops import set_threads
from upernet.ops.runtime.availability import compiled_kernels

ROOT = Path(__file__).parents[2]
STATED = [
    "numpy>=1.26",
    "pillow>=9999",
    "nosuchpackage>=1; python_version >= '3'",
    "nosuchpackage-windows; python_version < '3'",
    "av>=16; extra == 'video'",
    "nosuchpackage[fast]>=2; sys_platform != '' and extra == 'export'",
    "upernet[export,video]; extra == 'all'",
]


def test_requirements_are_those_that_apply_here() -> None:
    assert extras_of(STATED) == ["all", "export", "video"]
    assert [str(found.name) for found in requirements_of(STATED)] == ["numpy", "pillow", "nosuchpackage"]
    assert [found.name for found in requirements_of(STATED, "video")] == ["av"]
    assert [found.name for found in requirements_of(STATED, "all")] == ["nosuchpackage", "av"]


def test_missing_and_old_packages_have_one_command() -> None:
    unmet = [requirement for requirement in requirements_of(STATED) if not is_met(requirement)]
    assert install_command(unmet) == "pip install 'pillow>=9999' 'nosuchpackage>=1'"
    (optional, _) = requirements_of(STATED, "all")
    assert install_command([optional]) == "pip install 'nosuchpackage[fast]>=2'"


def test_all_variables_of_the_sources_are_known() -> None:
    """Each variable that the sources read is in the table, and nothing else is."""
    text = "".join(
        path.read_text(encoding="utf-8") for path in (ROOT / "src").rglob("*.py") if "doctor" not in path.parts
    )
    assert set(re.findall(r"\bUPERNET_[A-Z_]+\b", text)) == set(VARIABLES)


def test_only_variables_that_are_set_are_reported() -> None:
    facts, findings = examine_variables({"UPERNET_HOME": "/weights", "PATH": "/bin", "HF_TOKEN": "hf_secret"})
    assert facts["environment"] == {"UPERNET_HOME": "/weights", "HF_TOKEN": "set (not shown)"}
    assert findings == []


def test_an_interrupted_download_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPERNET_HOME", str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "whole.pth").write_bytes(bytes(1000))
    (tmp_path / "checkpoints" / "half.pth.part").write_bytes(bytes(2_000_000))
    run_dcnv3()
    facts, findings = examine_caches()
    (weights, *_) = facts["caches"]
    assert weights == {"content": "downloaded weights", "folder": str(tmp_path / "checkpoints"), "bytes": 2_001_000}
    (finding,) = [finding for finding in findings if "interrupted" in finding.problem]
    assert "half.pth" in finding.problem and "(2 MB so far)" in finding.problem and not finding.broken


def test_a_folder_that_cannot_be_written_is_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("UPERNET_HOME", str(tmp_path / "file"))
    broken = [finding for finding in examine_caches()[1] if finding.broken]
    assert [finding.fix for finding in broken] == ["set UPERNET_HOME to a folder that can be written"]


def test_compiled_kernels_are_found_where_numba_keeps_them() -> None:
    run_dcnv3()
    folders = compiled_kernels()
    assert any(folder.parent.name == "dcnv3" or "dcnv3" in folder.name for folder in folders)
    assert all(file.parent == folder for folder, files in folders.items() for file in files)


def test_the_size_of_a_folder_does_not_follow_links(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "file").write_bytes(bytes(100))
    (tmp_path / "other").write_bytes(bytes(1000))
    (tmp_path / "a" / "link").symlink_to(tmp_path / "other")
    assert size_of(tmp_path / "a") == 100
    assert size_of(tmp_path / "none") == 0


def test_dcnv3_agrees_with_torch() -> None:
    assert 0 <= run_dcnv3()["error"] < 1e-4


@pytest.mark.slow
def test_more_threads_than_cores_are_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", "64")
    try:
        set_threads(64)
        facts, findings = examine_torch()
    finally:
        torch.set_num_threads(before)
    assert facts["threads"]["used"] == 64
    assert facts["torch"]["bytes"]["torch"] > 50e6
    assert "unset OMP_NUM_THREADS" in [finding.fix for finding in findings]


@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="only Linux has /proc/meminfo")
def test_available_memory_is_that_of_free() -> None:
    printed = subprocess.run(["free", "-b"], capture_output=True, text=True).stdout.splitlines()[1].split()
    found = available_memory()
    assert found is not None and np.isclose(found, int(printed[6]), rtol=0.3)


def test_notes_break_nothing() -> None:
    note = Finding("a note", "nothing", broken=False)
    assert not Examination({}, [note]).is_broken
    assert Examination({}, [note, Finding("wrong", "mend it")]).to_dict()["broken"]
