"""Tests of upernet.inference.parse, label_map and describe: what a Parse holds, says and writes."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.full_disk import file_size_limit, needs_file_size_limit
from helpers.interrupts import interruptible
from helpers.painted_network import PERSON, TAXONOMY, four_quarters
from PIL import Image

from upernet.errors import UpernetError
from upernet.inference import LabelMap, Parse
from upernet.inference.saving import UNSURE_COLOR, hidden_folder

PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8))


def label_map(level: str, labels: np.ndarray, confidence: float = 0.8) -> LabelMap:
    classes = TAXONOMY.levels[level]
    values = np.full(labels.shape, confidence, np.float32)
    return LabelMap(level, labels.astype(np.int16), values, classes.names, classes.colors, classes.background)


def make_parse(path: str | None = "street.jpg", **scene: float) -> Parse:
    """Sky over road, a person (upper half hair, 16 unsure columns of skin below) over a dog without a certain part."""
    objects = four_quarters()
    parts = np.zeros((64, 96))
    parts[:16, 48:] = 1
    parts[16:32, 48:] = 2
    parts[16:32, 80:] = -1
    parts[32:, 48:] = -1
    materials = np.where(objects == PERSON, 1, -1)
    maps = {
        name: label_map(name, labels)
        for name, labels in (("object", objects), ("part", parts), ("material", materials))
    }
    rankings = {"scene": list((scene or {"street": 0.7, "office": 0.3}).items())}
    return Parse(
        PHOTO, maps, rankings, thresholds={"scene": 0.5}, part_groups=TAXONOMY.part_groups, model="painted", path=path
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_levels_that_are_not_there() -> None:
    parse = make_parse()
    with pytest.raises(UpernetError, match="no level 'texture'; it has scene, object, part, material"):
        _ = parse.texture
    with pytest.raises(UpernetError, match="no level 'texture'"):
        parse.overlay("texture")
    with pytest.raises(UpernetError, match="it has object"):
        _ = Parse(PHOTO, {"object": parse.object}).scene


def test_levels_by_name() -> None:
    parse = make_parse()
    assert parse["object"] is parse.object and parse["scene"] == parse.scene
    assert parse["object"].photo is PHOTO


def test_a_parse_is_iterated_over_like_a_mapping() -> None:
    parse = make_parse()
    assert list(parse) == list(parse.levels)
    assert "object" in parse and "sound" not in parse and 0 not in parse


def test_all_levels_of_a_pixel() -> None:
    parse = make_parse()
    confidence = pytest.approx(0.8)
    assert parse.at(60, 5) == {
        "scene": ("street", 0.7, None),
        "object": ("person", confidence, None),
        "part": ("hair", confidence, "person"),
        "material": ("fabric", confidence, None),
    }
    assert parse.at(95, 63)["part"] == ("unsure", confidence, "dog")
    assert parse.at(0, 63)["object"].name == "road"
    assert make_parse(street=0.4).at(0, 0)["scene"] == ("unsure", 0.4, None)
    for x, y in ((96, 0), (0, 64), (-1, 0)):
        with pytest.raises(UpernetError, match=rf"pixel \({x}, {y}\) is outside the photo of 96 x 64 pixels"):
            parse.at(x, y)


def test_reprs() -> None:
    parse = make_parse("a\x1b[31m<b>&.jpg")
    assert repr(parse) == (r"<Parse of a\x1b[31m<b>&.jpg, 96 x 64 pixels: scene street 70 %, object, part, material>")
    assert repr(Parse(PHOTO, {})) == "<Parse of photo, 96 x 64 pixels: >"
    html = parse._repr_html_()
    assert "<figcaption>a\\x1b[31m&lt;b&gt;&amp;.jpg</figcaption>" in html and "<b>" not in html
    assert 'src="data:image/jpeg;base64,/9j/' in html
    assert parse._repr_png_().startswith(b"\x89PNG")


def test_shares_are_fractions_of_the_photo() -> None:
    parse = make_parse()
    assert parse.object.shares() == {"sky": 0.25, "road": 0.25, "person": 0.25, "dog": 0.25}
    assert parse.material.shares() == {"fabric": 0.25, "unsure": 0.75}
    owner = parse.object.labels == PERSON
    assert parse.part.shares(owner) == pytest.approx({"hair": 1 / 2, "skin": 1 / 3, "unsure": 1 / 6})
    assert parse.part.shares(np.zeros((64, 96), bool)) == {}


def test_description() -> None:
    assert make_parse().describe().splitlines() == [
        "A street (70 %).",
        "Mostly sky, road, a person and a dog.",
        "Visible parts of the person: hair and skin.",
    ]
    unsure = make_parse(street=0.4, office=0.35).describe()
    assert unsure.startswith("The scene is unclear: perhaps a street or an office.\n")
    assert make_parse(office=0.9).describe().startswith("An office (90 %).\n")


def test_to_dict_is_json() -> None:
    parse = make_parse()
    result = json.loads(json.dumps(parse.to_dict()))
    assert result["scene"]["name"] == "street"
    assert result["scene"]["ranked"][1] == {"name": "office", "probability": 0.3}
    assert result["object"]["shares"] == parse.object.shares()
    assert result["object"]["mean_confidence"] == pytest.approx(0.8)
    assert result["part"]["of"]["dog"] == {"unsure": 1.0}
    assert result["description"] == parse.describe()
    assert (result["width"], result["height"]) == (96, 64)
    assert make_parse(street=0.4).to_dict()["scene"]["name"] is None


def test_saved_files(tmp_path: Path) -> None:
    parse = make_parse()
    folder = parse.save(tmp_path / "new" / "parses")
    assert folder == tmp_path / "new" / "parses" / "street"
    names = {f"{level}{kind}.png" for level in parse.maps for kind in ("", "_confidence", "_overlay")}
    assert set(contents(folder)) == names | {"sheet.jpg", "parse.json"}
    for level, label_map in parse.maps.items():
        image = Image.open(folder / f"{level}.png")
        assert image.mode == "P"
        labels = np.asarray(image).astype(int)
        shown = np.array([*label_map.colors, UNSURE_COLOR])  # label -1 takes the last row
        np.testing.assert_array_equal(np.asarray(image.convert("RGB")), shown[label_map.labels])
        np.testing.assert_array_equal(np.where(labels == 255, -1, labels), label_map.labels)
        assert (np.asarray(Image.open(folder / f"{level}_confidence.png")) == 204).all()  # 0.8
    result = json.loads((folder / "parse.json").read_text())
    assert result["part"]["unsure"] == 255 and result["part"]["names"] == ["none", "hair", "skin", "paw"]


def test_levels_with_many_classes_are_saved_with_16_bits(tmp_path: Path) -> None:
    labels = np.array([[-1, 0, 299]], np.int16)
    names, colors = tuple(f"class_{i}" for i in range(300)), ((1, 2, 3),) * 300
    many = LabelMap("object", labels, np.ones((1, 3), np.float32), names, colors, False)
    folder = Parse(Image.new("RGB", (3, 1)), {"object": many}).save(tmp_path)
    assert np.asarray(Image.open(folder / "object.png")).tolist() == [[65535, 0, 299]]
    assert json.loads((folder / "parse.json").read_text())["object"]["unsure"] == 65535


@pytest.mark.slow
def test_photos_of_one_name_keep_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = ["a.jpg", "b/a.png", "b/c/a.jpg"]
    monkeypatch.chdir(tmp_path)
    folders = [make_parse(path).save("out") for path in paths]
    assert [folder.as_posix() for folder in folders] == ["out/a", "out/a-2", "out/a-3"]
    again = [make_parse(str(tmp_path / path)).save(tmp_path / "out").name for path in reversed(paths)]
    assert again == ["a-3", "a-2", "a"]
    saved = json.loads((tmp_path / "out" / "a-2" / "parse.json").read_text())
    assert saved["path"] == "../../b/a.png"


@pytest.mark.slow
def test_parses_of_arrays_never_replace_each_other_unless_named(tmp_path: Path) -> None:
    assert [make_parse(None).save(tmp_path).name for _ in range(2)] == ["photo", "photo-2"]
    assert [make_parse(None).save(tmp_path, "frame").name for _ in range(2)] == ["frame", "frame"]


class InterruptingColors(tuple[tuple[int, int, int], ...]):
    """Colors that interrupt the program as Ctrl-C does when they are drawn."""

    def __iter__(self) -> Iterator[tuple[int, int, int]]:
        signal.raise_signal(signal.SIGINT)
        return super().__iter__()


def test_a_hidden_folder_goes_although_a_thread_writes_to_it(tmp_path: Path) -> None:
    def write_on(folder: Path) -> None:
        with suppress(OSError):  # the folder is gone
            for number in range(20_000):
                (folder / str(number % 50)).touch()

    for _ in range(20):
        with hidden_folder(tmp_path) as hidden:
            writer = threading.Thread(target=write_on, args=(hidden,))
            writer.start()
        writer.join()
        assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("colors", "error"), [(InterruptingColors([(0, 0, 0)] * 3), KeyboardInterrupt), ((), IndexError)]
)
def test_a_failure_while_saving_changes_nothing(
    tmp_path: Path, colors: tuple[tuple[int, int, int], ...], error: type[BaseException]
) -> None:
    make_parse().save(tmp_path)
    before = contents(tmp_path)
    broken = make_parse(office=0.9)
    broken.maps["material"] = replace(broken.material, colors=colors)  # the last level
    with interruptible(), pytest.raises(error):
        broken.save(tmp_path)
    assert contents(tmp_path) == before


@pytest.mark.slow
@needs_file_size_limit
def test_a_full_disk_changes_nothing(tmp_path: Path) -> None:
    folder = make_parse().save(tmp_path)
    before = contents(tmp_path)
    limit = max(map(len, before.values())) // 2
    assert len(before["street/parse.json"]) < limit  # so some files are written
    with file_size_limit(limit), pytest.raises(UpernetError, match=r"writing failed \(File too large\)"):
        make_parse(office=0.9).save(tmp_path)
    assert contents(tmp_path) == before
    make_parse(office=0.9).save(tmp_path)
    assert contents(tmp_path).keys() == before.keys()
    assert (folder / "parse.json").read_bytes() != before["street/parse.json"]


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(UpernetError, match="cannot be written"):
        make_parse().save(tmp_path / "file")
    (tmp_path / "street").write_text("in the way")
    assert make_parse().save(tmp_path).name == "street-2"
    assert (tmp_path / "street").read_text() == "in the way"
