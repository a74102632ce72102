"""Tests of upernet.evaluation.tta, compared with the published arithmetic in plain loops."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.color_network import GREEN, RED, TAXONOMY, halves, recipe, save
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torchvision import tv_tensors

from upernet.data.sample import Sample
from upernet.data.transforms import resize
from upernet.decoding import image_scores, resized_prediction
from upernet.errors import UpernetError
from upernet.evaluation import TestTimeAugmentation, evaluate
from upernet.evaluation.tta import network_input, photo_outputs, sliding_window_logits, window_slices
from upernet.models import UPerNet
from upernet.recipe import MaskFolderSpec, ModelSpec, Resize

SIZES = Path(__file__).parents[3] / "shared" / "reference" / "resize_sizes.json"
CHANNELS = {"object": 3, "part": 3, "material": 3, "texture": 3}


class Network(nn.Module):
    """One convolution of random weights per level, the scene from the mean of the photo."""

    def __init__(self, kernel: int = 3, stride: int = 4, symmetric: bool = False) -> None:
        super().__init__()
        self.taxonomy = TAXONOMY
        generator = torch.Generator().manual_seed(7)
        for level, channels in CHANNELS.items():
            weight = torch.randn(channels, 3, kernel, kernel, generator=generator)
            self.register_buffer(level, weight + weight.flip(-1) if symmetric else weight)
        self.register_buffer("scene", torch.randn(3, 3, generator=generator))
        self.stride, self.padding = stride, kernel // 2
        self.seen: list[tuple[int, ...]] = []

    def preprocess(self, image: Tensor) -> Tensor:
        return image.float() / 64 - 2

    def forward(self, images: Tensor, levels: Iterable[str]) -> dict[str, Tensor]:
        self.seen.append(tuple(images.shape[-2:]))
        return {
            level: images.mean((2, 3)) @ self.get_buffer("scene")
            if level == "scene"
            else F.conv2d(images, self.get_buffer(level), stride=self.stride, padding=self.padding)
            for level in levels
        }


def network(**options: Any) -> UPerNet:
    return cast(UPerNet, Network(**options))


def sample(height: int, width: int, *maps: str, seed: int = 0, **labels: int) -> Sample:
    random = np.random.default_rng(seed)
    truth = np.zeros((height, width), np.int16)
    return Sample(
        tv_tensors.Image(torch.from_numpy(random.integers(0, 256, (3, height, width), dtype=np.uint8))),
        {level: tv_tensors.Mask(torch.from_numpy(truth)) for level in maps},
        labels,
    )


def source(**options: Any) -> MaskFolderSpec:
    return MaskFolderSpec.model_validate({"kind": "mask_folder", "path": "x", "level": "object", **options})


def bilinear(maps: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)


sides = st.integers(9, 40)
seeds = st.integers(0, 2**31)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 400), st.integers(1, 120), st.data())
def test_windows_are_as_many_and_where_as_published(length: int, window: int, data: st.DataObject) -> None:
    stride = data.draw(st.integers(1, window))
    found = window_slices(length, window, stride)
    assert len(found) == max(length - window + stride - 1, 0) // stride + 1
    # Brute force: go on by the stride until the end of the side is in sight; then end with it.
    expected, start = [], 0
    while start + window < length:
        expected.append((start, start + window))
        start += stride
    expected.append((max(length - window, 0), length))
    assert [(span.start, span.stop) for span in found] == expected
    assert set().union(*(range(span.start, span.stop) for span in found)) == set(range(length))


@settings(max_examples=25, deadline=None)
@given(sides, sides, st.integers(8, 48), st.booleans(), seeds)
def test_one_pass_resizes_twice(height: int, width: int, short_side: int, multiple: bool, seed: int) -> None:
    size = Resize(short_side=short_side, long_side=64, multiple=16 if multiple else 1, antialias=False)
    model, photo = network(), sample(height, width, "object", "material", seed=seed)
    logits, via_sizes = photo_outputs(
        model, photo, source(test_resize=size.model_dump()), "cpu", TestTimeAugmentation()
    )
    resized = resize(photo, size).image.as_subclass(Tensor)
    plain = model(model.preprocess(resized)[None], levels=["object", "material"])
    for level in ("object", "material"):
        assert torch.equal(logits[level], plain[level])  # untouched at stride 4: no softmax, no full-size map
        twice = bilinear(bilinear(plain[level], (resized.shape[-2], resized.shape[-1])), (height, width))
        assert torch.equal(resized_prediction(logits[level], (height, width), via_sizes).labels, twice[0].argmax(0))


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(sides, sides, st.booleans(), seeds)
def test_several_passes_average_probabilities(height: int, width: int, flip: bool, seed: int) -> None:
    scales, box = (0.5, 0.75, 1.3), (32, 77)
    spec = source(test_resize={"short_side": box[0], "long_side": box[1], "multiple": 8, "antialias": False})
    model, photo = network(), sample(height, width, "object", "part", seed=seed)
    means, via_sizes = photo_outputs(model, photo, spec, "cpu", TestTimeAugmentation(scales, flip))
    sums: dict[str, Any] = {"object": 0, "part": 0}
    for scale in scales:
        size = Resize(short_side=int(box[0] * scale), long_side=int(box[1] * scale), multiple=8, antialias=False)
        image = model.preprocess(resize(photo, size).image.as_subclass(Tensor))[None]
        for mirrored in {False, flip}:
            logits = model(image.flip(3) if mirrored else image, levels=list(sums))
            for level, values in logits.items():
                full = bilinear(bilinear(values, (image.shape[-2], image.shape[-1])), (height, width)).softmax(1)
                sums[level] = sums[level] + (full.flip(3) if mirrored else full) / (len(scales) * (1 + flip))
    assert via_sizes == () and set(means) == set(sums)
    for level, expected in sums.items():
        torch.testing.assert_close(means[level], expected)
        assert torch.equal(
            resized_prediction(means[level], (height, width), via_sizes).labels, means[level][0].argmax(0)
        )


@settings(max_examples=15, deadline=None)
@given(st.integers(33, 70), st.integers(20, 90), st.integers(32, 40), st.data())
def test_windows_are_averaged_at_the_size_of_the_input(
    height: int, width: int, window: int, data: st.DataObject
) -> None:
    stride = data.draw(st.integers(9, window))
    model, photo = network(), sample(height, width, "object")
    image = network_input(model, photo, None, "cpu")
    found = sliding_window_logits(model, image, ["object"], TestTimeAugmentation(window=window, stride=stride))[
        "object"
    ]
    if max(height, width) <= window:
        assert torch.equal(found, model(image, levels=["object"])["object"])
        return
    total, count = torch.zeros(1, 3, height, width), torch.zeros(height, width)
    for row in range(max(height - window + stride - 1, 0) // stride + 1):
        for column in range(max(width - window + stride - 1, 0) // stride + 1):
            bottom, right = min(row * stride + window, height), min(column * stride + window, width)
            top, left = max(bottom - window, 0), max(right - window, 0)
            logits = model(image[..., top:bottom, left:right], levels=["object"])["object"]
            logits = bilinear(logits, (bottom - top, right - left))
            total += F.pad(logits, (left, width - right, top, height - bottom))
            count[top:bottom, left:right] += 1
    torch.testing.assert_close(found, total / count)


@pytest.mark.parametrize(("size", "window"), [((80, 70), 32), ((20, 100), 40), ((64, 64), 64)])
def test_windows_do_not_change_what_a_pointwise_network_sees(size: tuple[int, int], window: int) -> None:
    model, photo = network(kernel=1, stride=1), sample(*size, "object", scene=1)
    whole, _ = photo_outputs(model, photo, source(), "cpu", TestTimeAugmentation())
    windows, _ = photo_outputs(model, photo, source(), "cpu", TestTimeAugmentation(window=window))
    torch.testing.assert_close(windows, whole)
    assert torch.equal(windows["scene"], whole["scene"])  # of the whole photo


def test_the_scene_alone_takes_one_look_with_windows() -> None:
    model = network()
    photo_outputs(model, sample(70, 80, scene=1), source(), "cpu", TestTimeAugmentation(window=32))
    assert cast(Network, model).seen == [(70, 80)]


def test_windows_go_over_every_scale_and_its_mirror_image() -> None:
    model, photo = network(kernel=1, stride=1), sample(64, 64, "object")
    windows, _ = photo_outputs(
        model, photo, source(), "cpu", TestTimeAugmentation((0.5, 1.0), True, window=40, stride=20)
    )
    assert cast(Network, model).seen == [(32, 32)] * 2 + [(40, 40)] * 2 * 9
    whole, _ = photo_outputs(model, photo, source(), "cpu", TestTimeAugmentation((0.5, 1.0), True))
    torch.testing.assert_close(windows, whole)


@settings(max_examples=20, deadline=None)
@given(sides, st.integers(2, 9), st.sampled_from([None, 32]), seeds)
def test_a_symmetric_network_does_not_mind_the_mirror(height: int, columns: int, window: int | None, seed: int) -> None:
    # A width of 4n + 1 is one at which sampling every fourth column from the left and from the right agree.
    model, photo = network(symmetric=True), sample(height, 4 * columns + 1, "object", seed=seed)
    size = (height, 4 * columns + 1)
    logits, _ = photo_outputs(model, photo, source(), "cpu", TestTimeAugmentation())
    mean, _ = photo_outputs(model, photo, source(), "cpu", TestTimeAugmentation(flip=True))
    torch.testing.assert_close(mean["object"], bilinear(logits["object"], size).softmax(1))


def test_scales_do_not_change_a_photo_of_one_color() -> None:
    photo = sample(30, 50, "object", "part", scene=0, material=1)
    photo.image[:] = torch.tensor([200, 30, 90], dtype=torch.uint8)[:, None, None]
    model = network(kernel=1)
    once, _ = photo_outputs(model, photo, source(), "cpu", TestTimeAugmentation())
    often, _ = photo_outputs(model, photo, source(), "cpu", TestTimeAugmentation((0.4, 1.0, 1.7), True))
    for level in ("object", "part"):
        expected = once[level].softmax(1)[..., :1, :1].expand(1, 3, 30, 50)
        torch.testing.assert_close(often[level], expected)
    torch.testing.assert_close(often["scene"], once["scene"].softmax(1))
    torch.testing.assert_close(often["material"], once["material"].mean((2, 3)).softmax(1))


@pytest.mark.parametrize("supervision", ["pooled", "broadcast"])
def test_labels_of_photos_average_the_probabilities_of_the_photo(supervision: str) -> None:
    model, photo = network(), sample(24, 40, scene=0, texture=2)
    spec = source(level="texture", supervision=supervision)
    means, _ = photo_outputs(model, photo, spec, "cpu", TestTimeAugmentation(flip=True))
    passes = [model(image, levels=["scene", "texture"]) for image in _both(network_input(model, photo, None, "cpu"))]
    expected = sum(logits["scene"].softmax(1) for logits in passes) / 2
    torch.testing.assert_close(means["scene"], expected)
    of_pixels = [image_scores(logits["texture"], supervision) for logits in passes]
    probabilities = of_pixels if supervision == "broadcast" else [scores.softmax(0) for scores in of_pixels]
    torch.testing.assert_close(means["texture"], torch.stack(probabilities).mean(0)[None])


def _both(image: Tensor) -> tuple[Tensor, Tensor]:
    return image, image.flip(3)


def test_parts_are_probabilities_within_their_object() -> None:
    taxonomy = TAXONOMY.to_dict()
    taxonomy["levels"]["part"]["of"] = {"tree": ["body"], "person": ["head", "body"]}
    model = network()
    model.taxonomy = type(TAXONOMY).from_dict(taxonomy)
    model.register_buffer("part", torch.randn(5, 3, 3, 3, generator=torch.Generator().manual_seed(1)))
    means, _ = photo_outputs(model, sample(20, 24, "part"), source(), "cpu", TestTimeAugmentation((1.0, 1.5)))
    for channels in (slice(0, 2), slice(2, 5)):
        torch.testing.assert_close(means["part"][:, channels].sum(1), torch.ones(1, 20, 24))


def test_sizes_of_the_published_scales() -> None:
    """At factor 0.5 and 1.5 the box of 2048 x 512 is the one of 1024 x 256 and of 3072 x 768."""
    if not SIZES.is_file():
        pytest.skip("needs the reference facts in ../shared/reference/resize_sizes.json")
    size = Resize(short_side=512, long_side=2048, multiple=32, antialias=False)
    boxes = {"1024x256": 0.5, "2048x512": 1.0, "3072x768": 1.5}
    model = network()
    for key, sizes in json.loads(SIZES.read_text()).items():
        box, photo = key.split("|")
        height, width = map(int, photo.split("x"))
        if box in boxes and max(height, width) < 700:
            black = Sample(tv_tensors.Image(torch.zeros(3, height, width, dtype=torch.uint8)))
            image = network_input(model, black, size, "cpu", boxes[box])
            assert list(image.shape[-2:]) == sizes["multiple32_hw"], key


def test_a_photo_of_a_pixel_has_every_scale() -> None:
    model = network(kernel=1)
    for scale in (0.01, 1.0, 5.0):
        side = max(1, int(scale))
        assert network_input(model, sample(1, 1), None, "cpu", scale).shape == (1, 3, side, side)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scales": ()}, "scales: the list is empty"),
        ({"scales": (1.0, 0.0)}, "scales: 0 is not a positive number"),
        ({"scales": (-1.0,)}, "scales: -1 is not a positive number"),
        ({"scales": (float("nan"),)}, "scales: nan is not a positive number"),
        ({"scales": (float("inf"),)}, "scales: inf is not a positive number"),
        ({"window": 31}, "window: 31 pixels are too few; give 32 or more"),
        ({"window": 64, "stride": 65}, "stride: 65 pixels are not between 1 and the window's 64, .* give 43"),
        ({"window": 64, "stride": 0}, "stride: 0 pixels"),
        ({"stride": 32}, "stride: 32 has no effect without a window"),
    ],
)
def test_impossible_augmentations(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UpernetError, match=message):
        TestTimeAugmentation(**options)


def test_the_stride_is_two_thirds_of_the_window() -> None:
    assert TestTimeAugmentation(window=512).stride == 341
    assert TestTimeAugmentation().to_dict() == {"scales": [1.0], "flip": False, "window": None, "stride": None}
    assert TestTimeAugmentation((0.5, 0.75, 1, 1.25, 1.5, 1.75), flip=True).num_passes == 12


@pytest.mark.slow
def test_a_real_network_on_a_folder(tmp_path: Path) -> None:
    labels = tmp_path / "objects"
    save(labels / "test" / "images" / "a.png", halves(RED, GREEN, 48))
    save(labels / "test" / "annotations" / "a.png", np.full((48, 48), 1, np.uint8))
    save(tmp_path / "scenes" / "test" / "beach" / "a.png", halves(GREEN, RED, 40))
    (labels / "labels.txt").write_text("0\tsky\n1\ttree\n")
    settings = recipe(
        objects={
            "kind": "mask_folder",
            "path": "objects/{split}",
            "level": "object",
            "test_resize": {"short_side": 64},
        },
        scenes={"kind": "label_folder", "path": "scenes/{split}", "level": "scene"},
    )
    torch.manual_seed(0)
    model = UPerNet(
        ModelSpec(backbone="mobilenetv3_small_050", decoder_channels=8, auxiliary_channels=None, dropout=0.0), TAXONOMY
    )
    tta = TestTimeAugmentation((0.5, 1.25), flip=True, window=48)
    result = evaluate(model, settings, tmp_path, tta=tta)
    assert result["testing"] == {"scales": [0.5, 1.25], "flip": True, "window": 48, "stride": 32}
    assert result == evaluate(model, settings, tmp_path, tta=tta)
    photo = tv_tensors.Image(torch.from_numpy(halves(RED, GREEN, 48)).permute(2, 0, 1))
    truth = torch.ones(48, 48, dtype=torch.int16)
    with torch.inference_mode():
        spec = settings.sources["objects"]
        annotated = Sample(photo, {"object": tv_tensors.Mask(truth)})
        means, _ = photo_outputs(model.eval(), annotated, spec, "cpu", tta)
    right = float((means["object"][0].argmax(0) == truth).double().mean())
    assert result["object"]["pixel_accuracy"] == pytest.approx(right)
    assert result["scene"]["top5"] == 1
