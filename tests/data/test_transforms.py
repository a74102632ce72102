import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from upernet.data.sample import Sample
from upernet.data.transforms import PADDING, _photometric, augment, resize
from upernet.recipe import Augmentation, Resize
from upernet.taxonomy import IGNORE


def coordinates(height: int, width: int) -> Sample:
    """A sample whose colours (red: column, green: row) and maps (object: column, material: row) say where they are."""
    row, column = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    image = torch.stack([column, row, torch.full_like(row, 7)]).to(torch.uint8)
    maps = {"object": tv_tensors.Mask(column.short()), "material": tv_tensors.Mask(row.short())}
    return Sample(tv_tensors.Image(image), maps, {"scene": 3}, frozenset({"scene"}), "key")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


sizes = st.integers(1, 90)


@settings(deadline=None, max_examples=60)
@given(height=sizes, width=sizes, crop=st.tuples(sizes, sizes), low=st.floats(0.3, 1.0), high=st.floats(1.0, 3.0),
       short_side=st.none() | st.integers(8, 90), seed=st.integers(0, 2**62))  # fmt: skip
def test_image_and_maps_stay_aligned(height, width, crop, low, high, short_side, seed):
    spec = Augmentation(scale=(low, high), crop=crop, short_side=short_side, photometric="none")
    sample = coordinates(height, width)
    out = augment(sample, spec, generator(seed))
    assert out.image.shape == (3, *crop) and out.image.dtype == torch.uint8
    assert isinstance(out.image, tv_tensors.Image)
    assert (out.labels, out.weak, out.key) == (sample.labels, sample.weak, sample.key)
    known = out.maps["object"] != IGNORE
    assert torch.equal(known, out.maps["material"] != IGNORE)
    assert known.any()
    for channel, level, size in ((0, "object", width), (1, "material", height)):
        values = out.maps[level]
        assert isinstance(values, tv_tensors.Mask)
        assert values.shape == crop and values.dtype == torch.int16
        assert values[known].min() >= 0 and values[known].max() < size
        # Half a pixel of rounding on each side, and at the rim of the window the resized image is one-sided.
        step = max(1.0, 1 / (low * (short_side / min(height, width) if short_side else 1)))
        difference = (out.image[channel].short() - values)[known]
        assert difference.abs().max() <= 1 + step
    padding = torch.tensor(PADDING, dtype=torch.uint8)[:, None].expand(3, int((~known).sum()))
    assert torch.equal(out.image[:, ~known].as_subclass(torch.Tensor), padding)


def test_nothing_changes_without_scale_flip_and_distortion():
    sample = coordinates(20, 30)
    out = augment(sample, Augmentation(scale=(1, 1), crop=(20, 30), flip=False, photometric="none"), generator())
    assert torch.equal(out.image, sample.image)
    assert all(torch.equal(out.maps[level], sample.maps[level]) for level in sample.maps)


def test_half_of_the_samples_are_flipped_with_their_maps():
    spec = Augmentation(scale=(1, 1), crop=(4, 30), photometric="none")
    outs = [augment(coordinates(4, 30), spec, generator(seed)) for seed in range(200)]
    flipped = [bool(out.maps["object"][0, 0] > 0) for out in outs]
    assert 70 < sum(flipped) < 130
    assert all(torch.equal(out.image[0].short(), out.maps["object"].as_subclass(torch.Tensor)) for out in outs)


def test_crops_and_scales_reach_everything():
    spec = Augmentation(scale=(0.5, 2.0), crop=(16, 16), flip=False, photometric="none")
    maps = [augment(coordinates(40, 40), spec, generator(seed)).maps["object"] for seed in range(300)]
    assert min(int(value.min()) for value in maps) == 0 and max(int(value.max()) for value in maps) == 39
    spans = [int(value.max() - value.min()) + 1 for value in maps]
    assert min(spans) <= 9 and max(spans) >= 30


def test_all_randomness_comes_from_the_generator():
    noise = torch.randint(0, 256, (3, 30, 40), dtype=torch.uint8, generator=generator(5))
    sample = Sample(tv_tensors.Image(noise), coordinates(30, 40).maps)
    spec = Augmentation(crop=(24, 24))
    torch_state, numpy_state, python_state = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    first, again, other = (augment(sample, spec, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first.image, again.image)
    assert all(torch.equal(first.maps[level], again.maps[level]) for level in first.maps)
    assert not torch.equal(first.image, other.image)
    assert torch.equal(torch_state, torch.get_rng_state())
    assert np.array_equal(numpy_state, np.random.get_state()[1]) and python_state == random.getstate()


def test_the_sample_that_goes_in_is_not_changed():
    sample = coordinates(30, 40)
    image, maps = sample.image.clone(), {level: value.clone() for level, value in sample.maps.items()}
    for seed in range(5):
        augment(sample, Augmentation(crop=(50, 20)), generator(seed))
    assert torch.equal(image, sample.image) and all(torch.equal(maps[level], sample.maps[level]) for level in maps)


OFF = 0.9
"""A draw that leaves a distortion out."""


def test_distortions_agree_with_torchvision():
    image = tv_tensors.Image(torch.randint(60, 180, (3, 20, 30), dtype=torch.uint8, generator=generator(1)))
    saturated = _photometric(image, [OFF, 0, OFF, 0, 0.1, 0.25, OFF, 0])
    assert (saturated.short() - F.adjust_saturation(image, 0.75).short()).abs().max() <= 1
    contrast = _photometric(image, [OFF, 0, 0.1, 0.75, OFF, 0, OFF, 0])
    assert (contrast.short() - F.adjust_brightness(image, 1.25).short()).abs().max() <= 1
    brighter = _photometric(image, [0.1, 1.0, OFF, 0, OFF, 0, OFF, 0])
    assert torch.equal(brighter.short(), image.short() + 32)
    assert torch.equal(_photometric(image, [OFF, 0] * 4), image)


@pytest.mark.parametrize("turn", [0.0, 0.3, 1.0])
def test_hue_keeps_greys_and_luma(turn):
    grey = tv_tensors.Image(torch.full((3, 4, 4), 120, dtype=torch.uint8))
    assert (_photometric(grey, [OFF, 0, OFF, 0, OFF, 0, 0.1, turn]).short() - 120).abs().max() <= 1
    color = tv_tensors.Image(torch.tensor([140, 110, 100], dtype=torch.uint8)[:, None, None].expand(3, 4, 4))
    turned = _photometric(color, [OFF, 0, OFF, 0, OFF, 0, 0.1, turn])
    luma = torch.tensor([0.299, 0.587, 0.114])
    assert abs(luma @ turned[:, 0, 0].float() - luma @ color[:, 0, 0].float()) <= 1.5
    assert not torch.equal(turned[:, 0, 0], color[:, 0, 0])


@pytest.mark.parametrize(
    ("size", "pixels", "expected"),
    [((40, 60), 20, (20, 30)), ((60, 40), 80, (120, 80)), ((9, 9), 9, (9, 9)), ((5, 99), 10, (10, 198))],
)
def test_short_side(size, pixels, expected):
    out = resize(coordinates(*size), Resize(short_side=pixels))
    assert out.image.shape == (3, *expected)
    assert out.labels == {"scene": 3}
    for channel, level in enumerate(("object", "material")):
        assert out.maps[level].shape == expected and out.maps[level].dtype == torch.int16
        assert (out.image[channel].short() - out.maps[level]).abs().max() <= 1 + size[0] / expected[0]
