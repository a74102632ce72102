"""Tests of sources that annotate several levels: upernet.data.sources, upernet.recipe, upernet.data.check."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from helpers.folders import TAXONOMY, make_label_folder, make_mask_folder, save_mask, save_photo, source_spec
from hypothesis import given, settings
from hypothesis import strategies as st

from upernet.data.check import check
from upernet.data.images import read_mask
from upernet.data.sample import Sample
from upernet.data.sources import Source, open_source
from upernet.data.transforms import augment
from upernet.errors import UpernetError
from upernet.evaluation.loop import evaluate
from upernet.models import build_model
from upernet.recipe import Augmentation, load_recipe
from upernet.taxonomy import IGNORE
from upernet.training.loop import train

ANNOTATIONS: dict[str, Any] = {
    "object": {"implies": {"material": {"tree": "foliage"}}},
    "part": {"folder": "parts", "classes": {1: "hair", 2: "hand"}, "ignore": [0]},
    "scene": {"table": "scenes.csv", "column": "place"},
}


def open_several(root: Path, annotations: dict[str, Any] = ANNOTATIONS) -> Source:
    spec = source_spec(level=None, annotations=annotations)
    return open_source("mine", spec, TAXONOMY, root, "train")


def read_all(source: Source) -> list[Sample]:
    return [source[index] for index in range(len(source))]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Photos with masks of objects and parts, and a table of scenes."""
    folder = make_mask_folder(tmp_path, count=4)
    for number in range(4):
        objects = read_mask(folder / "annotations" / f"{number:03}.png")
        save_mask(folder / "parts" / f"{number:03}.png", np.where(objects == 3, 1 + number % 2, 0))
    rows = "".join(f"images/{number:03}.png,{'street' if number % 2 else 'garden'}\n" for number in range(4))
    (folder / "scenes.csv").write_text("file,place\n" + rows)
    return folder


def test_each_level_has_its_own_files_and_classes(tmp_path: Path, folder: Path) -> None:
    source = open_several(tmp_path)
    assert source.levels == ("object", "part", "scene", "material") and source.implied == {"material"}
    sample = source[1]
    objects = read_mask(folder / "annotations" / "001.png").astype(int)
    assert np.array_equal(sample.maps["object"], objects)
    assert np.array_equal(sample.maps["part"], np.where(objects == 3, 2, IGNORE))
    assert np.array_equal(sample.maps["material"], np.where(objects == 2, 1, IGNORE))
    assert sample.labels == {"scene": 0} and sample.implied == {"material"}


def test_a_level_alone_is_shorthand(tmp_path: Path) -> None:
    make_mask_folder(tmp_path)
    entry = {"classes": {"Sky": "tree", "Road": None, "Tree": "sky", "Person": None}, "implies": {"scene": "street"}}
    alone = open_source("mine", source_spec(level="object", **entry), TAXONOMY, tmp_path, "train")
    several = open_several(tmp_path, {"object": entry})
    assert alone.levels == several.levels and alone.implied == several.implied
    for first, second in zip(read_all(alone), read_all(several), strict=True):
        assert first.labels == second.labels and torch.equal(first.maps["object"], second.maps["object"])


@pytest.mark.parametrize("optional", [True, False])
def test_a_photo_without_a_mask_is_unknown_only_if_the_level_is_optional(
    tmp_path: Path, folder: Path, optional: bool
) -> None:
    (folder / "parts" / "002.png").unlink()
    annotations = ANNOTATIONS | {"part": ANNOTATIONS["part"] | {"optional": optional}}
    if not optional:
        with pytest.raises(UpernetError, match=r"002\.png: has no mask .*parts/002\.png; add it or remove the photo"):
            open_several(tmp_path, annotations)
        return
    source = open_several(tmp_path, annotations)
    assert (source[2].maps["part"] == IGNORE).all() and source[2].maps["part"].shape == (8, 12)
    assert (source[1].maps["part"] != IGNORE).any()


@pytest.mark.parametrize("optional", [True, False])
def test_a_photo_without_a_row_is_unknown_only_if_the_level_is_optional(
    tmp_path: Path, folder: Path, optional: bool
) -> None:
    (folder / "scenes.csv").write_text("file,place\nimages/000.png,street\nimages/001.png,\n")
    annotations = ANNOTATIONS | {"scene": ANNOTATIONS["scene"] | {"optional": optional}}
    if not optional:
        with pytest.raises(UpernetError, match=r"002\.png: has no row in scenes\.csv .*2 photos.*; add it"):
            open_several(tmp_path, annotations)
        return
    assert [sample.labels["scene"] for sample in read_all(open_several(tmp_path, annotations))] == [0, -1, -1, -1]


def test_a_misspelled_folder_of_an_optional_level_shows(tmp_path: Path, folder: Path) -> None:
    annotations = ANNOTATIONS | {"part": ANNOTATIONS["part"] | {"optional": True, "folder": "part"}}
    with pytest.raises(UpernetError, match=r"part: no photo of source mine has a mask .*annotations\.part\.folder"):
        open_several(tmp_path, annotations)


