"""Tests of upernet.checkpoints.formats.transformers, compared with UperNetForSemanticSegmentation."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import upernet
from upernet.checkpoints import load_checkpoint
from upernet.checkpoints.convert import convert_to_transformers
from upernet.models.timm_backbones import PaddedSwinBlock

transformers = pytest.importorskip("transformers", reason="needs transformers, the peer to compare with")
STAGES = ["stage1", "stage2", "stage3", "stage4"]
TINY = {"hidden_sizes": [96, 192, 384, 768], "depths": [3, 3, 9, 3]}


@pytest.fixture(scope="module", params=["swin", "convnext"])
def peer(request: pytest.FixtureRequest) -> Any:
    torch.manual_seed(0)
    backbone = {
        "swin": transformers.SwinConfig(
            embed_dim=96, depths=[2, 2, 6, 2], num_heads=[3, 6, 12, 24], out_features=STAGES
        ),
        "convnext": transformers.ConvNextConfig(**TINY, out_features=STAGES),
    }[request.param]
    config = transformers.UperNetConfig(
        backbone_config=backbone, hidden_size=32, auxiliary_in_channels=384, auxiliary_channels=16, num_labels=7
    )
    model = transformers.UperNetForSemanticSegmentation(config).eval()
    with torch.no_grad():  # values as after training: everything has a say
        for name, value in model.named_parameters():
            if value.ndim == 1 or "relative_position" in name or "classifier" in name:
                value.normal_(mean=float("norm" in name and "weight" in name), std=0.3)
        for name, value in model.named_buffers():
            if "running" in name:
                value.uniform_(0.5, 1.5)
    return model


@pytest.fixture(scope="module")
def folder(peer: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("hf")
    peer.save_pretrained(path)
    yield path
    shutil.rmtree(path)  # 110 MB


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return float((actual - expected).abs().max() / expected.std())


# transformers changes the windows of maps smaller than one: these are larger at every stage
@pytest.mark.slow
@pytest.mark.parametrize("size", [(256, 288), (233, 259)], ids=["even", "odd"])
def test_logits_agree(peer: Any, folder: Path, size: tuple[int, int]) -> None:
    model, card = load_checkpoint(folder / "model.safetensors")
    assert card.origin == "transformers"
    torch.manual_seed(1)
    images = torch.randn(1, 3, *size)
    with torch.inference_mode():
        logits = model(images)["object"]
        whole = F.interpolate(logits, size=size, mode="bilinear", align_corners=False)
        assert relative_error(whole, peer(images).logits) < 1e-4
        assert model.auxiliary is not None
        auxiliary = model.auxiliary(model.backbone(images)[2])
        expected = peer.auxiliary_head(peer.backbone.forward_with_filtered_kwargs(images).feature_maps)
        assert relative_error(auxiliary, expected) < 1e-4


@pytest.mark.slow
def test_the_state_dict_in_memory_is_read_too(peer: Any, folder: Path, tmp_path: Path) -> None:
    torch.save(peer.state_dict(), tmp_path / "memory.pth")
    model, _ = load_checkpoint(tmp_path / "memory.pth")
    expected, _ = load_checkpoint(folder / "model.safetensors")
    values = expected.state_dict()
    assert all(torch.equal(value, values[key]) for key, value in model.state_dict().items())
    (tmp_path / "memory.pth").unlink()


@pytest.mark.slow
def test_class_names_come_from_the_config_beside_the_file(folder: Path, tmp_path: Path) -> None:
    assert load_checkpoint(folder / "model.safetensors")[0].taxonomy.levels["object"].names[:2] == (
        "class 0",
        "class 1",
    )
    config = json.loads((folder / "config.json").read_text())
    names = ("wall", "sky", "road", "car", "person", "tree", "dog")
    (tmp_path / "config.json").write_text(json.dumps(config | {"id2label": dict(enumerate(names))}))
    (tmp_path / "model.safetensors").hardlink_to(folder / "model.safetensors")
    parser = upernet.load(tmp_path)
    assert parser.model.taxonomy.levels["object"].names == names


@pytest.mark.slow
def test_there_and_back(peer: Any, folder: Path, tmp_path: Path) -> None:
    """Transformers -> upernet -> transformers: the same file for transformers, and the same network for us."""
    names = ["wall", "sky", "road", "car", "person", "tree", "dog"]
    config = json.loads((folder / "config.json").read_text())
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "config.json").write_text(json.dumps(config | {"id2label": dict(enumerate(names))}))
    (tmp_path / "in" / "model.safetensors").hardlink_to(folder / "model.safetensors")
    model, card = load_checkpoint(tmp_path / "in" / "model.safetensors")
    card = card.model_copy(update={"thresholds": {"object": 0.625}, "research_only": True, "name": "mine"})
    native = tmp_path / "native.safetensors"
    upernet.save_checkpoint(native, model, card, auxiliary=True)

    out = tmp_path / "out"
    files = convert_to_transformers(native, out).files
    assert sorted(path.name for path in out.iterdir()) == sorted(path.name for path in files)
    theirs, report = transformers.UperNetForSemanticSegmentation.from_pretrained(out, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
    expected = {key: value for key, value in peer.state_dict().items() if "swin.layernorm" not in key}
    actual = theirs.state_dict()
    assert all(torch.equal(value, actual[key]) for key, value in expected.items())
    assert list(theirs.config.id2label.values()) == names
    torch.manual_seed(2)
    images = torch.randn(1, 3, 224, 256)
    with torch.inference_mode():
        assert relative_error(theirs.eval()(images).logits, peer(images).logits) < 1e-4

    processor = transformers.AutoImageProcessor.from_pretrained(out)
    photo = torch.randint(0, 256, (3, 40, 50), dtype=torch.uint8)
    pixels = processor(photo, return_tensors="pt").pixel_values
    torch.testing.assert_close(pixels[0], model.preprocess(photo), atol=1e-5, rtol=0)

    again = upernet.UPerNet.from_pretrained(out)
    values = model.state_dict()
    assert all(torch.equal(value, values[key]) for key, value in again.state_dict().items())
    assert again.taxonomy.levels["object"].names == tuple(names)
    assert again.card.thresholds == {"object": 0.625} and again.card.research_only and again.card.name == "mine"


def test_the_order_of_padding_and_shifting_matters() -> None:
    """Why timm's Swin block is not used as it is."""
    block = PaddedSwinBlock(
        8, (10, 10), num_heads=2, window_size=7, shift_size=3, always_partition=True, dynamic_mask=True
    )
    x = torch.randn(1, 10, 10, 8)
    ours, timms = block._attn(x), super(PaddedSwinBlock, block)._attn(x)
    assert ours.shape == timms.shape and not torch.allclose(ours, timms, atol=1e-3)
    whole = torch.randn(1, 14, 14, 8)
    torch.testing.assert_close(block._attn(whole), super(PaddedSwinBlock, block)._attn(whole))
