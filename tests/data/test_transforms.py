"""Tests of upernet.data.transforms."""

import colorsys
import json
import math
import random
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from upernet.data.sample import Sample
from upernet.data.transforms import PADDING, _photometric, _photometric_hsv, _scaled_size, _turn_in_hsv, augment, resize
from upernet.recipe import Augmentation, Resize
from upernet.taxonomy import IGNORE

REFERENCE = Path(__file__).parents[3] / "shared" / "reference"
needs_reference = pytest.mark.skipif(not REFERENCE.is_dir(), reason="needs ../shared/reference beside the checkout")


def coordinates(height: int, width: int) -> Sample:
    """Make a sample whose colors (red: column, green: row) and maps (object: column, material: row) are positions."""
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
    assert (out.labels, out.implied, out.key) == (sample.labels, sample.implied, sample.key)
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
    torch_state, numpy_state, python_state = (
        torch.get_rng_state(),
        np.array(np.random.get_state(legacy=False)["state"]["key"]),
        random.getstate(),
    )
    first, again, other = (augment(sample, spec, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first.image, again.image)
    assert all(torch.equal(first.maps[level], again.maps[level]) for level in first.maps)
    assert not torch.equal(first.image, other.image)
    assert torch.equal(torch_state, torch.get_rng_state())
    assert (
        np.array_equal(numpy_state, np.array(np.random.get_state(legacy=False)["state"]["key"]))
        and python_state == random.getstate()
    )


@pytest.mark.parametrize("photometric", ["none", "yiq", "hsv"])
def test_the_sample_that_goes_in_is_not_changed(photometric):
    sample = coordinates(30, 40)
    image, maps = sample.image.clone(), {level: value.clone() for level, value in sample.maps.items()}
    for seed in range(20):
        augment(sample, Augmentation(scale=(1, 1), crop=(30, 40), photometric=photometric), generator(seed))
    assert torch.equal(image, sample.image) and all(torch.equal(maps[level], sample.maps[level]) for level in maps)


def test_the_draws_of_a_seed_are_fixed():
    """A change here changes what shipped models were trained on, and breaks resuming of runs begun before it."""
    seen = []
    for short_side in (None, 20):
        for seed in range(4):
            spec = Augmentation(crop=(24, 32), short_side=short_side)
            maps = augment(coordinates(60, 80), spec, generator(seed)).maps
            seen.append([(int(maps["object"][i, j]), int(maps["material"][i, j])) for i, j in ((0, 0), (12, 16))])
    assert seen == [
        [(58, 33), (66, 39)],
        [(61, 3), (32, 25)],
        [(34, 4), (43, 10)],
        [(3, 4), (34, 27)],
        [(28, 16), (53, 35)],
        [(-1, -1), (45, 51)],
        [(15, 2), (42, 22)],
        [(-1, -1), (14, 9)],
    ]


def test_scales_are_spread_evenly_or_by_ratio():
    for distribution, middle in (("uniform", 1250), ("log_uniform", 1000)):
        spec = Augmentation.model_validate({"scale": (0.5, 2.0), "scale_distribution": distribution})
        assert [_scaled_size(1000, 10, spec, u)[0] for u in (0.0, 0.5, 1.0)] == [500, middle, 2000]


@given(height=st.integers(30, 3000), width=st.integers(30, 3000), u=st.floats(0, 1))
def test_the_long_side_limits_the_random_size_as_published(height, width, u):
    spec = Augmentation(short_side=512, long_side=2048, scale=(0.5, 2.0), scale_distribution="uniform")
    rows, columns = _scaled_size(height, width, spec, u)
    long_side, short_side = math.floor(2048 * (0.5 + 1.5 * u)), math.floor(512 * (0.5 + 1.5 * u))
    by_short = Fraction(short_side, min(height, width))
    by_long = Fraction(long_side, max(height, width))
    expected = [math.floor(side * min(by_short, by_long) + Fraction(1, 2)) for side in (height, width)]
    # In floating point, an exact half may fall to the other side.
    assert abs(rows - expected[0]) <= (height * min(by_short, by_long) % 1 == Fraction(1, 2))
    assert abs(columns - expected[1]) <= (width * min(by_short, by_long) % 1 == Fraction(1, 2))


@pytest.mark.parametrize(("antialias", "gray"), [(True, 128), (False, 0)])
def test_antialias(antialias, gray):
    stripes = torch.tensor([255, 0, 0, 255], dtype=torch.uint8).repeat(24).expand(3, 96, 96)
    sample = Sample(tv_tensors.Image(stripes))
    spec = Augmentation(scale=(0.25, 0.25), crop=(24, 24), photometric="none", antialias=antialias)
    outs = (augment(sample, spec, generator()), resize(sample, Resize(short_side=24, antialias=antialias)))
    for image in (out.image.short() for out in outs):
        assert image.shape == (3, 24, 24) and (image[..., 4:-4] - gray).abs().max() <= 1


def scattered(height: int, width: int, seed: int) -> Sample:
    """Coordinates as an implied map, and objects of which one is nearly everywhere and some pixels are unknown."""
    draw = np.random.default_rng(seed)
    objects = np.zeros((height, width), np.int16)
    objects[:, : width // 4] = draw.choice([IGNORE, 0, 1, 2], (height, width // 4))
    place = torch.arange(height * width, dtype=torch.int16).reshape(height, width)
    image = tv_tensors.Image(torch.zeros(3, height, width, dtype=torch.uint8))
    maps = {"material": tv_tensors.Mask(place), "object": tv_tensors.Mask(torch.from_numpy(objects))}
    return Sample(image, maps, implied=frozenset({"material"}))


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**40), share=st.floats(0.3, 0.99))
def test_crops_with_one_prevailing_class_are_drawn_again(seed, share):
    sample = scattered(40, 60, seed % 1000)
    spec = Augmentation(scale=(1, 1), crop=(16, 12), flip=False, photometric="none", max_class_share=share)
    out = augment(sample, spec, generator(seed))

    # The definition, told as the published programs do it, on the same random numbers.
    draws = generator(seed)
    first = torch.rand(16, generator=draws, dtype=torch.float64)
    corners = [(first[1], first[3]), *torch.rand(10, 2, generator=draws, dtype=torch.float64)]
    corners = [(int(down * (40 - 16 + 1)), int(right * (60 - 12 + 1))) for down, right in corners]
    corner, window = corners[0], sample.maps["object"]
    for corner in corners:
        window = sample.maps["object"][corner[0] : corner[0] + 16, corner[1] : corner[1] + 12]
        classes, counts = np.unique(window.numpy(), return_counts=True)
        counts = counts[classes != IGNORE]
        if len(counts) > 1 and counts.max() / counts.sum() < share:
            break
    assert int(out.maps["material"][0, 0]) == corner[0] * 60 + corner[1]
    assert torch.equal(out.maps["object"], window)


