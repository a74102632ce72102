"""Tests of upernet.models: timm_backbones, decoder, heads, upernet, initialization."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from upernet.errors import UpernetError
from upernet.models import Preprocess
from upernet.models.backbones import build_backbone
from upernet.models.decoder import FeaturePyramid, Fusion, PyramidPooling
from upernet.models.features import STRIDES
from upernet.models.heads import TextureHead
from upernet.recipe import TextureSpec


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "tf_efficientnet_lite0",
        "resnet18",
        "convnext_atto",
        "mobilenetv3_small_050",
        "swin_tiny_patch4_window7_224",
    ],
)
def test_backbone_features_follow_feature_info(name):
    backbone = build_backbone(name).eval()
    with torch.inference_mode():
        features = backbone(torch.zeros(1, 3, 64, 96))
    assert backbone.feature_info.reduction() == list(STRIDES)
    for feature, channels, stride in zip(features, backbone.feature_info.channels(), STRIDES, strict=True):
        assert feature.shape == (1, channels, 64 // stride, 96 // stride)


@pytest.mark.slow
def test_swin_takes_photos_of_any_size_and_rounds_up():
    backbone = build_backbone("swin_tiny_patch4_window7_224").eval()
    with torch.inference_mode():
        features = backbone(torch.randn(1, 3, 61, 75))
    assert [feature.shape[2:] for feature in features] == [(16, 19), (8, 10), (4, 5), (2, 3)]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["convnext_atto", "swin_tiny_patch4_window7_224"])
def test_norms_of_features_have_the_epsilon_of_the_backbone(name):
    plain, normed = build_backbone(name).eval(), build_backbone(name, feature_norms=True).eval()
    normed.body.load_state_dict(getattr(plain, "body", plain).state_dict())
    for norm in normed.norms:
        torch.nn.init.normal_(norm.weight)
    epsilon = 1e-5 if name.startswith("swin") else 1e-6
    images = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        for feature, expected, norm in zip(
            normed(images), plain(images), normed.get_submodule("norms").children(), strict=True
        ):
            mean, variance = expected.mean(1, keepdim=True), expected.var(1, keepdim=True, correction=0)
            scaled = (expected - mean) / (variance + epsilon).sqrt() * norm.weight[:, None, None]
            torch.testing.assert_close(feature, scaled)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["convnext_atto", "swin_tiny_patch4_window7_224"])
def test_an_adapted_backbone_says_where_its_features_come_from(name):
    """What freezing its first stages goes by."""
    backbone = build_backbone(name, feature_norms=True)
    for module in backbone.feature_info.module_name():
        assert isinstance(backbone.get_submodule(module), torch.nn.Module)


@pytest.mark.slow
def test_unknown_backbone_and_one_without_the_strides_are_refused():
    with pytest.raises(UpernetError, match="unknown backbone 'resnet5'"):
        build_backbone("resnet5")
    with pytest.raises(UpernetError, match="channels last"):
        build_backbone("swinv2_tiny_window8_256")
    with pytest.raises(UpernetError, match=r"does not support backbone_options.*internimage_t"):
        build_backbone("resnet18", options={"channels": 8})
    with pytest.raises(UpernetError, match=r"does not support feature_norms.*timm"):
        build_backbone("internimage_t", feature_norms=True)
    with pytest.raises(UpernetError, match=r"'resnet18\.nosuch' cannot be created"):
        build_backbone("resnet18.nosuch")
    with pytest.raises(UpernetError, match="none at"):
        build_backbone("vit_tiny_patch16_224")


def test_preprocess_normalizes_pixels():
    preprocess = Preprocess(mean=(0.5, 0.25, 0.0), std=(0.5, 0.25, 1.0))
    image = torch.tensor([0, 51, 255], dtype=torch.uint8).view(3, 1, 1).expand(2, 3, 4, 5)
    expected = torch.tensor([-1.0, -0.2, 1.0]).view(3, 1, 1).expand(2, 3, 4, 5)
    torch.testing.assert_close(preprocess(image), expected)


def test_pyramid_pooling_is_the_written_out_formula():
    torch.manual_seed(0)
    ppm = PyramidPooling(8, 4, pool_scales=(1, 2)).eval()
    c5 = torch.randn(2, 8, 5, 7)
    one = ppm.pooled[0](c5.mean(dim=(2, 3), keepdim=True)).expand(-1, -1, 5, 7)
    two = F.interpolate(ppm.pooled[1](F.adaptive_avg_pool2d(c5, 2)), size=(5, 7), mode="bilinear", align_corners=False)
    torch.testing.assert_close(ppm(c5), ppm.bottleneck(torch.cat([c5, one, two], dim=1)))


@pytest.mark.slow
@settings(max_examples=20, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40))
def test_pyramid_keeps_the_sizes_of_the_features(height, width):
    sizes = [(-(-height // s), -(-width // s)) for s in (1, 2, 4, 8)]
    features = [torch.randn(1, c, *size) for c, size in zip((3, 4, 5), sizes, strict=False)]
    p5 = torch.randn(1, 6, *sizes[3])
    pyramid = FeaturePyramid((3, 4, 5), 6).eval()(features, p5)
    assert [tuple(level.shape) for level in pyramid] == [(1, 6, *size) for size in sizes]
    assert pyramid[3] is p5
    assert Fusion(6).eval()(pyramid).shape == (1, 6, *sizes[0])


def test_texture_at_a_pixel_depends_on_its_surroundings_only():
    torch.manual_seed(0)
    head = TextureHead([3], TextureSpec(channels=8, depth=4), num_logits=2).eval()
    feature = torch.randn(1, 3, 21, 21)
    changed = feature.clone()
    changed[..., 5, 10] += 1  # 5 rows above the center: outside of four 3x3 convolutions
    with torch.inference_mode():
        before, after = head([feature]), head([changed])
    assert torch.equal(before[..., 10, 10], after[..., 10, 10])
    assert not torch.equal(before[..., 9, 10], after[..., 9, 10])


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([4, 8]), st.sampled_from([(), (3, 9)]))
def test_texture_logits_have_the_size_of_c2(height, width, stride, windows):
    sizes = [(-(-height // s), -(-width // s)) for s in (1, 2, 4)]
    features = [torch.randn(2, c, *size) for c, size in zip((3, 4, 5), sizes, strict=True)]
    spec = TextureSpec(features=("C2", "C3", "C4"), channels=8, depth=1, stride=stride, windows=windows)
    assert TextureHead([3, 4, 5], spec, num_logits=7).eval()(features).shape == (2, 7, height, width)


def test_windows_of_the_texture_head_see_how_much_of_something_is_near():
    torch.manual_seed(0)
    head = TextureHead([3], TextureSpec(channels=8, depth=1, windows=(9,)), num_logits=2).eval()
    feature = torch.randn(1, 3, 31, 31)
    near, far = feature.clone(), feature.clone()
    near[..., 11, 15] += 1  # 4 rows from the center: inside the window, outside the convolution
    far[..., 9, 15] += 1
    with torch.inference_mode():
        before, changed, same = (head([x])[..., 15, 15] for x in (feature, near, far))
    assert not torch.equal(before, changed) and torch.equal(before, same)
