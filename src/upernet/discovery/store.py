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

FORMAT = 2
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
    model: str
    """Name of the model that parsed the photo."""
    counts: PhotoCounts


class Store:
    """The counts of all photos, by key."""

    def __init__(self, connection: sqlite3.Connection):
        self._connection = connection
        self._waiting = 0

    def find(self, stamp: str) -> tuple[str | None, bool] | None:
        """Return the path of the photo of a parse that is counted, and whether this run has seen it.

        Args:
            stamp: Where the parse is, and what changes if it is written again.

        Returns:
            None if the parse is not counted, or has changed since.
        """
        query = "SELECT photo, seen FROM photos WHERE stamp = ?"
        row = self._connection.execute(query, (os.fsencode(stamp),)).fetchone()
        return None if row is None else (None if row[0] is None else os.fsdecode(row[0]), bool(row[1]))

    def keep(self, key: str, stamp: str) -> None:
        """Mark a parse that is counted as seen by this run, which calls it `key`."""
        update = "UPDATE OR REPLACE photos SET key = ?, seen = 1 WHERE stamp = ?"
        self._connection.execute(update, (os.fsencode(key), os.fsencode(stamp)))

    def twin(self, photo: str) -> str | None:
        """Return the key of a parse of the same photo that this run has seen; None if there is none."""
        query = "SELECT key FROM photos WHERE photo = ? AND seen = 1 LIMIT 1"
        row = self._connection.execute(query, (os.fsencode(photo),)).fetchone()
        return None if row is None else os.fsdecode(row[0])

    def add(self, photo: StoredPhoto, stamp: str) -> None:
        """Add the counts of a photo, or replace them."""
        folder, path = (None if name is None else os.fsencode(name) for name in (photo.folder, photo.photo))
        self._connection.execute(
            "INSERT OR REPLACE INTO photos VALUES (?, ?, ?, ?, ?, ?, 1)",
            (
                os.fsencode(photo.key),
                os.fsencode(stamp),
                folder,
                path,
                os.fsencode(photo.model),
                photo.counts.to_json(),
            ),
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

    def models(self) -> dict[str, int]:
        """Return the number of photos of each model, by name."""
        query = "SELECT model, COUNT(*) FROM photos GROUP BY model ORDER BY model"
        return {os.fsdecode(model): photos for model, photos in self._connection.execute(query)}

    def __len__(self) -> int:
        return int(self._connection.execute("SELECT COUNT(*) FROM photos").fetchone()[0])

    def __iter__(self) -> Iterator[StoredPhoto]:
        """Iterate over the photos, in the order of their keys, reading them from the disk one by one."""
        for key, folder, photo, model, counts in self._connection.execute(
            "SELECT key, folder, photo, model, counts FROM photos ORDER BY key"
        ):
            folder, photo = (None if name is None else os.fsdecode(name) for name in (folder, photo))
            try:
                found = PhotoCounts.from_json(counts)
            except (ValueError, TypeError, AttributeError) as error:
                raise sqlite3.DatabaseError(f"damaged counts: {error}") from None
            yield StoredPhoto(os.fsdecode(key), folder, photo, os.fsdecode(model), found)


@contextmanager
def open_store(path: Path | None) -> Generator[Store, None, None]:
    """Open the store at `path`, creating it if it does not exist; None: a temporary one.

    Raises:
        UpernetError: The file is something else, is damaged, cannot be written, or another run is using it.
    """
    name = "" if path is None else str(path)
    try:
        connection = sqlite3.connect(name, timeout=0)
        try:
            _prepare(connection, name)
            store = Store(connection)
            yield store
        finally:
            connection.commit()
            connection.close()
    except sqlite3.DatabaseError as error:
        if "locked" in str(error):
            raise UpernetError(
                f"{name}: another run is counting into this file; wait until it has ended, or choose another folder."
            ) from None
        raise UpernetError(
            f"{name or 'the temporary file'}: the counts cannot be read or written ({error}); "
            "make room on the disk, or remove the file to count again."
        ) from None


def _prepare(connection: sqlite3.Connection, name: str) -> None:
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")  # two runs would take each other's photos for removed ones
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
            "CREATE TABLE photos (key BLOB PRIMARY KEY, stamp BLOB, folder BLOB, photo BLOB, model BLOB, counts TEXT, "
            "seen INTEGER)"
        )
        connection.execute("CREATE INDEX stamp ON photos (stamp)")
        connection.execute("CREATE INDEX photo ON photos (photo)")
    connection.execute("UPDATE photos SET seen = 0")
    connection.commit()
