"""Tests of upernet.models.internimage and decoder against golden values of the official implementation."""

import pytest
import torch
from helpers.official_network import (
    golden,
    load_rule,
    official_model,
    official_name,
    official_shapes,
    relative_error,
    tiny_model,
)
from helpers.shared import needs_reference
from torch import nn

from upernet.data.sample import Batch
from upernet.errors import UpernetError
from upernet.models import AUXILIARY
from upernet.models.backbones import build_backbone
from upernet.models.internimage import VARIANTS, DCNv3, InternImage, create_internimage
from upernet.models.internimage_blocks import ToChannelsLast
from upernet.recipe import LossSpec
from upernet.taxonomy import IGNORE
from upernet.training.losses import LevelLosses

TINY = {"channels": 16, "depths": (1, 1, 2, 1), "groups": (1, 2, 4, 8)}
STYLES = ["t", "l", "h"]
SIZES = ["2x64x96", "1x61x75"]


@pytest.mark.slow
@needs_reference
@pytest.mark.golden
@pytest.mark.parametrize("variant", [name.removeprefix("internimage_") for name in VARIANTS])
def test_names_and_shapes_are_the_published_ones(variant):
    with torch.device("meta"):
        model = official_model(variant)
    ours = {
        official_name(key): (list(value.shape), str(value.dtype).removeprefix("torch."))
        for key, value in model.state_dict().items()
    }
    assert ours == official_shapes(variant)


@pytest.mark.slow
@needs_reference
@pytest.mark.golden
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("style", STYLES)
def test_small_models_of_every_style(style, size):
    model, expected = tiny_model(style).eval(), golden(f"tiny_{style}")
    images = expected[f"{size}/image"]
    with torch.inference_mode():
        for index, feature in enumerate(model.backbone(images)):
            assert relative_error(feature, expected[f"{size}/feat{index}"]) < 1e-4
        assert relative_error(model(images)["object"], expected[f"{size}/logits"]) < 1e-4
        auxiliary = model.auxiliary(model.backbone(images)[2])
        assert relative_error(auxiliary, expected[f"{size}/aux_logits"]) < 1e-4


@pytest.mark.slow
@needs_reference
@pytest.mark.golden
@pytest.mark.parametrize("size", ["128x160", "97x131"])
def test_internimage_t(size):
    rule, expected = load_rule(), golden("t")
    model = rule.fill_(official_model("t"), official_name).eval()
    with torch.inference_mode():
        features = model.backbone(expected[f"{size}/image"])
        logits = model(expected[f"{size}/image"])["object"]
    for index, feature in enumerate(features):
        assert list(feature.shape) == expected[f"{size}/feat{index}_shape"].tolist()
        sub = torch.from_numpy(rule.subsample(feature.contiguous()))
        assert relative_error(sub, expected[f"{size}/feat{index}_sub"]) < 1e-4
    assert relative_error(logits, expected[f"{size}/logits"]) < 1e-4
    full = torch.nn.functional.interpolate(logits, expected[f"{size}/pred"].shape, mode="bilinear")
    assert (full.argmax(1)[0] == expected[f"{size}/pred"]).float().mean() >= 0.9999


