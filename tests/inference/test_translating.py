"""Tests of upernet.inference.translating and `Parser.show_as`: a parse in another taxonomy."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.small_parses import NAMES, SCENES, parse_of

from upernet import Parser, Taxonomy, UpernetError, map_taxonomies
from upernet.inference.translating import translate

SOURCE = Taxonomy.from_dict(
    {
        "name": "small",
        "levels": {
            "scene": {"classes": list(SCENES)},
            "object": {"background": "-", "classes": list(NAMES["object"][1:])},
            "part": {"classes": list(NAMES["part"][1:]), "of": {"car": ["wheel"], "person": ["hair"]}},
            "material": {"classes": list(NAMES["material"])},
            "texture": {"classes": list(NAMES["texture"])},
        },
    }
)
TARGET = Taxonomy.from_dict(
    {
        "name": "other",
        "levels": {
            "scene": {"classes": ["forest"]},
            "object": {"classes": ["automobile", "people", "building"]},
            "part": {"classes": ["wheel", "hair", "tail"], "of": {"automobile": ["wheel"], "people": ["hair", "tail"]}},
            "material": {"classes": ["skin"]},
        },
    }
)


def test_labels_names_and_rankings_are_those_of_the_other_taxonomy():
    object_ = np.array([[1, 2, 3, 0, -1]])
    part = np.array([[1, 2, 0, 0, -1]])
    material = np.array([[0, 1, 2, -1, 1]])
    parse = parse_of({"object": object_, "part": part, "material": material, "texture": object_ * 0}, "forest", "a.jpg")
    found = translate(parse, map_taxonomies(SOURCE, TARGET))
    assert found.levels == ("scene", "object", "part", "material")
    assert found.object.names == ("automobile", "people", "building") and not found.object.background
    assert found.object.labels.tolist() == [[0, 1, -1, -1, -1]]
    assert [found.part.name(label) for label in found.part.labels[0]] == ["wheel", "hair", "-", "-", "unsure"]
    assert [found.material.name(label) for label in found.material.labels[0]] == ["unsure", "skin"] + ["unsure"] * 2 + [
        "skin"
    ]
    assert found.scene == [("forest", 0.8)] and found.scene_is_sure
    assert found.model == "small (as other)" and found.path == "a.jpg"
    assert found.object.colors == TARGET.level("object").colors
    assert found.to_dict()["part"]["of"]["people"] == {"hair": 1.0}
    assert "car" not in found.describe() and found.sheet().size[0] > 0
    assert parse.object.labels.tolist() == object_.tolist()  # the parse itself does not change
    with pytest.raises(UpernetError, match="own classes"):
        _ = found.object.probabilities


def test_a_part_that_the_object_does_not_have_there_is_unsure():
    table = {"part": {"wheel": "tail"}}
    parse = parse_of({"object": np.array([[1, 2]]), "part": np.array([[1, 2]])})
    found = translate(parse, map_taxonomies(SOURCE, TARGET, table))
    assert [found.part.name(label) for label in found.part.labels[0]] == ["unsure", "hair"]


def test_probabilities_of_scenes_that_become_one_are_added():
    parse = parse_of({"object": np.array([[1]])}, "street")
    mapping = map_taxonomies(SOURCE, TARGET, {"scene": {"street": "forest"}})
    assert translate(parse, mapping).scene == [("forest", pytest.approx(0.9))]
    without = translate(parse, map_taxonomies(SOURCE, TARGET))
    assert without.scene == [("forest", pytest.approx(0.1))] and not without.scene_is_sure


def test_the_strictest_threshold_of_scenes_that_become_one_holds():
    parse = parse_of({"object": np.array([[1]])}, "street")
    parse.class_thresholds = {"scene": {"street": 0.7, "forest": 0.95}}
    found = translate(parse, map_taxonomies(SOURCE, TARGET, {"scene": {"street": "forest"}}))
    assert found.threshold("scene", "forest") == 0.95 and not found.scene_is_sure


def test_what_has_no_counterpart_at_all_is_said():
    nothing = Taxonomy.of_objects(["lamp"])
    with pytest.raises(UpernetError, match="no class of scene, object has a counterpart in the taxonomy objects"):
        translate(parse_of({"object": np.array([[1]])}), map_taxonomies(SOURCE, nothing))
    with pytest.raises(UpernetError, match="other classes of the level object"):
        translate(parse_of({"object": np.array([[1]])}), map_taxonomies(TARGET, SOURCE))


def test_a_parser_shows_its_parses_in_another_taxonomy(parser: Parser):
    names = parser.model.taxonomy.level("object").names
    photo = np.zeros((8, 8, 3), np.uint8)
    own = parser(photo).object
    table = {"object": dict.fromkeys(names[own.background :], "thing")}
    found = parser.show_as(Taxonomy.of_objects(["thing"], "things"), table)(photo)
    assert found.levels == ("object",)
    if not own.background:
        assert np.array_equal(found.object.labels == 0, own.labels >= 0)
    with pytest.raises(UpernetError, match="no class of this model has a counterpart in the taxonomy objects"):
        parser.show_as(Taxonomy.of_objects(["nothing like it"]))
    with pytest.raises(UpernetError, match="unknown taxonomy"):
        parser.show_as("ade20k")
