"""Tests of the layouts that upernet.scaffold understands: each is proposed, written, loaded and checked."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from helpers.strangers import HEIGHT, WIDTH, coco, in_colors, labels, make, save, save_photo

from upernet.data.check import check
from upernet.data.sources import open_source
from upernet.errors import UpernetError
from upernet.recipe import load_recipe
from upernet.scaffold import Proposal, propose, write_recipe
from upernet.taxonomy import load_taxonomy


def proposed(root: Path, out: Path, **options) -> tuple[Proposal, dict[str, int]]:
    """Propose and write a recipe, check its data, and return the proposal and the number of photos per split."""
    proposal = propose(root, **options)
    write_recipe(proposal, out)
    recipe = load_recipe(out)
    assert recipe.data is not None and Path(recipe.data).resolve() == root.resolve()
    report = check(recipe, recipe.data)
    assert report.ok, report.problems
    assert not report.missing
    return proposal, {split.split: split.annotated for split in report.splits}


LAYOUTS = {
    "images and masks": ("images/{}.jpg", "masks/{}.png"),
    "images and annotations": ("images/{}.jpg", "annotations/{}.png"),
    "a set below the folder": ("set/Images/{}.png", "set/Ground_Truth/{}.png"),
    "other ends": ("leftImg8bit/{}_leftImg8bit.png", "gtFine/{}_gtFine_labelIds.png"),
    "beginnings": ("images/img_{}.jpg", "masks/mask_{}.png"),
    "masks beside photos": ("{}.jpg", "{}_mask.png"),
    "CamVid's ends": ("701_StillsRaw_full/{}.png", "LabeledApproved_full/{}_L.png"),
    "masks beside photos in a folder": ("all/{}.png", "all/{}-gt.png"),
    "masks below the photos": ("photos/{}.png", "photos/labels/{}.png"),
    "masks of a folder of photos": ("{}.jpg", "masks/{}.png"),
}


@pytest.mark.parametrize(("photo", "mask"), LAYOUTS.values(), ids=LAYOUTS)
def test_a_layout_without_splits(tmp_path, photo, mask):
    make(tmp_path / "data", photo, mask)
    proposal, counts = proposed(tmp_path / "data", tmp_path / "my.yaml")
    assert counts == {"train": 7, "val": 1}
    assert sorted(proposal.found.levels) == ["object"]
    assert not proposal.found.left_out


SPLIT_LAYOUTS = {
    "splits above": ("{split}/images/{}.jpg", "{split}/masks/{}.png"),
    "splits below": ("images/{split}/{}.jpg", "labels/{split}/{}.png"),
    "SegNet": ("{split}/{}.png", "{split}annot/{}.png"),
    "words together": ("{split}_images/{}.png", "{split}_masks/{}.png"),
    "folders of cities": ("leftImg8bit/{split}/bonn/{}.png", "gtFine/{split}/bonn/{}.png"),
    "masks in one folder": ("images/{split}/{}.jpg", "masks/{}.png"),
}


@pytest.mark.parametrize(("photo", "mask"), SPLIT_LAYOUTS.values(), ids=SPLIT_LAYOUTS)
@pytest.mark.parametrize("words", [("train", "val", "test"), ("Training", "Validation", "Testing")])
def test_folders_of_splits(tmp_path, photo, mask, words):
    for word, count in zip(words, (4, 2, 3), strict=True):
        name = f"{word[:2]}{{}}"
        make(
            tmp_path / "data",
            photo.replace("{}", name).replace("{split}", word),
            mask.replace("{}", name).replace("{split}", word),
            count,
        )
    _, counts = proposed(tmp_path / "data", tmp_path / "my.yaml")
    assert counts == {"train": 4, "val": 2, "test": 3}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "my-classes.yaml", "my.yaml"]


def test_validation_photos_are_drawn_from_the_training_photos(tmp_path):
    for word, count in (("train", 12), ("test", 3)):
        make(tmp_path / "data", f"{word}/images/{{}}.jpg", f"{word}/masks/{{}}.png", count)
    _, counts = proposed(tmp_path / "data", tmp_path / "my.yaml")
    assert counts == {"train": 10, "val": 2, "test": 3}


def test_a_split_without_masks_is_left_out(tmp_path):
    for word in ("train", "val"):
        make(tmp_path / "data", f"images/{word}/{{}}.jpg", f"masks/{word}/{{}}.png", 4)
    for number in range(3):
        save_photo(tmp_path / "data" / "images" / "test" / f"{number}.jpg")
    proposal, counts = proposed(tmp_path / "data", tmp_path / "my.yaml")
    assert counts == {"train": 4, "val": 4} and not proposal.found.left_out


def test_lists_of_pascal_voc(tmp_path):
    root = make(tmp_path / "VOCdevkit", "VOC2012/JPEGImages/{}.jpg", "VOC2012/SegmentationClass/{}.png", 9)
    make(root, "VOC2012/JPEGImages/{}.jpg", "VOC2012/SegmentationObject/{}.png", 9)
    lists = root / "VOC2012" / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("".join(f"{n:03}\n" for n in range(5)))
    (lists / "val.txt").write_text("006\n007\n")
    (lists / "trainval.txt").write_text("".join(f"{n:03}\n" for n in range(9)))
    _, counts = proposed(root, tmp_path / "my.yaml")
    assert counts == {"train": 5, "val": 2}


def test_lists_of_pairs_with_paths_of_another_machine(tmp_path):
    root = make(tmp_path / "data", count=6)
    lines = [f"/home/me/images/{n:03}.jpg /home/me/masks/{n:03}.png\n" for n in range(6)]
    (root / "train.txt").write_text("".join(lines[:4]))
    (root / "test.txt").write_text("".join(lines[4:]))
    _, counts = proposed(root, tmp_path / "my.yaml")
    assert counts == {"train": 3, "val": 1, "test": 2}


def test_several_levels(tmp_path):
    root = make(tmp_path / "data", mask="masks-object/{}.png")
    make(root, mask="masks-material/{}.png", paint=lambda values: values // 2)
    proposal, _ = proposed(root, tmp_path / "my.yaml")
    assert sorted(proposal.found.levels) == ["material", "object"]
    recipe = load_recipe(tmp_path / "my.yaml")
    assert list(recipe.sources["data"].annotated) == ["object", "material"]


def test_parts_belong_to_the_objects_that_they_lie_on(tmp_path):
    root = make(tmp_path / "data", mask="objects/{}.png")
    make(
        root,
        mask="parts/{}.png",
        paint=lambda values: np.select([values == 1, values == 2], [1, 2], 0).astype(np.uint8),
    )
    (root / "objects" / "classes.txt").write_text("sky\nroad\ntree\nwater\n")
    (root / "parts" / "classes.txt").write_text("lane\ntrunk\n")
    proposal, _ = proposed(root, tmp_path / "my.yaml")
    assert proposal.found.levels["part"].parts_of == {"road": ["lane"], "tree": ["trunk"]}
    taxonomy = load_taxonomy(tmp_path / "my-classes.yaml")
    assert taxonomy.level("part").names == ("background", "lane", "trunk")
    for number in range(8):
        save(
            root / "parts" / f"{number:03}.png",
            np.where(labels(number) < 0, 0, 1 + (labels(number) == 0)).astype(np.uint8),
        )
        save(root / "objects" / f"{number:03}.png", np.where(labels(number) == 0, 255, labels(number)).astype(np.uint8))
    with pytest.raises(UpernetError, match="the part trunk lies on no object"):
        propose(root)


# annotation tools


def test_coco_with_one_file(tmp_path):
    root = tmp_path / "data"
    for number in range(6):
        save_photo(root / "images" / f"{number}.jpg", number)
    (root / "annotations.json").write_text(coco([f"{number}.jpg" for number in range(6)]))
    proposal, counts = proposed(root, tmp_path / "my.yaml")
    assert counts == {"train": 5, "val": 1}
    plan = proposal.found.levels["object"].plan
    assert {entry.name for entry in plan.classes} == {"background", "road", "tree"} and plan.never == ["boat"]
    share = plan.shares
    assert share["tree"] == pytest.approx(0.125) and share["road"] == pytest.approx(0.4375)


@pytest.mark.parametrize(
    ("photos", "file"),
    [
        ("{split}2017/{}.jpg", "annotations/instances_{split}2017.json"),
        ("{split}/{}.jpg", "{split}/_annotations.coco.json"),
        ("images/{}.jpg", "{split}.json"),
    ],
)
def test_coco_with_a_file_per_split(tmp_path, photos, file):
    root = tmp_path / "data"
    for split, count in (("train", 4), ("val", 2)):
        names = [f"{split}{number}" for number in range(count)]
        for number, name in enumerate(names):
            save_photo(root / photos.replace("{split}", split).format(name), number)
        path = root / file.replace("{split}", split)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(coco([f"{name}.jpg" for name in names]))
    _, counts = proposed(root, tmp_path / "my.yaml")
    assert counts == {"train": 4, "val": 2}


def test_labelme(tmp_path):
    root = tmp_path / "data"
    for number in range(5):
        save_photo(root / f"{number}.jpg", number)
        shapes = [
            {"label": label, "shape_type": "rectangle", "points": [[0, top], [WIDTH, top + HEIGHT / 2]]}
            for label, top in (("sky", 0), ("road", HEIGHT / 2))
        ]
        values = {"imagePath": f"{number}.jpg", "imageWidth": WIDTH, "imageHeight": HEIGHT, "shapes": shapes}
        (root / f"{number}.json").write_text(json.dumps(values))
    proposal, counts = proposed(root, tmp_path / "my.yaml")
    assert counts == {"train": 4, "val": 1}
    assert [entry.name for entry in proposal.found.levels["object"].plan.classes] == ["sky", "road"]


def test_cvat(tmp_path):
    root = tmp_path / "data"
    images = ""
    for number in range(5):
        save_photo(root / "images" / f"{number}.jpg", number)
        images += (
            f'<image id="{number}" name="{number}.jpg" width="{WIDTH}" height="{HEIGHT}">'
            '<box label="car" xtl="3" ytl="4" xbr="9" ybr="8"/></image>'
        )
    color = "<labels><label><name>car</name><color>#FF0000</color></label></labels>"
    (root / "annotations.xml").write_text(f"<annotations><meta>{color}</meta>{images}</annotations>")
    proposed(root, tmp_path / "my.yaml")
    level = load_taxonomy(tmp_path / "my-classes.yaml").level("object")
    assert level.names == ("background", "car") and level.colors[1] == (255, 0, 0)


# folders of photos


def test_a_folder_per_class(tmp_path):
    root = tmp_path / "data"
    for name, count in (("beach", 6), ("city street", 4)):
        for number in range(count):
            save_photo(root / name / f"{number}.jpg", number)
    proposal, counts = proposed(root, tmp_path / "my.yaml")
    assert list(proposal.found.levels) == ["scene"] and counts == {"train": 8, "val": 2}
    assert load_taxonomy(tmp_path / "my-classes.yaml").level("scene").names == ("beach", "city street")
    _, counts = proposed(root, tmp_path / "texture.yaml", level="texture")
    assert load_recipe(tmp_path / "texture.yaml").sources["data"].level == "texture"


def test_a_folder_per_class_and_split(tmp_path):
    root = tmp_path / "textures"
    for split, count in (("train", 5), ("valid", 2)):
        for name in ("dotted", "striped"):
            for number in range(count):
                save_photo(root / split / name / f"{number}.jpg", number)
    proposal, counts = proposed(root, tmp_path / "my.yaml")
    assert counts == {"train": 10, "val": 4} and list(proposal.found.levels) == ["texture"]


@pytest.mark.parametrize(
    ("names", "level"),
    [
        (("wood", "Stone", "fabric", "denim"), "material"),
        (("banded", "chequered"), "texture"),
        (("kitchen", "wood"), "scene"),
        (("cat", "dog"), "scene"),
    ],
)
def test_folders_named_after_materials_or_textures(tmp_path, names, level):
    for name in names:
        for number in range(3):
            save_photo(tmp_path / "data" / name / f"{number}.jpg", number)
    assert list(propose(tmp_path / "data").found.levels) == [level]


# what cannot be used


def test_nothing_to_learn_from(tmp_path):
    (tmp_path / "data").mkdir()
    with pytest.raises(UpernetError, match=r"data: holds no photos; give the folder"):
        propose(tmp_path / "data")
    save_photo(tmp_path / "data" / "1.jpg")
    with pytest.raises(UpernetError, match=r"data: holds 1 images, but no masks or classes; .*a_mask\.png"):
        propose(tmp_path / "data")
    with pytest.raises(UpernetError, match="other: no such folder"):
        propose(tmp_path / "other")
    with pytest.raises(UpernetError, match="is a file"):
        propose(tmp_path / "data" / "1.jpg")


def test_photos_and_masks_that_do_not_belong_together(tmp_path):
    root = make(tmp_path / "data", "images/a{}.jpg", "masks/b{}.png", count=6)
    for path in (root / "masks").iterdir():
        path.rename(path.with_name(f"x{int(path.stem[1:]) + 700}.png"))
    with pytest.raises(UpernetError, match="there is no photo of the same name"):
        propose(root)


def test_a_few_files_that_cannot_be_used_are_left_out_and_named(tmp_path):
    root = make(tmp_path / "data", count=30)
    (root / "images" / "003.jpg").write_bytes(b"no photo")
    (root / "masks" / "004.png").unlink()
    (root / "images" / "005.jpg").unlink()
    save(root / "masks" / "006.png", labels(6)[:, :-1])
    proposal, counts = proposed(root, tmp_path / "my.yaml")
    assert sum(counts.values()) == 26
    reasons = {path.name: text for path, text in proposal.found.left_out.items()}
    assert "not an image" in reasons["003.jpg"] and "has no mask" in reasons["004.jpg"]
    assert "without a photo" in reasons["005.png"] and "47 x 32 pixels" in reasons["006.jpg"]


def test_masks_of_other_sizes(tmp_path):
    root = make(tmp_path / "data", paint=lambda values: values[:, ::2].copy())
    with pytest.raises(UpernetError, match=r"masks/000\.png: is 24 x 32 pixels.*7 more of 8 masks"):
        propose(root)


def test_masks_of_two_kinds(tmp_path):
    root = make(tmp_path / "data")
    save(root / "masks" / "003.png", in_colors(labels(3)))
    with pytest.raises(UpernetError, match=r"000\.png holds class numbers, but .*003\.png holds colors"):
        propose(root)


def test_masks_as_jpeg(tmp_path):
    root = make(tmp_path / "data", mask="masks/{}.jpg", paint=in_colors)
    with pytest.raises(UpernetError, match="is a JPEG, which blurs the classes"):
        propose(root)


def test_masks_that_are_photos(tmp_path):
    root = make(
        tmp_path / "data", paint=lambda values: np.random.default_rng(0).integers(0, 256, (*values.shape, 3), np.uint8)
    )
    with pytest.raises(UpernetError, match="too many for classes"):
        propose(root)


def test_links_out_of_the_folder_are_not_followed(tmp_path):
    root = make(tmp_path / "data", count=6)
    save_photo(tmp_path / "private.jpg")
    (root / "images" / "006.jpg").symlink_to(tmp_path / "private.jpg")
    save(root / "masks" / "006.png", labels(0))
    proposal = propose(root)
    assert proposal.links == 1 and len(proposal.found.photos) == 6
    proposal, counts = proposed(root, tmp_path / "my.yaml", follow_links=True)
    assert sum(counts.values()) == 7 and load_recipe(tmp_path / "my.yaml").sources["data"].follow_links
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "1.jpg").symlink_to(tmp_path / "private.jpg")
    with pytest.raises(UpernetError, match=r"holds only symbolic links .* give --follow-links"):
        propose(tmp_path / "links")


def test_images_of_another_data_set_are_not_used_and_counted(tmp_path):
    root = make(tmp_path / "data", "a/images/{}.jpg", "a/masks/{}.png")
    make(root, "b/images/{}.jpg", "b/gt/{}.png", count=3)
    proposal, _ = proposed(root, tmp_path / "my.yaml")
    assert len(proposal.found.photos) == 8
    assert "6 other images, such as b/gt/000.png, are not used." in proposal.found.notes


def test_the_source_reads_what_was_proposed(tmp_path):
    """One photo of each split is read, and its labels are compared with what was painted."""
    root = make(tmp_path / "data", "{}.jpg", "{}_L.png", paint=in_colors)
    (root / "label_colors.txt").write_text("".join("{} {} {}\t{}\n".format(*COLOR, name) for COLOR, name in TABLE))
    proposed(root, tmp_path / "my.yaml")
    recipe, taxonomy = load_recipe(tmp_path / "my.yaml"), load_taxonomy(tmp_path / "my-classes.yaml")
    for split in ("train", "val"):
        source = open_source("data", recipe.sources["data"], taxonomy, root, split)
        number = int(source.photos[0].path.stem)
        names = np.array([*taxonomy.level("object").names, "void"])
        assert (names[source[0].maps["object"]] == np.array(["sky", "road", "tree", "void"])[labels(number)]).all()


TABLE = [((128, 128, 128), "sky"), ((128, 64, 128), "road"), ((107, 142, 35), "tree"), ((0, 0, 0), "void")]
