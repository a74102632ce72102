"""Tests that run over every registered model."""

import pytest
import torch

import upernet
from upernet.models import AUXILIARY, UPerNet, build_model
from upernet.models.flash_internimage import VARIANTS as FLASH_VARIANTS
from upernet.models.internimage import VARIANTS as INTERNIMAGE_VARIANTS
from upernet.recipe import load_recipe

VARIANTS = {**INTERNIMAGE_VARIANTS, **FLASH_VARIANTS}
ODD, EVEN = (75, 101), (64, 96)


NARROW = {"channels": 16, "depths": (1, 1, 2, 1), "groups": (1, 2, 4, 8)}
"""An InternImage of up to a billion parameters, each variant with its own options (test_internimage.py: full size)."""


DIFFERENT = [name for name in upernet.list_models() if not name.endswith("_lite")]
"""The models that differ in more than their width."""


@pytest.fixture(scope="module", params=DIFFERENT)
def model(request) -> UPerNet:
    torch.manual_seed(0)
    recipe = load_recipe(request.param)
    if recipe.model.backbone in VARIANTS:
        options = dict(NARROW)
        if "level2_post_norm_blocks" in VARIANTS[recipe.model.backbone]:
            options["level2_post_norm_blocks"] = (0,)
        changes = {"backbone_options": options, "decoder_channels": 32, "auxiliary_channels": 16}
        recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update=changes)})
    elif recipe.model.pooling == "precise":
        changes = {"decoder_channels": 32, "pool_channels": 16}
        recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update=changes)})
    return build_model(recipe)


@pytest.mark.slow
@pytest.mark.parametrize("name", upernet.list_models())
def test_every_model_is_made_by_name(name):
    with torch.device("meta"):
        model = upernet.create_model(name)
        logits = model.eval()(torch.empty(1, 3, *ODD))
    assert set(logits) == set(model.taxonomy.levels)


def stride4(size: int, backbone: str) -> int:
    """ConvNeXt's first convolution has no padding."""
    return size // 4 if backbone.startswith("convnext") else (size + 3) // 4


@pytest.mark.slow
@pytest.mark.parametrize("size", [EVEN, ODD], ids=["even", "odd"])
def test_logits_have_the_promised_shapes(model, size):
    model.eval()
    with torch.inference_mode():
        logits = model(torch.zeros(2, 3, *size))
    assert set(logits) == set(model.taxonomy.levels)
    for level, values in logits.items():
        channels = model.taxonomy.num_logits(level)
        dense = (2, channels, *(stride4(side, model.spec.backbone) for side in size))
        assert values.shape == ((2, channels) if level == "scene" else dense)
        assert values.dtype == torch.float32 and values.isfinite().all()


@pytest.mark.slow
def test_only_asked_levels_are_returned_and_agree_with_the_full_pass(model):
    model.eval()
    images = torch.randn(1, 3, *EVEN)
    with torch.inference_mode():
        every = model(images)
        for level in model.levels:
            alone = model(images, levels=[level])
            assert set(alone) == {level}
            torch.testing.assert_close(alone[level], every[level])


def test_unknown_level_is_refused(model):
    with pytest.raises(upernet.UpernetError, match="no level 'smell'"):
        model(torch.zeros(1, 3, *EVEN), levels=["smell"])


@pytest.mark.slow
def test_auxiliary_logits_only_in_training_mode(model):
    images = torch.randn(2, 3, *EVEN)
    assert (AUXILIARY in model.train()(images)) == (model.auxiliary is not None)
    assert AUXILIARY not in model.eval()(images)


@pytest.mark.slow
def test_gradients_reach_what_a_level_uses_and_texture_stops_before_the_backbone(model):
    images = torch.randn(2, 3, *EVEN)
    for level in model.levels:
        model.train().zero_grad(set_to_none=True)
        model(images, levels=[level])[level].square().mean().backward()
        assert all(p.grad is not None for p in model.heads[level].parameters())
        reached = [name for name, p in model.backbone.named_parameters() if p.grad is not None and p.grad.any()]
        if level == "texture":
            assert not any(p.grad is not None for p in model.backbone.parameters())
            assert not any(p.grad is not None for p in model.ppm.parameters())
        else:
            assert reached and reached[0] == next(iter(dict(model.backbone.named_parameters())))
            of_c5 = level == "scene" and model.spec.image_head.features == "C5"
            assert all((p.grad is None) == of_c5 for p in model.ppm.parameters())
        others = [p for other in model.levels if other != level for p in model.heads[other].parameters()]
        assert not any(p.grad is not None for p in others)
        lateral = model.fpn.lateral if model.fpn else None
        for module, users in ((lateral, {"object", "part", "material"}), (model.fusion, {"object", "part"})):
            used = [p.grad is not None for p in (module.parameters() if module else ())]
            assert all(used) if level in users else not any(used)


@pytest.mark.slow
def test_auxiliary_head_sends_its_gradient_into_c4(model):
    if model.auxiliary is None:
        pytest.skip("this model has no level object, so no auxiliary head")
    model.train().zero_grad(set_to_none=True)
    model(torch.randn(2, 3, *EVEN), levels=["object"])[AUXILIARY].square().mean().backward()
    assert all(p.grad is not None for p in model.auxiliary.parameters())
    assert next(model.backbone.parameters()).grad is not None
    assert not any(p.grad is not None for p in model.ppm.parameters())


@pytest.mark.slow
def test_training_and_evaluation_mode_differ_and_evaluation_is_repeatable(model):
    images = torch.randn(2, 3, *EVEN)
    level = model.levels[-1]
    with torch.no_grad():
        before = {key: value.clone() for key, value in model.eval().state_dict().items()}
        first, second = model(images)[level], model(images)[level]
        assert torch.equal(first, second)
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
        model.train()(images)
        assert any(not torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.slow
def test_state_dict_round_trip(model):
    torch.manual_seed(1)
    other = UPerNet(model.spec, model.taxonomy)
    other.load_state_dict(model.state_dict())
    images = torch.randn(1, 3, *EVEN)
    with torch.inference_mode():
        expected, actual = model.eval()(images), other.eval()(images)
    for level in expected:
        assert torch.equal(expected[level], actual[level])


@pytest.mark.slow
def test_bf16_autocast_gives_close_logits(model):
    model.eval()
    images = torch.randn(4, 3, *EVEN)
    with torch.inference_mode():
        expected = model(images)
        with torch.autocast("cpu", torch.bfloat16):
            actual = model(images)
    for level, values in expected.items():
        assert actual[level].isfinite().all()
        error = (actual[level].float() - values).square().mean().sqrt()
        assert error < 0.2 * values.square().mean().sqrt(), level
