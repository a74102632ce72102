"""Tests of upernet.inference.describe and things: what a description says, and what it leaves out."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from upernet.inference import LabelMap
from upernet.inference.describe import describe
from upernet.taxonomy import PartGroup

OBJECTS = ("wall", "floor", "sofa", "lamp", "person", "sheep", "car", "building")
PARTS = ("none", "top", "trousers", "bag", "hair", "wheel")
MATERIALS = ("fabric", "wood", "sky")
TEXTURES = ("none", "chequered", "cracked")
GROUPS = (PartGroup(4, (0, 1, 2, 3, 4), 0), PartGroup(6, (0, 5), 5))
SIZE = (100, 200)


def label_map(level: str, names: tuple[str, ...], labels: np.ndarray, confidence: float = 0.9) -> LabelMap:
    values = np.full(labels.shape, confidence, np.float32)
    return LabelMap(level, labels.astype(np.int16), values, names, ((9, 9, 9),) * len(names), names[0] == "none")


def scene(*boxes: tuple[str, int, int, int, int], start: str = "wall", confidence: float = 0.9) -> LabelMap:
    """Return an object map with boxes (name, left, top, right, bottom) on one class; "unsure" is a name, too."""
    labels = np.full(SIZE, OBJECTS.index(start))
    for name, left, top, right, bottom in boxes:
        labels[top:bottom, left:right] = -1 if name == "unsure" else OBJECTS.index(name)
    return label_map("object", OBJECTS, labels, confidence)


def said(*maps: LabelMap) -> str:
    return describe({}, (), {drawn.level: drawn for drawn in maps}, GROUPS)


def test_main_objects_come_first_then_smaller_ones_with_their_place() -> None:
    room = scene(("floor", 0, 70, 200, 100), ("sofa", 70, 40, 160, 80), ("lamp", 5, 10, 15, 40))
    assert said(room) == "Mostly wall, floor and a sofa; on the left a lamp."


@pytest.mark.parametrize(
    ("boxes", "words"),
    [
        ([("sheep", 10, 10, 40, 40)], "a sheep"),
        ([("sheep", 10, 10, 40, 40), ("sheep", 120, 10, 150, 40)], "sheep"),
        ([("person", 10, 10, 40, 40), ("person", 120, 10, 150, 40)], "people"),
        ([("lamp", 10, 10, 40, 40), ("lamp", 120, 10, 125, 15)], "a lamp"),  # a speck is not counted
        ([("lamp", 10, 10, 40, 40), ("lamp", 42, 10, 80, 40)], "a lamp"),  # something thin divides it
        ([("building", 0, 0, 150, 50)], "buildings"),
        ([("building", 0, 0, 60, 50)], "a building"),
    ],
)
def test_things_are_counted_by_their_regions(boxes: list[tuple[str, int, int, int, int]], words: str) -> None:
    text = said(scene(*boxes))
    assert re.search(rf"\b(and|also|left|middle|right) {words}[.;]", text), text


def test_what_is_worn_is_a_sentence_and_other_parts_are_a_list() -> None:
    people = scene(("person", 0, 0, 100, 100), ("car", 100, 0, 200, 100))
    parts = np.zeros(SIZE)
    parts[:40, :100], parts[40:80, :100], parts[80:, :20], parts[80:, 20:100] = 1, 2, 3, 4
    parts[80:, 110:130] = parts[80:, 160:180] = 5
    assert said(people, label_map("part", PARTS, parts)).splitlines()[1:] == [
        "The person wears a top and trousers and carries a bag.",
        "Visible parts of the car: wheels.",
    ]


def test_nothing_is_said_of_the_parts_and_materials_of_doubtful_objects() -> None:
    parts = label_map("part", PARTS, np.full(SIZE, 1))
    wood = label_map("material", MATERIALS, np.full(SIZE, 1))
    sure = said(scene(("person", 0, 0, 100, 100)), parts, wood)
    assert "wears a top" in sure and "The wall is of wood." in sure and "person is of" not in sure
    doubtful = said(scene(("person", 0, 0, 100, 100), confidence=0.5), parts, wood)
    assert doubtful == "Mostly wall and a person."
    unsure_parts = label_map("part", PARTS, np.where(np.arange(200) < 20, 1, -1)[None].repeat(100, 0))
    assert "wears" not in said(scene(("person", 0, 0, 100, 100)), unsure_parts)


def test_materials_and_textures_belong_to_objects_where_these_are_known() -> None:
    room = scene(("sofa", 0, 0, 90, 100))
    fabric = np.where(np.arange(200) < 80, 0, -1)[None].repeat(100, 0)
    chequered = np.where(np.arange(200) < 90, 1, 0)[None].repeat(100, 0)
    maps = label_map("material", MATERIALS, fabric), label_map("texture", TEXTURES, chequered)
    assert said(room, *maps).splitlines()[1] == "The sofa is of fabric. The sofa looks chequered."
    unknown = scene(("unsure", 0, 0, 200, 100))
    assert said(unknown, *maps).splitlines() == [
        "Nothing in it is certain.",
        "Materials: fabric.",
        "Textures: chequered.",
    ]
    assert said(*maps) == "Materials: fabric.\nTextures: chequered."
    assert said(label_map("texture", TEXTURES, np.zeros(SIZE))) == "No texture is certain."


def test_no_object_is_of_another_object() -> None:
    """MATERIALS has the sky, as the network's materials have water."""
    sky = label_map("material", MATERIALS, np.full(SIZE, 2))
    assert said(scene(("sofa", 0, 0, 200, 100)), sky) == "Mostly a sofa."


def test_large_unclear_areas_are_mentioned() -> None:
    assert said(scene(("unsure", 0, 0, 90, 100))) == "Mostly wall. About half of the photo is unclear."
    assert "unclear" not in said(scene(("unsure", 0, 0, 20, 100)))


@given(st.integers(0, 10**6), st.floats(0.1, 1))
@settings(max_examples=40, deadline=None)
def test_any_parse_gives_short_sentences(seed: int, confidence: float) -> None:
    rng = np.random.default_rng(seed)

    def blocks(level: str, names: tuple[str, ...]) -> LabelMap:
        labels = np.kron(rng.integers(-1, len(names), (5, 5)), np.ones((20, 40), int))
        return label_map(level, names, labels, confidence)

    levels = {"object": OBJECTS, "part": PARTS, "material": MATERIALS, "texture": TEXTURES}
    maps = [blocks(level, names) for level, names in levels.items() if rng.random() < 0.8]
    text = said(*maps)
    for line in text.splitlines():
        assert re.fullmatch(r"[A-Z][^.]*\.( [A-Z][^.]*\.)*", line) and len(line) < 250
    assert len(text.splitlines()) <= 6


@pytest.mark.parametrize("shape", [(1, 3000), (2500, 2), (1, 1)])
def test_photos_of_a_few_pixels_in_height_or_width_are_described(shape: tuple[int, int]) -> None:
    assert said(label_map("object", OBJECTS, np.full(shape, OBJECTS.index("floor")))) == "Mostly floor."
