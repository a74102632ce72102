"""Tests of upernet.data.sources.table and label_table: image labels from CSV and JSONL files."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from helpers.folders import TAXONOMY, make_mask_folder, save_photo, source_spec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from upernet.data.sources import Source, open_source
from upernet.data.sources.table import read_table
from upernet.errors import UpernetError
from upernet.taxonomy import IGNORE


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.jpg", "b.jpg", "sub/c.jpg"):
        save_photo(tmp_path / "set" / "train" / name)
    return tmp_path / "set" / "train"


def open_table(root: Path, split: str = "train", **changes: Any) -> Source:
    spec = source_spec(**{"kind": "label_table", "level": "scene", **changes})
    return open_source("mine", spec, TAXONOMY, root, split)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("labels.csv", "file,label\na.jpg,street\nsub/c.jpg,Garden\nb.jpg,garden\n"),
        ("labels.csv", "\ufefflabel,file,x\r\nstreet, a.jpg,\r\n\r\ngarden,sub/c.jpg,x\r\ngarden,b.jpg,\"y,\nz\"\r\n"),
        ("labels.jsonl", '{"file": "a.jpg", "label": "street"}\n\n{"label": "garden", "file": "sub/c.jpg", "x": [1]}\n'
                         '{"file": "b.jpg", "label": "garden"}'),
    ],
)  # fmt: skip
def test_a_row_per_photo(tmp_path: Path, folder: Path, name: str, text: str) -> None:
    (folder / name).write_bytes(text.encode())
    source = open_table(tmp_path, table=name)
    assert [(sample.key, sample.labels) for sample in map(source.__getitem__, range(len(source)))] == [
        ("set/train/a.jpg", {"scene": 0}),
        ("set/train/b.jpg", {"scene": 1}),
        ("set/train/sub/c.jpg", {"scene": 1}),
    ]


def test_a_column_per_level(tmp_path: Path, folder: Path) -> None:
    (folder / "labels.csv").write_text("file,place,look\na.jpg,street,stripes\nb.jpg,,stripes\nsub/c.jpg,,\n")
    annotations = {
        "scene": {"column": "place"},
        "texture": {"column": "look", "classes": {"stripes": "banded"}, "implies": {"material": {"banded": "hair"}}},
    }
    source = open_table(tmp_path, level=None, annotations=annotations)
    assert [sample.labels for sample in map(source.__getitem__, range(len(source)))] == [
        {"scene": 0, "texture": 0, "material": 2},
        {"scene": IGNORE, "texture": 0, "material": 2},
    ]
    assert source.implied == {"material"}


def test_numbers_as_classes(tmp_path: Path, folder: Path) -> None:
    (folder / "labels.jsonl").write_text('{"file": "a.jpg", "label": 7}\n{"file": "b.jpg", "label": null}\n')
    source = open_table(tmp_path, table="labels.jsonl", classes={7: "garden"})
    assert [sample.labels for sample in map(source.__getitem__, range(len(source)))] == [{"scene": 1}]


HEADER = "file,label\n"


@pytest.mark.parametrize(
    ("content", "line", "message"),
    [
        (HEADER + "../train/a.jpg,street\n", 2, "is outside the folder of the table"),
        (HEADER + "/etc/a.jpg,street\n", 2, "is outside the folder of the table"),
        (HEADER + "C:\\a.jpg,street\n", 2, "is outside the folder of the table"),
        (HEADER + "sub\\..\\..\\a.jpg,street\n", 2, "is outside the folder of the table"),
        (HEADER + ",street\n", 2, "names no photo"),
        (HEADER + "a.jpg,street\nnone.jpg,street\n", 3, "there is no photo 'none.jpg'"),
        (HEADER + "sub,street\n", 2, "there is no photo 'sub'"),
        (HEADER + "labels.csv,street\n", 2, "is not the name of a photo"),
        (HEADER + "a.jpg,street\nb.jpg,garden\na.jpg,garden\n", 4, "lists 'a.jpg' again, after line 2"),
        (HEADER + "a.jpg,street\n./a.jpg,garden\n", 3, "lists './a.jpg' again, after line 2"),
        (HEADER + "a.jpg,streets\n", 2, "class 'streets' is not mapped to a class of level scene"),
        (HEADER + "a.jpg\n", 2, "has 1 cells, but the header has 2"),
        (HEADER + 'a.jpg,"street\n', 2, "is not a row of a CSV file"),
        (HEADER + 'a.jpg,"street"s\n', 2, "is not a row of a CSV file"),
        (HEADER + "a.jpg," + "x" * 200_000, 2, "is not a row of a CSV file"),
        ("files,label\n", 1, "has no column 'file' (did you mean 'files'?)"),
        ("file,class\n", 1, "has no column 'label'"),
        ("file,label,label\n", 1, "has several columns 'label'"),
        ("", 1, "is empty"),
        ((HEADER + "a.jpg,street\n").encode("utf-16"), 1, "is not UTF-8 text"),
        (HEADER.encode() + b"a.jpg,stra\xdfe\n", 2, "is not UTF-8 text"),
        (HEADER + "a.jpg,stre\0et\n", 2, "contains a zero byte"),
    ],
)
def test_mistakes_in_csv_files_name_the_line(
    tmp_path: Path, folder: Path, content: str | bytes, line: int, message: str
) -> None:
    (folder / "labels.csv").write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(UpernetError) as caught:
        open_table(tmp_path)
    text = str(caught.value)
    assert text.startswith(f"{folder / 'labels.csv'}:{line}: ") and message in text, text
    assert "\n" not in text and text.endswith(".")


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ('{"file": "a.jpg"', 1, "is not JSON"),
        ("[" * 100_000, 1, "is not JSON"),
        ("[]", 1, "is not a JSON object"),
        ('{"file": "a.jpg", "label": "street"}\n{"file": "b.jpg", "lable": "street"}', 2, "did you mean 'lable'"),
        ('{"file": "a.jpg", "label": ["street"]}', 1, "the value of 'label' is not text"),
        ('{"file": "a.jpg", "label": true}', 1, "the value of 'label' is not text"),
        ('{"file": "\\u0000.jpg", "label": "street"}', 1, "there is no photo"),
    ],
)
def test_mistakes_in_jsonl_files_name_the_line(
    tmp_path: Path, folder: Path, text: str, line: int, message: str
) -> None:
    (folder / "labels.jsonl").write_text(text)
    with pytest.raises(UpernetError) as caught:
        open_table(tmp_path, table="labels.jsonl")
    assert str(caught.value).startswith(f"{folder / 'labels.jsonl'}:{line}: ") and message in str(caught.value)


def test_a_missing_table(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(UpernetError, match=r"labels\.csv: no such file"):
        open_table(tmp_path)
    with pytest.raises(UpernetError, match=r"labels\.txt: not a table; give a file that ends with \.csv or \.jsonl"):
        open_table(tmp_path, table="labels.txt")
    (folder / "labels.csv").write_text(HEADER)
    with pytest.raises(UpernetError, match="no photos of source mine"):
        open_table(tmp_path)
    with pytest.raises(UpernetError, match="parts need masks"):
        open_table(tmp_path, level="part")


cell = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)


@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(classes=st.tuples(cell, cell), other=cell)
def test_what_csv_and_json_writers_write_is_read(
    tmp_path: Path, folder: Path, classes: tuple[str, str], other: str
) -> None:
    rows = [
        {"more": other, "file": name, "label": label} for name, label in zip(("b.jpg", "a.jpg"), classes, strict=True)
    ]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, ["more", "file", "label"])
    writer.writeheader()
    writer.writerows(rows)
    (folder / "labels.csv").write_bytes(text.getvalue().encode())
    (folder / "labels.jsonl").write_bytes("\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode())
    for name in ("labels.csv", "labels.jsonl"):
        read = read_table(folder / name, ["label"])
        assert [(row.photo.name, row.classes["label"]) for row in read] == [
            ("b.jpg", classes[0].strip()),
            ("a.jpg", classes[1].strip()),
        ]


@pytest.mark.slow
@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.binary(max_size=60) | st.text(max_size=60).map(lambda text: (HEADER + text).encode("utf-8", "replace"))
)
def test_any_bytes_are_rows_or_one_sentence(tmp_path: Path, folder: Path, content: bytes) -> None:
    for name in ("labels.csv", "labels.jsonl"):
        (folder / name).write_bytes(content)
        message, rows = f"{folder / name}:", []
        try:
            rows = read_table(folder / name, ["label"])
        except UpernetError as error:
            message = str(error)
        assert message.startswith(f"{folder / name}:") and "\n" not in message
        assert all(row.photo.is_relative_to(folder) for row in rows)


@pytest.mark.parametrize("file", [".", "./", "./."])
def test_a_row_that_names_the_folder_names_no_photo(tmp_path: Path, folder: Path, file: str) -> None:
    (folder / "labels.csv").write_text(f"file,label\n{file},street\n")
    with pytest.raises(UpernetError, match=r"labels\.csv:2: names no photo"):
        open_table(tmp_path)


def test_a_repeated_key_is_refused(tmp_path: Path, folder: Path) -> None:
    (folder / "labels.jsonl").write_text('{"file": "a.jpg", "file": "b.jpg", "label": "street"}\n')
    with pytest.raises(UpernetError, match=r"labels\.jsonl:1: the key 'file' appears twice"):
        open_table(tmp_path, table="labels.jsonl")


def test_a_table_with_a_name_that_no_file_can_have(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(UpernetError, match="cannot be read"):
        open_table(tmp_path, table="a\0.csv")


def test_an_optional_table_that_lists_none_of_the_photos_is_a_mistake(tmp_path: Path) -> None:
    make_mask_folder(tmp_path)
    save_photo(tmp_path / "set/train/elsewhere.png")
    (tmp_path / "set/train/scenes.csv").write_text("file,label\nelsewhere.png,street\n")
    annotations = {"object": {}, "scene": {"table": "scenes.csv", "optional": True}}
    with pytest.raises(UpernetError, match=r"scenes\.csv: no photo of source mine has a row"):
        open_source("mine", source_spec(level=None, annotations=annotations), TAXONOMY, tmp_path, "train")
