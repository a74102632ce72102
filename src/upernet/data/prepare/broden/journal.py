"""Which photos are done: the index of the folder, and while photos are converted, a journal beside it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, cast

from filelock import BaseFileLock, FileLock, Timeout

from upernet.data.prepare.broden.sources import SPLITS
from upernet.errors import UpernetError
from upernet.files import write_text

SETTINGS = "settings.json"
JOURNAL = ".journal.jsonl"
Key = tuple[str, str]
"""Data set and name of a photo."""
Entry = dict[str, Any]
"""What is known of a photo that is done:

* `key`, `split`
* `files`: the kinds of its annotations
* `origin`: a digest of what it was made from
* `row` of the index; None: the photo was left out
* `flaws`, `unknown`, `classes`, `size`: see `Converted`
"""
_FIELDS = frozenset(("key", "split", "files", "origin", "row", "flaws", "unknown", "classes", "size"))
_TEMPORARY = re.compile(r"\..+-[a-z0-9_]{8}(\.\w+)?")
"""Names of the temporary files of `atomic_path`."""


class Journal:
    """The entries of the photos that are done. A killed run loses only the photos that it was working on.

    Args:
        folder: The folder that is prepared.
        settings: What decides on the result; a folder is not mixed from several.

    While it is open, no other run can write to the folder.

    Raises:
        UpernetError: The folder was prepared with other settings, another run is writing to it, or it cannot be
            written.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.folder = folder
        self.path = folder / JOURNAL
        _refuse_foreign(folder)
        self._lock = _lock(folder)
        try:
            _claim(folder, settings)
        except UpernetError:
            self._lock.release()
            raise
        self.entries: dict[Key, Entry] = {}
        for entry in _read(self.path):
            if all((folder / file).is_file() for file in files_of(entry)):
                self.entries[_key(entry)] = entry
        self._file: IO[str] | None = None

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *error: object) -> None:
        self._close()
        self._lock.release()

    def add(self, entry: Entry) -> None:
        """Note that a photo is done."""
        try:
            if self._file is None:
                self._file = self.path.open("a", encoding="utf-8")
                self._file.write("\n" if self._file.tell() else "")  # a kill may have cut off the last line
            self._file.write(json.dumps(entry) + "\n")
            self._file.flush()
        except OSError as error:
            raise UpernetError(
                f"{self.path}: writing failed ({error.strerror or error}); make room, then run the same command again."
            ) from None
        self.entries[_key(entry)] = entry

    def forget(self, keys: Iterable[Key]) -> None:
        """Drop photos, so that they are converted again or no longer listed."""
        for key in keys:
            self.entries.pop(key, None)

    def finish(self) -> None:
        """Write the index of each split, and the journal without what was forgotten; delete what kills left behind."""
        self._close()
        for rest in (rest for depth in (".*", "*/.*", "*/*/.*") for rest in self.folder.glob(depth)):
            if _TEMPORARY.fullmatch(rest.name):
                rest.unlink(missing_ok=True)
        ordered = [self.entries[key] for key in sorted(self.entries)]
        write_text(self.path, "".join(json.dumps(entry) + "\n" for entry in ordered))
        for split in SPLITS:
            rows = [entry["row"] for entry in ordered if entry["split"] == split and entry["row"]]
            index = self.folder / f"{split}.jsonl"
            if rows:
                write_text(index, "".join(json.dumps(row) + "\n" for row in rows))
            else:
                index.unlink(missing_ok=True)

    def _close(self) -> None:
        if self._file is not None:
            with suppress(OSError):  # a full disk, which `add` has complained about
                self._file.close()
            self._file = None


def files_of(entry: Entry) -> list[str]:
    """Return the files of a photo that is done."""
    row: dict[str, Any] = entry["row"] or {}
    return [value for key, value in row.items() if value and (key == "file" or key.endswith("_mask"))]


def _key(entry: Entry) -> Key:
    dataset, name = entry["key"]
    return dataset, name


def _read(path: Path) -> Iterator[Entry]:
    """Yield the entries of a journal; a line that was cut off by a kill is left out."""
    if not path.is_file():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                entry: object = json.loads(line)
            except ValueError:
                continue
            if isinstance(entry, dict) and set(cast("Entry", entry)) >= _FIELDS:
                yield cast("Entry", entry)


def _refuse_foreign(folder: Path) -> None:
    """Refuse a folder that holds something else; hidden files may be those of file managers, or of a killed run."""
    try:
        foreign = not (folder / SETTINGS).exists() and any(not path.name.startswith(".") for path in folder.iterdir())
    except OSError:  # it is not there yet, or no folder
        return
    if foreign:
        raise UpernetError(f"{folder}: is not empty, and was not prepared here; give another folder.")


def _lock(folder: Path) -> BaseFileLock:
    lock = FileLock(folder / ".lock", timeout=0)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()  # pyright: ignore[reportUnknownMemberType]
    except Timeout:
        raise UpernetError(f"{folder}: another run is writing to it; wait for its end.") from None
    except OSError as error:
        raise UpernetError(f"{folder}: cannot be written ({error.strerror}); choose another folder.") from None
    return lock


def _claim(folder: Path, settings: Mapping[str, Any]) -> None:
    """Write the settings, or compare them with those of an earlier run."""
    path = folder / SETTINGS
    text = json.dumps(settings, indent=2) + "\n"
    if path.is_file():
        if path.read_text(encoding="utf-8", errors="replace") != text:
            raise UpernetError(
                f"{folder}: was prepared with other options (see {path.name} there); give the same ones, or another "
                "folder."
            )
    else:
        write_text(path, text)
