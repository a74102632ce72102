"""Files wherever they are: on the disk, on the web, and in object stores, which fsspec reads."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Generator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, BinaryIO, cast

from upernet.errors import UpernetError, printable
from upernet.files import refuse_special_file
from upernet.inference import web
from upernet.inference.web import is_address

STORES = {
    "s3": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "az": "adlfs",
    "abfs": "adlfs",
    "hdfs": "pyarrow",
    "hf": "huggingface_hub",
    "memory": "fsspec",
}
"""Scheme of an address in an object store -> the package that fsspec needs for it. Others are refused: fsspec also
reads local files by address, and chains of addresses."""


def scheme_of(address: str) -> str:
    """Return the scheme of an address, in lower case."""
    return address.partition("://")[0].lower()


def is_stored(path: str) -> bool:
    """Return whether `path` is an address in an object store."""
    return is_address(path) and scheme_of(path) in STORES


def check_address(address: str) -> None:
    """Refuse an address that cannot be read.

    Raises:
        UpernetError: It is neither on the web nor in an object store.
    """
    scheme = scheme_of(address)
    if scheme not in (*web.SCHEMES, *STORES) or (scheme in STORES and "::" in address):
        known = ", ".join(f"{name}://" for name in (*web.SCHEMES, *STORES))
        raise UpernetError(f"{address}: photos come from files and from addresses with {known} only; download it.")


def read(address: str) -> bytes:
    """Return the content of a photo on the web or in an object store.

    Raises:
        UpernetError: The file cannot be read, or has more than `web.LARGEST` bytes.
    """
    check_address(address)
    if not is_stored(address):
        return web.fetch(address)
    with open_stream(address) as file:
        content = file.read(web.LARGEST + 1)
    if len(content) > web.LARGEST:
        raise UpernetError(f"{address}: has more than {web.LARGEST >> 20} MiB; download and reduce it first.")
    return content


@contextmanager
def open_stream(path: str) -> Generator[BinaryIO, None, None]:
    """Open a file anywhere, of any size, to be read from its beginning to its end.

    Raises:
        UpernetError: The file cannot be opened or read.
    """
    if not is_address(path):
        refuse_special_file(path)
        with _one_sentence(path, "check the path and its permissions"), open(path, "rb") as file:
            yield file
        return
    check_address(path)
    if not is_stored(path):
        with web.stream(path) as file:
            yield file
        return
    with store(path) as (system, name), system.open(name, "rb", cache_type="readahead") as file:
        yield cast(BinaryIO, file)


def version_of(path: str) -> str:
    """Return what changes when a file changes: size and time of a local file, the ETag on the web and in a store.

    Returns:
        "" where a server does not say.

    Raises:
        UpernetError: The file cannot be found.
    """
    if not is_address(path):
        with _one_sentence(path, "check the path"):
            status = os.stat(path)
        return f"{status.st_size}-{status.st_mtime_ns}"
    check_address(path)
    if not is_stored(path):
        return web.version(path)
    with store(path) as (system, name):
        about: dict[str, Any] = system.info(name)
    tag = next((about[key] for key in ("ETag", "etag", "md5Hash", "blob_id") if about.get(key)), None)
    time = next((about[key] for key in ("LastModified", "mtime", "updated", "created") if about.get(key)), "")
    return str(tag or f"{about.get('size')}-{time}")


def list_stored(address: str) -> list[str]:
    """Return the addresses of the files that a folder or a pattern in a store stands for, or of the one file, sorted.

    Raises:
        UpernetError: The store cannot be read, or there is nothing.
    """
    check_address(address)
    with store(address) as (system, name):
        if any(character in name for character in "*?["):
            matches: dict[str, dict[str, Any]] = system.glob(name, detail=True)
            found = [path for path, about in matches.items() if about["type"] == "file" and not _is_hidden(path)]
        elif system.isfile(name):
            return [address]
        else:
            found = cast("list[str]", system.find(name))
        if not found:
            raise UpernetError(f"{address}: there is no such file or folder, or no file in it; check the address.")
        return sorted(system.unstrip_protocol(path) for path in found)


def _is_hidden(path: str) -> bool:
    return posixpath.basename(path).startswith(".")


def joined(base: str, name: str) -> str:
    """Return the path or address of a file that is named relative to the folder of `base`."""
    if is_address(name) or not is_address(base):
        return name if is_address(name) else os.path.join(os.path.dirname(base), name)
    return f"{posixpath.dirname(base)}/{name}"


@contextmanager
def store(address: str) -> Generator[tuple[Any, str], None, None]:
    """Yield the file system of fsspec and the name of a file in it, with one sentence for what goes wrong.

    Raises:
        UpernetError: The package for the store is not installed, or the store refuses.
    """
    fsspec: Any = import_module("fsspec.core")  # here, because most photos are files
    scheme = scheme_of(address)
    system: Any
    name: str
    try:
        system, name = fsspec.url_to_fs(address)
    except ImportError:
        raise UpernetError(
            f"{address}: {scheme}:// needs a package that is not installed; run: pip install {STORES[scheme]}."
        ) from None
    except Exception as error:  # each store raises exceptions of its own
        raise _unreadable(address, error) from None
    try:
        yield system, name
    except UpernetError:
        raise
    except Exception as error:
        raise _unreadable(address, error) from None


def _unreadable(address: str, error: Exception) -> UpernetError:
    if isinstance(error, FileNotFoundError):
        return UpernetError(f"{address}: no such file; check the address.")
    reason = printable(error).rstrip(".") or type(error).__name__
    return UpernetError(f"{address}: cannot be read ({reason}); check the address and your access to it.")


@contextmanager
def _one_sentence(path: str, fix: str) -> Generator[None, None, None]:
    try:
        yield
    except (OSError, ValueError) as error:
        raise UpernetError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error}); {fix}.") from None
