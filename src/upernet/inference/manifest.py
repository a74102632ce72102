"""The manifest of a folder of results: a line of JSON for each photo that is done, or that failed and why.

Lines are only appended, and each is written at once, so a process that is killed leaves at most a torn last line, which
is not read. The last line about a photo counts. Only one process writes to a folder at a time.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, cast

from filelock import FileLock, Timeout
from pydantic import TypeAdapter, ValidationError

from upernet.errors import UpernetError
from upernet.files import refuse_special_file

MANIFEST_FILE = "manifest.jsonl"
LOCK_FILE = ".lock"

Row = dict[str, str | int | float]


@dataclass(frozen=True)
class Record:
    """What became of a photo."""

    photo: str
    """Its path relative to the folder of the results, or its address; in a shard, followed by its path there."""
    folder: str
    """The folder of its results, relative to the folder of all."""
    version: str
    """What changes when the photo changes: size and time of the file, or an ETag; in a shard, that of the shard."""
    settings: str
    """Hash of everything else that decides on the results: the model and the options."""
    error: str | None = None
    """Why it failed; None: it is done."""
    shard: str | None = None
    """Path or address of its shard."""
    row: Row | None = None
    """Its row of summary.csv."""


@dataclass(frozen=True)
class Known:
    """What memory holds of the last record of a photo."""

    folder: str
    version: str
    settings: str
    done: bool
    shard: str | None
    start: int
    """Byte of the file at which its line begins."""


class Manifest:
    """The manifest in a folder, which is locked while this is open.

    Args:
        out: The folder; it exists.

    Raises:
        UpernetError: Another process has opened it, or it cannot be read or written.
    """

    def __init__(self, out: Path):
        self.path = out / MANIFEST_FILE
        self._lock = FileLock(out / LOCK_FILE, timeout=0)
        try:
            self._lock.acquire()  # pyright: ignore[reportUnknownMemberType]
        except Timeout:
            raise UpernetError(
                f"{out}: another process is saving parses there; wait for it, or choose another folder with --out."
            ) from None
        self._known: dict[str, Known] = {}
        try:
            refuse_special_file(self.path)
            self._file = open(self.path, "ab+", buffering=0)  # noqa: SIM115  # closed in __exit__
            for start, record in self._read():
                self._keep(record, start)
            self._end_line()
        except OSError as error:
            self._lock.release()
            raise self._failure(error) from None
        except UpernetError:
            self._lock.release()
            raise

    def __enter__(self) -> Manifest:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._file.close()
        finally:
            self._lock.release()

    def known(self) -> Mapping[str, Known]:
        """Return what is known of all photos: `Record.photo` -> the last record."""
        return self._known

    def add(self, record: Record) -> None:
        """Append a record.

        Raises:
            UpernetError: The disk is full, or the file cannot be written; nothing of the record is left then.
        """
        line = json.dumps(asdict(record), allow_nan=False).encode() + b"\n"
        try:
            start = self._file.seek(0, os.SEEK_END)
            if self._file.write(line) != len(line):
                self._file.truncate(start)
                raise OSError(0, "the disk is full")
        except OSError as error:
            raise self._failure(error) from None
        self._keep(record, start)

    def rows(self, photos: Iterable[str]) -> Iterator[Row]:
        """Yield the rows of summary.csv of photos, which have records."""
        with open(self.path, "rb") as file:
            for photo in photos:
                file.seek(self._known[photo].start)
                yield cast("dict[str, Any]", json.loads(file.readline()))["row"] or {}

    def _keep(self, record: Record, start: int) -> None:
        self._known[record.photo] = Known(
            record.folder, record.version, record.settings, record.error is None, record.shard, start
        )

    def _read(self) -> Iterator[tuple[int, Record]]:
        """Yield the records and where their lines begin; what is no record is left out."""
        start = 0
        with open(self.path, "rb") as file:
            for line in file:
                record = _record(line)
                if record is not None:
                    yield start, record
                start += len(line)

    def _end_line(self) -> None:
        """End a torn last line, so that the next one is whole."""
        if self._file.seek(0, os.SEEK_END):
            self._file.seek(-1, os.SEEK_END)
            if self._file.read(1) != b"\n":
                self._file.write(b"\n")

    def _failure(self, error: OSError) -> UpernetError:
        reason = error.strerror or error
        return UpernetError(
            f"{self.path}: cannot be written ({reason}); make room or choose another folder, and run the command again "
            "to go on."
        )


_RECORD = TypeAdapter(Record)


def _record(line: bytes) -> Record | None:
    try:
        # pydantic's own JSON has no place for file names that are not UTF-8.
        record = _RECORD.validate_python(json.loads(line))
    except (ValidationError, ValueError, RecursionError):
        return None
    inside = not os.path.isabs(record.folder) and ".." not in Path(record.folder).parts
    return record if inside else None
