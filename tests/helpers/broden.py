"""The data sets of Broden+, small, in the formats of their makers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from helpers.folders import save_mask, save_photo

WIDTH, HEIGHT = 12, 8
PERSON, CAR, WALL, SKY = 1831, 401, 2978, 2420
"""Numbers of objects in ADE20K."""
HEAD, LEFT_ARM, RIGHT_ARM, ARM_SUPPORT = 1206, 1428, 2117, 56
"""Numbers of parts in ADE20K; the last has no class in the published label set."""
ADE_NAMES = {PERSON: "person, individual, someone", CAR: "car, auto", WALL: "wall", SKY: "sky"}
ADE_NAMES |= {HEAD: "head", LEFT_ARM: "left arm"}


def columns(values: Sequence[int], width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """Return a label map whose columns have these values, each repeated to fill the width."""
    return np.broadcast_to(np.repeat(values, -(-width // len(values)))[:width], (height, width))


def ade_colors(numbers: np.ndarray) -> np.ndarray:
    return np.stack([numbers // 256 * 10, numbers % 256, np.arange(numbers.size).reshape(numbers.shape) % 5], axis=-1)


def ade_photo(
    place: Path,
    name: str,
    objects: Sequence[int],
    parts: Sequence[int] | None = None,
    size: tuple[int, int] = (WIDTH, HEIGHT),
    seed: int = 0,
) -> None:
    """Write a photo of ADE20K with its label maps of objects and, if there are any, of parts."""
    save_photo(place / f"{name}.jpg", *size, seed=seed)
    save_mask(place / f"{name}_seg.png", ade_colors(columns(objects, *size)))
    if parts is not None:
        save_mask(place / f"{name}_parts_1.png", ade_colors(columns(parts, *size)))
        save_mask(place / f"{name}_parts_2.png", ade_colors(columns([CAR], *size)))  # parts of parts: not used


def make_ade_2021(root: Path, count: int = 2) -> Path:
    """Make the release of 2021: a JSON file and a folder of instance masks beside each photo."""
    folder = root / "ADE20K_2021_17_01"
    for split, short in (("training", "train"), ("validation", "val")):
        place = folder / "images" / "ADE" / split / "urban" / "street"
        for number in range(1, count + 1):
            name = f"ADE_{short}_{number:08}"
            ade_photo(place, name, [PERSON, SKY, CAR], [HEAD, LEFT_ARM, 0], seed=number)
            objects = [{"name": name, "name_ndx": number, "parts": {}} for number, name in ADE_NAMES.items()]
            text = json.dumps({"annotation": {"scene": ["outdoor", "urban", "street"], "object": objects}})
            (place / f"{name}.json").write_text(text)
            save_mask(place / name / f"instance_000_{name}.png", np.zeros((HEIGHT, WIDTH)))
            save_photo(place / name / "ADE_train_never.jpg")
    return folder


def make_ade_2016(root: Path, index: bool = True, missing: Sequence[str] = ()) -> Path:
    """Make the release of 2016: one photo of a church indoors, one of no particular scene, and the MATLAB index."""
    folder = root / "ADE20K_2016_07_26"
    church = folder / "images" / "training" / "c" / "church" / "indoor"
    misc = folder / "images" / "validation" / "m" / "misc"
    ade_photo(church, "ADE_train_00000001", [WALL, PERSON], [0, RIGHT_ARM])
    ade_photo(misc, "ADE_val_00000001", [SKY])
    if index:
        photos = ["ADE_train_00000001.jpg", *(f"{name}.jpg" for name in missing), "ADE_val_00000001.jpg"]
        write_index_mat(folder / "index_ade20k.mat", photos)
    return folder


def write_index_mat(path: Path, photos: Sequence[str], names: Mapping[int, str] | None = None) -> None:
    from scipy.io import savemat

    names = names or ADE_NAMES
    values = {
        "filename": cell(photos),
        "folder": cell(["ADE20K_2016_07_26/images/training/"] * len(photos)),
        "objectnames": cell([names.get(number, f"class {number}") for number in range(1, max(names) + 1)]),
        "objectPresence": np.zeros((max(names), len(photos))),
        "scene": cell(["/misc"] * len(photos)),
    }
    savemat(path, {"index": values}, do_compression=True)


def cell(texts: Sequence[Any]) -> np.ndarray:
    """Return a MATLAB cell array of one row."""
    found = np.empty((1, len(texts)), dtype=object)
    for position, text in enumerate(texts):
        found[0, position] = text
    return found


def struct_array(elements: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Return a MATLAB struct array of one row; without elements, an array that has no fields."""
    if not elements:
        return np.zeros((0, 0))
    found = np.empty((1, len(elements)), dtype=[(name, object) for name in elements[0]])
    for position, element in enumerate(elements):
        found[0, position] = tuple(element.values())
    return found


