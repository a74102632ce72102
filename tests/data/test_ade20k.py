"""Tests of upernet.data.prepare: ade20k and archive."""

import json
import os
import stat
import struct
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from helpers.folders import save_mask, save_photo
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from upernet.data.check import check
from upernet.data.prepare import DATASETS, prepare
from upernet.data.prepare import archive as archive_module
from upernet.data.prepare.ade20k import BENCHMARK, FULL, FULL_NUMBERS, MERGED, prepare_ade20k
from upernet.data.sources import open_source
from upernet.errors import UpernetError
from upernet.recipe import load_recipe
from upernet.taxonomy import IGNORE, load_taxonomy

SHARED = Path(__file__).parents[3] / "shared"
needs_data = pytest.mark.skipif(not (SHARED / "data").is_dir(), reason="needs ../shared/data beside the checkout")
RECIPE = load_recipe("upernet_internimage_t_512_160k_ade20k")
TAXONOMY = load_taxonomy("ade20k150")
NAMES = TAXONOMY.level("object").names


def make_benchmark(root: Path, count: int = 2) -> Path:
    """Unpack the benchmark: `count` photos of 12 x 8 in each split, and the table of the classes."""
    folder = root / "ADEChallengeData2016"
    for split, short in (("training", "train"), ("validation", "val")):
        for number in range(1, count + 1):
            name = f"ADE_{short}_{number:08}"
            save_photo(folder / "images" / split / f"{name}.jpg", seed=number)
            save_mask(folder / "annotations" / split / f"{name}.png", np.arange(55, 151).reshape(8, 12) * (number != 1))
    rows = [f"{value}\t0.1\t5\t2\t{name}, and so on \n" for value, name in enumerate(NAMES, 1)]
    (folder / "objectInfo150.txt").write_text("Idx\tRatio\tTrain\tVal\tName\n" + "".join(rows))
    (folder / "sceneCategories.txt").write_text("ADE_train_00000001 airport_terminal\n")
    return folder


