"""Tests of upernet.data.prepare.broden: run, journal, recipe, report, workers."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.broden import (
    ARM_SUPPORT,
    CAR,
    PERSON,
    SKY,
    ade_photo,
    make_ade_2016,
    make_ade_2021,
    make_dtd,
    make_opensurfaces,
    make_pascal,
)
from helpers.full_disk import file_size_limit, needs_file_size_limit
from helpers.shared import DATA, REFERENCE, needs_data, needs_reference
from PIL import Image

from upernet.data.check import check
from upernet.data.prepare.broden import Folders, Options, estimate_broden, prepare_broden
from upernet.data.prepare.broden.options import Refusal
from upernet.data.sources import Source, open_source
from upernet.errors import UpernetError
from upernet.recipe import load_recipe
from upernet.taxonomy import IGNORE, load_taxonomy

TAXONOMY = load_taxonomy("broden")
OBJECTS, PARTS = TAXONOMY.level("object"), TAXONOMY.level("part")


def sources_of(out: Path, split: str = "train") -> dict[str, Source]:
    """Open the sources that have a split, by the recipe that was written."""
    recipe = load_recipe(str(out / "recipe.yaml"))
    taxonomy = load_taxonomy(recipe.taxonomy)
    return {
        name: open_source(name, spec, taxonomy, str(recipe.data), split)
        for name, spec in recipe.sources.items()
        if split in spec.split_names
    }


def all_folders(root: Path) -> Folders:
    context, part, voc = make_pascal(root)
    return Folders(make_ade_2021(root), context, part, voc, make_opensurfaces(root), make_dtd(root))


def files_below(folder: Path) -> dict[str, tuple[int, int]]:
    """Path -> what changes when a file is written again."""
    return {
        path.relative_to(folder).as_posix(): (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file() and path.suffix in (".png", ".jpg")
    }


def test_all_data_sets_train_and_evaluate(tmp_path):
    report = prepare_broden(tmp_path / "out", all_folders(tmp_path))
    assert {dataset: sum(splits.values()) for dataset, splits in report.photos.items()} == {
        "ade20k": 4,
        "dtd": 4,
        "opensurfaces": 1,  # the other has no material
        "pascal": 3,
    }
    assert report.counts == {"unannotated": 1} and report.complete
    sources = sources_of(tmp_path / "out")
    assert list(sources) == ["scenes_and_objects", "materials", "textures"]
    sample = next(sample for sample in sources["scenes_and_objects"] if "ade20k" in sample.key)
    assert TAXONOMY.level("scene").names[sample.labels["scene"]] == "street"
    assert [OBJECTS.names[label] for label in sample.maps["object"][0, ::4].tolist()] == ["person", "sky", "car"]
    # A third of the person is annotated with its head; the arm is where the object is sky, which has no arms.
    assert sample.maps["part"][0, ::4].tolist() == [PARTS.index("head"), IGNORE, IGNORE]
    for split in ("train", "val"):
        for source in sources_of(tmp_path / "out", split).values():
            assert all(source[position].key for position in range(len(source)))
    assert not check(load_recipe(str(tmp_path / "out" / "recipe.yaml")), tmp_path / "out").problems


def test_data_sets_in_several_runs_are_one_folder(tmp_path):
    folders = all_folders(tmp_path)
    together = prepare_broden(tmp_path / "together", folders)
    prepare_broden(tmp_path / "out", Folders(dtd=folders.dtd))
    report = prepare_broden(tmp_path / "out", Folders(folders.ade20k, folders.pascal_context, folders.pascal_part))
    assert set(report.photos) == {"ade20k", "dtd", "pascal"}
    report = prepare_broden(tmp_path / "out", Folders(opensurfaces=folders.opensurfaces))
    assert report.photos == together.photos and report.classes == together.classes
    for name in ("train.jsonl", "val.jsonl", "recipe.yaml"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "together" / name).read_bytes()


def test_a_second_run_writes_nothing_and_a_lost_file_is_made_again(tmp_path):
    folder = make_ade_2021(tmp_path)
    assert prepare_broden(tmp_path / "out", Folders(folder)).new == 4
    before = files_below(tmp_path / "out")
    report = prepare_broden(tmp_path / "out", Folders(folder))
    assert report.new == 0 and report.photos == {"ade20k": {"train": 2, "val": 2}}
    assert files_below(tmp_path / "out") == before
    (tmp_path / "out" / "object" / "ade20k" / "ADE_val_00000002.png").unlink()
    assert prepare_broden(tmp_path / "out", Folders(folder)).new == 1
    assert files_below(tmp_path / "out").keys() == before.keys()
    assert not list(tmp_path.rglob("*tmp*"))


def test_a_run_that_was_stopped_goes_on(tmp_path):
    folder = make_ade_2021(tmp_path)

    def stop(done: int, total: int) -> None:
        assert total == 4
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare_broden(tmp_path / "out", Folders(folder), progress=stop)
    done = files_below(tmp_path / "out")
    assert not (tmp_path / "out" / "train.jsonl").exists()
    journal = tmp_path / "out" / ".journal.jsonl"
    journal.write_bytes(journal.read_bytes() + b'{"key": ["ade20k", "ADE_val_0')  # a kill while it was written
    (tmp_path / "out" / "photos" / "ade20k" / ".ADE_val_00000001-x1y2z3_w.jpg").write_bytes(b"half of a photo")
    assert prepare_broden(tmp_path / "out", Folders(folder)).new == 2
    assert {name: files_below(tmp_path / "out")[name] for name in done} == done
    assert not list((tmp_path / "out" / "photos").rglob(".*"))
    prepare_broden(tmp_path / "whole", Folders(folder))
    for name in ("train.jsonl", "val.jsonl"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


KILLED = """
import os, signal, sys
from pathlib import Path
from upernet.data.prepare.broden import Folders, Options, prepare_broden

