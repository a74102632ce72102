"""Tests of upernet.inference.regions and label_map: masks, areas and connected regions of classes."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.painted_network import DOG, PERSON, TAXONOMY, four_quarters
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from upernet.errors import UpernetError
from upernet.inference import LabelMap, Parse

PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8))
LABELS = arrays.arrays(
    np.int16, arrays.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=14), elements=st.integers(-1, 3)
)


def object_map(labels: np.ndarray, confidence: np.ndarray | None = None, background: bool = False) -> LabelMap:
    level = TAXONOMY.levels["object"]
    values = np.full(labels.shape, 0.75) if confidence is None else confidence
    return LabelMap("object", labels.astype(np.int16), values.astype(np.float32), level.names, level.colors, background)


def test_masks_and_areas() -> None:
    objects = object_map(four_quarters())
    np.testing.assert_array_equal(objects.mask("dog"), four_quarters() == DOG)
    assert (objects.area("dog"), objects.share("dog")) == (64 * 96 // 4, 0.25)
    sky = object_map(np.array([[0, -1, -1]]))
    assert (sky.area("dog"), sky.share("unsure"), sky.regions("dog")) == (0, 2 / 3, [])


def test_names_may_have_spaces_for_underscores() -> None:
    labels = np.zeros((2, 2), np.int16)
    lights = LabelMap("object", labels, labels.astype(np.float32), ("traffic_light",), ((1, 2, 3),), False)
    assert lights.area("traffic light") == lights.area("traffic_light") == 4


def test_unknown_classes_are_refused_with_similar_names() -> None:
    objects = object_map(four_quarters())
    for look in (objects.mask, objects.area, objects.share, objects.regions):
        with pytest.raises(UpernetError, match=r"has no class 'persn'; did you mean 'person'\?"):
            look("persn")


@given(LABELS, st.integers(0, 2**32 - 1), st.booleans())
@settings(deadline=None)
def test_regions_add_up_to_the_map(labels: np.ndarray, seed: int, background: bool) -> None:
    confidence = np.random.default_rng(seed).random(labels.shape)
    objects = object_map(labels, confidence, background)
    regions = objects.regions()
    total = np.zeros(labels.shape, int)
    for region in regions:
        full = region.full_mask
        total += full
        assert (labels[full] == region.label).all() and region.name == objects.name(region.label)
        y, x = np.nonzero(full)
        assert region.box == (x.min(), y.min(), x.max() + 1, y.max() + 1)
        assert region.area == len(x)
        assert region.centroid == pytest.approx((x.mean() + 0.5, y.mean() + 0.5))
        assert region.mean_confidence == pytest.approx(confidence[full].mean(), rel=1e-5)
        assert region.share == pytest.approx(full.mean())
        assert region.mask.shape == (region.box[3] - region.box[1], region.box[2] - region.box[0])
        corners = [corner for polygon in region.polygons for corner in polygon[0]]
        assert min(x for x, _ in corners) == region.box[0] and max(y for _, y in corners) == region.box[3]
    np.testing.assert_array_equal(total, labels >= int(background))
    assert [region.area for region in regions] == sorted((region.area for region in regions), reverse=True)
    large = [region.box for region in regions if region.area >= 3]
    assert [region.box for region in objects.regions(min_area=3)] == large


def test_regions_of_one_class_and_of_unsure_pixels() -> None:
    labels = np.full((5, 7), -1)
    labels[0, 0] = labels[1, 1] = PERSON  # connected at a corner
    labels[4, 4:] = PERSON
    objects = object_map(labels)
    assert [region.box for region in objects.regions("person")] == [(4, 4, 7, 5), (0, 0, 2, 2)]
    (unsure,) = objects.regions("unsure")
    assert (unsure.name, unsure.area) == ("unsure", 30)


def test_crops() -> None:
    labels = np.zeros((64, 96))
    labels[10:20, 30:50] = PERSON
    labels[10, 30] = 0
    (person,) = Parse(PHOTO, {"object": object_map(labels)}).object.regions("person")
    pixels = np.asarray(PHOTO)
    np.testing.assert_array_equal(np.asarray(person.crop()), pixels[10:20, 30:50])
    np.testing.assert_array_equal(np.asarray(person.crop(margin=40)), pixels[:60, :90])
    cutout = person.crop(margin=1, cutout=True)
    alpha = np.asarray(cutout)[..., 3]
    assert cutout.size == (22, 12) and (alpha[1, 1], alpha[1, 2]) == (0, 255)
    assert (alpha == 255).sum() == person.area
    np.testing.assert_array_equal(np.asarray(cutout)[..., :3], pixels[9:21, 29:51])
    assert person.photo is PHOTO


def test_regions_without_a_photo_have_no_crop() -> None:
    with pytest.raises(UpernetError, match="made without a photo"):
        object_map(four_quarters()).regions("sky")[0].crop()


def test_reprs_name_what_matters_on_one_line() -> None:
    objects = object_map(four_quarters())
    assert repr(objects) == ("<LabelMap object, 96 x 64 pixels, 4 classes: sky 25 %, road 25 %, person 25 %, dog 25 %>")
    region = objects.regions("dog")[0]
    assert repr(region) == "<Region dog: 1536 pixels, box (48, 32, 96, 64), mean confidence 0.75>"
    names = ("sky\n\x1b[31m", "b", "c", "d", "e")
    labels = np.array([[0, 0, 1, 2, 3, 4]], np.int16)
    many = LabelMap("object", labels, np.ones((1, 6), np.float32), names, ((0, 0, 0),) * 5, False)
    assert repr(many).endswith(r"5 classes: sky\n\x1b[31m 33 %, b 17 %, c 17 %, d 17 %, 1 more>")
