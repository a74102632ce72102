"""Folders in which the package keeps files between runs."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from upernet.doctor.finding import Facts, Finding
from upernet.doctor.machine import size_of
from upernet.errors import UpernetError

LITTLE_DISK = 2 * 10**9
"""Bytes of free disk space below which a download may fail; the largest published file is larger still."""


def examine_caches() -> tuple[Facts, list[Finding]]:
    """Return place, size and free space of downloaded weights, of the Hub's cache and of compiled kernels."""
    from huggingface_hub.constants import HF_HUB_CACHE

    from upernet.checkpoints.zoo import checkpoints_folder
    from upernet.ops.runtime.availability import compiled_kernels

    rows: list[Facts] = []
    findings: list[Finding] = []
    try:
        weights = checkpoints_folder()
    except UpernetError as error:
        findings.append(Finding("there is no folder for downloaded weights", str(error)))
    else:
        rows.append(_row("downloaded weights", weights))
        findings += _examine_downloads(weights)
    rows.append(_row("Hugging Face Hub", Path(HF_HUB_CACHE)))
    kernels = compiled_kernels()
    rows += [
        {"content": "compiled kernels", "folder": str(folder), "bytes": sum(file.stat().st_size for file in files)}
        for folder, files in kernels.items()
    ]
    if not kernels:
        findings.append(
            Finding(
                "compiled kernels cannot be kept, so each process compiles them again",
                "set NUMBA_CACHE_DIR to a folder that can be written",
                broken=False,
            )
        )
    return {"caches": rows}, findings


def _row(content: str, folder: Path) -> Facts:
    return {"content": content, "folder": str(folder), "bytes": size_of(folder)}


def _examine_downloads(folder: Path) -> list[Finding]:
    findings: list[Finding] = []
    existing = next(place for place in (folder, *folder.parents) if place.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        return [
            Finding(
                f"{existing} cannot be written, so weights cannot be downloaded",
                "set UPERNET_HOME to a folder that can be written",
            )
        ]
    free = shutil.disk_usage(existing).free
    if free < LITTLE_DISK:
        findings.append(
            Finding(
                f"only {free / 1e9:.1f} GB are free where downloaded weights are kept ({folder})",
                "make room, or set UPERNET_HOME to a folder on another disk",
                broken=False,
            )
        )
    findings += [
        Finding(
            f"the download of {part.stem} was interrupted ({part.stat().st_size / 1e6:.0f} MB so far)",
            f"run its command again, which continues it, or delete {part}",
            broken=False,
        )
        for part in sorted(folder.glob("*.part"))
    ]
    return findings
