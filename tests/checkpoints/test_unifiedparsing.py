"""Tests of upernet.checkpoints.formats: unifiedparsing and halves, the released files of Unified Perceptual Parsing."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from helpers.official_network import golden, load_rule, relative_error
from helpers.shared import needs_reference
from helpers.upp_network import HALVES, OWN_BUFFERS, official_half, official_shapes, save_pair
from torch import Tensor, nn

import upernet
from upernet.checkpoints import find_checkpoint, load_backbone_weights, load_checkpoint
from upernet.checkpoints.architecture import backbone_of
from upernet.checkpoints.convert import convert
from upernet.checkpoints.formats import read_named, unifiedparsing
from upernet.errors import UpernetError
from upernet.models import UPerNet, prepare_for_inference
from upernet.models.backbones import build_backbone
from upernet.taxonomy import load_taxonomy

NAMES = [
    f"upp_{encoder}_upernet{lite}" for encoder in ("resnet50", "resnet101", "resnext101") for lite in ("", "_lite")
]
ENCODER: dict[str, Tensor] = {"conv3.weight": torch.ones(2), "layer1.0.conv3.weight": torch.ones(2)}
DECODER: dict[str, Tensor] = {"ppm_last_conv.0.weight": torch.ones(2), "conv_fusion.0.weight": torch.ones(2)}
"""Two state dicts that are recognized as halves of a model, and no more."""


def variant_of(name: str) -> str:
    return name.removeprefix("upp_").replace("_upernet", "")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Create the pair of the ResNet-50, with all that the released code stores."""
    encoder, decoder = (official_half("resnet50", half) for half in HALVES)
    path = save_pair(tmp_path_factory.mktemp("upp") / "upp-resnet50-upernet", encoder, decoder)
    torch.save({"epoch": 40}, path / "history_epoch_40.pth")
    yield path
    shutil.rmtree(path)  # 300 MB


@pytest.fixture(scope="module")
def model(folder: Path) -> UPerNet:
    return upernet.load_model("upp_resnet50_upernet", checkpoint=folder)


@needs_reference
@pytest.mark.golden
@pytest.mark.slow
@pytest.mark.parametrize("size", ["96x128", "77x110"])
def test_the_logits_are_the_published_ones(model: UPerNet, size: str) -> None:
    facts = {key.partition("/")[2]: value for key, value in golden("upp_resnet50").items() if key.startswith(size)}
    for network in (model, prepare_for_inference(model)):
        with torch.inference_mode():
            logits, features = network(facts["image"]), network.backbone(facts["image"])
        assert set(logits) == {"scene", "object", "part", "material"}
        for level, values in logits.items():
            expected = facts[f"{level}_head"]
            assert relative_error(values, expected.flatten(1) if level == "scene" else expected) < 1e-4
        for index, feature in enumerate(features):
            assert tuple(feature.shape) == tuple(facts[f"feat{index}_shape"])
            sample = torch.from_numpy(load_rule().subsample(feature))
            assert relative_error(sample, facts[f"feat{index}_sub"]) < 1e-4
        torch.testing.assert_close(logits["scene"].softmax(1), facts["scene_prob"], atol=1e-5, rtol=0)


@needs_reference
@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_published_tensor_has_one_place(name: str) -> None:
    with torch.device("meta"):
        theirs = {
            f"{half}.{key}": torch.empty(shape, dtype=getattr(torch, dtype))
            for half in HALVES
            for key, (shape, dtype) in official_shapes(variant_of(name), half).items()
        }
        ours = upernet.create_model(name).state_dict()
    translated = unifiedparsing.translate(theirs)
    assert {k: (v.shape, v.dtype) for k, v in translated.items()} == {k: (v.shape, v.dtype) for k, v in ours.items()}
    left_out = [key for key in theirs if not key.endswith(OWN_BUFFERS)]
    assert len(left_out) == len(translated)
    assert backbone_of(translated) == f"{variant_of(name).removesuffix('_lite')}_deep"


