"""Tests of the classes that upernet.scaffold finds in masks, with and without a table of classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.strangers import COLORS, NAMES, in_colors, labels, make, save_palette, save_photo
from hypothesis import given, settings
from hypothesis import strategies as st

from upernet.errors import UpernetError
from upernet.recipe import load_recipe
from upernet.scaffold import propose, write_recipe
from upernet.scaffold.class_tables import read_class_table
from upernet.scaffold.classes import ClassPlan


def plan(root: Path, **options) -> ClassPlan:
    """Return the classes of the only level, after writing and loading the recipe."""
    proposal = propose(root, **options)
    write_recipe(proposal, root / "my.yaml", force=True)
    load_recipe(root / "my.yaml")
    (level,) = proposal.found.levels.values()
    return level.plan


def names(root: Path, **options) -> dict[str, tuple[int, ...]]:
    return {entry.name: entry.keys for entry in plan(root, **options).classes}


BY_VALUE = {"sky": (0,), "road": (1,), "tree": (2,)}
BY_COLOR = {"sky": (0x808080,), "road": (0x804080,), "tree": (0x6B8E23,)}

NUMBERED = {
    "labels.txt": "0\tsky\n1\troad\n2\ttree\n3\tvoid\n",
    "classes.txt": "sky\nroad\ntree\nvoid\n",
    "class_names.csv": "id,name\n0,sky\n1,road\n2,tree\n3,void\n",
    "classes.json": '{"0": "sky", "1": "road", "2": "tree", "3": "void"}',
    "label_map.json": '{"sky": 0, "road": 1, "tree": 2, "void": 3}',
    "class_list.json": '["sky", "road", "tree", "void"]',
    "labelmap.txt": "0: sky\n1: road\n2: tree\n3: void\n",
    "obj.names": "sky\nroad\ntree\nvoid\n",
    "labels_of_labelme.txt": "__ignore__\nsky\nroad\ntree\nvoid\n",
    "categories.csv": "name,r,g,b\nsky,128,128,128\nroad,128,64,128\n",  # does not fit: no numbers
}


@pytest.mark.parametrize("file", [name for name in NUMBERED if name != "categories.csv"])
def test_tables_of_numbers(tmp_path, file):
    make(tmp_path)
    (tmp_path / file).write_text(NUMBERED[file])
    found = plan(tmp_path)
    assert {entry.name: entry.keys for entry in found.classes} == BY_VALUE
    assert list(found.unknown) == [3] and found.unknown_pixels == sum((labels(n) == 3).sum() for n in range(8))
    assert found.where_from == file
    assert names(tmp_path, classes=tmp_path / file) == BY_VALUE


COLORED = {
    "label_colors.txt": "".join(f"{r} {g} {b}\t{NAMES[i]}\n" for i, (r, g, b) in COLORS.items()),
    "class_dict.csv": "name,r,g,b\n" + "".join(f"{NAMES[i]},{r},{g},{b}\n" for i, (r, g, b) in COLORS.items()),
    "labelmap.txt": "# label:color_rgb:parts:actions\n"
    + "".join(f"{NAMES[i]}:{r},{g},{b}::\n" for i, (r, g, b) in COLORS.items()),
    "colors.json": '{"sky": [128, 128, 128], "road": [128, 64, 128], "tree": "#6b8e23", "void": [0, 0, 0]}',
    "config.json": '{"labels": ['
    + ", ".join(
        f'{{"name": "x--{NAMES[i]}", "readable": "{NAMES[i]}", "color": [{r}, {g}, {b}]}}'
        for i, (r, g, b) in COLORS.items()
    )
    + "]}",
    "palette.txt": "sky #808080\nroad #804080\ntree #6B8E23\nvoid #000000\n",
    "numbered_classes.txt": "".join(f"{i} {NAMES[i]} {r} {g} {b}\n" for i, (r, g, b) in COLORS.items()),
}


@pytest.mark.parametrize("file", COLORED)
def test_tables_of_colors(tmp_path, file):
    make(tmp_path, paint=in_colors)
    (tmp_path / file).write_text(COLORED[file])
    found = plan(tmp_path)
    assert {entry.name: entry.keys for entry in found.classes} == BY_COLOR
    assert found.classes[1].color == (128, 64, 128) and list(found.unknown) == [0]


def test_the_table_that_fits_best_is_taken(tmp_path):
    make(tmp_path, paint=in_colors)
    (tmp_path / "classes.txt").write_text("a\nb\n")
    (tmp_path / "labels.txt").write_text(COLORED["label_colors.txt"])
    (tmp_path / "notes_on_classes.txt").write_text("The classes of this set were painted by hand.\n" * 3)
    assert names(tmp_path) == BY_COLOR


def test_colors_without_a_table(tmp_path):
    make(tmp_path, paint=in_colors)
    found = plan(tmp_path)
    assert [entry.name for entry in found.classes] == [
        "color_0_0_0", "color_107_142_35", "color_128_64_128", "color_128_128_128",
    ]  # fmt: skip
    assert "--classes FILE" in found.notes[0]


def test_numbers_without_a_table(tmp_path):
    make(tmp_path, paint=lambda values: np.where(values == 3, 255, values).astype(np.uint8))
    found = plan(tmp_path)
    assert {entry.name: entry.keys for entry in found.classes} == {"class_0": (0,), "class_1": (1,), "class_2": (2,)}
    assert found.unknown == {255: "255 means unknown"}


@pytest.mark.parametrize("white", [1, 255])
@pytest.mark.parametrize("colored", [False, True])
def test_two_values(tmp_path, white, colored):
    def paint(values):
        mask = (values == 1).astype(np.uint8) * white
        return np.repeat(mask[..., None], 3, axis=2) if colored else mask

    make(tmp_path, paint=paint)
    key = white * 0x010101 if colored else white
    assert names(tmp_path) == {"background": (0,), "foreground": (key,)}
    (tmp_path / "mine.txt").write_text("road\n")
    assert names(tmp_path, classes=tmp_path / "mine.txt") == {"background": (0,), "road": (key,)}


def test_gray_levels(tmp_path):
    make(tmp_path, paint=lambda values: np.array([0, 85, 170, 255], np.uint8)[values])
    assert names(tmp_path) == {"value_0": (0,), "value_85": (85,), "value_170": (170,), "value_255": (255,)}
    (tmp_path / "classes.txt").write_text("sky\nroad\ntree\nwater\n")
    assert names(tmp_path) == {"sky": (0,), "road": (85,), "tree": (170,), "water": (255,)}


def test_names_numbered_from_1(tmp_path):
    make(tmp_path)
    (tmp_path / "classes.txt").write_text("road\ntree\nwater\n")
    assert names(tmp_path) == {"background": (0,), "road": (1,), "tree": (2,), "water": (3,)}


def test_one_palette_gives_colors_and_several_hold_colors(tmp_path):
    palette = list(COLORS.values())
    for number in range(4):
        save_photo(tmp_path / "images" / f"{number}.jpg", number)
        save_palette(tmp_path / "masks" / f"{number}.png", labels(number), palette)
    found = plan(tmp_path)
    assert (found.kind, found.classes[1].color) == ("values", (128, 64, 128))
    save_palette(tmp_path / "masks" / "3.png", 3 - labels(3), palette[::-1])
    (tmp_path / "labels.txt").write_text(COLORED["label_colors.txt"])
    assert names(tmp_path) == BY_COLOR


def test_several_colors_of_one_class(tmp_path):
    make(tmp_path, paint=in_colors)
    (tmp_path / "labels.txt").write_text("128 128 128 sky\n128 64 128 ground\n107 142 35 ground\n0 0 0 void\n")
    assert names(tmp_path) == {"sky": (0x808080,), "ground": (0x804080, 0x6B8E23)}


def test_words_for_unknown(tmp_path):
    make(tmp_path)
    (tmp_path / "labels.txt").write_text("0\tsky\n1\troad\n2\tavoid\n3\tborder_ignore\n")
    assert list(names(tmp_path)) == ["sky", "road", "avoid"]


def test_a_single_class_is_not_enough(tmp_path):
    make(tmp_path, paint=lambda values: np.zeros_like(values))
    with pytest.raises(UpernetError, match="only class_0; a model needs at least two"):
        plan(tmp_path)


def test_a_given_table_that_does_not_fit(tmp_path):
    make(tmp_path, paint=in_colors)
    (tmp_path / "mine.csv").write_text(NUMBERED["class_names.csv"])
    with pytest.raises(UpernetError, match=r"mine\.csv: lists none of the colors in the masks"):
        plan(tmp_path, classes=tmp_path / "mine.csv")


FORMS = ("{name}", "{value} {name}", "{value}: {name}", "{r} {g} {b} {name}", "{name},{r},{g},{b}", "{name} #{hex}")
names_of_classes = st.text("abcdefgh-", min_size=1, max_size=5).filter(lambda name: name.strip("-") == name)
entries = st.lists(st.tuples(names_of_classes, st.integers(0, 0xFFFFFF)), min_size=1, max_size=9, unique=True)


@given(form=st.sampled_from(FORMS), listed=entries)
@settings(deadline=None)
def test_a_table_is_read_as_it_was_written(tmp_path_factory, form, listed):
    lines = [
        form.format(name=name, value=7 + i, r=code >> 16, g=code >> 8 & 255, b=code & 255, hex=f"{code:06x}")
        for i, (name, code) in enumerate(listed)
    ]
    path = tmp_path_factory.mktemp("table") / "classes.txt"
    path.write_text("\n".join(lines))
    found = read_class_table(path).entries
    assert [entry.name for entry in found] == [name for name, _ in listed]
    if "value" in form:
        assert [entry.value for entry in found] == list(range(7, 7 + len(listed)))
    if "{r}" in form or "hex" in form:
        assert [entry.color for entry in found] == [(code >> 16, code >> 8 & 255, code & 255) for _, code in listed]


@pytest.mark.parametrize(
    ("suffix", "text"),
    [
        *((".json", text) for text in ("", "{}", "3", '{"a": [1, 2, 300]}', "[" * 100_000)),
        *((".txt", text) for text in ("", "0 sky\n0 road\n", "\0\n", "x" * 100, "99999 sky\n")),
        *((".csv", text) for text in ("", "name,r,g,b\nsky,1,2\n", "name,id\nsky,x\n", "name,r,g,b\nsky,1,2,300\n")),
    ],
)
def test_files_that_are_no_tables(tmp_path, text, suffix):
    path = tmp_path / f"classes{suffix}"
    path.write_text(text)
    with pytest.raises(UpernetError, match="is not a list of classes") as caught:
        read_class_table(path)
    assert str(caught.value).startswith(str(path))


def test_answers_of_the_user(tmp_path):
    asked = []

    def ask(question, default, choices):
        asked.append(question)
        return "polyp"

    make(tmp_path, paint=lambda values: (values == 1).astype(np.uint8) * 255)
    proposal = propose(tmp_path, ask=ask)
    assert [entry.name for entry in proposal.found.levels["object"].plan.classes] == ["background", "polyp"]
    assert asked == ["What does the marked area of the masks show?"]
