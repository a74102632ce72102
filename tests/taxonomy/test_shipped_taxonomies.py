"""Tests of the bundled taxonomies, compared with the published label sets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from upernet.taxonomy import LEVELS, list_taxonomies, load_taxonomy

Reference = Callable[[str], Any]
# Idx -> synonym of several words: the benchmark's table separates words and synonyms alike.
ADE_WORDS = {45: "chest of drawers", 57: "pool table", 59: "screen door", 65: "coffee table", 131: "screen", 142: "crt screen"}  # fmt: skip  # noqa: E501


@pytest.mark.parametrize("name", list_taxonomies())
def test_every_shipped_taxonomy_is_sound(name: str) -> None:
    taxonomy = load_taxonomy(name)
    assert taxonomy.name == name
    assert taxonomy.description
    assert list(taxonomy.levels) == [level for level in LEVELS if level in taxonomy.levels]
    for key, level in taxonomy.levels.items():
        assert level.name == key
        assert len(level.names) == len(set(level.names)) == len(level.colors) == len(set(level.colors))
        assert all(0 <= channel <= 255 for color in level.colors for channel in color)
    start = 0
    for group in taxonomy.part_groups:
        assert group.parts[0] == 0
        assert group.channels == slice(start, start + len(group.parts))
        start = group.channels.stop
    if "part" in taxonomy.levels:
        assert taxonomy.num_logits("part") == start


@pytest.mark.slow
@pytest.mark.parametrize("level", LEVELS)
def test_broden_names_are_the_references(level: str, reference: Reference) -> None:
    names = reference("broden_taxonomy.json")[level]
    assert list(load_taxonomy("broden").level(level).names) == names


def test_broden_sizes() -> None:
    broden = load_taxonomy("broden")
    assert {name: broden.num_logits(name) for name in broden.levels} == {
        "scene": 365,
        "object": 336,
        "part": 427,
        "material": 26,
        "texture": 47,
    }
    assert broden.level("part").num_classes == 153
    assert [name for name, level in broden.levels.items() if level.background] == ["object", "part", "material"]


def test_broden_part_channels_are_the_references(reference: Reference) -> None:
    facts = reference("broden_parts_of_objects.json")
    groups = load_taxonomy("broden").part_groups
    assert [group.owner for group in groups] == facts["object_with_part"]
    assert len(groups) == 77
    for group in groups:
        assert list(group.parts) == facts["object_part"][str(group.owner)]


def test_ade20k150_names_are_first_synonyms(reference: Reference) -> None:
    objects = load_taxonomy("ade20k150").level("object")
    assert not objects.background
    assert objects.num_classes == 150
    for entry in reference("ade20k150_classes.json"):
        name = objects.names[entry["index"] - 1]
        assert f"{entry['name']};".startswith(name.replace(" ", ";") + ";")
        assert name == ADE_WORDS.get(entry["index"], name)


def test_camvid() -> None:
    objects = load_taxonomy("camvid").level("object")
    assert objects.names == (
        "sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist",
    )  # fmt: skip
    assert not objects.background
    assert objects.colors[objects.index("road")] == (128, 64, 128)
    assert objects.colors[objects.index("bicyclist")] == (0, 128, 192)


def test_everyday() -> None:
    everyday = load_taxonomy("everyday")
    assert list(everyday.levels) == ["scene", "object", "part", "material", "texture"]
    assert [name for name, level in everyday.levels.items() if level.background] == ["part", "texture"]
    assert [name for name, level in everyday.levels.items() if level.known_background] == ["texture"]
    owners = [everyday.level("object").names[group.owner] for group in everyday.part_groups]
    assert sorted(owners) == ["car", "person"]
    covered = [part for group in everyday.part_groups for part in group.parts if part]
    assert sorted(covered) == list(range(1, everyday.level("part").num_classes))
    for name in ("hair", "skin"):
        part, material = everyday.level("part"), everyday.level("material")
        assert part.colors[part.index(name)] == material.colors[material.index(name)]