def test_drawing_again_makes_mixed_crops_the_rule():
    def share(sample, limit, seed):
        spec = Augmentation(scale=(0.5, 2), crop=(16, 12), photometric="none", max_class_share=limit)
        labels = augment(sample, spec, generator(seed)).maps["object"]
        return np.bincount(labels[labels >= 0]).max() / int((labels >= 0).sum())

    sample = scattered(40, 60, 0)
    mixed = [sum(share(sample, limit, seed) < 0.75 for seed in range(100)) for limit in (1.0, 0.75)]
    assert mixed[0] < 40 and mixed[1] > 90


@pytest.mark.parametrize("value", [0, IGNORE])
def test_a_photo_of_one_class_or_none_is_cropped_all_the_same(value):
    sample = coordinates(30, 40)
    sample.maps["object"].fill_(value)
    spec = Augmentation(scale=(1, 1), crop=(10, 10), flip=False, photometric="none", max_class_share=0.75)
    out = augment(sample, spec, generator(4))
    assert (out.maps["object"] == value).all()
    assert torch.equal(out.image[1].short(), out.maps["material"].as_subclass(torch.Tensor))


def test_only_maps_that_are_not_implied_are_looked_at():
    plain, limited = (Augmentation(crop=(16, 12), max_class_share=limit) for limit in (1.0, 0.3))
    sample = scattered(40, 60, 0)
    implied = Sample(sample.image, sample.maps, implied=frozenset(sample.maps))
    no_maps = Sample(sample.image, labels={"scene": 1})
    for seed in range(10):
        for other in (implied, no_maps):
            first, second = augment(other, plain, generator(seed)), augment(other, limited, generator(seed))
            assert torch.equal(first.image, second.image)
            assert all(torch.equal(first.maps[level], second.maps[level]) for level in first.maps)


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
def test_hue_keeps_grays_and_luma(turn):
    gray = tv_tensors.Image(torch.full((3, 4, 4), 120, dtype=torch.uint8))
    assert (_photometric(gray, [OFF, 0, OFF, 0, OFF, 0, 0.1, turn]).short() - 120).abs().max() <= 1
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