def kill(done, total):
    if done == 3:
        os.kill(os.getpid(), signal.SIGKILL)

prepare_broden(sys.argv[1], Folders(Path(sys.argv[2])), Options(workers=2), kill)
"""


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_a_run_that_was_killed_goes_on_and_leaves_no_process(tmp_path):
    folder = make_ade_2021(tmp_path, count=10)
    command = [sys.executable, "-c", KILLED, tmp_path / "out", folder]
    # The pipe is only closed when the last process that inherited it has ended.
    killed = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120)
    assert killed.returncode == -9 and not killed.stdout
    assert len((tmp_path / "out" / ".journal.jsonl").read_text().splitlines()) == 3
    assert prepare_broden(tmp_path / "out", Folders(folder)).new == 17
    prepare_broden(tmp_path / "whole", Folders(folder))
    for name in ("train.jsonl", "val.jsonl"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_what_a_kill_leaves_behind_is_deleted(tmp_path):
    folder, out = make_ade_2021(tmp_path), tmp_path / "out"
    out.mkdir()
    (out / ".settings-abcd1234.json").write_text("{")  # killed while the first file was written
    (out / ".DS_Store").write_bytes(b"of the user")
    prepare_broden(out, Folders(folder))
    for name in (".train-abcd1234.jsonl", "object/.labels-abcd1234.txt", "object/ade20k/.ADE_val_1-abcd1234.png"):
        (out / name).write_text("half")
    prepare_broden(out, Folders(folder))
    assert {path.name for path in out.rglob(".*")} == {".DS_Store", ".journal.jsonl", ".lock"}


def test_annotations_that_arrive_later_are_converted(tmp_path):
    folder = make_ade_2021(tmp_path)  # an archive that is still being unpacked
    place = folder / "images" / "ADE" / "training" / "urban" / "street"
    late, half = place / "ADE_train_00000001_parts_1.png", place / "ADE_train_00000002.jpg"
    part, photo = late.read_bytes(), half.read_bytes()
    late.unlink()
    half.unlink()
    assert prepare_broden(tmp_path / "out", Folders(folder)).classes["part"]["head"] == 2
    late.write_bytes(part)
    half.write_bytes(photo)
    report = prepare_broden(tmp_path / "out", Folders(folder))
    assert report.new == 2 and report.classes["part"]["head"] == 4
    assert prepare_broden(tmp_path / "out", Folders(folder)).new == 0


def test_the_two_pascal_sets_in_two_runs(tmp_path):
    context, part, voc = make_pascal(tmp_path)
    both = Folders(pascal_context=context, pascal_part=part, voc2010=voc)
    assert prepare_broden(tmp_path / "out", Folders(pascal_context=context, voc2010=voc)).new == 3
    report = prepare_broden(tmp_path / "out", both)
    assert report.new == 2 and report.classes["part"]["head"] == 2  # the third photo has no parts
    before = (tmp_path / "out" / "train.jsonl").read_bytes()
    for fewer in (Folders(pascal_context=context, voc2010=voc), Folders(pascal_part=part, voc2010=voc)):
        with pytest.raises(
            UpernetError, match=r"out: an earlier run had annotations of pascal .*\((part|context)\); give all"
        ):
            prepare_broden(tmp_path / "out", fewer)
    assert (tmp_path / "out" / "train.jsonl").read_bytes() == before


def test_photos_that_are_gone_are_named(tmp_path):
    folder, out = make_ade_2021(tmp_path), tmp_path / "out"
    prepare_broden(out, Folders(folder))
    before = (out / "train.jsonl").read_bytes()
    shutil.rmtree(folder / "images" / "ADE" / "training" / "urban" / "street")  # or another disk was given
    with pytest.raises(UpernetError, match="photos that an earlier run converted are gone: 2, first"):
        prepare_broden(out, Folders(folder), Options(refuse=frozenset({"incomplete"})))
    assert (out / "train.jsonl").read_bytes() == before
    report = prepare_broden(out, Folders(folder))
    assert report.counts == {"incomplete": 1} and "first ADE_train_00000001" in report.flaws[0].text
    assert report.photos == {"ade20k": {"val": 2}} and not (out / "train.jsonl").exists()


def test_a_folder_without_a_usable_photo(tmp_path):
    place = tmp_path / "ade" / "images" / "training" / "s" / "misc"
    ade_photo(place, "ADE_train_00000001", [0])
    with pytest.raises(UpernetError, match=r"out: not one photo can be used .*nothing in it belongs to a class"):
        prepare_broden(tmp_path / "out", Folders(tmp_path / "ade"))
    assert json.loads((tmp_path / "out" / "report.json").read_text())["counts"] == {"unannotated": 1}


def test_a_folder_that_cannot_be_written(tmp_path):
    folder = make_ade_2021(tmp_path)
    (tmp_path / "file").write_text("no folder")
    (tmp_path / "locked" / ".lock").mkdir(parents=True)
    for out in (tmp_path / "file", tmp_path / "file" / "below", tmp_path / "locked"):
        with pytest.raises(UpernetError, match=r"cannot be written \(.*choose another folder\.$"):
            prepare_broden(out, Folders(folder))


@needs_file_size_limit
def test_a_journal_that_does_not_fit_on_the_disk(tmp_path):
    folder, out = make_ade_2021(tmp_path, count=40), tmp_path / "out"
    with file_size_limit(20_000), pytest.raises(UpernetError, match=r"journal\.jsonl: writing failed .*command again"):
        prepare_broden(out, Folders(folder))
    assert 0 < prepare_broden(out, Folders(folder)).new < 80


def test_two_runs_do_not_write_to_one_folder(tmp_path):
    folder = make_ade_2021(tmp_path)

    def again(done: int, total: int) -> None:
        with pytest.raises(UpernetError, match="out: another run is writing to it"):
            prepare_broden(tmp_path / "out", Folders(folder))

    assert prepare_broden(tmp_path / "out", Folders(folder), progress=again).new == 4


@pytest.mark.slow
@pytest.mark.process
def test_processes_change_nothing(tmp_path):
    folders = all_folders(tmp_path)
    for workers in (1, 2):
        prepare_broden(tmp_path / str(workers), folders, Options(workers=workers))
    paths = [path.relative_to(tmp_path / "1") for path in (tmp_path / "1").rglob("*") if path.is_file()]
    for path in paths:
        if path.name != "report.json":
            assert (tmp_path / "1" / path).read_bytes() == (tmp_path / "2" / path).read_bytes(), path


def test_an_estimate_writes_nothing(tmp_path):
    folders = all_folders(tmp_path)
    estimate = estimate_broden(tmp_path / "out", folders)
    assert not (tmp_path / "out").exists()
    report = prepare_broden(tmp_path / "out", folders)
    assert estimate.size == report.size and estimate.free > 0 and estimate.sampled == 13
    assert estimate.photos["ade20k"] == report.photos["ade20k"]
    assert [flaw.kind for flaw in estimate.flaws] == ["unannotated"]


def test_larger_photos_are_reduced_and_labels_follow(tmp_path):
    place = tmp_path / "ade" / "images" / "training" / "s" / "street"
    ade_photo(place, "ADE_train_00000001", [PERSON, CAR], size=(60, 40))
    prepare_broden(tmp_path / "out", Folders(tmp_path / "ade"), Options(short_side=10))
    photo = Image.open(tmp_path / "out" / "photos" / "ade20k" / "ADE_train_00000001.jpg")
    labels = np.asarray(Image.open(tmp_path / "out" / "object" / "ade20k" / "ADE_train_00000001.png"))
    assert photo.size == (15, 10) and labels.shape == (10, 15) and labels.dtype == np.uint16
    assert set(np.unique(labels)) == {OBJECTS.index("person"), OBJECTS.index("car")}
    prepare_broden(tmp_path / "whole", Folders(tmp_path / "ade"), Options(short_side=0))
    whole = tmp_path / "whole" / "photos" / "ade20k" / "ADE_train_00000001.jpg"
    assert whole.read_bytes() == (place / "ADE_train_00000001.jpg").read_bytes()


def test_other_options_need_another_folder(tmp_path):
    folder = make_ade_2021(tmp_path)
    prepare_broden(tmp_path / "out", Folders(folder))
    before = files_below(tmp_path / "out")
    with pytest.raises(UpernetError, match=r"out: was prepared with other options .*another folder\.$"):
        prepare_broden(tmp_path / "out", Folders(folder), Options(short_side=100))
    assert files_below(tmp_path / "out") == before
    with pytest.raises(UpernetError, match="is not empty, and was not prepared here"):
        prepare_broden(folder, Folders(folder))
    with pytest.raises(UpernetError, match="no data set is given; give at least one of --ade20k"):
        prepare_broden(tmp_path / "none", Folders())
    assert not (tmp_path / "none").exists()


def test_two_photos_of_one_name_are_refused(tmp_path):
    folder = make_dtd(tmp_path)
    images = folder / "images"
    (images / "zigzagged" / "BANDED_0001.jpg").write_bytes((images / "banded" / "banded_0001.jpg").read_bytes())
    with pytest.raises(UpernetError, match=r"BANDED_0001\.jpg: has the name of .*banded_0001\.jpg"):
        prepare_broden(tmp_path / "out", Folders(dtd=folder))


def test_damage_is_listed_and_left_out_or_refused(tmp_path):
    folder = make_ade_2021(tmp_path)
    place = folder / "images" / "ADE" / "training" / "urban" / "street"
    (place / "ADE_train_00000001_seg.png").write_bytes(b"\x89PNG\r\n\x1a\n and then nothing")
    (place / "ADE_train_00000002_seg.png").unlink()
    ade_photo(place, "ADE_train_00000003", [PERSON], [ARM_SUPPORT, 4000])
    ade_photo(place, "ADE_train_00000004", [SKY])
    Image.new("RGB", (3, 3)).save(place / "ADE_train_00000004_seg.png")
    report = prepare_broden(tmp_path / "out", Folders(folder))
    assert report.counts == {"damaged": 2, "unannotated": 1, "unknown-label": 1} and not report.complete
    assert report.photos == {"ade20k": {"train": 1, "val": 2}}
    assert report.unknown == {"ade20k part": {"4000": 48}}  # 56 has no class in the published label set, but is known
    stored = json.loads((tmp_path / "out" / "report.json").read_text())
    texts = {flaw["name"]: flaw["text"] for flaw in stored["flaws"]}
    assert (
        "ADE_train_00000001_seg.png: not an image" in texts["ADE_train_00000001"]
        or "damaged" in texts["ADE_train_00000001"]
    )
    assert texts["ADE_train_00000004"].endswith("its map of level object is 3 x 3; unpack the archive again.")
    assert sources_of(tmp_path / "out")["scenes_and_objects"].photos[0].path.name == "ADE_train_00000003.jpg"
    expected: dict[Refusal, str] = {
        "damaged": "refused by --refuse",
        "unannotated": "00000002",
        "unknown-label": "4000",
    }
    for kind, words in expected.items():
        with pytest.raises(UpernetError, match=words):
            prepare_broden(tmp_path / kind, Folders(folder), Options(refuse=frozenset({kind})))
    assert not (tmp_path / "unannotated").exists()  # refused before anything was written


def test_a_photo_that_is_mended_is_converted(tmp_path):
    folder = make_ade_2021(tmp_path)
    mask = folder / "images" / "ADE" / "training" / "urban" / "street" / "ADE_train_00000001_seg.png"
    content = mask.read_bytes()
    mask.write_bytes(content[:40])
    assert prepare_broden(tmp_path / "out", Folders(folder)).counts == {"damaged": 1}
    assert prepare_broden(tmp_path / "out", Folders(folder)).new == 0  # tried again, in vain
    mask.write_bytes(content)
    report = prepare_broden(tmp_path / "out", Folders(folder))
    assert report.new == 1 and report.complete and report.photos == {"ade20k": {"train": 2, "val": 2}}


def test_released_lists_split_the_photos(tmp_path):
    folder = make_ade_2016(tmp_path)
    lists = tmp_path / "meta_file" / "joint_dataset"
    lists.mkdir(parents=True)
    record = {"dataset": "ade20k", "height": 8, "width": 12, "nr_part": 1}
    (lists / "broden_ade20k_pascal_train.json").write_text(json.dumps(record | {"file_index": 1}) + "\n")
    options = Options(lists=tmp_path / "meta_file")
    report = prepare_broden(tmp_path / "out", Folders(folder), options)
    assert report.photos == {"ade20k": {"train": 1}} and report.counts == {"unlisted": 1}
    source = sources_of(tmp_path / "out")["scenes_and_objects"]
    assert [photo.path.stem for photo in source.photos] == ["ADE_val_00000001"]
    assert not sources_of(tmp_path / "out", "val") and not (tmp_path / "out" / "val.jsonl").exists()
    (folder / "index_ade20k.mat").unlink()
    with pytest.raises(UpernetError, match="number its photos by an index that is not there"):
        prepare_broden(tmp_path / "other", Folders(folder), options)
    (lists / "broden_ade20k_pascal_train.json").write_text("no JSON\n")
    with pytest.raises(UpernetError, match=r"train\.json:1: is not a record"):
        prepare_broden(tmp_path / "other", Folders(folder), options)


def test_a_label_set_of_ones_own(tmp_path):
    folder = make_ade_2021(tmp_path)
    (tmp_path / "mine.yaml").write_text("levels:\n  object:\n    background: nothing\n    classes: [being, vehicle]\n")
    (tmp_path / "labels.yaml").write_text(f"ade20k:\n  object:\n    being: [{PERSON}]\n    vehicle: [{CAR}]\n")
    options = Options(labels=tmp_path / "labels.yaml", taxonomy=tmp_path / "mine.yaml")
    report = prepare_broden(tmp_path / "out", Folders(folder), options)
    assert report.classes == {"object": {"being": 4, "vehicle": 4}} and report.complete
    sample = sources_of(tmp_path / "out")["scenes_and_objects"][0]
    assert sample.maps["object"][0, ::4].tolist() == [1, 0, 2]
    (tmp_path / "labels.yaml").write_text(f"ade20k:\n  object:\n    beings: [{PERSON}]\n")
    with pytest.raises(UpernetError, match=r"ade20k\.object\.beings: .*did you mean 'being'"):
        prepare_broden(tmp_path / "other", Folders(folder), options)


@needs_data
@needs_reference
@pytest.mark.slow
def test_the_sample_of_ade20k_has_the_published_classes(tmp_path):
    report = prepare_broden(tmp_path / "out", Folders(DATA / "ade20k_full_sample"))
    assert report.photos == {"ade20k": {"train": 3}} and not report.flaws
    published = json.loads((REFERENCE / "broden_taxonomy.json").read_text())
    for level in ("object", "part"):
        lines = (tmp_path / "out" / level / "labels.txt").read_text().splitlines()
        assert [line.split("\t")[1] for line in lines] == published[level]
    owned = json.loads((REFERENCE / "broden_parts_of_objects.json").read_text())["object_part"]
    for path in sorted((tmp_path / "out" / "part" / "ade20k").glob("*.png")):
        parts, objects = (
            np.asarray(Image.open(path)),
            np.asarray(Image.open(tmp_path / "out/object/ade20k" / path.name)),
        )
        for label in np.unique(objects[parts != 255]).tolist():
            own = np.unique(parts[objects == label])
            assert set(own.tolist()) <= set(owned[str(label)]) and (own > 0).any()
    names = {name for name, photos in report.classes["part"].items() if photos}
    assert {"window", "wheel", "door", "license plate"} <= names
    assert report.classes["scene"]["street"] == 3
    assert len(sources_of(tmp_path / "out")["scenes_and_objects"]) == 3