def make_full(root: Path, numbers, width: int = 12, height: int = 8, name: str = "ADE_train_00000007") -> Path:
    """Make the full data set with one photo, whose columns have these numbers."""
    folder = root / "ADE20K_2021_17_01"
    place = folder / "images" / "ADE" / "training" / "urban" / "street"
    save_photo(place / f"{name}.jpg", width, height)
    columns = np.resize(np.asarray(numbers), width)
    colors = np.stack([columns // 256 * 10, columns % 256, np.arange(width) % 7], axis=-1)
    save_mask(place / f"{name}_seg.png", np.broadcast_to(colors, (height, width, 3)))
    save_mask(place / f"{name}_parts_1.png", np.zeros((height, width, 3)))
    save_mask(place / name / "instance_000.png", np.zeros((height, width)))
    (place / f"{name}.json").write_text("{}")
    return folder


def pack(folder: Path, parent: str = "") -> Path:
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, parent + file.relative_to(folder.parent).as_posix())
    return path


def files_below(folder: Path) -> dict[str, tuple[int, int]]:
    """Path -> what changes when a file is written again."""
    return {
        path.relative_to(folder).as_posix(): (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_the_benchmark_from_its_zip_is_what_the_recipe_reads(tmp_path):
    folder = make_benchmark(tmp_path)
    steps = []
    prepared = prepare_ade20k(tmp_path / "out", [pack(folder)], lambda *step: steps.append(step))
    assert prepared.origin == BENCHMARK and prepared.folder == tmp_path / "out" / "ade20k"
    assert prepared.photos == prepared.written == {"training": 2, "validation": 2}
    assert steps == [(done, 4) for done in range(1, 5)]
    for split in prepared.photos:
        for kind in ("images", "annotations"):
            made = {path.name: path.read_bytes() for path in (prepared.folder / split / kind).iterdir()}
            assert made == {path.name: path.read_bytes() for path in (folder / kind / split).iterdir()}
    report = check(RECIPE, tmp_path / "out")
    assert report.ok and not report.missing
    assert [(split.split, split.photos) for split in report.splits] == [("train", 2), ("val", 2), ("test", 2)]
    source = open_source("ade20k", RECIPE.sources["ade20k"], TAXONOMY, tmp_path / "out", "test")
    assert (source[0].maps["object"] == IGNORE).all()  # the zero label
    assert source[1].maps["object"].flatten().tolist() == list(range(54, 150))


def test_what_is_there_stays_and_what_is_missing_or_cut_off_is_written(tmp_path):
    folder = make_benchmark(tmp_path)
    prepared = prepare_ade20k(tmp_path / "out", [folder])
    whole = files_below(prepared.folder / "training")
    assert prepare_ade20k(tmp_path / "out", [pack(folder)]).written == {"training": 0, "validation": 0}
    assert files_below(prepared.folder / "training") == whole

    photo = prepared.folder / "training" / "images" / "ADE_train_00000001.jpg"
    mask = prepared.folder / "validation" / "annotations" / "ADE_val_00000002.png"
    content = photo.read_bytes()
    photo.write_bytes(content[:50])
    mask.unlink()
    again = prepare_ade20k(tmp_path / "out", [folder])
    assert again.written == {"training": 1, "validation": 1} and photo.read_bytes() == content and mask.is_file()
    untouched = "images/ADE_train_00000002.jpg"
    assert files_below(prepared.folder / "training")[untouched] == whole[untouched]
    assert not list(prepared.folder.rglob(".*"))


def test_an_interrupted_run_goes_on(tmp_path):
    folder = make_benchmark(tmp_path, 3)

    def interrupt(done, total):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare_ade20k(tmp_path / "out", [folder], interrupt)
    assert prepare_ade20k(tmp_path / "out", [folder]).written == {"training": 1, "validation": 3}


def test_splits_may_come_from_several_archives(tmp_path):
    folder = make_benchmark(tmp_path)
    parts = []
    for split in ("training", "validation"):
        for kind in ("images", "annotations"):
            target = tmp_path / split / kind / split
            target.parent.mkdir(parents=True, exist_ok=True)
            (folder / kind / split).rename(target)
        parts.append(tmp_path / split)
    assert prepare_ade20k(tmp_path / "out", parts).photos == {"training": 2, "validation": 2}
    with pytest.raises(UpernetError, match=r"has the name of .*; give each photo once"):
        prepare_ade20k(tmp_path / "other", [parts[0], parts[0]])


def test_every_object_of_the_full_data_set_gets_the_class_of_the_benchmark(tmp_path):
    assert len(set(FULL_NUMBERS)) == 150 and not set(MERGED) & set(FULL_NUMBERS)
    others = sorted({0, 1, 3149, 6655} - set(FULL_NUMBERS) - set(MERGED))
    numbers = [*FULL_NUMBERS, *MERGED, *others]
    folder = make_full(tmp_path, numbers, width=len(numbers))
    prepared = prepare_ade20k(tmp_path / "out", [pack(folder)])
    assert prepared.origin == FULL and prepared.photos == {"training": 1, "validation": 0}
    mask = np.asarray(Image.open(prepared.folder / "training" / "annotations" / "ADE_train_00000007.png"))
    assert mask.dtype == np.uint8 and (mask == mask[0]).all()
    assert mask[0].tolist() == [*range(1, 151), *MERGED.values(), *[0] * len(others)]
    photo = next((folder / "images").rglob("*.jpg"))
    assert (prepared.folder / "training" / "images" / photo.name).read_bytes() == photo.read_bytes()
    assert check(RECIPE, tmp_path / "out").ok
    assert prepare_ade20k(tmp_path / "out", [folder]).written == {"training": 0, "validation": 0}


def test_large_photos_of_the_full_data_set_are_reduced(tmp_path):
    prepared = prepare_ade20k(tmp_path / "out", [make_full(tmp_path, [2978, 312], width=600, height=1100)])
    photo, mask = (
        Image.open(prepared.folder / "training" / kind / f"ADE_train_00000007.{ending}")
        for kind, ending in (("images", "jpg"), ("annotations", "png"))
    )
    assert photo.size == mask.size == (512, 939)
    assert set(np.unique(np.asarray(mask))) == {1, 2}


@needs_data
def test_the_numbers_of_the_full_data_set_belong_to_the_benchmarks_names():
    """The names that photos of the 2021 release give its numbers, and the benchmark's own table of names."""
    lines = (SHARED / "data" / "ade20k150_sample" / "objectInfo150.txt").read_text().splitlines()[1:]
    synonyms = {int(line.split("\t")[0]): line.split("\t")[4].strip() for line in lines}
    named = {}
    for path in (SHARED / "data" / "ade20k_full_sample").rglob("*.json"):
        for entry in json.loads(path.read_text())["annotation"]["object"]:
            if entry["parts"]["part_level"] == 0:
                named[entry["name_ndx"]] = entry["name"]
    classes = dict(zip(FULL_NUMBERS, range(1, 151), strict=True))
    assert sum(number in classes for number in named) > 15
    for number, name in named.items():
        assert (synonyms[classes[number]] == name) if number in classes else (name not in synonyms.values())


@pytest.mark.slow
@needs_data
def test_real_photos_of_the_full_data_set(tmp_path):
    sample = SHARED / "data" / "ade20k_full_sample"
    prepared = prepare_ade20k(tmp_path, [sample])
    assert prepared.photos == {"training": 3, "validation": 0}
    report = check(RECIPE, tmp_path)
    assert report.ok and report.splits[0].heights == (512, 512, 512)
    classes = dict(zip(FULL_NUMBERS, NAMES, strict=True))
    seen = {name for name, pixels in report.splits[0].labels.items() if pixels}
    expected = set()
    for path in sample.rglob("*_seg.png"):
        colors = np.asarray(Image.open(path)).astype(int)
        numbers, pixels = np.unique(colors[..., 0] // 10 * 256 + colors[..., 1], return_counts=True)
        expected |= {
            classes[number] for number, many in zip(numbers, pixels, strict=True) if number in classes and many > 100
        }
    assert expected <= seen and "building" in seen


@needs_data
def test_the_benchmarks_own_table_is_that_of_the_taxonomy(tmp_path):
    folder = make_benchmark(tmp_path)
    table = SHARED / "data" / "ade20k150_sample" / "objectInfo150.txt"
    (folder / "objectInfo150.txt").write_bytes(table.read_bytes())
    assert prepare_ade20k(tmp_path / "out", [folder]).photos["training"] == 2


def refused(tmp_path, archives, match):
    """Return the sentence with which `archives` are refused, after nothing was written."""
    with pytest.raises(UpernetError, match=match) as error:
        prepare_ade20k(tmp_path / "out", archives)
    assert not (tmp_path / "out").exists()
    assert str(error.value).endswith(".") and "\n" not in str(error.value)


def test_not_an_archive_of_ade20k(tmp_path):
    refused(tmp_path, [], "ade20k: give the archive by --from.*after registration")
    refused(tmp_path, [tmp_path / "none.zip"], "none.zip: no such file or folder")
    (tmp_path / "page.zip").write_text("<!DOCTYPE html><title>Sign in</title>")
    refused(tmp_path, [tmp_path / "page.zip"], "page.zip: is not a zip archive.*web page")
    save_photo(tmp_path / "photos" / "images" / "1.jpg")
    refused(tmp_path, [tmp_path / "photos"], "photos: no ADE20K in there; expected images/training")
    whole = pack(make_benchmark(tmp_path)).read_bytes()
    (tmp_path / "cut.zip").write_bytes(whole[: len(whole) // 2])
    refused(tmp_path, [tmp_path / "cut.zip"], "cut.zip: is not a zip archive, or not all of one")


def test_archives_that_do_not_fit(tmp_path):
    folder = make_benchmark(tmp_path)
    full = make_full(tmp_path, [1, 2])
    refused(tmp_path, [folder, full], "holds both the MIT Scene Parsing Benchmark and the full ADE20K; give one")
    table = folder / "objectInfo150.txt"
    table.write_text(table.read_text().replace("\twall,", "\troof,"))
    refused(tmp_path, [folder], "objectInfo150.txt: its classes are not those of the taxonomy ade20k150")
    table.unlink()
    for path in (folder / "annotations" / "training").iterdir():
        path.unlink()
    refused(tmp_path, [folder], r"ADE_train_00000001.jpg has no label map .*\(2 photos have none\)")
    save_mask(next(full.rglob("*_seg.png")), np.zeros((5, 5, 3)))
    with pytest.raises(UpernetError, match="its label map has another size"):
        prepare_ade20k(tmp_path / "sizes", [full])
    assert not list((tmp_path / "sizes").rglob("*.jpg"))


def test_a_folder_of_another_release_is_left_alone(tmp_path):
    prepared = prepare_ade20k(tmp_path / "out", [make_full(tmp_path, [1, 2])])
    before = files_below(prepared.folder)
    with pytest.raises(UpernetError, match="was prepared from the full ADE20K, not the MIT Scene Parsing Benchmark"):
        prepare_ade20k(tmp_path / "out", [make_benchmark(tmp_path)])
    assert files_below(prepared.folder) == before


def hostile(
    path: Path, name: str, content: bytes = b"x", compression: int = zipfile.ZIP_DEFLATED, mode: int = 0
) -> Path:
    """Pack the tiny benchmark with one more member."""
    with zipfile.ZipFile(path, "a") as archive:
        member = zipfile.ZipInfo(name)
        member.filename = name  # as it is, backslashes too
        member.compress_type = compression
        member.external_attr = mode << 16
        archive.writestr(member, content)
    return path


PHOTO = "ADEChallengeData2016/images/training/ADE_train_00000001.jpg"


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"name": "../images/training/a.jpg"}, "leads out of the archive"),
        ({"name": "ADEChallengeData2016/../../a.jpg"}, "leads out of the archive"),
        ({"name": "/images/training/a.jpg"}, "leads out of the archive"),
        ({"name": "C:/images/training/a.jpg"}, "leads out of the archive"),
        ({"name": "images\\..\\..\\a.jpg"}, "leads out of the archive"),
        ({"name": "images/training/link.jpg", "content": b"/etc/passwd", "mode": stat.S_IFLNK | 0o777}, "is a link"),
        ({"name": "images/training/a.jpg", "compression": zipfile.ZIP_BZIP2}, "compressed in an unusual way"),
    ],
)
def test_hostile_archives_are_refused_as_a_whole(tmp_path, settings, complaint):
    path = hostile(pack(make_benchmark(tmp_path)), **settings)
    refused(tmp_path, [path], f"nothing was unpacked, for .* {complaint}; download")


def test_encrypted_archives_are_refused(tmp_path):
    path = pack(make_benchmark(tmp_path))
    content = bytearray(path.read_bytes())
    entry = content.rindex(PHOTO.encode()) - 46
    assert content[entry : entry + 4] == b"PK\x01\x02"
    content[entry + 8] |= 1
    path.write_bytes(content)
    refused(tmp_path, [path], "is encrypted")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_member_that_is_in_it_twice(tmp_path):
    folder = make_benchmark(tmp_path)
    refused(tmp_path, [hostile(pack(folder), PHOTO)], "is in it twice")
    refused(tmp_path, [hostile(pack(folder), PHOTO.replace("ADE_train", "ade_TRAIN"))], "give each photo once")


def test_what_would_unpack_to_too_much_is_refused(tmp_path, monkeypatch):
    folder = make_benchmark(tmp_path)
    photo = folder / "images" / "training" / "ADE_train_00000001.jpg"
    photo.write_bytes(bytes(3 * 2**20))
    refused(tmp_path, [pack(folder)], r"ADE_train_00000001.jpg would unpack to 3,145,728 bytes")
    monkeypatch.setattr(archive_module, "MAX_FILE", 2**20)
    refused(tmp_path, [folder], r"ADE_train_00000001.jpg would unpack to 3,145,728 bytes")
    save_photo(photo)
    monkeypatch.setattr(archive_module, "MAX_TOTAL", 2000)
    refused(tmp_path, [folder], r"its photos and label maps would unpack to \d,\d+ bytes")


def test_a_member_longer_than_it_says_is_not_unpacked(tmp_path):
    folder = make_benchmark(tmp_path)
    (folder / "images" / "training" / "ADE_train_00000001.jpg").write_bytes(bytes(2**20))
    path = pack(folder)
    content = bytearray(path.read_bytes())
    for signature, offset, header in ((b"PK\x03\x04", 22, 30), (b"PK\x01\x02", 24, 46)):
        find = content.index if signature == b"PK\x03\x04" else content.rindex
        entry = find(PHOTO.encode()) - header
        assert content[entry : entry + 4] == signature
        content[entry + offset : entry + offset + 4] = struct.pack("<I", 10)
    path.write_bytes(content)
    with pytest.raises(UpernetError, match=r"ADE_train_00000001\.jpg is damaged"):
        prepare_ade20k(tmp_path / "out", [path])
    assert not list((tmp_path / "out").rglob("*.jpg"))


@pytest.mark.slow
@settings(deadline=None, max_examples=60)
@given(
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=4),
    parent=st.sampled_from(["", "Daten-\N{LATIN SMALL LETTER A WITH DIAERESIS}/"]),
)
def test_any_damage_is_one_sentence(changes, parent):
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        path = pack(make_benchmark(root, 1), parent)
        content = bytearray(path.read_bytes())
        for place, change in changes:
            content[int(place * len(content))] ^= change
        path.write_bytes(content)
        message = str(path)
        try:
            prepare_ade20k(root / "out", [path])
        except UpernetError as error:
            message = str(error)
        assert message.startswith(str(path)) and message.isprintable() and len(message) < 600
        assert {path.name for path in root.iterdir()} <= {"ADEChallengeData2016", path.name, "out"}


@pytest.mark.parametrize("header", ["local", "central"])
def test_a_damaged_name_in_utf_8(tmp_path, header):
    path = pack(make_benchmark(tmp_path, 1), "Daten-\N{LATIN SMALL LETTER A WITH DIAERESIS}/")
    content = bytearray(path.read_bytes())
    photo = (content.index if header == "local" else content.rindex)(b"ADE_val_00000001.jpg")
    content[content.rindex("\N{LATIN SMALL LETTER A WITH DIAERESIS}".encode(), 0, photo)] = 0x80
    path.write_bytes(content)
    with pytest.raises(UpernetError, match=r"is damaged|is not a zip archive, or not all of one"):
        prepare_ade20k(tmp_path / "out", [path])


def test_a_member_without_a_name(tmp_path):
    path = pack(make_benchmark(tmp_path, 1))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("x", b"")
    content = bytearray(path.read_bytes())
    entry = content.rindex(b"PK\1\2")
    content[entry + 46] = 0  # zipfile cuts names at a zero byte
    path.write_bytes(content)
    with pytest.raises(UpernetError, match=r"nothing was unpacked, for '' has no name"):
        prepare_ade20k(tmp_path / "out", [path])


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "ade.zip")
    with pytest.raises(UpernetError, match=r"ade\.zip: is a pipe or a device"):
        prepare_ade20k(tmp_path / "out", [tmp_path / "ade.zip"])


def test_an_unknown_data_set_is_refused(tmp_path):
    with pytest.raises(UpernetError, match=r"unknown data set 'ade2k'.*did you mean 'ade20k'.*give one of"):
        prepare("ade2k", tmp_path, [])


@pytest.mark.parametrize("dataset", DATASETS)
def test_each_data_set_has_a_module_that_asks_for_its_archives(tmp_path, dataset):
    with pytest.raises(UpernetError, match=f"{dataset}: give the archive by --from"):
        prepare(dataset, tmp_path, [])
