"""Shards with whatever members a test wants."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable
from pathlib import Path


def write_shard(path: Path, members: Iterable[tuple[str, bytes]], format: int = tarfile.PAX_FORMAT) -> Path:
    """Write a .tar file; names may occur twice, and lead anywhere."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=format) as archive:
        for name, content in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path
