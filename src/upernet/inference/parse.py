"""`Parse`: the result of parsing one photo."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, cast

import numpy as np
from PIL import Image

from upernet.errors import UpernetError
from upernet.files import atomic_path
from upernet.inference import describe, render
from upernet.inference.label_map import UNSURE, LabelMap
from upernet.taxonomy import LEVEL_KINDS, PartGroup

RESULT_FILE = "parse.json"
RANKED = 5
"""Number of candidates per image label in the JSON file."""
PNG_LEVEL = 3
"""Compression level of zlib. Its default takes twice as long for files that are 5 % smaller."""

Ranking = Sequence[tuple[str, float]]
"""All classes of an image label with their probability, most probable first."""


class Parse:
    """The result of parsing one photo.

    `parse.object`, `.part`, `.material` and `.texture` are `LabelMap`s; `.scene` is a ranked list. `parse["LEVEL"]`
    returns any level, including added ones. A level that the model does not have, or that was not requested, raises
    `UpernetError`.

    Args:
        photo: The photo as an RGB image.
        maps: level -> label map, at the size of the photo.
        rankings: level -> all classes with their probability, most probable first, for levels with one label per photo.
        thresholds: level -> probability below which a label is unsure; already applied to `maps`.
        part_groups: The objects that own parts.
        model: Name of the model.
        path: The file of the photo, as it was given.

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
        maps: Mapping[str, LabelMap],
        rankings: Mapping[str, Ranking] | None = None,
        *,
        thresholds: Mapping[str, float] | None = None,
        part_groups: Sequence[PartGroup] = (),
        model: str = "",
        path: str | None = None,
    ):
        self.photo = photo
        self.maps = dict(maps)
        self.rankings = {level: list(ranking) for level, ranking in (rankings or {}).items()}
        self.thresholds = dict(thresholds or {})
        self.part_groups = tuple(part_groups)
        self.model = model
        self.path = path

    @property
    def levels(self) -> tuple[str, ...]:
        """The levels of this parse."""
        return (*self.rankings, *self.maps)

    def __getitem__(self, level: str) -> LabelMap | list[tuple[str, float]]:
        """Return the label map of a dense level, or the ranked list of a level with one label per photo."""
        return self._ranking(level) if level in self.rankings else self._map(level)

    @property
    def scene(self) -> list[tuple[str, float]]:
        """All scenes with their probability, most probable first; see `scene_is_sure`."""
        return self._ranking("scene")

    @property
    def scene_is_sure(self) -> bool:
        """Whether the first scene is probable enough to be the answer."""
        return self.is_sure("scene")

    @property
    def object(self) -> LabelMap:
        """The label map of the objects."""
        return self._map("object")

    @property
    def part(self) -> LabelMap:
        """The label map of the parts."""
        return self._map("part")

    @property
    def material(self) -> LabelMap:
        """The label map of the materials."""
        return self._map("material")

    @property
    def texture(self) -> LabelMap:
        """The label map of the textures."""
        return self._map("texture")

    def is_sure(self, level: str) -> bool:
        """Return whether the first label of a ranked level reaches the threshold of the level."""
        return self._ranking(level)[0][1] >= self.thresholds.get(level, 0)

    def overlay(self, level: str) -> Image.Image:
        """Draw the labels of `level` over the photo, with a legend; the photo's long side has 480 to 1600 pixels."""
        return render.overlay(self.photo, self._map(level))

    def sheet(self) -> Image.Image:
        """Draw the contact sheet: the photo, its description, and a panel with a legend per level."""
        lines = self.describe().splitlines()
        title = lines.pop(0) if self.rankings else Path(self.path or "Photo").name
        return render.contact_sheet(self.photo, list(self.maps.values()), title.removesuffix("."), "\n".join(lines))

    def describe(self) -> str:
        """Describe the parse in sentences, one line per subject; percentages are rounded shares of pixels."""
        sure = [level for level in self.rankings if self.is_sure(level)]
        return describe.describe(self.rankings, sure, self.maps, self.part_groups)

    def to_dict(self) -> dict[str, Any]:
        """Return the parse without its pixels, as values that JSON can hold.

        `shares` are fractions of the photo, including "unsure"; `names` gives the meaning of the values in the label
        PNGs; `part.of` has the shares within each object that owns parts.
        """
        result: dict[str, Any] = {
            "path": self.path,
            "model": self.model,
            "width": self.photo.width,
            "height": self.photo.height,
            "description": self.describe(),
        }
        for level, ranking in self.rankings.items():
            result[level] = {
                "name": ranking[0][0] if self.is_sure(level) else None,
                "ranked": [{"name": name, "probability": probability} for name, probability in ranking[:RANKED]],
                "threshold": self.thresholds.get(level, 0.0),
            }
        for level, label_map in self.maps.items():
            result[level] = {
                "shares": label_map.shares(),
                "mean_confidence": float(label_map.confidence.mean()),
                "threshold": self.thresholds.get(level, 0.0),
                "unsure": _unsure_value(label_map),
                "names": list(label_map.names),
            }
        for level, owned in self.maps.items():
            owners = self.maps.get(LEVEL_KINDS[level].owned_by or "")
            if owners is not None:
                present = owners.counts()
                result[level]["of"] = {
                    owners.names[group.owner]: owned.shares(owners.labels == group.owner)
                    for group in self.part_groups
                    if group.owner in present
                }
        return result

    def save(self, directory: str | Path, name: str | None = None) -> Path:
        """Write the parse to a folder of its own in `directory`.

        The folder is called `name`; the default is the file name of the photo without its suffix. If the folder holds
        the parse of another photo, or something else, the parse goes to `name-2`, `name-3`, ...; earlier files of the
        same photo are replaced. Either all files appear or, on any error, none changes. The folder contains:

        * `LEVEL.png`: labels, 8-bit gray with 255 = unsure; 16-bit with 65535 if the level has more than 255 classes
        * `LEVEL_confidence.png`: probability of the most probable class, 8-bit gray, 255 = 1
        * `LEVEL_overlay.png`: what `overlay` draws
        * `sheet.jpg`: the contact sheet
        * `parse.json`: what `to_dict` returns, with the path of the photo relative to the folder

        Returns:
            The folder.

        Raises:
            UpernetError: The folder cannot be written, or the disk is full.
        """
        folder = Path(directory) / name if name else self._claimed_folder(Path(directory))
        with ExitStack() as files:
            files.callback(_remove_if_empty, folder)

            def writing(file: str) -> Path:
                return files.enter_context(atomic_path(folder / file))

            # Files appear in reverse order when the stack unwinds, so parse.json last.
            writing(RESULT_FILE).write_text(json.dumps(self._dict_for(folder), indent=2) + "\n", encoding="utf-8")
            for level, label_map in self.maps.items():
                _label_image(label_map).save(writing(f"{level}.png"), compress_level=PNG_LEVEL)
                confidence = np.rint(255 * label_map.confidence).astype(np.uint8)
                Image.fromarray(confidence).save(writing(f"{level}_confidence.png"), compress_level=PNG_LEVEL)
                self.overlay(level).save(writing(f"{level}_overlay.png"), compress_level=PNG_LEVEL)
            self.sheet().save(writing("sheet.jpg"), quality=92, subsampling=0)
        return folder

    def _map(self, level: str) -> LabelMap:
        if level not in self.maps:
            raise self._missing(level)
        return self.maps[level]

    def _ranking(self, level: str) -> list[tuple[str, float]]:
        if level not in self.rankings:
            raise self._missing(level)
        return self.rankings[level]

    def _missing(self, level: str) -> UpernetError:
        if level in self.rankings:
            return UpernetError(
                f'the {level} is one label for the whole photo, without a map; read it from parse["{level}"].'
            )
        return UpernetError(f"this parse has no level {level!r}; it has {', '.join(self.levels)}.")

    def _claimed_folder(self, directory: Path) -> Path:
        """Return the folder of an earlier parse of this photo, or create one, so that no other process takes it."""
        stem = (Path(self.path).stem if self.path else "").strip(
            "."
        ) or "photo"  # the stem of "..jpg" is "." or "..jpg"
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


def _unsure_value(label_map: LabelMap) -> int:
    return 255 if len(label_map.names) <= 255 else 65535


def _label_image(label_map: LabelMap) -> Image.Image:
    unsure = _unsure_value(label_map)
    labels = np.where(label_map.labels == UNSURE, unsure, label_map.labels)
    return Image.fromarray(labels.astype(np.uint8 if unsure == 255 else np.uint16))


def _path_in(folder: Path) -> str | None:
    """Return the path in the parse.json of a folder; None if there is no such file or path."""
    try:
        content = json.loads((folder / RESULT_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return cast(dict[str, Any], content).get("path") if isinstance(content, dict) else None


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()


def _relative(path: str, folder: Path) -> str:
    """Return `path` relative to `folder`, with forward slashes; it does not depend on the current folder."""
    path, start = os.path.realpath(path), os.path.realpath(folder)
    try:
        return Path(os.path.relpath(path, start)).as_posix()
    except ValueError:  # Windows: another drive
        return Path(path).as_posix()
