"""The Describable Textures Dataset (Cimpoi et al., CVPR 2014): one of 47 textures per photo, the name of its folder."""

from __future__ import annotations

from pathlib import Path

from upernet.data.prepare.broden.sources import (
    Flaw,
    Item,
    Reader,
    find_one,
    read_text,
    require_folder,
    split_by_name,
)
from upernet.errors import UpernetError


class Dtd(Reader):
    """DTD below `folder`: `images/TEXTURE/*.jpg`."""

    dataset = "dtd"

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def find(self) -> tuple[list[Item], list[Flaw]]:
        """List the photos; see `Reader.find`. The list of all photos, where there is one, tells which are missing."""
        require_folder("--dtd", self.folder)
        images = find_one(self.folder, ("images",), depth=2)
        photos = sorted(images.glob("*/*.jpg")) if images else []
        if not images or not photos:
            raise UpernetError(f"{self.folder}: no images/TEXTURE/*.jpg in there; give the folder of DTD.")
        listing = find_one(images.parent / "labels", ("labels_joint_anno.txt",), depth=0)
        lines = read_text(listing).splitlines() if listing else []
        rows = {fields[0]: row for row, line in enumerate(lines) if (fields := line.split(maxsplit=1))}
        items = [
            Item(
                self.dataset,
                photo.stem,
                split_by_name(photo.stem),
                photo,
                {},
                {"texture": photo.parent.name},
                rows.get(f"{photo.parent.name}/{photo.name}", -1),
            )
            for photo in photos
            if not photo.name.startswith(".")
        ]
        there = {f"{photo.parent.name}/{photo.name}" for photo in photos}
        flaws: list[Flaw] = []
        if missing := [name for name in rows if name not in there]:
            text = f"{images}: {len(missing)} of {len(rows)} listed photos are missing, first {missing[0][:200]}."
            flaws.append(Flaw(self.dataset, "", "incomplete", text))
        return items, flaws
