"""Tests of upernet.data.sources on real photographs, if the data collection lies beside the checkout."""

from pathlib import Path

import pytest
import torch
from helpers.folders import source_spec

from upernet.data.sources import LevelMasks, open_source
from upernet.data.sources.mapping import OUTSIDE
from upernet.data.sources.source import FolderSource
from upernet.recipe import load_recipe
from upernet.taxonomy import IGNORE, Taxonomy, load_taxonomy

DATA = Path(__file__).parents[3] / "shared" / "data"
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="needs ../shared/data beside the checkout")

CAMVID = {
    "Sky": "sky", "Building": "building", "Pole": "pole", "Road": "road", "Pavement": "pavement", "Tree": "tree",
    "SignSymbol": "sign", "Fence": "fence", "Car": "car", "Pedestrian": "pedestrian", "Bicyclist": "bicyclist",
    "Void": None,
}  # fmt: skip


def test_camvid():
    taxonomy = load_taxonomy("camvid")
    spec = source_spec(kind="camvid", path="camvid/{split}", classes=CAMVID)
    sources = {split: open_source("camvid", spec, taxonomy, DATA, split) for split in ("train", "val", "test")}
    assert [len(source) for source in sources.values()] == [367, 101, 117]
    sample = sources["test"][0]
    assert sample.image.shape == (3, 360, 480) and sample.maps["object"].shape == (360, 480)
    labels = set(sample.maps["object"].unique().tolist())
    assert labels <= {IGNORE, *range(11)} and taxonomy.level("object").index("road") in labels


def test_camvid_held_back_share():
    taxonomy = load_taxonomy("camvid")
    spec = source_spec(kind="camvid", path="camvid/{split}", classes=CAMVID, held_back=0.1)
    counts = [len(open_source("camvid", spec, taxonomy, DATA, split)) for split in ("train", "held_back")]
    assert sum(counts) == 367 and 20 < counts[1] < 55


def test_clothing_parts():
    names = [line.split("\t")[1] for line in (DATA / "clothing_parts" / "labels.txt").read_text().splitlines()]
    levels = {
        "object": {"classes": ["person"]},
        "part": {"classes": ["hair", "skin"], "of": {"person": ["hair", "skin"]}},
    }
    taxonomy = Taxonomy.from_dict({"name": "people", "levels": levels})
    classes = dict.fromkeys(names, "-") | {"background": None, "hair": "hair", "skin": "skin"}
    spec = source_spec(
        path="clothing_parts/{split}", level="part", classes=classes, implies={"object": {"*": "person"}}
    )
    source = open_source("clothing", spec, taxonomy, DATA, "test")
    assert len(source) == 100
    sample = source[0]
    parts, objects = sample.maps["part"], sample.maps["object"]
    assert {1, 2} <= set(parts.unique().tolist()) <= {IGNORE, 0, 1, 2}
    assert torch.equal(objects == 0, parts >= 0)
    assert 0.05 < (objects == 0).float().mean() < 0.6
    assert sample.implied == {"object"}


@pytest.mark.parametrize(
    ("name", "level", "train", "test"),
    [("scene", "scene", 924, 160), ("material", "material", 500, 100), ("dtd10", "texture", 800, 200)],
)
def test_label_folders(name, level, train, test):
    classes = sorted(path.name for path in (DATA / name / "train").iterdir() if path.is_dir())
    taxonomy = Taxonomy.from_dict({"name": "any", "levels": {level: {"classes": classes}}})
    spec = source_spec(kind="label_folder", path=f"{name}/{{split}}", level=level)
    assert len(open_source(name, spec, taxonomy, DATA, "train")) == train
    source = open_source(name, spec, taxonomy, DATA, "test")
    assert len(source) == test
    assert source[test - 1].labels == {level: len(classes) - 1}
    assert source[test - 1].image.shape[0] == 3


def test_ade20k_sample():
    taxonomy = load_taxonomy("ade20k150")
    first = taxonomy.level("object").names[:150]
    classes = {str(value): name for value, name in enumerate(first, 1)} | {"0": None}
    spec = source_spec(path="ade20k150_sample", classes=classes)
    source = open_source("ade20k", spec, taxonomy, DATA, "val")
    assert len(source) == 3
    assert source[0].maps["object"].shape == source[0].image.shape[1:]


@pytest.mark.parametrize("name", ["camvid", "everyday"])
def test_the_bundled_recipes_map_every_class_of_their_masks(name):
    recipe = load_recipe(name)
    taxonomy = recipe.load_taxonomy()
    opened = [open_source(key, spec, taxonomy, DATA, "train", recipe.sources) for key, spec in recipe.sources.items()]
    sources = [source for source in opened if isinstance(source, FolderSource)]
    masks = [found for source in sources for found in source.annotations.values() if isinstance(found, LevelMasks)]
    for labels in (*masks, *(pseudo for source in sources for pseudo in source.pseudo.values())):
        assert [own for value, own in labels.names.items() if labels.table[value] == OUTSIDE] == [], labels.where
