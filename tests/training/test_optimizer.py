"""Tests of upernet.training.optimizer."""

import json

import pytest
import timm
import torch
from helpers.official_network import official_model, official_name
from helpers.shared import REFERENCE, needs_reference
from timm.optim import param_groups_layer_decay

from upernet.errors import UpernetError
from upernet.models import UPerNet
from upernet.recipe import ModelSpec, StageSpec
from upernet.taxonomy import load_taxonomy
from upernet.training.optimizer import MovingAverage, create_optimizer, learning_rate, select_trained, set_modes


@pytest.fixture
def model() -> UPerNet:
    return UPerNet(ModelSpec(backbone="tf_efficientnet_lite0", decoder_channels=8), load_taxonomy("everyday"))


def stage(**changes) -> StageSpec:
    return StageSpec(**({"name": "s", "iterations": 10, "sources": (), "learning_rate": 1.0} | changes))


def test_learning_rate_warms_up_then_decays_to_zero():
    warm = stage(iterations=100, warmup_iterations=4, power=0.9)
    rates = [learning_rate(warm, i) for i in range(100)]
    assert rates[0] == pytest.approx(1e-6) and rates[4] == pytest.approx((1 - 4 / 100) ** 0.9)
    assert rates[2] == pytest.approx((1 - 2 / 100) ** 0.9 * (1 - (1 - 2 / 4) * (1 - 1e-6)))
    assert rates[:5] == sorted(rates[:5]) and rates[4:] == sorted(rates[4:], reverse=True)
    assert rates[-1] == pytest.approx(0.01**0.9)


def test_frozen_stages_freeze_everything_up_to_that_feature(model):
    select_trained(model, stage(frozen_backbone_stages=1))
    learns = {name: p.requires_grad for name, p in model.backbone.named_parameters()}
    assert not any(learns[name] for name in learns if name.startswith(("conv_stem", "bn1", "blocks.0", "blocks.1")))
    assert all(learns[name] for name in learns if name.startswith(("blocks.2", "blocks.3", "blocks.6")))
    assert all(p.requires_grad for p in model.ppm.parameters())
    with pytest.raises(UpernetError, match="more than the backbone's 4 features"):
        select_trained(model, stage(frozen_backbone_stages=5))


def test_frozen_stages_of_a_flattened_backbone():
    model = UPerNet(ModelSpec(backbone="convnext_atto", decoder_channels=8), load_taxonomy("camvid"))
    select_trained(model, stage(frozen_backbone_stages=2))
    learns = {name: p.requires_grad for name, p in model.backbone.named_parameters()}
    assert not any(value for name, value in learns.items() if name.startswith(("stem", "stages_0", "stages_1")))
    assert all(value for name, value in learns.items() if name.startswith(("stages_2", "stages_3")))


def test_texture_stage_trains_the_texture_head_alone(model):
    texture = stage(trains="texture")
    select_trained(model, texture)
    set_modes(model, texture)
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {
        f"heads.texture.{name}" for name, _ in model.heads["texture"].named_parameters()
    }
    assert model.heads["texture"].training and not model.backbone.training and not model.heads["scene"].training


@pytest.mark.slow
@pytest.mark.parametrize(
    ("freeze", "backbone", "decoder"), [("none", True, True), ("backbone", False, True), ("all", False, False)]
)
def test_frozen_norms_keep_their_statistics(model, freeze, backbone, decoder):
    set_modes(model, stage(freeze_norm=freeze))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with torch.no_grad():
        model(torch.randn(2, 3, 64, 64))
    moved = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert any(key.startswith("backbone") for key in moved) == backbone
    assert any(key.startswith("fpn") for key in moved) == decoder


def test_no_weight_decay_on_norms_and_biases_and_a_factor_for_the_backbone(model):
    select_trained(model, stage())
    optimizer = create_optimizer(model, stage(backbone_learning_rate_factor=0.1, weight_decay=0.01))
    where = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        group = where[id(parameter)]
        assert group["weight_decay"] == (0.01 if parameter.ndim > 1 else 0.0), name
        assert group["lr"] == pytest.approx(0.1 if name.startswith("backbone.") else 1.0), name


