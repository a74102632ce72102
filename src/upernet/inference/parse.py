"""Parse: what was found in one photo."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from upernet.errors import UpernetError
from upernet.files import atomic_path
from upernet.inference import describe, render
from upernet.inference.level_map import UNSURE, LevelMap
from upernet.taxonomy import PartGroup

RESULT_FILE = "parse.json"
RANKED = 5
"""Scenes written to JSON."""
PNG_LEVEL = 3
"""Of zlib. Its default takes twice as long for files that are 5 % smaller."""


class Parse:
    """The result of parsing one photo.

    `parse.object`, `.part`, `.material` and `.texture` are `LevelMap`s, `.scene` is a ranked list; a level that the
    model does not have, or that was not asked for, raises `UpernetError`.

    Example:
        >>> import upernet
        >>> parse = upernet.load("everyday")("street.jpg")
        >>> parse.scene[0], parse.object.shares()
        >>> print(parse.describe())
        >>> parse.overlay("object").show()
        >>> parse.save("parses")
    """

    def __init__(
        self,
        photo: Image.Image,
        maps: Mapping[str, LevelMap],
        scene: Sequence[tuple[str, float]] | None = None,
        *,
        thresholds: Mapping[str, float] | None = None,
        part_groups: Sequence[PartGroup] = (),
        model: str = "",
        path: str | None = None,
    ):
        """
        Args:
            photo: RGB.
            maps: level -> its labels in photo size.
            scene: all scenes with their probability, most probable first; None if the level was not asked for.
            thresholds: level -> probability below which a label is unsure (already applied to `maps`).
            part_groups: which objects own which parts.
            model: name of the model.
            path: the photo's file, as it was given.
        """
        self.photo = photo
        self.maps = dict(maps)
        self.thresholds = dict(thresholds or {})
        self.part_groups = tuple(part_groups)
        self.model = model
        self.path = path
        self._scene = None if scene is None else list(scene)

    @property
    def levels(self) -> tuple[str, ...]:
        """The levels of this parse."""
        return (*(() if self._scene is None else ("scene",)), *self.maps)

    @property
    def scene(self) -> list[tuple[str, float]]:
        """All scenes and their probability, most probable first; see `scene_is_sure`."""
        if self._scene is None:
            raise self._missing("scene")
        return self._scene

    @property
    def scene_is_sure(self) -> bool:
        """Whether the first scene is probable enough to be shown as the answer."""
        return self.scene[0][1] >= self.thresholds.get("scene", 0)

    @property
    def object(self) -> LevelMap:
        return self._map("object")

    @property
    def part(self) -> LevelMap:
        return self._map("part")

    @property
    def material(self) -> LevelMap:
        return self._map("material")

    @property
    def texture(self) -> LevelMap:
        return self._map("texture")

    def overlay(self, level: str) -> Image.Image:
        """The labels of `level` over the photo, with a legend; long side of the photo 480 to 1600 pixels."""
        return render.overlay(self.photo, self._map(level))

    def sheet(self) -> Image.Image:
        """The contact sheet: the photo, its description, and a panel with legend per level."""
        lines = self.describe().splitlines()
        title = lines.pop(0) if self._scene else Path(self.path or "Photo").name
        return render.contact_sheet(self.photo, list(self.maps.values()), title.removesuffix("."), "\n".join(lines))

    def describe(self) -> str:
        """The parse in sentences, one line per subject; percentages are shares of pixels, rounded."""
        return describe.describe(self._scene, self._scene is None or self.scene_is_sure, self.maps, self.part_groups)

    def to_dict(self) -> dict[str, Any]:
        """The parse without its pixels, as JSON can hold it.

        `shares` are fractions of the photo, "unsure" among them; `names` are what the numbers in the label PNGs mean;
        `part.of` has the shares within each object that owns parts.
        """
        result: dict[str, Any] = {
            "path": self.path,
            "model": self.model,
            "width": self.photo.width,
            "height": self.photo.height,
            "description": self.describe(),
        }
        if self._scene is not None:
            result["scene"] = {
                "name": self._scene[0][0] if self.scene_is_sure else None,
                "ranked": [{"name": name, "probability": probability} for name, probability in self._scene[:RANKED]],
                "threshold": self.thresholds.get("scene", 0.0),
            }
        for level, level_map in self.maps.items():
            result[level] = {
                "shares": level_map.shares(),
                "mean_confidence": float(level_map.confidence.mean()),
                "threshold": self.thresholds.get(level, 0.0),
                "unsure": _unsure_value(level_map),
                "names": list(level_map.names),
            }
        if "object" in self.maps and "part" in self.maps:
            result["part"]["of"] = {
                self.object.names[owner]: self.part.shares(self.object.labels == owner)
                for owner in (group.owner for group in self.part_groups)
                if owner in self.object.counts()
            }
        return result

    def save(self, directory: str | Path, name: str | None = None) -> Path:
        """Write the parse into a folder of its own below `directory`.

        The folder is called `name`, by default as the photo's file without its suffix. A photo of another path with
        that name gets `name-2`, `name-3`, ..., and so does one where a folder is that is no parse; the same photo's
        earlier files are replaced. Either all files appear or, on any error, none changes. In it:

        * `LEVEL.png`: labels, 8-bit grey with 255 = unsure; 16-bit with 65535 where the level has more than 255 classes
        * `LEVEL_confidence.png`: probability of the best label, 8-bit grey, 255 = 1
        * `LEVEL_overlay.png`: as `overlay()`
        * `sheet.jpg`: the contact sheet
        * `parse.json`: `to_dict()`, the path relative to the folder

        Returns:
            The folder.

        Raises:
            UpernetError: the folder cannot be written, or the disk is full.
        """
        folder = Path(directory) / name if name else self._claimed_folder(Path(directory))
        with ExitStack() as files:
            files.callback(_remove_if_empty, folder)

            def writing(file: str) -> Path:
                return files.enter_context(atomic_path(folder / file))

            # Files appear in reverse order when the stack unwinds, so parse.json last.
            writing(RESULT_FILE).write_text(json.dumps(self._dict_for(folder), indent=2) + "\n", encoding="utf-8")
            for level, level_map in self.maps.items():
                _label_image(level_map).save(writing(f"{level}.png"), compress_level=PNG_LEVEL)
                confidence = np.rint(255 * level_map.confidence).astype(np.uint8)
                Image.fromarray(confidence).save(writing(f"{level}_confidence.png"), compress_level=PNG_LEVEL)
                self.overlay(level).save(writing(f"{level}_overlay.png"), compress_level=PNG_LEVEL)
            self.sheet().save(writing("sheet.jpg"), quality=92, subsampling=0)
        return folder

    def _map(self, level: str) -> LevelMap:
        if level not in self.maps:
            raise self._missing(level)
        return self.maps[level]

    def _missing(self, level: str) -> UpernetError:
        if level == "scene" and self._scene is not None:
            return UpernetError("the scene is one answer for the whole photo, without a map; read it from parse.scene.")
        return UpernetError(f"this parse has no level {level!r}; it has {', '.join(self.levels)}.")

    def _claimed_folder(self, directory: Path) -> Path:
        """The folder of this photo's earlier parse, or a new one: made here, so that no other program takes it."""
        stem = (Path(self.path).stem if self.path else "").strip(".") or "photo"  # of "..jpg" it is "." or "..jpg"
        number = 0
        while True:
            number += 1
            folder = directory / (stem if number == 1 else f"{stem}-{number}")
            try:
                folder.mkdir(parents=True)
            except FileExistsError:
                if not self.path or _path_in(folder) != _relative(self.path, folder):
                    continue
            except OSError as error:
                raise UpernetError(f"{folder}: cannot be written ({error.strerror}); choose another folder.") from None
            return folder

    def _dict_for(self, folder: Path) -> dict[str, Any]:
        return {**self.to_dict(), "path": _relative(self.path, folder) if self.path else None}


def _unsure_value(level_map: LevelMap) -> int:
    return 255 if len(level_map.names) <= 255 else 65535


def _label_image(level_map: LevelMap) -> Image.Image:
    unsure = _unsure_value(level_map)
    labels = np.where(level_map.labels == UNSURE, unsure, level_map.labels)
    return Image.fromarray(labels.astype(np.uint8 if unsure == 255 else np.uint16))


def _path_in(folder: Path) -> str | None:
    """The path in a folder's parse.json; None if there is no such file, or it has none."""
    try:
        content = json.loads((folder / RESULT_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content.get("path") if isinstance(content, dict) else None


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()


def _relative(path: str, folder: Path) -> str:
    """`path` as seen from `folder`, with forward slashes: the same however and from wherever both were given."""
    path, start = os.path.realpath(path), os.path.realpath(folder)
    try:
        return Path(os.path.relpath(path, start)).as_posix()
    except ValueError:  # Windows: another drive
        return Path(path).as_posix()