def test_names_of_values_lie_beside_the_masks(tmp_path: Path, folder: Path) -> None:
    (folder / "parts" / "labels.txt").write_text("0\tnothing\n1\thair\n2\thand\n")
    annotations = ANNOTATIONS | {"part": {"folder": "parts", "ignore": [0]}}
    assert set(open_several(tmp_path, annotations)[0].maps["part"].unique().tolist()) == {IGNORE, 1}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"part": {"folder": "parts", "classes": {9: "hair"}}}, r"value.*under sources\.mine\.annotations\.part\.cla"),
        ({"object": {"implies": {"scene": "street"}}}, r"annotations\.object\.implies\.scene: the source annotates"),
        ({"object": {"implies": {"object": "sky"}}}, r"annotations\.object\.implies: object is the source's own level"),
        ({"part": ANNOTATIONS["part"] | {"implies": {"material": {"hair": "hair"}}}}, "object implies material, too"),
        ({"scene": {}}, r"annotations\.scene: scene is one label per photo.*table"),
        ({"part": {"table": "scenes.csv"}}, r"annotations\.part: parts need masks"),
    ],
)
def test_mistakes_name_the_level(tmp_path: Path, folder: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(UpernetError, match=message):
        open_several(tmp_path, ANNOTATIONS | change)[0]


def test_parts_need_the_objects_that_own_them(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(UpernetError, match=r"annotations\.part\.implies: parts need the object"):
        open_several(tmp_path, {"part": ANNOTATIONS["part"]})


def test_class_folders_can_label_several_levels(tmp_path: Path) -> None:
    make_label_folder(tmp_path, count=1, classes=("garden", "street", "zebra"))
    annotations = {
        "scene": {"classes": {"garden": "garden", "street": "street", "zebra": None}},
        "texture": {"classes": {"garden": None, "street": None, "zebra": "banded"}, "supervision": "broadcast"},
    }
    spec = source_spec(kind="label_folder", level=None, annotations=annotations)
    source = open_source("mine", spec, TAXONOMY, tmp_path, "train")
    assert [sample.labels for sample in read_all(source)] == [
        {"scene": 1, "texture": IGNORE},
        {"scene": 0, "texture": IGNORE},
        {"scene": IGNORE, "texture": 0},
    ]
    assert spec.supervision_by_level == {"scene": "pooled", "texture": "broadcast"}


@pytest.mark.slow
@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 2**31),
    crop=st.tuples(st.integers(1, 24), st.integers(1, 24)),
    scale=st.floats(0.5, 2),
    flip=st.booleans(),
)
def test_crop_and_flip_move_all_levels_alike(
    tmp_path_factory: pytest.TempPathFactory, seed: int, crop: tuple[int, int], scale: float, flip: bool
) -> None:
    root = tmp_path_factory.mktemp("same")
    folder = make_mask_folder(root, count=1, values=(0, 1))
    objects = read_mask(folder / "annotations" / "000.png")
    save_mask(folder / "parts" / "000.png", objects)
    part = {"folder": "parts", "classes": {0: "-", 1: "hair"}}
    sample = open_several(root, {"object": {}, "part": part})[0]
    out = augment(sample, Augmentation(crop=crop, scale=(scale, scale), flip=flip), torch.Generator().manual_seed(seed))
    assert out.maps["object"].shape == crop
    assert torch.equal(out.maps["object"], out.maps["part"])


@pytest.fixture
def recipe_file(tmp_path: Path, folder: Path) -> Path:
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(TAXONOMY.to_dict()))
    recipe = {
        "description": "objects, parts and scenes of the same photos",
        "taxonomy": "tiny.yaml",
        "model": {"backbone": "mobilenetv3_small_050", "decoder_channels": 8, "auxiliary_channels": None},
        "sources": {
            "mine": {
                "kind": "mask_folder",
                "path": "set/{split}",
                "splits": {"train": "train", "test": "train"},
                "annotations": ANNOTATIONS,
                "batch_size": 2,
                "augmentation": {"crop": [32, 32]},
            }
        },
        "training": {
            "workers": 0,
            "stages": [{"name": "all", "iterations": 2, "sources": ["mine"], "learning_rate": 0.001}],
        },
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return tmp_path / "recipe.yaml"


def test_check_reports_each_level(tmp_path: Path, folder: Path, recipe_file: Path) -> None:
    steps: list[tuple[int, int]] = []
    report = check(load_recipe(recipe_file), tmp_path, lambda *step: steps.append(step))
    assert report.ok and steps == [(done, 24) for done in range(1, 25)]  # 2 splits x 4 photos x (2 masks + photo)
    objects, parts, scenes = report.splits[:3]
    assert [split.level for split in (objects, parts, scenes)] == ["object", "part", "scene"]
    assert [split.annotated for split in report.splits] == [4] * 6
    assert (objects.unit, parts.unit, scenes.unit) == ("pixels", "pixels", "photos")
    assert objects.labels["person"] == sum(parts.labels.values())
    assert scenes.labels == {"street": 2, "garden": 2}
    save_mask(folder / "parts" / "000.png", np.full((8, 12), 7))
    save_mask(folder / "parts" / "001.png", np.zeros((9, 12)))
    texts = [problem.text for problem in check(load_recipe(recipe_file), tmp_path).problems if problem.split == "train"]
    assert len(texts) == 2
    assert "value 7 is not mapped to a class of level part" in texts[0] and "parts/001.png: is 12 x 9" in texts[1]


@pytest.mark.slow
def test_a_recipe_with_several_levels_per_photo_trains_and_is_evaluated(tmp_path: Path, recipe_file: Path) -> None:
    recipe = load_recipe(recipe_file)
    path = train(recipe, tmp_path, tmp_path / "run", device="cpu", quiet=True)
    assert path.is_file()
    lines = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    iterations = [line for line in map(yaml.safe_load, lines) if "losses" in line]
    assert len(iterations) == 2
    assert {"object", "scene", "part/person"} <= set(iterations[0]["losses"])
    result = evaluate(build_model(recipe), recipe, tmp_path, "test")
    assert set(result.levels) == {"object", "part", "scene"}
    assert set(result.implied["mine"]) == {"material"}


def test_two_photos_of_one_name_do_not_share_masks(tmp_path: Path, folder: Path) -> None:
    save_photo(folder / "images" / "000.webp")
    with pytest.raises(UpernetError, match="has the mask of 000"):
        open_several(tmp_path)