def test_moving_average_follows_the_formula():
    layer = torch.nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        layer.weight.fill_(1.0)
    average = MovingAverage(layer, decay=0.5)
    expected = 1.0
    for step in range(20):
        with torch.no_grad():
            layer.weight.fill_(float(step))
        average.update(layer)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    assert float(average.state["weight"]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
@needs_reference
@pytest.mark.golden
@pytest.mark.parametrize("variant", ["t", "s", "b", "l", "xl", "h"])
def test_groups_of_the_published_recipes(variant):
    published = json.loads((REFERENCE / "optimizer" / f"optim_groups_{variant}.json").read_text())
    with torch.device("meta"):
        model = official_model(variant)
    decay = published["paramwise"]["layer_decay_rate"]
    base = published["optimizer"]["lr"]
    ours = stage(layer_decay=decay, learning_rate=base, weight_decay=0.05)
    names = {parameter: official_name(name) for name, parameter in model.named_parameters()}
    groups = create_optimizer(model, ours).param_groups
    assigned = {names[p]: (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    expected = {name: (lr, weight_decay) for name, (_, _, lr, weight_decay) in published["params"].items()}
    assert assigned.keys() == expected.keys()
    for name, (lr, weight_decay) in expected.items():
        assert assigned[name] == (pytest.approx(lr, rel=1e-9), weight_decay), name


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "resnet50",
        "resnet50c",
        "convnext_atto",
        "convnext_tiny",
        "swin_tiny_patch4_window7_224",
        "efficientnet_b0",
        "tf_efficientnet_lite0",
        "mobilenetv3_small_050",
        "regnety_002",
        "densenet121",
        "hgnetv2_b0",
        "xception41",
    ],
)
def test_layer_decay_is_timms_with_the_decoder_in_place_of_the_classifier(name):
    """Extractors that rename modules (Swin, ConvNeXt), hook them (Xception), or are our own (EfficientNet-Lite)."""
    with torch.device("meta"):
        model = UPerNet(ModelSpec(backbone=name, decoder_channels=8), load_taxonomy("camvid"))
        classifier = timm.create_model(name)
    expected = {}
    for group in param_groups_layer_decay(classifier, layer_decay=0.5):
        parameters = {id(parameter) for parameter in group["params"]}
        names = [name for name, parameter in classifier.named_parameters() if id(parameter) in parameters]
        expected |= {name.replace(".", "_"): group["lr_scale"] for name in names}
    groups = create_optimizer(model, stage(layer_decay=0.5, backbone_learning_rate_factor=0.1)).param_groups
    rates = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    for name, parameter in model.named_parameters():
        part, _, rest = name.partition(".")
        scale = 0.1 * expected[rest.removeprefix("body.").replace(".", "_")] if part == "backbone" else 1.0
        assert rates[id(parameter)] == pytest.approx(scale), name


@pytest.mark.slow
def test_norms_of_features_learn_as_fast_as_the_decoder():
    spec = ModelSpec(backbone="convnext_atto", feature_norms=True, decoder_channels=8)
    model = UPerNet(spec, load_taxonomy("camvid"))
    groups = create_optimizer(model, stage(layer_decay=0.5)).param_groups
    rates = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    assert {rates[id(parameter)] for parameter in model.backbone.norms.parameters()} == {1.0}
    assert {rates[id(parameter)] for parameter in model.ppm.parameters()} == {1.0}


@pytest.mark.slow
def test_layer_decay_needs_a_backbone_with_numbered_layers():
    model = UPerNet(ModelSpec(backbone="poolformer_s12", decoder_channels=8), load_taxonomy("camvid"))
    with pytest.raises(UpernetError, match="layer_decay: timm does not group the layers of poolformer_s12"):
        create_optimizer(model, stage(layer_decay=0.9))


@pytest.mark.slow
def test_frozen_stages_need_a_backbone_whose_features_end_with_a_layer():
    model = UPerNet(ModelSpec(backbone="xception41", decoder_channels=8), load_taxonomy("camvid"))
    with pytest.raises(UpernetError, match="does not tell which layers make a feature"):
        select_trained(model, stage(frozen_backbone_stages=1))
