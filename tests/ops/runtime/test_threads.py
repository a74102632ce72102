"""Tests of upernet.ops.runtime.threads: Numba kernels in forked processes and in read-only installations."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import upernet

CALL = """
import torch
torch.set_num_threads(2)
from upernet.ops import choose_dcnv3, dcnv3, use_kernel
generator = torch.Generator().manual_seed(0)
x = torch.randn(1, 8, 8, 32, generator=generator)
offset, mask = torch.randn(1, 8, 8, 36, generator=generator), torch.rand(1, 8, 8, 18, generator=generator)
def call():
    with use_kernel(dcnv3="numba"):
        return dcnv3(x, offset, mask, groups=2)
"""

FORK = """
import os, sys
expected = call()
(torch.randn(300, 300) @ torch.randn(300, 300)).sum()  # torch's own threads are busy too
child = os.fork()
if child == 0:
    os._exit(0 if all(torch.equal(call(), expected) for _ in range(50)) else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert torch.equal(call(), expected)
"""

NO_CACHE = """
with use_kernel(dcnv3="torch"):
    torch.testing.assert_close(call(), dcnv3(x, offset, mask, groups=2))
assert choose_dcnv3(x).kernel == "numba", choose_dcnv3(x)
"""

FULL_DISK = """
import numba.core.caching
def save(*_):
    raise OSError(28, "No space left on device")
numba.core.caching.IndexDataCacheFile.save = save
"""


def run(script: str, **environment: str) -> None:
    command = [sys.executable, "-B", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=os.environ | environment)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_may_call() -> None:
    run(CALL + FORK)


@pytest.fixture
def read_only_package(tmp_path: Path) -> Path:
    """Copy the operators to a folder beside which nothing can be cached, whoever runs the test."""
    copy = tmp_path / "site" / "upernet"
    shutil.copytree(Path(upernet.__file__).parent / "ops", copy / "ops", ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "__init__.py").touch()
    for folder in [copy / "ops", *(path for path in (copy / "ops").iterdir() if path.is_dir())]:
        (folder / "__pycache__").touch()  # a file where the directory would be
    return copy.parent


@pytest.mark.slow
def test_nothing_is_writable(read_only_package: Path) -> None:
    run(CALL + NO_CACHE, PYTHONPATH=str(read_only_package), HOME=os.devnull, XDG_CACHE_HOME=os.devnull)


@pytest.mark.slow
def test_the_users_cache_serves_a_read_only_install(read_only_package: Path, tmp_path: Path) -> None:
    places = {
        "PYTHONPATH": str(read_only_package),
        "HOME": str(tmp_path),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }
    own = CALL + NO_CACHE + "from upernet.ops.dcnv3.cpu import _forward; "
    run(own + "assert not _forward.stats.cache_hits", **places)
    run(own + "assert not _forward.stats.cache_misses", **places)


@pytest.mark.slow
def test_a_full_disk(read_only_package: Path, tmp_path: Path) -> None:
    run(FULL_DISK + CALL + NO_CACHE, PYTHONPATH=str(read_only_package), NUMBA_CACHE_DIR=str(tmp_path / "cache"))
