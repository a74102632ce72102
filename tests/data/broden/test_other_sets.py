"""Tests of upernet.data.prepare.broden: opensurfaces, dtd, assignment, splits."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.broden import make_dtd, make_opensurfaces
from PIL import Image

from upernet.data.prepare.ade20k import FULL_NUMBERS
from upernet.data.prepare.broden import Folders, prepare_broden
from upernet.data.prepare.broden.ade20k import Ade20k
from upernet.data.prepare.broden.assignment import UNKNOWN, published, read_assignment
from upernet.data.prepare.broden.dtd import Dtd
from upernet.data.prepare.broden.opensurfaces import OpenSurfaces, substance_name
from upernet.data.prepare.broden.sources import split_by_name
from upernet.errors import UpernetError
from upernet.taxonomy import IGNORE, load_taxonomy

TAXONOMY = load_taxonomy("broden")
UNREACHABLE = (67, 97, 125, 250, 252, 267, 271, 274, 288, 328)
"""Scenes that no label of ADE20K is assigned to, as measured on the published table."""


def test_materials_follow_the_size_of_the_photo(tmp_path):
    report = prepare_broden(tmp_path / "out", Folders(opensurfaces=make_opensurfaces(tmp_path)))
    assert report.counts == {"unannotated": 1}
    labels = np.asarray(Image.open(tmp_path / "out" / "material" / "opensurfaces" / "17.png"))
    material = TAXONOMY.level("material")
    assert labels.shape == (16, 24) and labels.dtype == np.uint8
    assert labels[5, [0, 10, 20]].tolist() == [material.index("brick"), material.index("plastic"), 0]


def test_substances_are_named_as_in_the_assignment():
    assigned = published().table["opensurfaces"]["material"]
    for name in ("Carpet/Rug", "Plastic - clear", "Granite/Marble", "Wood - natural color", "Rubber/Latex"):
        assert substance_name(name) in assigned


def test_opensurfaces_that_was_not_rendered(tmp_path):
    folder = make_opensurfaces(tmp_path)
    (folder / "photos" / "18.jpg").unlink()
    (folder / "photos.csv").write_text("photo_id,fov\n17,60\n18,60\n../17,60\n")
    items, flaws = OpenSurfaces(folder).find()
    assert [item.name for item in items] == ["17"] and [flaw.kind for flaw in flaws] == ["incomplete", "incomplete"]
    (folder / "photos.csv").write_text("identity,fov\n17,60\n")
    with pytest.raises(UpernetError, match=r"photos\.csv: has no column 'photo_id'"):
        OpenSurfaces(folder).find()
    (folder / "label-substance-colors.csv").unlink()
    with pytest.raises(UpernetError, match=r"run process_opensurfaces_release_0\.py"):
        OpenSurfaces(folder).find()


def test_rows_of_opensurfaces_end_where_csv_says(tmp_path):
    folder = make_opensurfaces(tmp_path)
    (folder / "photos.csv").write_text('photo_id,scene\n18,a\u2028kitchen\n17,"a\nbath"\n', encoding="utf-8")
    items, flaws = OpenSurfaces(folder).find()
    assert [(item.name, item.row) for item in items] == [("17", 1), ("18", 0)] and not flaws


@pytest.mark.parametrize("text", ["", "photo_id,fov\n"])
def test_opensurfaces_without_photos(tmp_path, text):
    folder = make_opensurfaces(tmp_path)
    (folder / "photos.csv").write_text(text)
    with pytest.raises(UpernetError, match=r"photos\.csv: lists no photos"):
        OpenSurfaces(folder).find()


def test_the_release_of_opensurfaces_as_json(tmp_path):
    folder = tmp_path / "release" / "opensurfaces"
    folder.mkdir(parents=True)
    (folder / "photos.photo.json").write_text("[]")
    with pytest.raises(UpernetError, match=r"is the release as JSON.*process_opensurfaces_release_0"):
        OpenSurfaces(tmp_path / "release").find()


def test_textures_are_the_folders(tmp_path):
    folder = make_dtd(tmp_path)
    items, flaws = Dtd(folder).find()
    assert [(item.names["texture"], item.row) for item in items] == [
        ("banded", 0),
        ("banded", 1),
        ("zigzagged", 2),
        ("zigzagged", 3),
    ]
    assert not flaws and Dtd(folder / "images").find() == (items, flaws)
    items[1].photo.unlink()
    _, flaws = Dtd(folder).find()
    assert "1 of 4 listed photos are missing, first banded/banded_0002.jpg" in flaws[0].text
    (folder / "images" / "banded").rename(folder / "images" / "furry")
    report = prepare_broden(tmp_path / "out", Folders(dtd=folder))
    assert report.counts["unknown-label"] == 1 and report.photos == {"dtd": {"train": 2}}
    with pytest.raises(UpernetError, match=r"no images/TEXTURE/\*\.jpg"):
        Dtd(folder / "labels").find()


def test_the_published_assignment_has_the_published_counts():
    table = published().table
    assert len(table["pascal"]["object"]) == 407 and len(table["opensurfaces"]["material"]) == 45
    for level, datasets in (("object", ("ade20k", "pascal")), ("part", ("ade20k", "pascal")), ("scene", ("ade20k",))):
        reached = {label for dataset in datasets for label in table[dataset][level].values()}
        missing = set(range(TAXONOMY.level(level).num_classes)) - reached
        assert sorted(missing - {0}) == (list(UNREACHABLE) if level == "scene" else [])


def test_the_benchmarks_numbers_belong_to_classes_of_their_names():
    """150 classes have been numbered twice, independently: by the benchmark, and by the authors of Broden+."""
    names = load_taxonomy("ade20k150").level("object").names
    assigned = published().table["ade20k"]["object"]
    objects = TAXONOMY.level("object").names
    synonyms = {
        "windowpane": "window",
        "rug": "carpet",
        "fireplace": "fire place",
        "stairs": "step",
        "bus": "coach",
        "step": "stair",
        "pot": "flowerpot",
        "screen": "silver screen",
        "hood": "exhaust hood",
        "monitor": "monitoring device",
    }
    for name, number in zip(names, FULL_NUMBERS, strict=True):
        if name != "escalator":  # too rare in Broden+
            assert objects[assigned[str(number)]] == synonyms.get(name, name)


def test_numbers_beyond_the_release_of_2016_are_unknown(tmp_path):
    table = published().lookup(Ade20k(tmp_path), "object")
    assert len(table) == 3149 and (table[:3149] != UNKNOWN).all() and table[0] == 0


def test_scenes():
    assignment = published()
    church = TAXONOMY.level("scene").index("church/indoor")
    assert assignment.label("ade20k", "scene", "c/church/indoor") == church
    assert assignment.label("ade20k", "scene", "chapel") == church
    assert assignment.label("ade20k", "scene", "m/misc") == IGNORE
    assert assignment.label("ade20k", "scene", "nowhere") == UNKNOWN


def test_a_tenth_is_validated_on_whatever_the_order():
    splits = [split_by_name(f"2008_{number:06}") for number in range(3000)]
    assert 0.08 < splits.count("val") / 3000 < 0.12
    assert splits == [split_by_name(f"2008_{number:06}") for number in range(3000)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ade20k: [1]\n", "ade20k is not a mapping"),
        ("ade20k: {object: {wall: 3}}\n", r"ade20k\.object\.wall: 3 is not a list"),
        ("ade20k: {object: {wall: [3], sky: [3]}}\n", "'3' has another class"),
        ("ade20k: {object: {wal: [3]}}\n", "did you mean 'wall'"),
        ("ade20k: {smell: {wall: [3]}}\n", "no level 'smell'"),
    ],
)
def test_a_wrong_assignment_is_one_sentence(tmp_path, text, words):
    (tmp_path / "labels.yaml").write_text(text)
    with pytest.raises(UpernetError, match=words):
        read_assignment(tmp_path / "labels.yaml", TAXONOMY, "own")
