"""Reading of MATLAB files (level 5), which are hostile until they have been checked."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any, cast

import numpy as np

from upernet.errors import UpernetError, plain
from upernet.files import refuse_special_file

MAX_BYTES = 2**28
"""Bytes that an annotation may unpack to; those of Pascal-Part have up to a few megabytes."""
_COMPRESSED = 15
_HEADER = 128


def read_matlab(path: Path, variable: str, limit: int = MAX_BYTES) -> np.ndarray[Any, Any]:
    """Return a variable of a MATLAB file; structs are arrays with fields, as `scipy.io.loadmat` returns them.

    Args:
        path: The file.
        variable: Name of the variable.
        limit: Most bytes that the file may unpack to.

    Raises:
        UpernetError: scipy is not installed, or the file is damaged, too large, or lacks the variable.
    """
    try:
        from scipy.io import loadmat  # pyright: ignore[reportMissingTypeStubs, reportUnknownVariableType]
    except ImportError:
        raise UpernetError(f"{path}: MATLAB files need scipy; run: pip install 'upernet[matlab]'.") from None
    refuse_special_file(path)
    try:
        _check_header(path, limit)
        values = loadmat(path, variable_names=[variable], chars_as_strings=True)  # pyright: ignore[reportUnknownVariableType]
    except UpernetError:
        raise
    except FileNotFoundError:
        raise UpernetError(f"{path}: no such file; unpack the archive again.") from None
    except Exception as error:  # scipy raises many types for damaged files
        reason = plain(str(error) or type(error).__name__, 100)
        raise UpernetError(f"{path}: the MATLAB file is damaged ({reason}); unpack the archive again.") from None
    found = values.get(variable)  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
    if not isinstance(found, np.ndarray):
        raise UpernetError(f"{path}: has no variable {variable!r}; unpack the archive again.")
    return cast("np.ndarray[Any, Any]", found)


def _check_header(path: Path, limit: int) -> None:
    """Refuse an HDF5 file, and one whose compressed elements would unpack to more than `limit` bytes in all."""
    too_large = UpernetError(f"{path}: would unpack to more than {limit:,} bytes; download the archive again.")
    if path.stat().st_size > limit:
        raise too_large
    total = 0
    with path.open("rb") as file:
        header = file.read(_HEADER)
        if header.startswith(b"MATLAB 7.3"):
            raise UpernetError(f"{path}: is a MATLAB 7.3 file, not the published one; unpack the archive again.")
        order = ">" if header[126:128] == b"MI" else "<"
        while len(tag := file.read(8)) == 8:
            kind, size = struct.unpack(f"{order}II", tag)
            if kind != _COMPRESSED:
                total += size
                file.seek(size, 1)
            else:
                total += _unpacked_size(file.read(size), limit)
            if total > limit:
                raise too_large


def _unpacked_size(content: bytes, limit: int) -> int:
    unpacker, total = zlib.decompressobj(), 0
    chunk = unpacker.decompress(content, 2**20)
    while chunk and total <= limit:
        total += len(chunk)
        chunk = unpacker.decompress(unpacker.unconsumed_tail, 2**20)
    return total
