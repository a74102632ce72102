"""The counts of all photos: a file in the output folder that later runs continue, or a temporary one.

It is a SQLite database, because a killed process must not damage it, and it may be larger than the memory.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from upernet.discovery.counts import PhotoCounts
from upernet.errors import UpernetError

FORMAT = 1
"""Format of the table; a file of another one is refused."""
APPLICATION = 0x75706572
"""Mark of our files in the header of the database."""
AT_ONCE = 64
"""Number of photos after which their counts are on the disk."""


@dataclass(frozen=True)
class StoredPhoto:
    """The counts of one photo, and where it is from."""

    key: str
    """Name of the parse, unique and independent of the place of the folder."""
    folder: str | None
    """Folder of the saved parse."""
    photo: str | None
    """Path of the photo."""
    counts: PhotoCounts


class Store:
    """The counts of all photos, by key."""

    def __init__(self, connection: sqlite3.Connection):
        self._connection = connection
        self._waiting = 0

    def has(self, key: str, stamp: str) -> bool:
        """Mark the parse `key` as still there, and return whether it is counted, and has not changed since.

        Args:
            key: Name of the parse.
            stamp: What changes if the parse is written again.
        """
        update = "UPDATE photos SET seen = 1 WHERE key = ? AND stamp = ?"
        return self._connection.execute(update, (os.fsencode(key), os.fsencode(stamp))).rowcount > 0

    def twin(self, photo: str) -> str | None:
        """Return the key of a parse of the same photo that this run has seen; None if there is none."""
        query = "SELECT key FROM photos WHERE photo = ? AND seen = 1 LIMIT 1"
        row = self._connection.execute(query, (os.fsencode(photo),)).fetchone()
        return None if row is None else os.fsdecode(row[0])

    def add(self, photo: StoredPhoto, stamp: str) -> None:
        """Add the counts of a photo, or replace them."""
        folder, path = (None if name is None else os.fsencode(name) for name in (photo.folder, photo.photo))
        self._connection.execute(
            "INSERT OR REPLACE INTO photos VALUES (?, ?, ?, ?, ?, 1)",
            (os.fsencode(photo.key), os.fsencode(stamp), folder, path, photo.counts.to_json()),
        )
        self._waiting += 1
        if self._waiting >= AT_ONCE:
            self.flush()

    def flush(self) -> None:
        """Write everything to the disk."""
        self._connection.commit()
        self._waiting = 0

    def forget_others(self) -> None:
        """Remove the photos whose parse this run has not seen."""
        self._connection.execute("DELETE FROM photos WHERE seen = 0")
        self.flush()

    def __len__(self) -> int:
        return int(self._connection.execute("SELECT COUNT(*) FROM photos").fetchone()[0])

    def __iter__(self) -> Iterator[StoredPhoto]:
        """Iterate over the photos, in the order of their keys, reading them from the disk one by one."""
        for key, folder, photo, counts in self._connection.execute(
            "SELECT key, folder, photo, counts FROM photos ORDER BY key"
        ):
            folder, photo = (None if name is None else os.fsdecode(name) for name in (folder, photo))
            yield StoredPhoto(os.fsdecode(key), folder, photo, PhotoCounts.from_json(counts))


@contextmanager
def open_store(path: Path | None) -> Generator[Store, None, None]:
    """Open the store at `path`, creating it if it does not exist; None: a temporary one.

    Raises:
        UpernetError: The file is something else, is damaged, or cannot be written.
    """
    name = "" if path is None else str(path)
    try:
        connection = sqlite3.connect(name)
        try:
            _prepare(connection, name)
            store = Store(connection)
            yield store
        finally:
            connection.commit()
            connection.close()
    except sqlite3.DatabaseError as error:
        raise UpernetError(
            f"{name or 'the temporary file'}: the counts cannot be read or written ({error}); "
            "make room on the disk, or remove the file to count again."
        ) from None


def _prepare(connection: sqlite3.Connection, name: str) -> None:
    (application,), (version,) = (
        connection.execute(f"PRAGMA {key}").fetchone() for key in ("application_id", "user_version")
    )
    is_new = connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0] == 0
    if not is_new and (application, version) != (APPLICATION, FORMAT):
        raise UpernetError(f"{name}: is not a file of counts of this version of upernet; remove it to count again.")
    if is_new:
        connection.execute(f"PRAGMA application_id = {APPLICATION}")
        connection.execute(f"PRAGMA user_version = {FORMAT}")
        connection.execute(
            "CREATE TABLE photos (key BLOB PRIMARY KEY, stamp BLOB, folder BLOB, photo BLOB, counts TEXT, seen INTEGER)"
        )
        connection.execute("CREATE INDEX photo ON photos (photo)")
    connection.execute("UPDATE photos SET seen = 0")
    connection.commit()
