"""ADE20K, the releases of 2016 and 2021: objects, parts, scenes.

Coding of the label maps (both releases, README of CSAILVision/ADE20K): class = R // 10 * 256 + G, instance = B. Only
the first level of parts is used, as published.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from upernet.data.images import read_color_mask
from upernet.data.prepare.broden.ade20k_index import Index, read_index
from upernet.data.prepare.broden.sources import Flaw, Item, Reader, Split, find_one, read_text, require_folder
from upernet.errors import UpernetError

NO_SCENE = frozenset(("misc", "outliers", "unclassified", "-", ""))
"""Scenes that say nothing."""
_SPLITS: Mapping[str, Split] = {"training": "train", "validation": "val"}


class Ade20k(Reader):
    """The full ADE20K below `folder`, or below one folder in it."""

    dataset = "ade20k"
    reduces = True

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.index: Index | None = None
        self.object_names: Mapping[int, str] = {}

    def find(self) -> tuple[list[Item], list[Flaw]]:
        """List the photos; see `Reader.find`. The index, where there is one, tells which are missing."""
        require_folder("--ade20k", self.folder)
        names = [f"index_ade20k.{suffix}" for suffix in ("pkl", "json", "mat")]
        index_file = find_one(self.folder, names, depth=1)
        items: dict[str, Item] = {}
        flaws: list[Flaw] = []
        try:
            self.index = read_index(index_file) if index_file else None
        except UpernetError as error:  # the photos can be read without it
            flaws.append(Flaw(self.dataset, "", "damaged", str(error)))
        self.object_names = self.index.names if self.index else {}
        scenes = self._listed_scenes()
        rows = {name: row for row, name in enumerate(self.index.photos)} if self.index else {}
        for photo, folders, files_beside in self._photos():
            name = photo.stem
            if name in items:
                other = items[name].photo
                raise UpernetError(f"{photo}: has the name of {other}; give --ade20k the folder of one release.")
            mask = photo.with_name(f"{name}_seg.png")
            if mask.name not in files_beside:
                flaws.append(Flaw(self.dataset, name, "unannotated", f"{photo}: has no label map {mask.name}."))
                continue
            files = {"object": mask}
            if (part := photo.with_name(f"{name}_parts_1.png")).name in files_beside:
                files["part"] = part
            split, *place = folders
            scene = scenes.get(name) if scenes else "/".join(place)
            labels = {"scene": scene} if scene else {}
            items[name] = Item(self.dataset, name, _SPLITS[split], photo, files, labels, rows.get(name, -1))
        if not items and not any(flaw.name for flaw in flaws):
            raise UpernetError(
                f"{self.folder}: no ADE20K in there; expected images/training/*/*.jpg with *_seg.png, as the archives "
                "of 2016 and 2021 unpack."
            )
        there = {*items, *(flaw.name for flaw in flaws)}
        if missing := [name for name in rows if name not in there]:
            text = f"{self.folder}: {len(missing)} of {len(rows)} photos of the index are missing, first {missing[0]}."
            flaws.append(Flaw(self.dataset, "", "incomplete", text))
        return [items[name] for name in sorted(items)], flaws

    def read(self, item: Item) -> dict[str, np.ndarray]:
        """Return the numbers of objects and parts; see `Reader.read`."""
        return {level: _numbers(path) for level, path in item.files.items()}

    def titles(self, item: Item) -> Mapping[int, str]:
        """Return number -> name by the index or, in the release of 2021, the JSON file of the photo."""
        if self.object_names:
            return self.object_names
        path = item.photo.with_suffix(".json")
        try:
            objects = json.loads(read_text(path))["annotation"]["object"]
            return {int(found["name_ndx"]): str(found["name"]) for found in objects}
        except (UpernetError, ValueError, KeyError, TypeError, RecursionError):
            return {}

    def _photos(self) -> Iterator[tuple[Path, tuple[str, ...], set[str]]]:
        """Yield the photos, the names of their folders from the split on, and the names of the files beside them."""
        own = self.folder.absolute().name
        start = (own,) if own in _SPLITS else ()  # only a split is given
        seen: set[str] = set()
        for place, folders, files in os.walk(self.folder, followlinks=True):
            if (real := os.path.realpath(place)) in seen:  # links may go round in circles
                folders.clear()
                continue
            seen.add(real)
            # The release of 2021 has a folder of instance masks beside each photo.
            folders[:] = sorted(name for name in folders if not re.match(r"\.|ADE_(?:train|val|frame)_", name))
            below = start + Path(place).relative_to(self.folder).parts
            split = next((position for position, name in enumerate(below) if name in _SPLITS), None)
            if split is not None:
                beside = set(files)
                photos = (name for name in sorted(files) if name.endswith(".jpg"))
                yield from ((Path(place, name), below[split:], beside) for name in photos)

    def _listed_scenes(self) -> dict[str, str]:
        """Return photo -> scene by the list that the benchmark's archive has, which the published code uses."""
        file = find_one(self.folder, ("sceneCategories.txt", "scene_categories.txt"), depth=1)
        lines = read_text(file).splitlines() if file else []
        return {fields[0]: fields[1] for line in lines if len(fields := line.split()) >= 2}


def scene_keys(scene: str) -> list[str]:
    """Return what a scene may be called in assignments, the longest name first.

    The folders of a photo (`c/church/indoor`, `urban/street`, `apartment_building__outdoor`) give `c_church_indoor`,
    `church_indoor`, `indoor`.
    """
    names = [re.sub(r"[\s_]+", "_", name.strip().lower()) for name in re.split(r"[/\\]", scene) if name.strip()]
    return ["_".join(names[start:]) for start in range(len(names))]


def _numbers(path: Path) -> np.ndarray:
    colors = read_color_mask(path).astype(np.int32)
    return colors[..., 0] // 10 * 256 + colors[..., 1]
