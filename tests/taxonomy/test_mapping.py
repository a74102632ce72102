"""Tests of upernet.taxonomy.mapping and upernet.taxonomy.tables: counterparts of classes, tables, and merging."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from upernet import Taxonomy, UpernetError, load_taxonomy, map_taxonomies, merge_taxonomies
from upernet.data.prepare.ade20k import FULL_NUMBERS
from upernet.data.prepare.broden.assignment import published as published_labels
from upernet.taxonomy.mapping import SYNONYMS, TaxonomyMapping, key
from upernet.taxonomy.tables import read_table, write_table

NAMES = ("ade20k150", "broden", "camvid")


def to(mapping: TaxonomyMapping, level: str) -> dict[str, tuple[str | None, str]]:
    return {match.name: (match.to, match.how) for match in mapping.of(level)}


def objects(*names: str) -> Taxonomy:
    return Taxonomy.of_objects(names)


def test_names_then_synonyms_then_broader_classes():
    found = to(
        map_taxonomies(
            objects("Sky", "tail_light", "couch", "armchair", "swivel chair", "whatever"),
            objects("sky", "taillight", "sofa", "chair"),
        ),
        "object",
    )
    assert found == {
        "Sky": ("sky", "name"),
        "tail_light": ("taillight", "name"),
        "couch": ("sofa", "synonym"),
        "armchair": ("chair", "broader"),
        "swivel chair": ("chair", "broader"),
        "whatever": (None, ""),
    }


def test_an_equal_name_is_preferred_to_a_similar_one():
    found = to(map_taxonomies(objects("tshirt", "T-SHIRT"), objects("t-shirt", "tshirt")), "object")
    assert found == {"tshirt": ("tshirt", "name"), "T-SHIRT": ("t-shirt", "name")}


def test_counterparts_in_broden_are_those_of_its_published_labels():
    ade, broden = load_taxonomy("ade20k150"), load_taxonomy("broden")
    there, back = (to(map_taxonomies(*pair), "object") for pair in ((ade, broden), (broden, ade)))
    labels = published_labels().table["ade20k"]["object"]
    for name, number in zip(ade.level("object").names, FULL_NUMBERS, strict=True):
        if name == "escalator":  # too rare in Broden+
            assert there[name][0] is None
            continue
        assert there[name][0] == broden.level("object").names[labels[str(number)]]
        assert back[str(there[name][0])][0] == name


def test_a_screen_is_any_screen():
    """In `everyday`, a screen is a television or a monitor, so it is none of the kinds of screens of Broden+."""
    everyday, ade, broden = (load_taxonomy(name) for name in ("everyday", "ade20k150", "broden"))
    for other in (broden, ade):
        assert to(map_taxonomies(everyday, other), "object")["screen"] == (None, "")
    found = to(map_taxonomies(broden, everyday), "object")
    assert {found[name] for name in ("television", "monitor", "silver screen", "crt screen")} == {("screen", "broader")}
    assert to(map_taxonomies(broden, ade), "object")["monitoring device"] == ("monitor", "synonym")


def test_a_kind_of_a_scene_is_no_synonym_of_it():
    everyday, broden = load_taxonomy("everyday"), load_taxonomy("broden")
    found = to(map_taxonomies(everyday, broden), "scene")
    for name in ("forest", "field", "library", "underwater"):
        assert found[name] == (None, ""), name


def test_a_narrower_class_is_no_counterpart():
    assert to(map_taxonomies(objects("chair"), objects("armchair")), "object") == {"chair": (None, "")}


def test_known_counterparts_of_published_sets():
    ade, broden, camvid = (load_taxonomy(name) for name in NAMES)
    found = to(map_taxonomies(ade, broden), "object")
    assert found["windowpane"] == ("window", "synonym") and found["sidewalk"] == ("sidewalk", "name")
    assert sum(target is not None for target, _ in found.values()) >= 145
    found = to(map_taxonomies(camvid, ade), "object")
    assert found["pedestrian"] == ("person", "synonym") and found["bicyclist"] == ("person", "broader")
    assert all(target is not None for target, _ in found.values())
    scenes = to(map_taxonomies(broden, load_taxonomy("everyday")), "scene")
    assert scenes["library/outdoor"][0] == scenes["library/indoor"][0] == "library"


@pytest.mark.parametrize(("a", "b"), [*permutations(NAMES, 2), *((name, name) for name in NAMES)])
def test_every_counterpart_is_a_class_of_the_same_level(a: str, b: str):
    source, target = load_taxonomy(a), load_taxonomy(b)
    mapping = map_taxonomies(source, target)
    for level in mapping.levels:
        labels = mapping.labels(level)
        assert len(labels) == source.level(level).num_classes
        for match, label in zip(mapping.of(level), labels.tolist(), strict=True):
            assert (label == -1) == (match.to is None)
            assert match.to is None or target.level(level).names[label] == match.to
            if a == b:
                assert match.to == match.name or level == "part"  # parts without an object have no counterpart
            if match.how == "name":
                assert match.to is not None and key(match.to) == key(match.name)


def with_parts(of: dict[str, list[str]]) -> Taxonomy:
    parts = list(dict.fromkeys(part for each in of.values() for part in each))
    levels = {"object": {"classes": list(of)}, "part": {"classes": parts, "of": of}}
    return Taxonomy.from_dict({"name": "parts", "levels": levels})


def test_a_part_needs_an_object_that_has_it_in_both():
    source = with_parts({"person": ["hair", "top"], "couch": ["arm"]})
    target = with_parts({"person": ["hair", "arm"], "table": ["top"], "sofa": ["arm"]})
    found = to(map_taxonomies(source, target), "part")
    assert found == {"-": ("-", "background"), "hair": ("hair", "name"), "top": (None, ""), "arm": ("arm", "name")}


def test_a_table_has_precedence_and_may_deny_a_counterpart():
    source, target = objects("sky", "couch", "thing"), objects("sky", "sofa", "box")
    table = {"object": {"sky": None, "thing": "box"}}
    found = to(map_taxonomies(source, target, table), "object")
    assert found == {"sky": (None, "table"), "couch": ("sofa", "synonym"), "thing": ("box", "table")}
    for wrong, says in (
        ({"object": {"skyy": None}}, "no class 'skyy'"),
        ({"object": {"sky": "boxx"}}, "no class 'boxx'"),
        ({"scene": {"sky": "box"}}, "no level 'scene'"),
    ):
        with pytest.raises(UpernetError, match=says):
            map_taxonomies(source, target, wrong)


@pytest.mark.parametrize("suffix", [".csv", ".yaml"])
def test_a_written_table_is_read_back_and_edited(tmp_path: Path, suffix: str):
    mapping = map_taxonomies(load_taxonomy("everyday"), load_taxonomy("broden"))
    file = tmp_path / f"table{suffix}"
    write_table(mapping, file)
    assert read_table(file) == mapping.to_table()
    again = map_taxonomies(mapping.source, mapping.target, read_table(file))
    assert [(match.name, match.to) for match in again.matches] == [(match.name, match.to) for match in mapping.matches]
    text = file.read_text(encoding="utf-8")
    edited = text.replace("object,bicyclist,person", "object,bicyclist,bicycle")
    edited = edited.replace("bicyclist: person", "bicyclist: bicycle")
    file.write_text(edited, encoding="utf-8")
    assert text != edited
    assert to(map_taxonomies(mapping.source, mapping.target, read_table(file)), "object")["bicyclist"][0] == "bicycle"


def test_empty_rows_of_spreadsheets_are_skipped(tmp_path: Path):
    (tmp_path / "a.csv").write_text("\ufefflevel,class,to,how\r\nobject,a,b,name\r\n,,,\r\n\r\n", encoding="utf-8")
    assert read_table(tmp_path / "a.csv") == {"object": {"a": "b"}}


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.csv", "level,class\n", "column to is missing"),
        ("a.csv", "level,class,to\nobjekt,a,b\n", r"a\.csv:2: unknown level 'objekt'"),
        ("a.csv", "level,class,to\nobject,a,b\nobject,a,c\n", r"a\.csv:3: 'a' appears twice"),
        ("a.csv", 'level,class,to\n"object', "is not CSV"),
        ("a.csv", b"\xff\xfe\x00", "cannot be read"),
        ("a.yaml", "object: [a]", "object"),
        ("a.yaml", "objekt: {a: b}", "objekt"),
        ("a.txt", "", "suffix"),
        ("missing.csv", None, "no such file"),
    ],
)
def test_wrong_tables_are_refused(tmp_path: Path, name: str, content: str | bytes | None, says: str):
    file = tmp_path / name
    if content is not None:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UpernetError, match=says):
        read_table(file)


def test_a_table_in_another_format_is_not_written(tmp_path: Path):
    with pytest.raises(UpernetError, match="suffix"):
        write_table(map_taxonomies(objects("a"), objects("a")), tmp_path / "table.txt")


def test_merging_joins_equal_names_and_synonyms_and_their_parts():
    merged = merge_taxonomies(
        with_parts({"person": ["hair", "top"], "sofa": ["arm"]}),
        with_parts({"couch": ["back"], "person": ["hair", "leg"], "table": ["top"]}),
        "both",
    )
    assert merged.level("object").names == ("person", "sofa", "table")
    assert merged.level("part").names == ("-", "hair", "top", "arm", "back", "leg")
    names = merged.level("part").names
    groups = {merged.level("object").names[g.owner]: [names[part] for part in g.parts[1:]] for g in merged.part_groups}
    assert groups == {"person": ["hair", "top", "leg"], "sofa": ["arm", "back"], "table": ["top"]}


@pytest.mark.parametrize(("a", "b"), [*permutations(NAMES, 2), ("everyday", "broden"), ("broden", "everyday")])
def test_merged_taxonomies_hold_every_class_of_both(a: str, b: str):
    first, second = load_taxonomy(a), load_taxonomy(b)
    merged = merge_taxonomies(first, second, "both")
    assert merged.name == "both"
    for level in first.levels.values():
        assert [name for name in merged.level(level.name).names if name in level.names] == [*level.names]
        colors = dict(zip(level.names, level.colors, strict=True))
        now = dict(zip(merged.level(level.name).names, merged.level(level.name).colors, strict=True))
        assert all(now[name] == color for name, color in colors.items())
    for match in map_taxonomies(second, first, broader=False).matches:
        assert match.how == "background" or {match.to, match.name} & {*merged.level(match.level).names}
    assert Taxonomy.from_dict(merged.to_dict()) == merged


def test_a_class_that_a_table_keeps_apart_needs_another_name():
    with pytest.raises(UpernetError, match="rename"):
        merge_taxonomies(objects("sky"), objects("sky"), "both", {"object": {"sky": None}})
    merged = merge_taxonomies(objects("sofa"), objects("couch"), "both", {"object": {"couch": None}})
    assert merged.level("object").names == ("sofa", "couch")


@settings(max_examples=30, deadline=None)
@given(st.lists(st.text(min_size=1, max_size=8).filter(lambda name: name == name.strip()), min_size=1, unique=True))
def test_a_taxonomy_maps_to_itself_by_name(names: list[str]):
    taxonomy = Taxonomy.of_objects(names)
    found = to(map_taxonomies(taxonomy, taxonomy), "object")
    assert set(found) == set(names)
    assert all(found[name] == (name, "name") for name in names)
    assert merge_taxonomies(taxonomy, taxonomy, "objects").level("object").names == tuple(names)


def test_the_synonyms_do_not_contradict_themselves():
    content = yaml.safe_load(SYNONYMS.read_text(encoding="utf-8"))
    for level, kinds in content["broader"].items():
        keys = {key(name): key(wider) for name, wider in kinds.items()}
        assert len(keys) == len(kinds), level
        for name in keys:
            seen, at = {name}, name
            while at in keys:
                at = keys[at]
                assert at not in seen, (level, name)
                seen.add(at)
    for level, groups in content["same"].items():
        for group in groups:
            assert len({key(name) for name in group}) == len(group), (level, group)
