"""Tests of upernet.taxonomy.taxonomy: reading, lookups, round trip."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from upernet.errors import UpernetError
from upernet.taxonomy import LEVEL_KINDS, LEVELS, Level, LevelKind, PartGroup, Taxonomy, list_taxonomies, load_taxonomy

ROOM = """\
description: A room.
levels:
  part:
    classes: [leg, seat, {name: shade, color: "#ffeecc"}, logo]
    of:
      lamp: [shade]
      chair: [seat, leg]
    without_object: [logo]
  object:
    background: "-"
    classes: [chair, {name: lamp, color: "#102030"}]
"""


@pytest.fixture
def room(tmp_path: Path) -> Taxonomy:
    path = tmp_path / "room.yaml"
    path.write_text(ROOM, encoding="utf-8")
    return load_taxonomy(path)


def test_reads_a_file(room: Taxonomy) -> None:
    assert (room.name, room.description) == ("room", "A room.")
    assert list(room.levels) == ["object", "part"]
    objects = room.level("object")
    assert objects.names == ("-", "chair", "lamp")
    assert objects.background
    assert objects.colors[2] == (16, 32, 48)
    assert room.level("part").names == ("-", "leg", "seat", "shade", "logo")


def test_part_groups_are_slices_of_the_part_logits(room: Taxonomy) -> None:
    assert room.part_groups == (PartGroup(owner=1, parts=(0, 2, 1), start=0), PartGroup(owner=2, parts=(0, 3), start=3))
    assert [group.channels for group in room.part_groups] == [slice(0, 3), slice(3, 5)]
    assert room.num_logits("part") == 5
    assert room.num_logits("object") == room.level("object").num_classes == 3


def test_unknown_levels_and_classes(room: Taxonomy) -> None:
    for call in (room.level, room.num_logits):
        with pytest.raises(UpernetError, match="room has no level 'scene'; it has object, part"):
            call("scene")
    with pytest.raises(UpernetError, match="object has no class 'chiar'; did you mean 'chair'"):
        room.level("object").index("chiar")
    with pytest.raises(UpernetError, match="no class 'xylophone'; it has -, chair, lamp"):
        room.level("object").index("xylophone")
    with pytest.raises(UpernetError, match=r"\(365 in all\)"):
        load_taxonomy("broden").level("scene").index("0123456789")


def test_unknown_taxonomies(tmp_path: Path) -> None:
    assert list_taxonomies() == ["ade20k150", "broden", "camvid", "everyday"]
    for name in ("ade", "../taxonomy/broden", str(tmp_path), ""):
        with pytest.raises(UpernetError, match="ade20k150, broden, camvid, everyday"):
            load_taxonomy(name)
    with pytest.raises(UpernetError, match="no such file"):
        load_taxonomy(tmp_path / "missing.yaml")


@pytest.mark.parametrize("name", list_taxonomies())
def test_shipped_taxonomies_survive_json(name: str) -> None:
    taxonomy = load_taxonomy(name)
    text = json.dumps(taxonomy.to_dict(), sort_keys=True)
    again = Taxonomy.from_dict(json.loads(text))
    assert again == taxonomy
    assert list(again.levels) == list(taxonomy.levels)
    assert pickle.loads(pickle.dumps(taxonomy)) == taxonomy


names = st.lists(
    st.text(min_size=1, max_size=8).filter(lambda text: text == text.strip() and text != "-"),
    min_size=1,
    max_size=6,
    unique=True,
)


@st.composite
def taxonomies(draw: st.DrawFn) -> dict[str, Any]:
    """Content of a valid taxonomy file."""
    levels: dict[str, Any] = {}
    for level in draw(st.sets(st.sampled_from([x for x in LEVELS if x != "part"]), min_size=1)):
        levels[level] = {"classes": draw(names)}
        if draw(st.booleans()):
            levels[level]["background"] = draw(st.sampled_from(["-", {"name": "-", "color": "#0a0B0c"}]))
            levels[level]["known_background"] = draw(st.booleans())
    if "object" in levels:
        parts = draw(names)
        owners = draw(st.lists(st.sampled_from(levels["object"]["classes"]), unique=True))
        of = {owner: draw(st.lists(st.sampled_from(parts), min_size=1, unique=True)) for owner in owners}
        rest = [part for part in parts if not any(part in owned for owned in of.values())]
        levels["part"] = {"classes": parts, "of": of, "without_object": rest}
    return {"name": "drawn", "description": draw(st.text(max_size=10)), "levels": levels}


@pytest.mark.slow
@given(taxonomies())
@settings(deadline=None, max_examples=50)
def test_round_trip(values: dict[str, Any]) -> None:
    taxonomy = Taxonomy.from_dict(values)
    content = taxonomy.to_dict()
    assert Taxonomy.from_dict(json.loads(json.dumps(content))) == taxonomy
    assert Taxonomy.from_dict(content).to_dict() == content
    for name, level in taxonomy.levels.items():
        assert list(level.names[level.background :]) == values["levels"][name]["classes"]
        assert level.known_background == values["levels"][name].get("known_background", False)
        assert [level.index(item) for item in level.names] == list(range(level.num_classes))
    objects, parts = taxonomy.levels.get("object"), taxonomy.levels.get("part")
    for group in taxonomy.part_groups:
        assert objects and parts
        expected = values["levels"]["part"]["of"][objects.names[group.owner]]
        assert [parts.names[label] for label in group.parts[1:]] == expected


def test_a_written_dict_is_a_taxonomy_file(room: Taxonomy, tmp_path: Path) -> None:
    path = tmp_path / "other.yaml"
    path.write_text(yaml.safe_dump(room.to_dict()), encoding="utf-8")
    assert load_taxonomy(path) == room


def test_from_dict_errors_name_the_key() -> None:
    with pytest.raises(UpernetError, match=r"^taxonomy: levels: this key is required"):
        Taxonomy.from_dict({})
    with pytest.raises(UpernetError, match=r"^taxonomy: levels\.scene\.classes\.1: class 'a' is listed twice"):
        Taxonomy.from_dict({"levels": {"scene": {"classes": ["a", "a"]}}})


def test_values_are_frozen(room: Taxonomy) -> None:
    level: Any = Level("scene", ("a",), ((1, 2, 3),), background=False)
    with pytest.raises(AttributeError):
        level.names = ()


def test_the_table_of_levels_is_what_the_code_relies_on() -> None:
    assert sum(kind.owned_by is not None for kind in LEVEL_KINDS.values()) <= 1
    with pytest.raises(ValueError, match="a dense level needs a map at stride 4"):
        LevelKind("depth", dense=True, reads="ppm", owned_by=None, loss_weight=1.0)


def test_some_levels_keep_their_order_and_part_groups(room: Taxonomy) -> None:
    assert room.subset(["part", "object"]) == room
    objects = room.subset(["object"])
    assert list(objects.levels) == ["object"] and objects.part_groups == ()
    with pytest.raises(UpernetError, match="level part needs the level object, whose classes own its own; add it"):
        room.subset(["part"])
    with pytest.raises(UpernetError, match="has no level 'smell'"):
        room.subset(["object", "smell"])
