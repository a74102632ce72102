"""Tests of upernet.data.mixing: objects of one photo in front of another."""

import numpy as np
import pytest
import torch
from helpers.folders import TAXONOMY, save_mask, save_photo, source_spec
from PIL import Image

from upernet.data.candidates import FIRST_CODE
from upernet.data.mixing import Mixer
from upernet.data.sources import open_source
from upernet.errors import UpernetError
from upernet.recipe import Recipe
from upernet.settings import SettingsError, check_settings
from upernet.taxonomy import IGNORE

SAME = {"scale": [1, 1], "crop": [8, 12], "flip": False, "photometric": "none"}
RED, BLUE = (255, 0, 0), (0, 0, 255)


def save(root, name: str, color, mask) -> None:
    folder = root / name / "train"
    (folder / "images").mkdir(parents=True)
    Image.new("RGB", (12, 8), color).save(folder / "images" / "0.png")
    save_mask(folder / "annotations" / "0.png", mask)
    (root / name / "labels.txt").write_text("0\telse\n1\troad\n2\ttree\n3\teither\n")


def open_named(root, name: str, augmentation=None, **settings):
    classes = {"else": None, "road": "road", "tree": "tree", "either": ["sky", "person"]}
    values = {"path": f"{name}/{{split}}", "classes": classes, "augmentation": SAME | (augmentation or {}), **settings}
    return open_source(name, source_spec(**values), TAXONOMY, root, "train")


@pytest.fixture
def root(tmp_path):
    """Photos `room` (red; road, and on the right either) and `thing` (blue; a tree in the middle)."""
    room, thing = np.full((8, 12), 1), np.zeros((8, 12))
    room[:, 8:], thing[2:6, 4:10] = 3, 2
    save(tmp_path, "room", RED, room)
    save(tmp_path, "thing", BLUE, thing)
    return tmp_path


def mixed(source, other):
    return Mixer(source, {source.name: source, other.name: other})(0, torch.Generator().manual_seed(0))


def test_objects_of_another_photo_are_pasted_onto_a_crop(root):
    room = open_named(root, "room", {"paste": {"sources": ["thing"], "probability": 1}})
    sample = mixed(room, open_named(root, "thing"))
    inside = np.zeros((8, 12), bool)
    inside[2:6, 4:10] = True
    assert np.array_equal(sample.image.permute(1, 2, 0).numpy(), np.where(inside[..., None], BLUE, RED))
    alone = room[0].maps["object"].numpy()
    assert np.array_equal(sample.maps["object"], np.where(inside, 2, alone))


def test_objects_of_a_crop_are_pasted_onto_another_photo(root):
    thing = open_named(
        root, "thing", {"paste_onto": {"sources": ["room"], "probability": 1}}, elsewhere="none_of_these"
    )
    room = open_named(root, "room")
    sample = mixed(thing, room)
    inside = np.zeros((8, 12), bool)
    inside[2:6, 4:10] = True
    assert np.array_equal(sample.image.permute(1, 2, 0).numpy(), np.where(inside[..., None], BLUE, RED))
    labels = sample.maps["object"].numpy()
    assert (labels[inside] == 2).all() and (labels[:, :4] == 1).all()
    # the room's "sky or person" keeps its meaning beside the sets of the thing's own source
    (code,) = set(labels[:, 10:].ravel().tolist())
    members = sample.candidates["object"].members[FIRST_CODE - code].nonzero().flatten().tolist()
    assert members == [0, 3]


def test_levels_that_the_other_photo_does_not_label_are_unknown(root):
    implies = {"material": {"*": "asphalt"}}
    room = open_named(root, "room", {"paste": {"sources": ["thing"], "probability": 1}}, implies=implies)
    sample = mixed(room, open_named(root, "thing"))
    assert (sample.maps["material"][2:6, 4:10] == IGNORE).all() and (sample.maps["material"][0] == 0).all()
    assert sample.implied == {"material"}


def test_the_probability_is_that_of_a_paste(root):
    room = open_named(root, "room", {"paste": {"sources": ["thing"], "probability": 0.25}})
    mixer = Mixer(room, {"thing": open_named(root, "thing")})
    pasted = sum(bool((mixer(0, torch.Generator().manual_seed(seed)).image[2] == 255).any()) for seed in range(400))
    assert 60 < pasted < 140


def test_without_mixing_a_sample_is_augmented_alone(root):
    room = open_named(root, "room")
    sample = Mixer(room, {})(0, torch.Generator().manual_seed(0))
    assert np.array_equal(sample.maps["object"], room[0].maps["object"])


def test_a_source_without_objects_cannot_be_cut_out(root):
    folder = root / "places" / "train"
    save_photo(folder / "street" / "0.png")
    spec = source_spec(kind="label_folder", path="places/{split}", level="scene")
    places = open_source("places", spec, TAXONOMY, root, "train")
    room = open_named(root, "room", {"paste": {"sources": ["places"], "probability": 1}})
    with pytest.raises(UpernetError, match=r"sources\.room\.augmentation\.paste\.sources: source places does not"):
        Mixer(room, {"places": places})


def test_a_recipe_names_only_sources_that_there_are():
    values = {
        "description": "x",
        "taxonomy": "camvid",
        "model": {"backbone": "resnet18"},
        "sources": {
            "room": {
                "kind": "mask_folder", "path": "x", "level": "object", "augmentation": {"paste": {"sources": ["no"]}}
            }
        },
    }  # fmt: skip
    with pytest.raises((UpernetError, SettingsError), match="there is no source no"):
        check_settings(values, Recipe, "recipe")