@pytest.mark.slow
@needs_reference
@pytest.mark.golden
@pytest.mark.parametrize("style", STYLES)
def test_losses_gradients_and_statistics_of_one_training_pass(style):
    rule, expected = load_rule(), golden(f"tiny_{style}")
    model = tiny_model(style).double().train()
    labels = expected["train/labels"].long()
    assert torch.equal(labels, rule.labels(2, 64, 96, 11))
    target = torch.where(labels == 255, IGNORE, labels)
    images = rule.image(2, 3, 64, 96).double()
    batch = Batch(images, {"object": target}, {}, frozenset(), "golden")
    losses = LevelLosses(model.taxonomy, LossSpec(average="all", auxiliary=0.4))
    logits = {name: value.double() for name, value in model(images).items()}
    ratios = losses(logits, batch, {})
    values = {name: ratio.numerator / ratio.denominator for name, ratio in ratios.items()}
    total = sum(value * losses.weight(name) for name, value in values.items())
    ours = torch.stack([values["object"], 0.4 * values[f"object/{AUXILIARY}"], torch.as_tensor(total)]).detach()
    published = expected["train/losses"].float()
    torch.testing.assert_close(ours, published, rtol=1e-5, atol=0)

    total.backward()
    for name, parameter in model.named_parameters():
        gradient = expected[f"grad/{official_name(name)}"].double()
        scale = max(float(gradient.abs().max()), 1e-8)
        assert float((parameter.grad - gradient).abs().max()) < 1e-4 * scale + 1e-9, name
    statistics = {official_name(key): value for key, value in model.state_dict().items() if "running" in key}
    assert statistics.keys() == {key.removeprefix("after/") for key in expected if "running" in key}
    for key, value in statistics.items():
        torch.testing.assert_close(value, expected[f"after/{key}"].double(), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@needs_reference
@pytest.mark.golden
def test_whole_dcnv3_modules():
    rule, expected = load_rule(), golden("dcnv3_module")
    names = sorted({key.split("/")[0] for key in expected})
    assert len(names) == 5
    for name in names:
        shapes = {
            key.removeprefix(f"{name}/g:"): v.shape for key, v in expected.items() if key.startswith(f"{name}/g:")
        }
        kernel_size = 5 if name == "m_k5" else 3
        module = DCNv3(
            channels=expected[f"{name}/x"].shape[-1],
            groups=shapes["mask.bias"][0] // kernel_size**2,
            offset_scale=2.0 if "scale2" in name else 1.0,
            dw_kernel_size=shapes["dw_conv.0.weight"][-1],
            center_feature_scale="center_feature_scale_proj_bias" in shapes,
            kernel_size=kernel_size,
        )
        if name == "m_bn_silu":  # another norm and activation, which no published network has
            module.dw_conv[1] = nn.Sequential(nn.BatchNorm2d(16), ToChannelsLast())
            module.dw_conv[2] = nn.SiLU()
        rule.fill_(module, lambda key, name=name: f"{name}.{key}")
        module.double().eval()
        x = expected[f"{name}/x"].double().requires_grad_()
        y = module(x)
        torch.testing.assert_close(y, expected[f"{name}/y"].double(), rtol=1e-5, atol=1e-6)
        y.backward(expected[f"{name}/go"].double())
        torch.testing.assert_close(x.grad, expected[f"{name}/g_x"].double(), rtol=1e-4, atol=1e-5)
        for key, parameter in module.named_parameters():
            gradient = expected[f"{name}/g:{key}"].double()
            torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-4 * float(gradient.abs().max()))


def test_features_follow_feature_info():
    backbone = build_backbone("internimage_t", options=TINY).eval()
    assert isinstance(backbone, InternImage)
    assert backbone.feature_info.channels() == [16, 32, 64, 128]
    with torch.inference_mode():
        features = backbone(torch.randn(1, 3, 61, 75))
    assert [tuple(f.shape[1:]) for f in features] == [(16, 16, 19), (32, 8, 10), (64, 4, 5), (128, 2, 3)]


def test_a_new_network_samples_on_the_grid_with_equal_weights():
    module = DCNv3(8, 2)
    module.reset_parameters()
    x = torch.randn(1, 4, 5, 8)
    with torch.inference_mode():
        values = module.input_proj(x).permute(0, 3, 1, 2)
        expected = module.output_proj(torch.nn.functional.avg_pool2d(values, 3, 1, 1).permute(0, 2, 3, 1))
        torch.testing.assert_close(module(x), expected, rtol=1e-5, atol=1e-5)


def test_gradient_checkpointing_changes_no_gradient():
    torch.manual_seed(0)
    backbone = create_internimage("internimage_t", TINY, drop_path=0.3).train()
    images = torch.randn(2, 3, 40, 48)
    gradients = []
    for enabled in (False, True):
        backbone.set_grad_checkpointing(enabled)
        backbone.zero_grad()
        torch.manual_seed(1)
        torch.stack([feature.square().mean() for feature in backbone(images)]).sum().backward()
        gradients.append([parameter.grad.clone() for parameter in backbone.parameters()])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed)


def test_drop_path_grows_linearly_over_the_blocks():
    backbone = create_internimage("internimage_t", TINY, drop_path=0.4)
    rates = [getattr(block.drop_path, "drop_prob", 0.0) for stage in backbone.levels for block in stage.blocks]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"color": 1}, "backbone_options of internimage_t: color"),
        ({"depths": (1, 2)}, "backbone_options of internimage_t: depths"),
        ({"groups": (3, 6, 12, 24)}, "cannot be divided"),
    ],
)
def test_options_that_do_not_fit(options, message):
    with pytest.raises(UpernetError, match=message):
        build_backbone("internimage_t", options=options)


def test_options_are_for_internimage_only():
    with pytest.raises(UpernetError, match=r"does not support backbone_options.*internimage_t"):
        build_backbone("resnet18", options={"channels": 16})