@pytest.mark.slow
@needs_reference
@pytest.mark.golden
def test_sizes_in_testing_are_the_published_ones():
    sizes = json.loads((REFERENCE / "resize_sizes.json").read_text())
    assert len(sizes) > 50
    for key, expected in sizes.items():
        (long_side, short_side), (height, width) = (map(int, part.split("x")) for part in key.split("|"))
        sample = Sample(tv_tensors.Image(torch.zeros(3, height, width, dtype=torch.uint8)))
        for multiple, name in ((1, "resize_hw"), (32, "multiple32_hw")):
            size = Resize(short_side=short_side, long_side=long_side, multiple=multiple, antialias=False)
            assert list(resize(sample, size).image.shape[1:]) == expected[name], (key, name)
        spec = Augmentation(short_side=short_side, long_side=long_side, scale=(1, 1))
        assert list(_scaled_size(height, width, spec, 0.3)) == expected["resize_hw"], key


@needs_reference
@pytest.mark.golden
@pytest.mark.parametrize("size", ["61x83", "90x47"])
def test_pixels_in_testing_are_the_published_ones(size):
    golden = np.load(REFERENCE / "golden" / "preprocess.npz")
    photo = torch.from_numpy(golden[f"{size}/bgr"]).flip(2).permute(2, 0, 1)
    for multiple, name, passes in ((1, "resized", 1), (32, "multiple32", 2)):
        out = resize(
            Sample(tv_tensors.Image(photo)),
            Resize(short_side=128, long_side=512, multiple=multiple, antialias=False),
        )
        difference = out.image.permute(1, 2, 0).numpy()[..., ::-1].astype(int) - golden[f"{size}/{name}"]
        # Another resizer: at most 1 gray level in each of the passes.
        assert abs(difference).max() <= passes and abs(difference).mean() < 0.35


@pytest.mark.parametrize(
    ("size", "wanted", "expected"),
    [
        ((30, 50), Resize(short_side=60, long_side=80), (48, 80)),
        ((50, 30), Resize(short_side=60, long_side=200), (100, 60)),
        ((50, 30), Resize(short_side=60, long_side=80, multiple=32), (96, 64)),
        ((5, 99), Resize(short_side=8, long_side=9), (1, 9)),
    ],
)
def test_long_side_and_multiple(size, wanted, expected):
    out = resize(coordinates(*size), wanted)
    assert out.image.shape[1:] == out.maps["object"].shape == expected


def published_step_in_hsv(pixel, saturation, turn):
    """One pixel through OpenCV's 8-bit HSV in integers and fractions: sectors of 60 degrees, one formula for each."""
    red, green, blue = pixel
    value, least = max(pixel), min(pixel)
    chroma = value - least
    if value == red:
        hue = green - blue
    elif value == green:
        hue = blue - red + 2 * chroma
    else:
        hue = red - green + 4 * chroma
    hue = (hue * (round(Fraction(180 << 12, 6 * chroma)) if chroma else 0) + (1 << 11)) >> 12
    shade = (chroma * (round(Fraction(255 << 12, value)) if value else 0) + (1 << 11)) >> 12
    shade = int(np.clip(np.float32(shade) * np.float32(saturation), 0, 255))
    sector, rest = divmod((hue + turn) % 180, 30)
    part, shade = Fraction(rest, 30), Fraction(shade, 255)
    low, falling, rising = (value * (1 - shade * loss) for loss in (1, part, 1 - part))
    sectors = [(value, rising, low), (falling, value, low), (low, value, rising), (low, falling, value),
               (rising, low, value), (value, low, falling)]  # fmt: skip
    return tuple(math.floor(level) for level in sectors[sector])


gray_levels = st.integers(0, 255)
colors = st.tuples(gray_levels, gray_levels, gray_levels)


def as_image(pixels) -> tv_tensors.Image:
    return tv_tensors.Image(torch.tensor(pixels, dtype=torch.uint8).T[:, None, :])


def as_pixels(image) -> list[tuple[int, ...]]:
    return [tuple(pixel) for pixel in torch.as_tensor(image)[:, 0].T.tolist()]


