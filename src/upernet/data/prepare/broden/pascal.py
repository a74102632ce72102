"""Pascal-Context with all 459 classes (Mottaghi et al., CVPR 2014) and Pascal-Part (Chen et al., CVPR 2014), VOC2010.

Objects are those of Pascal-Context, parts those of Pascal-Part, two layers of annotation of the same photos. Without
Pascal-Context, the objects are Pascal-Part's own 20 classes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from upernet.data.prepare.broden.matlab import read_matlab
from upernet.data.prepare.broden.sources import (
    Flaw,
    Item,
    Reader,
    as_labels,
    find_one,
    numbered_names,
    read_text,
    require_folder,
    split_by_name,
)
from upernet.errors import UpernetError, plain

VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("table", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
"""Objects of Pascal-Part by `class_ind` (from 1), by their names in Pascal-Context."""
POSITIONS = ("left", "right", "front", "back", "upper", "lower", "side")
"""Words that the published label set drops from the names of parts."""
_LONG_NAMES = {
    "chainwheel": "chain wheel",
    "handlebar": "handle bar",
    "pa": "paw",
    "ho": "hoof",
    "ebrow": "eyebrow",
    "liplate": "license plate",
}
_SIDES = re.compile(r"(h|c)?(front|left|right|back|roof)side")
_MIRROR = re.compile(r"(left|right)(mirror)")
_LIMB = re.compile(r"([lr])?([fb])?([lu])?(leg|arm|pa|ho|hand|foot|wing|eye|ear|ebrow|horn|wheel|liplate)")
_WORDS = {"l": "left", "r": "right", "f": "front", "b": "back", "h": "head", "c": "coach"}
_HEIGHTS = {"l": "lower", "u": "upper"}


def long_part_name(short: str) -> str:
    """Return the name that part2ind.m of Pascal-Part explains a short name by: `lfuleg` is `left front upper leg`."""
    name = re.sub(r"_\d+$", "", short)
    if match := _SIDES.fullmatch(name):
        return " ".join(filter(None, (_WORDS.get(match[1] or ""), match[2], "side")))
    if match := _MIRROR.fullmatch(name):
        return f"{match[1]} {match[2]}"
    if name != "ear" and (match := _LIMB.fullmatch(name)) and any(match.group(1, 2, 3)):
        side, end, height, noun = match.groups()
        return " ".join(
            filter(None, (_WORDS.get(side), _WORDS.get(end), _HEIGHTS.get(height), _LONG_NAMES.get(noun, noun)))
        )
    return _LONG_NAMES.get(name, name)


def collapsed(name: str, words: tuple[str, ...]) -> str:
    """Return a name without the words that are dropped."""
    return " ".join(word for word in name.split() if word not in words)


class Pascal(Reader):
    """Pascal-Context, Pascal-Part or both.

    Args:
        context: Folder of Pascal-Context: `labels.txt` and `trainval/*.mat`.
        part: Folder of Pascal-Part: `Annotations_Part/*.mat`.
        photos: Folder with `JPEGImages` of VOC2010; None: looked for in the other two.
        collapse: Words that are dropped from the names of parts.
    """

    dataset = "pascal"

    def __init__(
        self, context: Path | None, part: Path | None, photos: Path | None, collapse: tuple[str, ...] = POSITIONS
    ) -> None:
        self.context = context
        self.part = part
        self.photos = photos
        self.collapse = collapse
        self.object_names: dict[int, str] = dict(enumerate(VOC_CLASSES, 1))
        self.part_names: dict[int, str] = {}

    def find(self) -> tuple[list[Item], list[Flaw]]:
        """List the photos that are annotated; see `Reader.find`."""
        photos = self._photo_folder()
        contexts = self._find_context() if self.context else {}
        parts = self._find_parts() if self.part else {}
        rows = {name: row for row, name in enumerate(sorted(parts))}
        items: list[Item] = []
        flaws: list[Flaw] = []
        for name in sorted({*contexts, *parts}):
            files = {key: found[name] for key, found in (("context", contexts), ("part", parts)) if name in found}
            photo = photos / f"{name}.jpg"
            if not photo.is_file():
                flaws.append(Flaw(self.dataset, name, "incomplete", f"{photo}: the photo is missing."))
            elif contexts and "context" not in files:
                text = f"{files['part']}: Pascal-Context does not annotate this photo."
                flaws.append(Flaw(self.dataset, name, "unannotated", text))
            else:
                split = split_by_name(name)
                items.append(Item(self.dataset, name, split, photo, files, {}, rows.get(name, -1)))
        return items, flaws

    def read(self, item: Item) -> dict[str, np.ndarray]:
        """Return the numbers of objects and parts; see `Reader.read`."""
        maps: dict[str, np.ndarray] = {}
        for key in ("part", "context"):  # objects of Pascal-Context replace those of Pascal-Part
            if path := item.files.get(key):
                try:
                    if key == "part":
                        maps = self._read_parts(path)
                    else:
                        maps["object"] = as_labels(read_matlab(path, "LabelMap"))
                except UpernetError:
                    raise
                except Exception as error:  # fields that are missing, or of other types and shapes
                    reason = plain(str(error) or type(error).__name__, 100)
                    raise UpernetError(
                        f"{path}: is not an annotation of Pascal ({reason}); unpack the archive again."
                    ) from None
        return maps

    def keys(self, level: str) -> Mapping[int, str] | None:
        """Return the names of objects and parts by their numbers; see `Reader.keys`."""
        return self.object_names if level == "object" else self.part_names

    def title(self, item: Item, level: str, number: int) -> str:
        """Return the name of an object or a part of a photo; see `Reader.title`."""
        if level == "part" and number > len(self.part_names):
            return self._unlisted_parts(read_matlab(item.files["part"], "anno"))[number - len(self.part_names) - 1]
        return super().title(item, level, number)

    def _photo_folder(self) -> Path:
        places = [place for place in (self.photos, self.context, self.part) if place]
        for option, place in (
            ("--voc2010", self.photos),
            ("--pascal-context", self.context),
            ("--pascal-part", self.part),
        ):
            if place:
                require_folder(option, place)
        for place in (*places, *(place.absolute().parent for place in places)):
            if found := find_one(place, ("JPEGImages",), depth=2):
                return found
        raise UpernetError(
            f"{places[0]}: no folder JPEGImages in or beside it; give the photos of VOC2010 by --voc2010 DIR."
        )

    def _find_context(self) -> dict[str, Path]:
        assert self.context is not None
        above = self.context.absolute().parent
        labels = find_one(self.context, ("labels.txt",), depth=2) or find_one(above, ("labels.txt",), depth=0)
        if labels is None:
            raise UpernetError(
                f"{self.context}: no labels.txt with the names of the 459 classes; put the one of Pascal-Context there."
            )
        self.object_names = numbered_names(labels, _listed_labels(read_text(labels)))
        folder = find_one(self.context, ("trainval",), depth=2) or labels.parent
        if not (files := _mat_files(folder)):
            raise UpernetError(f"{self.context}: no trainval/*.mat in there; give the folder of Pascal-Context.")
        return files

    def _find_parts(self) -> dict[str, Path]:
        assert self.part is not None
        folder = find_one(self.part, ("Annotations_Part",), depth=2) or self.part
        if not (files := _mat_files(folder)):
            raise UpernetError(f"{self.part}: no Annotations_Part/*.mat in there; give the folder of Pascal-Part.")
        names = sorted({collapsed(long_part_name(short), self.collapse) for short in SHORT_NAMES} - {""})
        self.part_names = dict(enumerate(names, 1))
        return files

    def _read_parts(self, path: Path) -> dict[str, np.ndarray]:
        """Return the numbers of objects and parts; where instances or parts overlap, the later one counts."""
        anno: Any = read_matlab(path, "anno")
        names = [*self.part_names.values(), *self._unlisted_parts(anno)]
        numbers = {"": 0} | {name: number for number, name in enumerate(names, 1)}
        maps: dict[str, np.ndarray] = {}
        for instance in _elements(anno["objects"].flat[0]):
            mask = _mask(instance)
            if not maps:
                maps = {level: np.zeros(mask.shape, np.int32) for level in ("object", "part")}
            maps["object"][mask] = int(instance["class_ind"].flat[0])
            maps["part"][mask] = 0
            for part in _elements(instance["parts"]):
                maps["part"][_mask(part)] = numbers[self._part_name(part)]
        return maps

    def _unlisted_parts(self, anno: Any) -> list[str]:
        """Return the names of the parts of a photo that part2ind.m does not list; their numbers follow the listed."""
        instances = _elements(anno["objects"].flat[0])
        names = {self._part_name(part) for instance in instances for part in _elements(instance["parts"])}
        return sorted(names - {"", *self.part_names.values()})

    def _part_name(self, part: Any) -> str:
        return collapsed(long_part_name(str(part["part_name"].flat[0])), self.collapse)


SHORT_NAMES = (
    *("body", "stern", "lwing", "rwing", "tail", "engine", "wheel", "fwheel", "bwheel", "saddle", "handlebar"),
    *("chainwheel", "headlight", "head", "leye", "reye", "beak", "torso", "neck", "lleg", "rleg", "lfoot", "rfoot"),
    *("cap", "frontside", "leftside", "rightside", "backside", "roofside", "leftmirror", "rightmirror", "fliplate"),
    *("bliplate", "door", "window", "lear", "rear", "nose", "lfleg", "rfleg", "lbleg", "rbleg", "lfpa", "rfpa", "lbpa"),
    *("rbpa", "muzzle", "lhorn", "rhorn", "lfuleg", "lflleg", "rfuleg", "rflleg", "lbuleg", "lblleg", "rbuleg"),
    *(
        "rblleg",
        "lfho",
        "rfho",
        "lbho",
        "rbho",
        "lebrow",
        "rebrow",
        "mouth",
        "hair",
        "llarm",
        "luarm",
        "rlarm",
        "ruarm",
    ),
    *("lhand", "rhand", "llleg", "luleg", "rlleg", "ruleg", "pot", "plant", "hfrontside", "hleftside", "hrightside"),
    *("hbackside", "hroofside", "coach", "cfrontside", "cleftside", "crightside", "cbackside", "croofside", "screen"),
)
"""Parts as the annotations of Pascal-Part name them, without the numbers of several equal ones."""


def _elements(structs: Any) -> list[Any]:
    """Return the elements of a MATLAB struct array; an empty one may be an array without fields."""
    return list(structs.flat) if structs.dtype.names else []


def _mask(found: Any) -> np.ndarray:
    return np.asarray(found["mask"]).astype(bool)


def _listed_labels(text: str) -> Iterator[tuple[int, str]]:
    for line in text.splitlines():
        number, colon, name = line.partition(":")
        if colon and number.strip().isdecimal() and name.strip():
            yield int(number), name.strip()


def _mat_files(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        return {}
    return {path.stem: path for path in sorted(folder.glob("*.mat")) if not path.name.startswith(".")}
