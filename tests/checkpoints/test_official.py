"""Tests of published InternImage files: they load unchanged and give the published logits."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from helpers.official_network import golden, official_shapes, official_state, relative_error
from helpers.shared import needs_reference
from torch import Tensor

import upernet
from upernet.checkpoints import initialize_model, load_backbone_weights, load_checkpoint
from upernet.checkpoints.architecture import backbone_of
from upernet.checkpoints.formats import mmsegmentation
from upernet.errors import UpernetError
from upernet.models import AUXILIARY, UPerNet
from upernet.models.backbones import build_backbone
from upernet.recipe import ModelSpec, load_recipe
from upernet.taxonomy import load_taxonomy

pytestmark = [needs_reference, pytest.mark.golden]
CLASSES = ("wall", "building", "sky")  # as far as this test reads


def write_recipe(path: Path, taxonomy: str = "ade20k150", **model: object) -> str:
    content = {"description": "d", "taxonomy": taxonomy, "model": {"head_channels": 0, **model}}
    path.write_text(json.dumps(content))  # JSON is YAML
    return str(path)


def tiny_recipe(path: Path, name: str = "tiny_t", taxonomy: str = "camvid") -> str:
    """Of a small network, with the options that the golden file `name` was made with."""
    options = json.loads(str(golden(name)["config"]))["backbone"]
    for theirs in ("norm_layer", "level2_post_norm", "drop_path_rate"):
        options.pop(theirs, None)
    if "level2_post_norm_block_ids" in options:
        options["level2_post_norm_blocks"] = options.pop("level2_post_norm_block_ids")
    widths = {"decoder_channels": 24, "auxiliary_channels": 12}
    return write_recipe(path, taxonomy, backbone="internimage_t", backbone_options=options, **widths)


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return official_state("t")


@pytest.fixture(scope="module")
def file(state: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("official") / "internimage_t.pth"
    content = {"meta": {"CLASSES": CLASSES, "epoch": 1, "mIoU": 0.479}, "state_dict": state, "optimizer": {"state": {}}}
    torch.save(content, path)
    yield path
    path.unlink()  # 240 MB


@pytest.fixture(scope="module")
def recipe(file: Path) -> str:
    return write_recipe(file.parent / "t.yaml", backbone="internimage_t")


@pytest.fixture(scope="module")
def model(file: Path, recipe: str) -> UPerNet:
    return upernet.load_model(recipe, checkpoint=file)


@pytest.mark.slow
@pytest.mark.parametrize("size", ["128x160", "97x131"])
def test_logits_of_t_are_the_published_ones(model: UPerNet, size: str) -> None:
    facts = {key.partition("/")[2]: value for key, value in golden("t").items() if key.startswith(size)}
    images = facts["image"]
    with torch.inference_mode():
        logits = model(images)["object"]
        assert model.auxiliary is not None
        auxiliary = model.auxiliary(model.backbone(images)[2])
    assert relative_error(logits, facts["logits"]) < 1e-4
    assert relative_error(auxiliary, facts["aux_logits"]) < 1e-4
    whole = F.interpolate(logits, size=images.shape[2:], mode="bilinear", align_corners=False)
    assert (whole.argmax(1) == facts["pred"]).float().mean() > 0.9999


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiny_t", "tiny_l", "tiny_h"])
def test_every_option_of_the_backbone(name: str, tmp_path: Path) -> None:
    facts = golden(name)
    torch.save({"state_dict": official_state(name)}, tmp_path / "tiny.pth")
    model = upernet.load_model(tiny_recipe(tmp_path / "tiny.yaml", name), checkpoint=tmp_path / "tiny.pth")
    for size in ("2x64x96", "1x61x75"):
        images = facts[f"{size}/image"]
        with torch.inference_mode():
            assert relative_error(model(images)["object"], facts[f"{size}/logits"]) < 1e-4
            assert model.auxiliary is not None
            auxiliary = model.auxiliary(model.backbone(images)[2])
        assert relative_error(auxiliary, facts[f"{size}/aux_logits"]) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["t", "s", "b", "l", "xl", "h"])
def test_every_published_tensor_has_one_place(variant: str) -> None:
    shapes = official_shapes(variant)
    with torch.device("meta"):
        theirs = {key: torch.empty(shape, dtype=getattr(torch, dtype)) for key, (shape, dtype) in shapes.items()}
        spec = ModelSpec(backbone=f"internimage_{variant}", head_channels=0)
        ours = UPerNet(spec, load_taxonomy("ade20k150")).state_dict()
    assert mmsegmentation.recognizes(theirs)
    translated = mmsegmentation.translate(theirs)
    assert len(translated) == len(theirs)
    assert {k: (v.shape, v.dtype) for k, v in translated.items()} == {k: (v.shape, v.dtype) for k, v in ours.items()}
    assert backbone_of(translated) == f"internimage_{variant}"


@pytest.mark.slow
def test_the_network_is_told_by_the_tensors(file: Path, model: UPerNet) -> None:
    loaded, card = load_checkpoint(file)
    assert loaded.spec.backbone == "internimage_t" and loaded.taxonomy == load_taxonomy("ade20k150")
    assert card.origin == "mmsegmentation" and not loaded.training
    expected = model.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in loaded.state_dict().items())
    assert not any(value.is_meta for value in [*loaded.parameters(), *loaded.buffers()])


@pytest.mark.slow
@pytest.mark.parametrize(
    "wrap",
    [
        lambda state, other: {f"module.{key}": value for key, value in state.items()},
        lambda state, other: {"model": other, "model_ema": {f"module.{k}": v for k, v in state.items()}},
        lambda state, other: {"state_dict": other, "state_dict_ema": state},
        lambda state, other: {"state_dict": state, "ema_state_dict": {"steps": torch.tensor(3), **other}},
        lambda state, other: {"state_dict": state | {f"ema_{k.replace('.', '_')}": v for k, v in other.items()}},
        lambda state, other: {"state_dict": {f"model.module.{k}": v for k, v in state.items()}, "model_ema": None},
    ],
    ids=["bare, distributed", "model_ema", "state_dict_ema", "mmengine", "mmcv EMA", "two prefixes"],
)
def test_wrappers_prefixes_and_averages(wrap, tmp_path: Path) -> None:
    """`other` are weights that must not be taken."""
    tiny = official_state("tiny_t")
    torch.save(wrap(tiny, {key: value + 1 for key, value in tiny.items()}), tmp_path / "file.pth")
    model = upernet.load_model(tiny_recipe(tmp_path / "tiny.yaml"), checkpoint=tmp_path / "file.pth")
    expected = mmsegmentation.translate(tiny)
    assert all(torch.equal(value, expected[key]) for key, value in model.state_dict().items())


@pytest.mark.slow
def test_half_precision_becomes_float32(tmp_path: Path) -> None:
    tiny = official_state("tiny_t")
    halved = {key: value.bfloat16() if value.is_floating_point() else value for key, value in tiny.items()}
    torch.save({"state_dict": halved}, tmp_path / "half.pth")
    loaded = upernet.load_model(tiny_recipe(tmp_path / "tiny.yaml"), checkpoint=tmp_path / "half.pth")
    assert {value.dtype for value in loaded.parameters()} == {torch.float32}
    weight = loaded.backbone.state_dict()["patch_embed.conv1.weight"]
    assert torch.equal(weight, tiny["backbone.patch_embed.conv1.weight"].bfloat16().float())


@pytest.mark.slow
def test_which_tensors_may_be_missing_or_more(tmp_path: Path) -> None:
    recipe, tiny = tiny_recipe(tmp_path / "tiny.yaml"), official_state("tiny_t")
    lean = {key: value for key, value in tiny.items() if not key.startswith("auxiliary") and "num_batches" not in key}
    torch.save({"state_dict": lean}, tmp_path / "lean.pth")
    loaded = upernet.load_model(recipe, checkpoint=tmp_path / "lean.pth")
    assert loaded.auxiliary is None and AUXILIARY not in loaded.train()(torch.zeros(2, 3, 64, 64))
    for state, problem in (
        (
            {k: v for k, v in lean.items() if "lateral_convs.1.conv" not in k},
            "fpn.lateral.1.0.weight: file - -> model 24x",
        ),
        (lean | {"auxiliary_head.conv_seg.bias": torch.zeros(11)}, "auxiliary.conv.0.weight: file - -> model 12x"),
        (lean | {"neck.conv.weight": torch.zeros(3)}, "neck.conv.weight: file 3 -> model -"),
    ):
        torch.save({"state_dict": state}, tmp_path / "other.pth")
        with pytest.raises(UpernetError, match=re.escape(problem)):
            upernet.load_model(recipe, checkpoint=tmp_path / "other.pth")


def test_a_model_does_not_change_with_its_file(tmp_path: Path) -> None:
    path = tmp_path / "tiny.pth"
    torch.save(official_state("tiny_t"), path)
    model = upernet.load_model(tiny_recipe(tmp_path / "tiny.yaml"), checkpoint=path)
    before = model.state_dict()["fusion.conv.0.weight"].clone()
    with open(path, "r+b") as file:
        file.write(bytes(path.stat().st_size))
    assert torch.equal(model.state_dict()["fusion.conv.0.weight"], before)


@pytest.mark.slow
def test_another_variant_is_named_and_the_table_is_short(file: Path, tmp_path: Path) -> None:
    small = write_recipe(tmp_path / "s.yaml", backbone="internimage_s")
    with pytest.raises(UpernetError, match="looks like internimage_t, this is internimage_s") as caught:
        upernet.load_model(small, checkpoint=file)
    lines = str(caught.value).splitlines()
    assert lines[1] == "  backbone.patch_embed.conv1.weight: file 32x3x3x3 -> model 40x3x3x3"
    assert len(lines) == 12 and lines[-1].startswith("  and ") and lines[-1].endswith(" more")


@pytest.mark.slow
def test_another_taxonomy_is_named(file: Path, tmp_path: Path) -> None:
    other = write_recipe(tmp_path / "camvid.yaml", "camvid", backbone="internimage_t")
    with pytest.raises(UpernetError, match="another taxonomy: only classifiers differ") as caught:
        upernet.load_model(other, checkpoint=file)
    assert "heads.object.classifier.weight: file 150x512x1x1 -> model 11x512x1x1" in str(caught.value)

    names = [f"thing {label}" for label in range(11)]
    torch.save({"state_dict": official_state("tiny_t"), "meta": {"CLASSES": names}}, tmp_path / "things.pth")
    with pytest.raises(UpernetError, match="of another taxonomy than tiny: its classes are thing 0, thing 1, thing 2"):
        upernet.load_model(tiny_recipe(tmp_path / "tiny.yaml"), checkpoint=tmp_path / "things.pth")


def test_unknown_networks_need_a_recipe(tmp_path: Path) -> None:
    torch.save(official_state("tiny_t"), tmp_path / "tiny.pth")
    with pytest.raises(UpernetError, match="give a recipe that describes it"):
        load_checkpoint(tmp_path / "tiny.pth")


@pytest.mark.slow
def test_imagenet_backbones_start_training(tmp_path: Path) -> None:
    tiny = official_state("tiny_t")
    backbone = {key.removeprefix("backbone."): value for key, value in tiny.items() if key.startswith("backbone.")}
    classifier = {
        "conv_head.0.weight": torch.zeros(192, 128, 1, 1),
        "conv_head.1.0.running_var": torch.ones(192),
        "head.weight": torch.zeros(1000, 192),
        "head.bias": torch.zeros(1000),
    }
    path = tmp_path / "internimage_t_1k_224.pth"
    torch.save({"model": backbone | classifier}, path)

    spec = load_recipe(tiny_recipe(tmp_path / "tiny.yaml")).model
    own = build_backbone("internimage_t", options=spec.backbone_options)
    load_backbone_weights(own, "internimage_t", str(path))
    assert all(torch.equal(value, backbone[key]) for key, value in own.state_dict().items())

    model = UPerNet(spec, load_taxonomy("everyday"))
    kept = initialize_model(model, path)
    assert kept and not any(key.startswith("backbone.") for key in kept)
    assert all(torch.equal(value, backbone[key]) for key, value in model.backbone.state_dict().items())

    with pytest.raises(UpernetError, match="a backbone alone"):
        load_checkpoint(path)
    with pytest.raises(UpernetError, match=r"patch_embed\.conv1\.weight: file 8x3x3x3 -> model 32x3x3x3"):
        load_backbone_weights(build_backbone("internimage_t"), "internimage_t", str(path))


@pytest.mark.slow
def test_a_segmentation_file_is_a_source_of_backbone_weights(file: Path, state: dict[str, Tensor]) -> None:
    backbone = build_backbone("internimage_t")
    load_backbone_weights(backbone, "internimage_t", str(file))
    assert all(torch.equal(value, state[f"backbone.{key}"]) for key, value in backbone.state_dict().items())
    with pytest.raises(UpernetError, match=r"backbone internimage_s \(the file looks like internimage_t\)"):
        load_backbone_weights(build_backbone("internimage_s"), "internimage_s", str(file))


@pytest.mark.slow
def test_fine_tuning_to_another_taxonomy_keeps_all_but_the_classifiers(file: Path, model: UPerNet) -> None:
    other = UPerNet(model.spec, load_taxonomy("camvid"))
    kept = initialize_model(other, file)
    classifiers = ["heads.object.classifier", "auxiliary.classifier"]
    assert sorted(kept) == sorted(f"{name}.{kind}" for name in classifiers for kind in ("weight", "bias"))
    with pytest.raises(
        UpernetError, match=r"the backbone \(the file looks like internimage_t, this is internimage_s\)"
    ):
        initialize_model(UPerNet(ModelSpec(backbone="internimage_s", head_channels=0), load_taxonomy("camvid")), file)


@pytest.mark.slow
def test_published_weights_by_name(file: Path, model: UPerNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "upernet_internimage_t_512_160k_ade20k"
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    (folder / f"{name}.pth").hardlink_to(file)  # put there by hand
    monkeypatch.setenv("UPERNET_HOME", str(tmp_path))
    monkeypatch.setenv("UPERNET_OFFLINE", "1")
    expected = model.state_dict()
    loaded = upernet.load_model(name)
    assert all(torch.equal(value, expected[key]) for key, value in loaded.state_dict().items())
    parser = upernet.load(name)
    assert parser.card.name == name and parser.short_side == 512
    (folder / f"{name}.pth").unlink()
    with pytest.raises(UpernetError, match="UPERNET_OFFLINE"):
        upernet.load("upernet_internimage_s_512_160k_ade20k")
    with pytest.raises(UpernetError, match="UPERNET_OFFLINE"):
        load_backbone_weights(model.backbone, "internimage_t", "zoo")


@pytest.mark.slow
def test_a_published_file_without_a_name_gets_its_recipe(file: Path, model: UPerNet, tmp_path: Path) -> None:
    parser = upernet.load(file)
    assert parser.card.name == "upernet_internimage_t_512_160k_ade20k" and parser.short_side == 512
    assert parser.model.spec.drop_path == 0.2  # for training; the file does not say
