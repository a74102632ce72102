"""Tests of upernet.data.sources.collage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.folders import save_mask
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from upernet.data.sources import SourceMissing, open_source
from upernet.data.sources.collage import Collage, random_shape
from upernet.errors import UpernetError
from upernet.recipe import Recipe
from upernet.taxonomy import IGNORE, Taxonomy

TEXTURES = {"banded": (255, 40, 40), "bumpy": (40, 255, 40)}
"""Color of the photos of each texture; the background photos are blue."""
BLUE = (0, 0, 200)


def taxonomy(**texture: Any) -> Taxonomy:
    levels = {
        "scene": {"classes": ["room"]},
        "object": {"classes": ["wall", "floor"]},
        "texture": {"background": "none", "known_background": True, "classes": [*TEXTURES], **texture},
    }
    return Taxonomy.from_dict({"levels": levels})


def save_color(path: Path, color: tuple[int, int, int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (60, 40), color).save(path)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Photos in one color each: a red and a green texture, and two splits of blue rooms with masks."""
    for split in ("train", "test"):
        for name, color in TEXTURES.items():
            for number in range(2):
                save_color(tmp_path / "dtd" / split / name / f"{number}.png", color)
        for number in range(3):
            save_color(tmp_path / "rooms" / split / "images" / f"{number}.png", BLUE)
            mask = np.zeros((40, 60), np.uint8)
            mask[20:] = 1
            save_mask(tmp_path / "rooms" / split / "annotations" / f"{number}.png", mask)
    return tmp_path


def recipe(**collage: Any) -> Recipe:
    splits = {"train": "train", "test": "test"}
    sources = {
        "dtd": {"kind": "label_folder", "path": "dtd/{split}", "splits": splits, "level": "texture"},
        "rooms": {"kind": "mask_folder", "path": "rooms/{split}", "splits": splits, "level": "object",
                  "classes": {0: "wall", 1: "floor"}},
        "collage": {"kind": "collage", "textures": "dtd", "backgrounds": ["rooms"],
                    "photos": {"train": 30, "test": 5}, **collage},
    }  # fmt: skip
    return Recipe.model_validate({"description": "", "taxonomy": "x", "model": {"backbone": "x"}, "sources": sources})


def open_collage(data: Path, split: str = "train", labels: Taxonomy | None = None, **collage: Any) -> Collage:
    made = recipe(**collage)
    source = open_source("collage", made.sources["collage"], labels or taxonomy(), data, split, made.sources)
    assert isinstance(source, Collage)
    return source


def test_labels_lie_where_the_textures_are(data: Path) -> None:
    source = open_collage(data, decoys=0.0)
    seen: set[int] = set()
    for index in range(len(source)):
        sample = source[index]
        image, labels = sample.image.numpy().astype(int), sample.maps["texture"].numpy()
        assert sample.image.dtype == torch.uint8 and sample.maps["texture"].dtype == torch.int16
        inside = np.ones(labels.shape, bool)  # the edges are feathered
        for axis in (0, 1):
            for step in (-1, 1):
                inside &= labels == np.roll(labels, step, axis)
        inside[[0, -1]] = inside[:, [0, -1]] = False
        strongest = np.array([2, 0, 1])[labels]  # none: blue; banded: red; bumpy: green
        assert (image.argmax(0) == strongest)[inside].all()
        seen |= {*np.unique(labels).tolist()}
    assert seen == {0, 1, 2}


def test_a_photo_is_a_function_of_seed_split_and_index(data: Path) -> None:
    first, again = open_collage(data), open_collage(data, photos={"train": 9})
    other_seed, other_split = open_collage(data, seed=1), open_collage(data, "test")
    for index in (4, 0, 4):
        assert (first[index].image == again[index].image).all()
        assert (first[index].maps["texture"] == again[index].maps["texture"]).all()
    for other in (other_seed, other_split):
        assert any((first[i].maps["texture"] != other[i].maps["texture"]).any() for i in range(5))
    assert (len(first), len(again), len(other_split)) == (30, 9, 5)
    with pytest.raises(IndexError):
        first[30]
    assert other_split[0].key == "collage/test/0"


def test_surroundings_may_be_unknown(data: Path) -> None:
    source = open_collage(data, backgrounds={"rooms": "unknown"})
    labels = {value for i in range(len(source)) for value in np.unique(source[i].maps["texture"].numpy()).tolist()}
    assert labels == {IGNORE, 1, 2}


