"""A disk that becomes full."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

needs_file_size_limit = pytest.mark.skipif(sys.platform == "win32", reason="limits on file sizes are a matter of Unix")


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond `size` bytes, which stands for a full disk."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))  # Python ignores the signal, so writes raise OSError
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