@pytest.mark.parametrize("name", NAMES)
def test_the_network_is_as_published(name: str) -> None:
    with torch.device("meta"):
        model = upernet.create_model(name)
    assert model.levels == ("scene", "object", "part", "material") and model.auxiliary is None
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert {(norm.momentum, norm.eps) for norm in norms} == {(0.001, 1e-5)}
    assert all(module.p == 0 for module in model.modules() if isinstance(module, (nn.Dropout, nn.Dropout2d)))
    assert (
        sum(p.numel() for p in model.backbone.parameters())
        == {
            "resnet50_deep": 23_631_808,
            "resnet101_deep": 42_623_936,
            "resnext101_deep": 42_256_576,
        }[model.spec.backbone]
    )
    decoder = sum(p.numel() for key, p in model.named_parameters() if not key.startswith("backbone."))
    assert decoder == (20_885_122 if name.endswith("_lite") else 50_546_818)


def test_images_are_bgr_minus_the_published_means() -> None:
    model = upernet.create_model("upp_resnet50_upernet_lite")
    rgb = torch.tensor([200, 100, 0], dtype=torch.uint8).view(3, 1, 1)
    expected = torch.tensor([0, 100, 200]) - torch.tensor([102.9801, 115.9465, 122.7717])
    assert torch.equal(model.preprocess(rgb).flatten(), expected)
    assert torch.equal(model.preprocess(rgb[None]).flatten(), expected)


@needs_reference
@pytest.mark.golden
@pytest.mark.slow
def test_files_of_any_age_and_either_half_give_the_same_model(folder: Path, tmp_path: Path) -> None:
    encoder, decoder = (torch.load(folder / f"{half}_epoch_40.pth", weights_only=True) for half in HALVES)
    old = save_pair(
        tmp_path / "old",
        {key: value for key, value in encoder.items() if not key.endswith((*OWN_BUFFERS, "num_batches_tracked"))},
        {f"module.{key}": value for key, value in decoder.items() if not key.endswith(OWN_BUFFERS)},
        epoch=7,
    )
    expected, card = load_checkpoint(find_checkpoint(folder))
    assert card.name == "upp_resnet50_upernet" and card.origin == "unifiedparsing" and card.research_only
    assert expected.taxonomy == load_taxonomy("broden").subset(["scene", "object", "part", "material"])
    for path in (old / "encoder_epoch_7.pth", old / "decoder_epoch_7.pth"):
        found, _ = load_checkpoint(path)
        for (key, ours), theirs in zip(found.state_dict().items(), expected.state_dict().values(), strict=True):
            assert torch.equal(ours, theirs), key
    shutil.rmtree(old)


@needs_reference
@pytest.mark.golden
@pytest.mark.slow
def test_a_pair_becomes_one_file_that_knows_its_testing(folder: Path, model: UPerNet, tmp_path: Path) -> None:
    done = convert(folder, tmp_path)
    assert [path.name for path in done.files] == ["upp-resnet50-upernet.safetensors", "upp-resnet50-upernet.yaml"]
    converted, card = load_checkpoint(done.files[0])
    assert card.published_testing is not None and card.published_testing.short_sides == (300, 400, 500, 600)
    assert converted.spec == model.spec and converted.taxonomy == model.taxonomy
    for name in ("upp_resnet50_upernet", str(done.files[1])):
        again = upernet.load_model(name, checkpoint=done.files[0])
        assert all(torch.equal(a, b) for a, b in zip(again.parameters(), model.parameters(), strict=True))
    done.files[0].unlink()


@needs_reference
@pytest.mark.golden
@pytest.mark.slow
def test_a_decoder_of_another_width_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "encoder_epoch_40.pth").symlink_to(folder / "encoder_epoch_40.pth")
    torch.save(official_half("resnet50_lite", "decoder"), tmp_path / "decoder_epoch_40.pth")
    assert load_checkpoint(find_checkpoint(tmp_path))[1].name == "upp_resnet50_upernet_lite"
    with pytest.raises(UpernetError, match="do not fit upp_resnet50_upernet") as error:
        upernet.load_model("upp_resnet50_upernet", checkpoint=tmp_path)
    assert "ppm.bottleneck.0.weight: file 256x4096x3x3 -> model 512x4096x3x3" in str(error.value)