@pytest.mark.slow
@settings(deadline=None)
@given(pixels=st.lists(colors, min_size=1, max_size=60), saturation=st.floats(0.5, 1.5), turn=st.integers(-18, 17))
def test_a_step_in_hsv_follows_the_published_definition(pixels, saturation, turn):
    turned = _turn_in_hsv(as_image(pixels).numpy(), saturation, turn)
    assert as_pixels(turned) == [published_step_in_hsv(pixel, saturation, turn) for pixel in pixels]


def test_every_kind_of_color_in_hsv():
    levels = [0, 1, 2, 60, 127, 128, 200, 254, 255]
    pixels = [(red, green, blue) for red in levels for green in levels for blue in levels]
    for saturation, turn in ((1, 0), (1, -18), (1, 17), (0.5, 0), (1.5, 0)):
        turned = as_pixels(_turn_in_hsv(as_image(pixels).numpy(), saturation, turn))
        assert turned == [published_step_in_hsv(pixel, saturation, turn) for pixel in pixels]
        for pixel, (red, green, blue) in zip(pixels, turned, strict=True):
            hue, shade, value = colorsys.rgb_to_hsv(*(level / 255 for level in pixel))
            exact = colorsys.hsv_to_rgb((hue + turn / 180) % 1, min(1, shade * saturation), value)
            # Whole units of hue (2 degrees) and of saturation, and whole levels at the end.
            assert max(abs(255 * a - b) for a, b in zip(exact, (red, green, blue), strict=True)) < 6.5


def test_hsv_agrees_with_opencv():
    """Measured with OpenCV 4.5.5 (its vector code, which all but the ends of a row go through)."""
    measured = [  # color, hue - 18, saturation x 1.5
        ((0, 0, 0), (0, 0, 0), (0, 0, 0)),
        ((255, 255, 255), (255, 255, 255), (255, 255, 255)),
        ((255, 0, 0), (255, 0, 152), (255, 0, 0)),
        ((0, 255, 0), (152, 255, 0), (0, 255, 0)),
        ((0, 0, 255), (0, 152, 255), (0, 0, 255)),
        ((12, 200, 101), (36, 200, 11), (0, 200, 93)),
        ((200, 12, 100), (187, 11, 200), (200, 0, 93)),
        ((77, 78, 79), (77, 79, 78), (76, 77, 79)),
        ((130, 90, 240), (90, 140, 240), (75, 15, 240)),
        ((250, 251, 3), (251, 102, 2), (251, 251, 0)),
        ((33, 32, 31), (33, 31, 31), (33, 31, 30)),
        ((90, 160, 160), (89, 160, 117), (54, 159, 160)),
    ]
    image = as_image([color for color, _, _ in measured]).numpy()
    for number, (saturation, turn) in ((1, (1, -18)), (2, (1.5, 0))):
        turned = np.array(as_pixels(_turn_in_hsv(image, saturation, turn)))
        difference = turned - [row[number] for row in measured]
        # Its floats cut some levels that are whole to the one below.
        assert difference.min() >= 0 and difference.max() <= 1 and (difference == 0).sum() >= 30


def published_linear(pixel, factor, offset):
    levels = np.float32(pixel) * np.float32(factor) + np.float32(offset)
    return tuple(int(level) for level in np.clip(levels, 0, 255))


@settings(deadline=None, max_examples=60)
@given(pixels=st.lists(colors, min_size=1, max_size=8), coins=st.lists(st.booleans(), min_size=5, max_size=5),
       values=st.lists(st.floats(0, 1, exclude_max=True), min_size=4, max_size=4))  # fmt: skip
def test_distortions_in_hsv_come_in_the_published_order(pixels, coins, values):
    draws = [0.0 if coin else 0.5 for coin in coins]
    random_numbers = [number for pair in zip(draws, values, strict=False) for number in pair] + [draws[4]]
    steps = []
    if coins[0]:
        steps.append(lambda pixel: published_linear(pixel, 1, 32 * (2 * values[0] - 1)))
    if coins[2]:
        steps.append(lambda pixel: published_step_in_hsv(pixel, 0.5 + values[2], 0))
    if coins[3]:
        steps.append(lambda pixel: published_step_in_hsv(pixel, 1, math.floor(36 * values[3]) - 18))
    if coins[1]:
        place = int(coins[0]) if coins[4] else len(steps)
        steps.insert(place, lambda pixel: published_linear(pixel, 0.5 + values[1], 0))
    expected = pixels
    for step in steps:
        expected = [step(pixel) for pixel in expected]
    image = _photometric_hsv(as_image(pixels), random_numbers)
    assert isinstance(image, tv_tensors.Image) and as_pixels(image) == expected
