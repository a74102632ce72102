"""Tests of upernet.data.prepare.broden: pascal, matlab."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.broden import HEIGHT, WIDTH, columns, make_pascal, save_parts

from upernet.data.prepare.broden.assignment import published
from upernet.data.prepare.broden.converting import Converter
from upernet.data.prepare.broden.pascal import POSITIONS, SHORT_NAMES, Pascal, collapsed, long_part_name
from upernet.data.prepare.broden.sources import Reader
from upernet.errors import UpernetError
from upernet.taxonomy import load_taxonomy

TAXONOMY = load_taxonomy("broden")


def names_of(reader: Reader, level: str, raw: np.ndarray) -> list[str]:
    """Return the names in the first row of a map, without repeats of neighbors."""
    keys = reader.keys(level)
    row = [keys.get(value, "-") for value in raw[0].tolist()]
    return [name for position, name in enumerate(row) if position == 0 or row[position - 1] != name]


def test_objects_of_context_and_parts_of_part(tmp_path):
    context, part, voc = make_pascal(tmp_path)
    reader = Pascal(context, part, voc)
    items, flaws = reader.find()
    assert [item.name for item in items] == ["2008_000001", "2008_000002", "2008_000003"] and not flaws
    assert [item.row for item in items] == [0, 1, -1]  # the sorted listing of Annotations_Part
    maps = reader.read(items[0])
    assert names_of(reader, "object", maps["object"]) == ["person", "sky"]
    assert names_of(reader, "part", maps["part"]) == ["head", "-", "leg", "-"]
    assert set(reader.read(items[2])) == {"object"}


@pytest.mark.parametrize("both", [False, True])
def test_either_of_them_alone(tmp_path, both):
    context, part, voc = make_pascal(tmp_path)
    reader = Pascal(None, part, voc)
    items, _ = reader.find()
    assert len(items) == 2
    assert names_of(reader, "object", reader.read(items[0])["object"]) == ["person"]
    reader = Pascal(context, None, voc)
    items, _ = reader.find()
    assert len(items) == 3 and set(reader.read(items[0])) == {"object"}


def test_the_photos_are_found_beside_the_annotations(tmp_path):
    context, part, voc = make_pascal(tmp_path)
    assert len(Pascal(context, part, None).find()[0]) == 3  # tmp_path/VOCdevkit/VOC2010/JPEGImages
    (voc / "JPEGImages" / "2008_000002.jpg").unlink()
    items, flaws = Pascal(context, part, voc / "JPEGImages").find()
    assert len(items) == 2 and [flaw.kind for flaw in flaws] == ["incomplete"]
    (voc / "JPEGImages").rename(voc / "Photos")
    with pytest.raises(UpernetError, match=r"no folder JPEGImages .*--voc2010 DIR\.$"):
        Pascal(context, part, None).find()


def test_names_of_parts_are_explained_and_collapsed():
    assert long_part_name("lfuleg") == "left front upper leg"
    assert long_part_name("rebrow") == "right eyebrow"
    assert long_part_name("croofside_3") == "coach roof side"
    assert long_part_name("window_12") == "window" and long_part_name("rear") == "right ear"
    assert collapsed("coach roof side", POSITIONS) == "coach roof"
    # The published assignment has the same names, and "handlebar", as one of two lines of part2ind.m spells it.
    names = {collapsed(long_part_name(short), POSITIONS) for short in SHORT_NAMES} - {""}
    assert names | {"handlebar"} == set(published().table["pascal"]["part"])


def test_the_published_classes(tmp_path):
    context, part, voc = make_pascal(tmp_path)
    reader = Pascal(context, part, voc)
    items, _ = reader.find()
    converted = Converter(tmp_path / "out", reader, published(), 512)(items[0])
    assert converted.row == {
        "file": "photos/pascal/2008_000001.jpg",
        "dataset": "pascal",
        "width": WIDTH,
        "height": HEIGHT,
        "scene": None,
        "object_mask": "object/pascal/2008_000001.png",
        "part_mask": "part/pascal/2008_000001.png",
        "material_mask": None,
        "texture": None,
    }
    objects, parts = TAXONOMY.level("object"), TAXONOMY.level("part")
    assert set(converted.classes["object"]) == {objects.index("person"), objects.index("sky")}
    assert set(converted.classes["part"]) == {parts.index("head"), parts.index("leg")}


def test_a_class_and_a_part_that_nobody_knows(tmp_path):
    from scipy.io import savemat

    context, part, voc = make_pascal(tmp_path)
    savemat(context / "trainval" / "2008_000001.mat", {"LabelMap": columns([2, 5, 77]).astype(np.float64)})
    everything = np.ones((HEIGHT, WIDTH), bool)
    parts = [("tentacle_1", columns([1, 0, 0, 0]).astype(bool)), ("frontside", columns([0, 1, 0, 0]).astype(bool))]
    save_parts(part / "Annotations_Part" / "2008_000001.mat", [(15, everything, parts)])
    reader = Pascal(context, part, voc)
    items, _ = reader.find()
    converted = Converter(tmp_path / "out", reader, published(), 512)(items[0])
    assert converted.unknown == {"object": {"zebra crossing": 32, "77": 32}, "part": {"tentacle": 24}}
    assert converted.flaws[1].text.endswith("has no class for the raw part labels 'tentacle'.")
    assert [flaw.kind for flaw in converted.flaws] == ["unknown-label", "unknown-label"] and converted.row


def test_damaged_annotations_are_one_sentence(tmp_path):
    from scipy.io import savemat

    context, part, voc = make_pascal(tmp_path)
    label_map, anno = context / "trainval" / "2008_000001.mat", part / "Annotations_Part" / "2008_000001.mat"
    reader = Pascal(context, part, voc)
    items, _ = reader.find()
    whole = label_map.read_bytes()
    for path, write in (
        (label_map, lambda: label_map.write_bytes(whole[:150])),
        (label_map, lambda: savemat(label_map, {"labels": np.ones((2, 2))})),
        (label_map, lambda: savemat(label_map, {"LabelMap": np.full((HEIGHT, WIDTH), 1.5)})),
        (label_map, lambda: savemat(label_map, {"LabelMap": np.full((HEIGHT, WIDTH), np.nan)})),
        (label_map, lambda: savemat(label_map, {"LabelMap": "text"})),
        (anno, lambda: savemat(anno, {"anno": {"imname": "2008_000001"}})),
    ):
        write()
        with pytest.raises(UpernetError) as caught:
            reader.read(items[0])
        assert str(caught.value).startswith(f"{path}: ") and str(caught.value).endswith("unpack the archive again.")
        label_map.write_bytes(whole)


def test_an_annotation_without_instances(tmp_path):
    context, part, voc = make_pascal(tmp_path)
    save_parts(part / "Annotations_Part" / "2008_000001.mat", [])
    for given, levels in ((context, {"object"}), (None, set[str]())):
        reader = Pascal(given, part, voc)
        item = reader.find()[0][0]
        assert set(reader.read(item)) == levels
        converted = Converter(tmp_path / "out", reader, published(), 512)(item)
        assert [flaw.kind for flaw in converted.flaws] == ([] if given else ["unannotated"])


def test_instances_that_overlap_and_several_parts_of_a_name(tmp_path):
    _, part, voc = make_pascal(tmp_path)
    horse, rider = columns([1, 1, 1, 0]).astype(bool), columns([0, 1, 0, 0]).astype(bool)
    wheels = [(f"wheel_{number + 1}", columns([number == 0, 0, 0, number == 1]).astype(bool)) for number in (0, 1)]
    bus = (6, columns([1, 0, 0, 1]).astype(bool), wheels)
    file = part / "Annotations_Part" / "2008_000001.mat"
    ridden = [(13, horse, [("torso", horse)]), (15, rider, [])]
    for instances, objects, parts in (
        (ridden, ["horse", "person", "horse", "-"], ["torso", "-", "torso", "-"]),
        ([bus], ["bus", "-", "bus"], ["wheel", "-", "wheel"]),
    ):
        save_parts(file, instances)
        reader = Pascal(None, part, voc)
        maps = reader.read(reader.find()[0][0])
        assert names_of(reader, "object", maps["object"]) == objects
        assert names_of(reader, "part", maps["part"]) == parts


def test_folders_below_and_names_with_spaces(tmp_path):
    context, part, voc = make_pascal(tmp_path / "my déjà vu data")
    for name in ("JPEGImages/2008_000001.jpg", "../../part/Annotations_Part/2008_000001.mat"):
        path = voc / name
        path.rename(path.with_name(f"côte d'azur 1{path.suffix}"))
    (context / "trainval" / "2008_000001.mat").rename(context / "trainval" / "côte d'azur 1.mat")
    whole = Pascal(context, part, voc).find()
    assert [item.name for item in whole[0]] == ["2008_000002", "2008_000003", "côte d'azur 1"] and not whole[1]
    assert Pascal(context / "trainval", part / "Annotations_Part", voc / "JPEGImages").find() == whole
    assert Pascal(context.parent, part.parent, voc.parent).find() == whole


def test_missing_folders(tmp_path):
    context, part, voc = make_pascal(tmp_path)
    with pytest.raises(UpernetError, match="no such folder; give --pascal-part"):
        Pascal(context, tmp_path / "none", voc).find()
    (context / "labels.txt").write_text("no labels\n")
    with pytest.raises(UpernetError, match=r"labels\.txt: lists no labels"):
        Pascal(context, part, voc).find()
    (context / "labels.txt").write_text("99999999: huge\n")
    with pytest.raises(UpernetError, match="is not the number of a label"):
        Pascal(context, part, voc).find()
