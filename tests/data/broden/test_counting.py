"""Tests of upernet.data.prepare.broden: counting."""

from __future__ import annotations

import numpy as np
from helpers.broden import CAR, make_ade_2021, make_pascal
from PIL import Image

from upernet.data.prepare.broden import Folders, Options, prepare_broden
from upernet.data.prepare.broden.counting import Counting, Counts, choose
from upernet.taxonomy import load_taxonomy

FEW = Counting(min_photos=2, min_pixels=1, min_part_photos=2)


def counts_of(
    titles: dict[tuple[str, str], str], photos: int = 60, pixels: int = 60_000, level: str = "object"
) -> Counts:
    counts = Counts()
    for raw, title in titles.items():
        counts.photos["object"][raw] = 60
        counts.pixels["object"][raw] = 60_000
        counts.titles["object"][raw] = title
    return counts


def classes_of(counts: Counts, rules: Counting = FEW) -> dict[tuple[str, str], str]:
    """Return raw label -> class of the objects."""
    assignment = choose(counts, rules)
    names = assignment.taxonomy.level("object").names
    return {
        (dataset, key): names[label]
        for dataset, found in assignment.table.items()
        for key, label in found["object"].items()
    }


def test_synonyms_and_plurals_are_merged():
    titles = {
        ("ade20k", "1"): "airplane, aeroplane, plane",
        ("pascal", "aeroplane"): "aeroplane",
        ("ade20k", "2"): "bottle",
        ("ade20k", "3"): "bottles",
        ("ade20k", "4"): "bag",
        ("ade20k", "5"): "bag, handbag, pocketbook, purse",
    }
    assert classes_of(counts_of(titles)) == {
        ("ade20k", "1"): "airplane",
        ("pascal", "aeroplane"): "airplane",
        ("ade20k", "2"): "bottle",
        ("ade20k", "3"): "bottle",
        ("ade20k", "4"): "bag",
        ("ade20k", "5"): "handbag",
    }
    apart = classes_of(counts_of(titles), Counting(2, 1, 2, synonyms=False))
    assert apart["pascal", "aeroplane"] == "aeroplane" and apart["ade20k", "3"] == "bottles"


def test_rare_classes_are_left_out():
    counts = counts_of({("ade20k", "1"): "wall", ("ade20k", "2"): "fog", ("ade20k", "3"): "speck"})
    counts.photos["object"]["ade20k", "2"] = 49
    counts.pixels["object"]["ade20k", "3"] = 49_999
    assert classes_of(counts, Counting()) == {("ade20k", "1"): "wall", ("ade20k", "2"): "-", ("ade20k", "3"): "-"}


def test_parts_belong_to_the_objects_that_show_them_often():
    counts = counts_of({("ade20k", "1"): "person", ("ade20k", "2"): "car"})
    for key, title in (("7", "left arm"), ("8", "right arm"), ("9", "wheel"), ("10", "back")):
        counts.photos["part"]["ade20k", key] = 60
        counts.titles["part"]["ade20k", key] = title
    for owner, part, photos in (("1", "7", 12), ("1", "8", 12), ("2", "9", 30), ("1", "9", 3), ("2", "10", 25)):
        counts.pairs[("ade20k", owner), ("ade20k", part)] = photos
    taxonomy = choose(counts, Counting()).taxonomy
    parts, objects = taxonomy.level("part").names, taxonomy.level("object").names
    owned = {objects[group.owner]: [parts[part] for part in group.parts[1:]] for group in taxonomy.part_groups}
    assert owned == {"person": ["arm"], "car": ["wheel", "back"]}  # two arms of 12 photos are one of 24
    kept = choose(counts, Counting(collapse=(), min_part_photos=12)).taxonomy
    assert "left arm" in kept.level("part").names


def test_a_counted_folder_can_be_continued_and_its_labels_edited(tmp_path):
    context, part, voc = make_pascal(tmp_path)
    folders = Folders(make_ade_2021(tmp_path), context, part, voc)
    options = Options(labels="counted", counting=FEW)
    report = prepare_broden(tmp_path / "out", folders, options)
    assert report.classes["object"] == {"person": 7, "sky": 7, "car": 4}
    assert report.classes["part"] == {"head": 6, "arm": 4, "leg": 2} and not report.flaws
    again = prepare_broden(tmp_path / "out", folders, options)
    assert again.new == 0 and again.classes == report.classes
    taxonomy = load_taxonomy(tmp_path / "out" / "taxonomy.yaml")
    labels = np.asarray(Image.open(tmp_path / "out" / "object" / "ade20k" / "ADE_train_00000001.png"))
    assert [taxonomy.level("object").names[label] for label in labels[0, ::4].tolist()] == ["person", "sky", "car"]
    edited = tmp_path / "edited.yaml"
    text = (tmp_path / "out" / "assignment.yaml").read_text()
    edited.write_text(text.replace(f"'car': [{CAR}]", f"'-': [{CAR}]"))
    options = Options(labels=edited, taxonomy=tmp_path / "out" / "taxonomy.yaml")
    assert prepare_broden(tmp_path / "own", folders, options).classes["object"]["car"] == 0


def test_counted_labels_that_are_edited_in_place_convert_again(tmp_path):
    folders, options = Folders(make_ade_2021(tmp_path)), Options(labels="counted", counting=FEW)
    phases: list[tuple[int, int]] = []
    prepare_broden(tmp_path / "out", folders, options, lambda done, total: phases.append((done, total)))
    assert phases == 2 * [(done, 4) for done in range(1, 5)]  # counting, then converting
    file = tmp_path / "out" / "assignment.yaml"
    file.write_text(file.read_text().replace(f"'car': [{CAR}]", f"'-': [{CAR}]"))
    report = prepare_broden(tmp_path / "out", folders, options)
    assert report.new == 4 and report.classes["object"]["car"] == 0
