"""Tests of upernet.ops.runtime.cores: cgroup quotas, CPU affinity, and the number of threads that follows."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upernet.ops.runtime.cores import affinity, cpu_quota, usable_cores

CONTROLLERS = "12:memory:/other\n4:cpu,cpuacct:{group}\n1:name=systemd:/\n"
V1 = "32 31 0:29 {top} /sys/fs/cgroup/cpu,cpuacct rw,nosuid - cgroup cgroup rw,cpu,cpuacct\n"
V1_MEMORY = "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
V2 = "31 23 0:28 {top} {at} rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
DISK = "23 1 8:1 / / rw,relatime - ext4 /dev/root rw\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return the root of a file system in which no cgroup is mounted."""
    write(tmp_path / "proc/self/mountinfo", DISK)
    return tmp_path


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="ascii")


def version_2(root: Path, group: str = "/", top: str = "/", at: str = "/sys/fs/cgroup", **limits: str) -> Path:
    """Mount cgroups of version 2; `limits` are the contents of `cpu.max` by the name of the group, with _ for /."""
    write(root / "proc/self/cgroup", f"0::{group}\n")
    write(root / "proc/self/mountinfo", DISK + V2.format(top=top, at=at))
    for name, limit in limits.items():
        write(root / at.lstrip("/") / name.strip("_").replace("_", "/") / "cpu.max", limit + "\n")
    return root


def version_1(root: Path, quota: int, group: str = "/", top: str = "/", folder: str = "") -> Path:
    """Mount cgroups of version 1 and set the quota of the group at `folder`, in microseconds per 0.1 s."""
    write(root / "proc/self/cgroup", CONTROLLERS.format(group=group))
    write(root / "proc/self/mountinfo", DISK + V1_MEMORY + V1.format(top=top))
    write(root / "sys/fs/cgroup/cpu,cpuacct" / folder / "cpu.cfs_quota_us", f"{quota}\n")
    write(root / "sys/fs/cgroup/cpu,cpuacct" / folder / "cpu.cfs_period_us", "100000\n")
    return root


def test_no_cgroups(root: Path, tmp_path: Path):
    assert cpu_quota(root) is None and cpu_quota(tmp_path / "empty") is None
    assert usable_cores(root) == len(affinity())


def test_a_group_without_a_limit(root: Path):
    assert cpu_quota(version_2(root, _="max 100000")) is None
    assert cpu_quota(version_1(root, -1)) is None


def test_a_container_of_version_2(root: Path):
    assert cpu_quota(version_2(root, _="150000 100000")) == 1.5


def test_the_lowest_limit_of_all_groups_above_holds(root: Path):
    groups = {"_": "max 100000", "user.slice": "300000 200000", "user.slice_job": "400000 100000"}
    assert cpu_quota(version_2(root, "/user.slice/job", **groups)) == 1.5


def test_version_2_beside_version_1(root: Path):
    assert cpu_quota(version_2(root, at="/sys/fs/cgroup/unified", _="50000 100000")) == 0.5


@pytest.mark.parametrize(("top", "folder"), [("/", "docker/abc"), ("/docker/abc", ""), ("/docker", "abc")])
def test_version_1_shows_the_group_at_the_mount_or_below(root: Path, top: str, folder: str):
    assert cpu_quota(version_1(root, 250000, "/docker/abc", top, folder)) == 2.5


def test_a_mount_that_does_not_show_the_own_group(root: Path):
    assert cpu_quota(version_1(root, 250000, "/docker/abc", "/elsewhere")) == 2.5
    assert cpu_quota(version_2(root, "/../other", _="150000 100000")) in (None, 1.5)


@pytest.mark.parametrize("limit", ["", "max", "100000", "a b", "100000 0", "0 100000"])
def test_contents_that_are_no_limit(root: Path, limit: str):
    assert cpu_quota(version_2(root, _=limit)) is None


@pytest.mark.parametrize(("quota", "cores"), [(1, 1), (0.2, 1), (0.5, 1), (1.4, 1), (1.5, 2), (2.4, 2), (64, 64)])
def test_quotas_are_rounded_to_whole_cores(root: Path, quota: float, cores: int):
    version_2(root, _=f"{int(quota * 100000)} 100000")
    assert usable_cores(root) == min(cores, len(affinity()))


@given(quota=st.integers(1, 10**9), period=st.integers(1000, 10**6))
def test_a_process_may_use_one_core_at_least_and_its_affinity_at_most(
    tmp_path_factory: pytest.TempPathFactory, quota: int, period: int
):
    root = version_2(tmp_path_factory.mktemp("root"), _=f"{quota} {period}")
    cores = usable_cores(root)
    assert 1 <= cores <= len(affinity())
    assert abs(cores - quota / period) <= 0.5 or cores in (1, len(affinity()))


ONE_CORE = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
TORCH = "import torch; torch.get_num_threads()\n"
CHOICE = "import os, torch; torch.set_num_threads(os.cpu_count() + 1)\n"
LATER = "import upernet.ops, torch; torch.set_num_threads(3)\n"
COUNT = """
import sys
from pathlib import Path
import torch
from upernet.ops import set_threads
print(set_threads(root=Path(sys.argv[1])), torch.get_num_threads())
"""


def threads(script: str, root: Path, **environment: str) -> list[int]:
    """Return what `set_threads` and torch say in a new process that runs `script` first."""
    command = [sys.executable, "-c", script + COUNT, str(root)]
    unset = {name: value for name, value in os.environ.items() if name not in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=unset | environment)
    assert done.returncode == 0, done.stderr
    return [int(number) for number in done.stdout.split()]


@pytest.mark.slow
@pytest.mark.process
def test_a_container_with_a_quota_of_one_core_has_one_thread(root: Path):
    assert threads("", version_2(root, _="100000 100000")) == [1, 1]


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs CPU affinity")
@pytest.mark.parametrize("script", [ONE_CORE, TORCH + ONE_CORE], ids=["before torch", "after torch"])
def test_a_process_on_one_core_has_one_thread(root: Path, script: str):
    assert threads(script, root) == [1, 1]


@pytest.mark.slow
@pytest.mark.process
def test_the_users_choice_holds(root: Path):
    version_2(root, _="100000 100000")
    assert threads("", root, OMP_NUM_THREADS="2") == [min(2, len(affinity()))] * 2  # MKL sees to the limit
    assert threads(CHOICE, root) == [(os.cpu_count() or 1) + 1] * 2
    if (os.cpu_count() or 1) not in (3, 6):
        assert threads(LATER, root) == [3, 3]
