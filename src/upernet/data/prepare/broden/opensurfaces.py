"""OpenSurfaces (Bell et al., SIGGRAPH 2013): materials, as its own script renders them.

The red channel of `photos-labels/ID.png` is a substance, listed in `label-substance-colors.csv`.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from io import StringIO
from pathlib import Path

import numpy as np

from upernet.data.images import read_color_mask
from upernet.data.prepare.broden.sources import (
    Flaw,
    Item,
    Reader,
    find_one,
    numbered_names,
    read_text,
    require_folder,
    split_by_name,
)
from upernet.errors import UpernetError


class OpenSurfaces(Reader):
    """OpenSurfaces below `folder`."""

    dataset = "opensurfaces"
    reduces = True
    scaled = True

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.names: dict[int, str] = {}

    def find(self) -> tuple[list[Item], list[Flaw]]:
        """List the photos of photos.csv; see `Reader.find`."""
        require_folder("--opensurfaces", self.folder)
        table = find_one(self.folder, ("photos.csv",), depth=2)
        colors = table and find_one(table.parent, ("label-substance-colors.csv",), depth=0)
        if not table or not colors:
            release = find_one(self.folder, ("photos.photo.json",), depth=2)
            found = "is the release as JSON" if release else "no photos.csv with label-substance-colors.csv in there"
            raise UpernetError(
                f"{release.parent if release else self.folder}: {found}; run process_opensurfaces_release_0.py of "
                "OpenSurfaces, which loads the photos and draws the label maps, then give the folder that it wrote to."
            )
        self.names = numbered_names(colors, _substances(colors))
        items: list[Item] = []
        flaws: list[Flaw] = []
        if not (identities := _column(table, "photo_id")):
            raise UpernetError(f"{table}: lists no photos; run the script of OpenSurfaces again.")
        for row, identity in enumerate(identities):
            photo = table.parent / "photos" / f"{identity}.jpg"
            mask = table.parent / "photos-labels" / f"{identity}.png"
            missing = next((path for path in (photo, mask) if not path.is_file()), None)
            if not identity.isdecimal() or missing:
                flaws.append(Flaw(self.dataset, identity[:40], "incomplete", f"{missing or photo}: is missing."))
                continue
            split = split_by_name(identity)
            items.append(Item(self.dataset, identity, split, photo, {"material": mask}, {}, row))
        return sorted(items, key=lambda item: item.name), flaws

    def read(self, item: Item) -> dict[str, np.ndarray]:
        """Return the numbers of substances; see `Reader.read`."""
        return {"material": read_color_mask(item.files["material"])[..., 0].astype(np.int32)}

    def keys(self, level: str) -> Mapping[int, str] | None:
        """Return the names of substances by their numbers; see `Reader.keys`."""
        del level
        return self.names


def _substances(path: Path) -> Iterator[tuple[int, str]]:
    numbers = _column(path, "red_color")
    for number, name in zip(numbers, _column(path, "substance_name"), strict=True):
        if number.isdecimal():
            yield int(number), substance_name(name)


def substance_name(name: str) -> str:
    """Return the name of a substance as assignments have it: `Plastic - clear` is `plastic-clear`."""
    return ";".join(part.replace(" - ", "-").strip().lower() for part in name.split("/"))


def _column(path: Path, column: str) -> list[str]:
    try:
        table = csv.DictReader(StringIO(read_text(path), newline=""), strict=True)
        rows = list(table)
    except csv.Error as error:
        raise UpernetError(f"{path}: is not a CSV file ({error}); run the script of OpenSurfaces again.") from None
    if rows and column not in (table.fieldnames or ()):
        raise UpernetError(f"{path}: has no column {column!r}; run the script of OpenSurfaces again.")
    return [str(row[column] or "") for row in rows]
