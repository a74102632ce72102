"""How many CPU cores this process may use.

Torch starts one thread per core of the CPU affinity. A container may have less: its cgroup has a *quota*, the CPU time
that its processes get per second. Threads beyond the quota do not compute more; they only make the others wait.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import torch

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
"""Environment variables with which users choose the number of threads."""


def set_threads(threads: int | None = None, root: Path = Path("/")) -> int:
    """Set the number of CPU threads that torch and our kernels use, and return it.

    Importing `upernet.ops` does this once, without a number. What the user sets later, here or with
    `torch.set_num_threads`, holds.

    Args:
        threads: Number of threads. Default: at most the cores that this process may use, unless the user chose a number
            by an environment variable or an earlier call.
        root: Folder that contains `proc` and `sys`, from which the cgroup quota is read.
    """
    if threads is None and not _chosen():
        threads = min(torch.get_num_threads(), usable_cores(root))
    if threads is not None and threads != torch.get_num_threads():
        torch.set_num_threads(threads)
    return torch.get_num_threads()


def _chosen() -> bool:
    """Return whether the user chose the number of threads; torch starts one per core, or per pair of hyperthreads."""
    counts = (len(affinity()), os.cpu_count() or 1)
    defaults = {max(1, count // threads) for count in counts for threads in (1, 2)}
    return any(os.environ.get(name) for name in THREAD_VARIABLES) or torch.get_num_threads() not in defaults


def usable_cores(root: Path = Path("/")) -> int:
    """Return how many cores the affinity and the cgroup quota of this process allow, at least 1.

    A quota that is not a whole number is rounded to the nearest one.

    Args:
        root: Folder that contains `proc` and `sys`.
    """
    quota = cpu_quota(root)
    return len(affinity()) if quota is None else max(1, min(len(affinity()), int(quota + 0.5)))


def affinity() -> set[int]:
    """Return the numbers of the cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))  # macOS and Windows


def cpu_quota(root: Path = Path("/")) -> float | None:
    """Return the CPU seconds per second that the cgroups of this process allow, or None if they set no limit.

    Both versions of cgroups are read. The limits of all groups above the process's own hold as well.

    Args:
        root: Folder that contains `proc` and `sys`.
    """
    return min((quota for folder in _cpu_groups(root) if (quota := _quota_of(folder)) is not None), default=None)


def _cpu_groups(root: Path) -> Iterator[Path]:
    """Yield the folders of this process's cgroups with a CPU controller, and of all groups above (man 7 cgroups)."""
    groups = {}
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers or "cpu" in controllers.split(","):
            groups["cgroup" if controllers else "cgroup2"] = PurePosixPath(path)
    for line in _read(root / "proc/self/mountinfo").splitlines():
        mount, _, kind_and_options = line.partition(" - ")
        kind, _, options = kind_and_options.split(" ", 2)
        if kind not in groups or (kind == "cgroup" and "cpu" not in options.split(" ")[-1].split(",")):
            continue
        top, mounted_at = mount.split(" ")[3:5]
        # In a container without a cgroup namespace, the mount shows the container's own group as its top.
        inside = groups[kind].relative_to(top) if groups[kind].is_relative_to(top) else PurePosixPath()
        if ".." not in inside.parts:
            folder = root / mounted_at.lstrip("/")
            yield from (folder / group for group in (inside, *inside.parents))


def _quota_of(group: Path) -> float | None:
    """Return the CPU seconds per second that one cgroup allows, or None if it sets no limit."""
    limit = _read(group / "cpu.max") or f"{_read(group / 'cpu.cfs_quota_us')} {_read(group / 'cpu.cfs_period_us')}"
    try:
        quota, period = map(int, limit.split())
        return quota / period if quota > 0 else None
    except (ValueError, ZeroDivisionError):  # "max", or no such file
        return None


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError:
        return ""
