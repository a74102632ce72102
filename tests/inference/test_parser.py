"""Tests of upernet.inference.parser: photos of any kind and size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from helpers.painted_network import DOG, PERSON, ROAD, SKY, PaintedNetwork, four_quarters, paint
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from upernet.checkpoints import save_checkpoint
from upernet.errors import UpernetError
from upernet.inference import Parse, Parser, load
from upernet.models import UPerNet
from upernet.recipe import ModelSpec
from upernet.taxonomy import Level, Taxonomy, load_taxonomy


def painted_parser(card: dict[str, Any] | None = None, sharpness: float = 1.0, **options: Any) -> Parser:
    return Parser(cast(UPerNet, PaintedNetwork(sharpness=sharpness)), card, **options)


def test_every_level_is_read_off_the_painted_photo(parser: Parser) -> None:
    objects = four_quarters()
    photo = paint(objects, parts=np.where(objects >= PERSON, 2, 1), materials=objects // 2)
    parse = parser(photo)
    np.testing.assert_array_equal(parse.object.labels, objects)
    np.testing.assert_array_equal(parse.material.labels, objects // 2)
    wanted = np.zeros_like(objects)
    wanted[objects == PERSON], wanted[objects == DOG] = 2, 3  # the second part of each
    np.testing.assert_array_equal(parse.part.labels, wanted)
    assert parse.object.labels.dtype == np.int16
    assert parse.object.confidence.dtype == np.float32
    assert 0 < parse.object.confidence.min() <= parse.object.confidence.max() <= 1
    assert parse.object.names == ("sky", "road", "person", "dog")
    assert parse.levels == ("scene", "object", "part", "material")


def test_the_scene_is_ranked(parser: Parser) -> None:
    photo = paint(np.zeros((40, 40)), materials=1)
    photo[..., 2] += 8  # toward park
    scene = parser(photo).scene
    assert [name for name, _ in scene] == ["office", "park", "street"]
    assert sum(probability for _, probability in scene) == pytest.approx(1)


def test_the_scene_is_read_from_a_small_view_of_the_whole_photo() -> None:
    network = PaintedNetwork()
    Parser(cast(UPerNet, network))(np.zeros((900, 1200, 3), np.uint8), levels=["scene"])
    assert network.sizes == [(256, 352)]  # 256 x 341, filled up


def test_path_pil_image_and_array_give_the_same(parser: Parser, tmp_path: Path) -> None:
    photo = paint(four_quarters(), materials=1)
    Image.fromarray(photo).save(tmp_path / "photo.png")
    parses = [parser(photo), parser(Image.fromarray(photo)), parser(tmp_path / "photo.png")]
    for parse in parses[1:]:
        np.testing.assert_array_equal(parse.object.labels, parses[0].object.labels)
    assert [parse.path for parse in parses] == [None, None, str(tmp_path / "photo.png")]


@pytest.mark.parametrize("mode", ["RGBA", "P", "CMYK"])
def test_pil_images_of_other_modes(parser: Parser, mode: str) -> None:
    image = Image.fromarray(paint(np.full((32, 32), PERSON))).convert(mode)
    assert parser(image, ["object"]).object.shares() == {"person": 1.0}


def test_gray_pil_images(parser: Parser) -> None:
    for image in (
        Image.new("L", (32, 32), 40 * DOG),
        Image.fromarray(np.full((32, 32), 257 * 40 * DOG, np.uint16)),
    ):
        assert parser(image, ["object"]).object.shares() == {"dog": 1.0}


def test_pil_images_are_turned_upright(parser: Parser) -> None:
    image = Image.fromarray(paint(four_quarters()))
    image.getexif()[0x0112] = 6  # stored lying on its side
    labels = parser(image, ["object"]).object.labels
    np.testing.assert_array_equal(labels, np.rot90(four_quarters(), -1))  # a quarter turn clockwise


def test_only_the_levels_asked_for(parser: Parser, network: PaintedNetwork) -> None:
    photo = paint(np.full((32, 32), PERSON), parts=1)
    assert parser(photo, ["material", "object"]).levels == ("object", "material")
    assert parser(photo, "scene").levels == ("scene",)
    parse = parser(photo, ["part"])  # needs the objects, but they were not asked for
    assert parse.levels == ("part",)
    assert parse.part.shares() == {"hair": 1.0}


@given(height=st.integers(1, 90), width=st.integers(1, 90), short_side=st.none() | st.integers(1, 100))
@settings(max_examples=25, deadline=None)
def test_maps_have_the_photos_size(height: int, width: int, short_side: int | None) -> None:
    parse = painted_parser(short_side=short_side)(paint(np.full((height, width), ROAD)))
    for level in ("object", "part", "material"):
        assert parse.maps[level].labels.shape == parse.maps[level].confidence.shape == (height, width)
    assert parse.object.shares() == {"road": 1.0}


@pytest.mark.parametrize("size", [(1, 1), (3, 500), (500, 3)])
def test_tiny_and_narrow_photos(parser: Parser, size: tuple[int, int]) -> None:
    parse = parser(paint(np.full(size, PERSON), parts=1))
    assert parse.part.labels.shape == size
    assert parse.part.shares() == {"hair": 1.0}


def test_large_photos_are_reduced_to_the_short_side_of_the_card() -> None:
    cases: list[tuple[dict[str, Any], tuple[int, int]]] = [
        ({}, (64, 96)),
        ({"short_side": 32}, (32, 64)),
        ({"short_side": None}, (128, 192)),
    ]
    for options, wanted in cases:
        parser = painted_parser({"short_side": 64}, **options)
        parse = parser(paint(four_quarters(128, 192)), ["object"])
        assert cast(PaintedNetwork, parser.model).sizes == [wanted]
        assert (parse.object.labels == four_quarters(128, 192)).mean() > 0.9


def test_labels_below_the_threshold_are_unsure() -> None:
    photo = paint(four_quarters(), materials=1)
    photo[:, :, 2] += 18  # between two materials
    parse = painted_parser({"thresholds": {"material": 0.9}}, sharpness=0.2)(photo)
    assert parse.material.confidence.max() < 0.9
    assert parse.material.shares() == {"unsure": 1.0}
    assert parse.scene_is_sure
    assert -1 not in parse.object.labels


def test_below_the_threshold_a_known_background_wins() -> None:
    textures = Level("texture", ("none", "banded", "bumpy"), ((0, 0, 0),) * 3, background=True, known_background=True)
    network = PaintedNetwork(Taxonomy("textures", "", {"texture": textures}), sharpness=0.2)
    photo = paint(four_quarters(), materials=four_quarters() // 2 * 2)
    photo[:, :, 2] -= np.minimum(photo[:, :, 2], 18)  # bumpy, nearly as likely as banded
    for threshold, shares in ((0.4, {"none": 0.5, "bumpy": 0.5}), (0.9, {"none": 1.0})):
        parse = Parser(cast(UPerNet, network), {"thresholds": {"texture": threshold}})(photo)
        assert parse.texture.shares() == shares


def test_an_unsure_scene_keeps_its_ranking() -> None:
    parse = painted_parser({"thresholds": {"scene": 0.99}}, sharpness=0.1)(paint(np.zeros((32, 32)), materials=1))
    assert parse.scene[0][0] == "office"
    assert not parse.scene_is_sure


def test_parts_are_unsure_inside_owners_and_where_the_object_is() -> None:
    objects = four_quarters(64, 64)
    photo = paint(objects, parts=1)
    photo[:32, 32:, 1] += 20  # the person's part: half way between two
    photo[32:, 32:, 0] -= 20  # the dog: half way between dog and person
    parse = painted_parser({"thresholds": {"part": 0.9, "object": 0.9}})(photo)
    inner = np.zeros((64, 64), bool)
    inner[4:28, 36:60] = True
    assert (parse.object.labels[inner] == PERSON).all() and (parse.part.labels[inner] == -1).all()
    inner = np.roll(inner, 32, axis=0)
    assert (parse.object.labels[inner] == -1).all() and (parse.part.labels[inner] == -1).all()
    assert (parse.part.labels[objects == SKY][:100] == 0).all()


@pytest.mark.parametrize(
    ("array", "fix"),
    [
        (np.full((8, 8, 3), 200.0), r"array.clip\(0, 255\).astype\(numpy.uint8\)"),
        (np.full((8, 8, 3), -0.1), "before it is normalized"),
        (np.full((8, 8, 3), np.nan), "must be from 0 to 1"),
        (np.full((8, 8, 3), 200, np.int64), r"array.clip\(0, 255\).astype\(numpy.uint8\)"),
        (np.zeros((8, 8), np.uint8), r"numpy.stack\(\[array\] \* 3, axis=-1\)"),
        (np.zeros((8, 8, 4), np.uint8), r"array\[..., :3\]"),
        (np.zeros((3, 8, 8), np.uint8), r"array.transpose\(1, 2, 0\)"),
        (np.zeros((2, 8, 8, 4), np.uint8), r"array\[..., :3\]"),
        (np.zeros((2, 2, 8, 8, 3), np.uint8), "H x W x 3"),
        (np.zeros((0, 8, 3), np.uint8), "at least one pixel"),
        (np.uint8(3) * np.ones((), np.uint8), "no dimensions: a photo must be H x W x 3"),
    ],
)
def test_arrays_of_other_kinds_are_refused_with_the_fix(parser: Parser, array: np.ndarray, fix: str) -> None:
    with pytest.raises(UpernetError, match=fix):
        parser(np.asarray(array))


def test_other_types_are_refused(parser: Parser) -> None:
    with pytest.raises(UpernetError, match="not list"):
        parser(cast(Any, [[0, 0, 0]]))


@pytest.mark.parametrize("content", [b"", b"no image at all", b"\x89PNG\r\n\x1a\n\x00\x00"])
def test_files_that_are_no_image_are_refused(parser: Parser, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "photo.png").write_bytes(content)
    with pytest.raises(UpernetError, match=r"photo\.png"):
        parser(tmp_path / "photo.png")


def test_a_truncated_pil_image_is_refused(parser: Parser, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "photo.png")
    (tmp_path / "photo.png").write_bytes((tmp_path / "photo.png").read_bytes()[:4000])
    with Image.open(tmp_path / "photo.png") as image, pytest.raises(UpernetError, match="cannot be decoded"):
        parser(image)


def test_unknown_levels_are_refused(parser: Parser) -> None:
    for levels in (["texture"], ["objects"], [""]):
        with pytest.raises(UpernetError, match="it has scene, object, part, material"):
            parser(np.zeros((8, 8, 3), np.uint8), levels)
    with pytest.raises(UpernetError, match="no level is asked for"):
        parser(np.zeros((8, 8, 3), np.uint8), [])


def test_a_class_has_its_own_threshold() -> None:
    photo = paint(four_quarters(), materials=np.where(four_quarters() == SKY, 0, 1))
    photo[:, :, 2] += 10  # asphalt and fabric, both a quarter of the way to the next material
    card = {"thresholds": {"material": 0.99}, "class_thresholds": {"material": {"fabric": 0.1}, "scene": {}}}
    parse = painted_parser(card, sharpness=0.2)(photo)
    assert parse.material.shares() == pytest.approx({"fabric": 0.75, "unsure": 0.25}, abs=0.02)
    assert (parse.threshold("material", "fabric"), parse.threshold("material", "fur")) == (0.1, 0.99)
    assert parse.to_dict()["material"]["class_thresholds"] == {"fabric": 0.1}
    with pytest.raises(UpernetError, match="no class 'fabrik'"):
        painted_parser({"class_thresholds": {"material": {"fabrik": 0.5}}})


def test_a_scene_has_its_own_threshold() -> None:
    photo = paint(np.zeros((32, 32)), materials=1)
    for name, is_sure in (("office", True), ("park", False)):
        card = {"thresholds": {"scene": 0.99}, "class_thresholds": {"scene": {name: 0.1}}}
        assert painted_parser(card, sharpness=0.1)(photo).scene_is_sure == is_sure


def test_temperatures_change_confidences_and_not_labels() -> None:
    photo = paint(four_quarters(), materials=1)
    cold = painted_parser({}, sharpness=0.4)(photo, probabilities=True)
    warm = painted_parser({"temperatures": {"object": 2, "scene": 2, "x": 2}}, sharpness=0.4)(photo, probabilities=True)
    expected = painted_parser({}, sharpness=0.2)(photo, probabilities=True)
    assert warm.object.labels.tolist() == cold.object.labels.tolist()
    assert warm.object.confidence == pytest.approx(expected.object.confidence, abs=1e-6)
    assert warm.object.probabilities == pytest.approx(expected.object.probabilities, abs=1e-3)
    assert dict(warm.scene) == pytest.approx(dict(expected.scene))
    assert warm.material.confidence == pytest.approx(cold.material.confidence)


def test_parts_of_a_doubtful_object_are_not_described() -> None:
    photo = paint(four_quarters(64, 64), parts=1)
    assert "parts of the person: hair" in painted_parser()(photo).describe()
    card = {"class_thresholds": {"object": {"person": 1.1}}}
    parse = painted_parser(card)(photo)
    assert "parts of the dog" in parse.describe() and "person" not in parse.describe()
    inside = parse.part.labels[:30, 34:]
    assert (inside == -1).all() and (painted_parser(card)(photo, ["part"]).part.labels[:30, 34:] == -1).all()


def test_options_that_cannot_be_are_refused() -> None:
    with pytest.raises(UpernetError, match="short side 0"):
        painted_parser(short_side=0)
    for device in ("nonsense", "cuda:99"):
        with pytest.raises(UpernetError, match=f"device '{device}' cannot be used"):
            painted_parser(device=device)


def test_too_little_memory_is_said() -> None:
    class Large(PaintedNetwork):
        def forward(self, images: Tensor, levels: Sequence[str]) -> dict[str, Tensor]:
            raise torch.OutOfMemoryError

    parser = Parser(cast(UPerNet, Large()))
    for level in ("scene", "object"):
        with pytest.raises(UpernetError, match="12 x 8 pixels do not fit"):
            parser(np.zeros((8, 12, 3), np.uint8), [level])


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    spec = ModelSpec(backbone="tf_efficientnet_lite0", decoder_channels=16, auxiliary_channels=None)
    path = tmp_path_factory.mktemp("run") / "small.safetensors"
    card = {"name": "small", "thresholds": {"material": 1.1}, "short_side": 64}
    save_checkpoint(path, UPerNet(spec, load_taxonomy("everyday")), card)
    return path


@pytest.mark.slow
def test_load_takes_a_file_or_its_directory(checkpoint: Path) -> None:
    photo = np.random.default_rng(0).integers(0, 256, (90, 131, 3), dtype=np.uint8)
    for path in (checkpoint, str(checkpoint), checkpoint.parent):
        parser = load(path)
        assert parser.short_side == 64
    parse = parser(photo)
    assert isinstance(parse, Parse)
    assert parse.model == "small"
    assert parse.levels == ("scene", "object", "part", "material", "texture")
    assert parse.object.labels.shape == (90, 131)
    assert parse.material.shares() == {"unsure": 1.0}
    owners = {group.owner for group in parse.part_groups}
    assert set(np.unique(parse.object.labels[parse.part.labels > 0])) <= owners


def test_load_says_what_is_missing(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(UpernetError, match="unknown model 'nonsense'"):
        load("nonsense")
    with pytest.raises(UpernetError, match="upp_resnet50_broden has no bundled or published weights"):
        load("upp_resnet50_broden")
    with pytest.raises(UpernetError, match=r"found: none"):
        load(tmp_path)
    with pytest.raises(UpernetError, match="no such checkpoint file"):
        load(tmp_path / "missing.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(checkpoint.read_bytes()[:5000])
    with pytest.raises(UpernetError, match="not a readable safetensors file"):
        load(tmp_path / "cut.safetensors")