@needs_reference
@pytest.mark.golden
@pytest.mark.slow
def test_an_encoder_alone_fills_a_backbone(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "resnet50-imagenet.pth"
    encoder = torch.load(folder / "encoder_epoch_40.pth", weights_only=True)
    torch.save({**encoder, "fc.weight": torch.ones(1000, 2048), "fc.bias": torch.ones(1000)}, path)
    backbone = build_backbone("resnet50_deep")
    load_backbone_weights(backbone, "resnet50_deep", str(path))
    assert all(torch.equal(value, encoder[key]) for key, value in backbone.state_dict().items())
    with pytest.raises(UpernetError, match="a backbone alone"):
        load_checkpoint(path)
    path.unlink()


def test_the_folder_stands_for_its_only_pair(tmp_path: Path) -> None:
    save_pair(tmp_path, ENCODER, DECODER)
    (tmp_path / "history_epoch_40.pth").touch()
    (tmp_path / "encoder_epoch_20.pth").touch()
    assert find_checkpoint(tmp_path) == tmp_path / "encoder_epoch_40.pth"
    for half in HALVES:
        file = read_named(tmp_path / f"{half}_epoch_40.pth")
        assert file.origin == "unifiedparsing"
        assert {"backbone.conv3.weight", "ppm.bottleneck.0.weight", "fusion.conv.0.weight"} <= file.tensors.keys()


def test_several_pairs_are_a_question(tmp_path: Path) -> None:
    save_pair(tmp_path, ENCODER, DECODER, 20)
    save_pair(tmp_path, ENCODER, DECODER, 40)
    with pytest.raises(UpernetError, match=r"several models \(encoder_epoch_20.pth, encoder_epoch_40.pth\); give"):
        find_checkpoint(tmp_path)
    assert find_checkpoint(tmp_path / "encoder_epoch_20.pth") == tmp_path / "encoder_epoch_20.pth"


def test_halves_of_different_epochs_do_not_belong_together(tmp_path: Path) -> None:
    torch.save(ENCODER, tmp_path / "encoder_epoch_20.pth")
    torch.save(DECODER, tmp_path / "decoder_epoch_40.pth")
    with pytest.raises(UpernetError, match=r"same epoch \(found: decoder_epoch_40.pth, encoder_epoch_20.pth\)"):
        find_checkpoint(tmp_path)
    for half, missing in (("encoder_epoch_20", "decoder_epoch_20"), ("decoder_epoch_40", "encoder_epoch_40")):
        with pytest.raises(UpernetError, match=f"is missing; put {missing}.pth beside it"):
            load_checkpoint(tmp_path / f"{half}.pth")


def test_two_encoders_are_refused(tmp_path: Path) -> None:
    save_pair(tmp_path, ENCODER, ENCODER)
    with pytest.raises(UpernetError, match=r"decoder_epoch_40\.pth: not the decoder that encoder_epoch_40\.pth needs"):
        load_checkpoint(tmp_path / "encoder_epoch_40.pth")
    with pytest.raises(UpernetError, match="holds an encoder, in spite of its name"):
        load_checkpoint(tmp_path / "decoder_epoch_40.pth")


def test_swapped_halves_are_refused(tmp_path: Path) -> None:
    save_pair(tmp_path, DECODER, ENCODER)
    for half, held in (("encoder", "a decoder"), ("decoder", "an encoder")):
        with pytest.raises(UpernetError, match=f"{half}_epoch_40.pth: holds {held}, in spite of its name"):
            load_checkpoint(tmp_path / f"{half}_epoch_40.pth")


def test_a_damaged_half_is_named(tmp_path: Path) -> None:
    save_pair(tmp_path, ENCODER, DECODER)
    (tmp_path / "decoder_epoch_40.pth").write_bytes((tmp_path / "decoder_epoch_40.pth").read_bytes()[:300])
    with pytest.raises(UpernetError, match=r"decoder_epoch_40.pth: cut off or damaged"):
        load_checkpoint(tmp_path / "encoder_epoch_40.pth")


def test_a_decoder_that_is_not_named_as_one_needs_a_name(tmp_path: Path) -> None:
    torch.save(DECODER, tmp_path / "head.pth")
    with pytest.raises(UpernetError, match="a decoder alone; name it decoder_epoch_N"):
        load_checkpoint(tmp_path / "head.pth")


def test_halves_without_their_other_tensors_are_refused(tmp_path: Path) -> None:
    save_pair(tmp_path, ENCODER, DECODER)
    with pytest.raises(UpernetError, match="do not fit upp_resnet101_upernet"):
        upernet.load_model("upp_resnet101_upernet", checkpoint=tmp_path)
    with pytest.raises(UpernetError):
        load_checkpoint(tmp_path / "encoder_epoch_40.pth")
