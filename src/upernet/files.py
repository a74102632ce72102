"""Atomic writing of files, and what is never read as one."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from upernet.errors import UpernetError

if TYPE_CHECKING:
    from torch import Tensor


@contextmanager
def atomic_path(path: str | Path) -> Generator[Path, None, None]:
    """Yield a temporary path, which replaces `path` when the block ends without an exception.

    The temporary file is in the folder of `path` and has its suffix, because writers look at the suffix. Missing parent
    folders are created. If the block fails, an earlier file at `path` does not change.

    Raises:
        UpernetError: The folder cannot be created or written, or the disk is full.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
        os.close(handle)
    except OSError as error:
        raise UpernetError(f"{path}: cannot be written ({error.strerror}); choose another folder.") from error
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    except OSError as error:
        raise UpernetError(f"{path}: writing failed ({error.strerror or error}); nothing was changed.") from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_files(path: str | Path) -> Generator[Path, None, None]:
    """Yield a path of the same name in a temporary folder, for writers that put further files beside `path`.

    When the block ends without an exception, all files in that folder move to the folder of `path`, `path` itself last.
    Missing parent folders are created. If the block fails, earlier files do not change, and nothing is left behind.

    Raises:
        UpernetError: The folder cannot be created or written, or the disk is full.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(prefix=f".{path.stem}-", dir=path.parent)
    except OSError as error:
        raise UpernetError(f"{path}: cannot be written ({error.strerror}); choose another folder.") from error
    try:
        with folder as name:
            yield Path(name) / path.name
            for file in sorted(Path(name).iterdir(), key=lambda file: file.name == path.name):
                with open(file, "rb+") as written:
                    os.fsync(written.fileno())
                file.replace(path.with_name(file.name))
    except OSError as error:
        raise UpernetError(f"{path}: writing failed ({error.strerror or error}); nothing was changed.") from error


def write_safetensors(path: str | Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write tensors and metadata to `path` atomically. Raises the errors of `atomic_path`."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    with atomic_path(path) as temporary:
        try:
            save_file(tensors, temporary, metadata=metadata)
        except SafetensorError as error:  # raised when the disk is full; not an OSError
            raise OSError(str(error)) from error


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 `text` to `path` atomically. Raises the errors of `atomic_path`."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")  # file names may hold other bytes


def read_limited(path: str | Path, limit: int) -> bytes:
    """Return the content of a file that people wrote.

    Raises:
        UpernetError: It is a pipe or a device, or has more than `limit` bytes.
        OSError: It cannot be read.
    """
    refuse_special_file(path)
    with open(path, "rb") as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise UpernetError(f"{path}: has more than {limit:,} bytes, which is too much for such a file; check the path.")
    return content


def refuse_special_file(path: str | Path) -> None:
    """Refuse a pipe, a socket or a device, whose reading could wait or go on for ever; everything else passes.

    Raises:
        UpernetError: `path` is one of these.
    """
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):  # whoever opens it says why it cannot be opened
        return
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise UpernetError(f"{path}: is a pipe or a device, not a file; save its content to a file first.")