def save_parts(path: Path, objects: Sequence[tuple[int, np.ndarray, Sequence[tuple[str, np.ndarray]]]]) -> None:
    """Write an annotation of Pascal-Part: objects as (class_ind, mask, [(part_name, mask)])."""
    from scipy.io import savemat

    path.parent.mkdir(parents=True, exist_ok=True)
    elements = [
        {
            "class": "a class",
            "class_ind": number,
            "mask": mask.astype(np.uint8),
            "parts": struct_array([{"part_name": name, "mask": part.astype(np.uint8)} for name, part in parts]),
        }
        for number, mask, parts in objects
    ]
    savemat(path, {"anno": {"imname": path.stem, "objects": struct_array(elements)}}, do_compression=True)


CONTEXT_LABELS = ("aeroplane", "person", "unknown", "sky", "zebra crossing")


def make_pascal(root: Path) -> tuple[Path, Path, Path]:
    """Make Pascal-Context, Pascal-Part and the photos of VOC2010: three photos, the last without parts."""
    from scipy.io import savemat

    context, part, voc = root / "context", root / "part", root / "VOCdevkit" / "VOC2010"
    (context / "trainval").mkdir(parents=True)
    lines = [f"{number}: {name}\n" for number, name in enumerate(CONTEXT_LABELS, 1)]
    (context / "labels.txt").write_text("".join(lines))
    left, right = columns([1, 0]).astype(bool), columns([0, 1]).astype(bool)
    for number in (1, 2, 3):
        name = f"2008_00000{number}"
        save_photo(voc / "JPEGImages" / f"{name}.jpg", WIDTH, HEIGHT, seed=number)
        labels = columns([2, 2, 4]).astype(np.float64)  # person, person, sky
        savemat(context / "trainval" / f"{name}.mat", {"LabelMap": labels}, do_compression=True)
        if number < 3:
            parts = [
                ("head", columns([1, 0, 0, 0]).astype(bool)),
                ("lfuleg", right & columns([0, 0, 1, 0]).astype(bool)),
            ]
            save_parts(part / "Annotations_Part" / f"{name}.mat", [(15, left | right, parts), (7, right & left, [])])
    return context, part, voc


def make_opensurfaces(root: Path) -> Path:
    """Make what the script of OpenSurfaces renders: label maps 1024 high, here 16, whatever the size of the photo."""
    folder = root / "opensurfaces"
    save_photo(folder / "photos" / "17.jpg", 24, 16)
    save_photo(folder / "photos" / "18.jpg", 24, 16)
    for name, reds in (("17", [1, 3, 4]), ("18", [0])):
        red = columns(reds, 48, 32)
        save_mask(folder / "photos-labels" / f"{name}.png", np.stack([red, red * 0 + 9, red * 0 + 3], axis=-1))
    (folder / "photos.csv").write_text("photo_id,scene_category_name,fov\n17,kitchen,60\n18,kitchen,60\n")
    (folder / "label-substance-colors.csv").write_text(
        "substance_id,substance_name,red_color\n5,Brick,1\n6,Carpet/Rug,2\n7,Plastic - clear,3\n8,Sky,4\n"
    )
    return folder


def make_dtd(root: Path) -> Path:
    folder = root / "dtd"
    for texture in ("banded", "zigzagged"):
        for number in (1, 2):
            save_photo(folder / "images" / texture / f"{texture}_000{number}.jpg", 16, 16, seed=number)
    (folder / "labels").mkdir()
    lines = [f"{name}/{name}_000{number}.jpg {name} other \n" for name in ("banded", "zigzagged") for number in (1, 2)]
    (folder / "labels" / "labels_joint_anno.txt").write_text("".join(lines))
    return folder