def test_decoys_have_the_label_of_their_photo(data: Path) -> None:
    source = open_collage(data, decoys=1.0)
    assert all((source[i].maps["texture"] == 0).all() for i in range(len(source)))
    assert len(np.unique(source[0].image.numpy())) > 2  # pasted with another brightness


def test_a_photo_without_patches_is_the_background(data: Path) -> None:
    sample = open_collage(data, patches=[0, 0])[0]
    assert (sample.image.permute(1, 2, 0).numpy() == BLUE).all() and (sample.maps["texture"] == 0).all()


def test_patches_fill_regions_of_the_label_map(data: Path) -> None:
    """The floor is the lower half: about half of the patches have exactly its shape or that of the wall."""
    source = open_collage(data, patches=[1, 1], decoys=0.0, area=[0.5, 0.5])
    halves = 0
    for index in range(len(source)):
        textured = source[index].maps["texture"].numpy() > 0
        assert abs(textured.mean() - 0.5) < 0.01
        halves += (textured[:20] != textured[20:]).all() and len(np.unique(textured[:20])) == 1
    assert 5 < halves < 25


@settings(deadline=None, max_examples=30)
@given(st.integers(8, 80), st.integers(8, 80), st.floats(0.05, 0.95), st.integers(0, 2**32))
def test_a_random_shape_covers_its_share(height: int, width: int, share: float, seed: int) -> None:
    shape = random_shape(height, width, share, np.random.default_rng(seed))
    assert shape.shape == (height, width) and shape.dtype == bool
    assert abs(shape.mean() - share) < 2 / shape.size + 0.02


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("textures", "nothing", "sources.collage.textures: nothing is not a source with photos of its own"),
        ("textures", "rooms", "sources.collage.textures: rooms does not annotate level texture"),
        ("backgrounds", ["collage"], "sources.collage.backgrounds: collage is not a source with photos of its own"),
        ("backgrounds", [], "sources.collage.backgrounds"),
        ("patches", [3, 1], "patches: goes from 3 down to 1"),
        ("area", [0.1, 1.5], "area"),
        ("path", "a", "kind collage has no such key"),
    ],
)
def test_mistakes_in_a_recipe_are_explained(tmp_path: Path, key: str, value: Any, message: str) -> None:
    from upernet.settings import check_settings

    values = recipe().model_dump(mode="json", exclude_defaults=True)
    values["sources"]["collage"][key] = value
    with pytest.raises(UpernetError) as caught:
        check_settings(values, Recipe, "recipe")
    assert message in str(caught.value)


def test_mistakes_that_the_taxonomy_shows_are_explained(data: Path) -> None:
    without = Taxonomy.from_dict({"levels": {"object": {"classes": ["wall", "floor"]},
                                             "texture": {"classes": [*TEXTURES]}}})  # fmt: skip
    with pytest.raises(UpernetError, match=r"sources\.collage\.level: level texture has no label .* `background`"):
        open_collage(data, labels=without)
    with pytest.raises(SourceMissing, match=r"no split val; add it to sources\.collage\.photos"):
        open_collage(data, "val")
    with pytest.raises(SourceMissing, match="source dtd has no split held_back"):
        open_collage(data, "held_back", photos={"held_back": 3})
    with pytest.raises(UpernetError, match="needs source dtd, which is missing"):
        open_source("collage", recipe().sources["collage"], taxonomy(), data, "train")


def test_classes_that_often_have_a_texture_are_unknown(data: Path) -> None:
    source = open_collage(data, unknown=["floor"], patches=[0, 0])
    labels = source[0].maps["texture"].numpy()
    assert (labels[:20] == 0).all() and (labels[20:] == IGNORE).all()
    decoys = open_collage(data, unknown=["floor"], patches=[1, 1], decoys=1.0, area=[1.0, 1.0])
    seen = [np.unique(decoys[i].maps["texture"].numpy()).tolist() for i in range(10)]
    assert [IGNORE, 0] in seen and all(set(values) <= {IGNORE, 0} for values in seen)
    with pytest.raises(UpernetError, match=r"sources\.collage\.unknown: no level of the taxonomy has a class 'flor'"):
        open_collage(data, unknown=["flor"])
