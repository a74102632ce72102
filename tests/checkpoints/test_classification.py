"""Tests of upernet.create_classifier: InternImage for ImageNet, compared with a plain implementation."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.official_network import official_shapes, relative_error
from helpers.plain_internimage import Plain, PlainClassifier
from helpers.shared import needs_reference
from PIL import Image
from torch import Tensor
from torchvision import transforms

import upernet
from upernet.checkpoints import initialize_model, zoo_entry
from upernet.checkpoints.classification import HEADS
from upernet.errors import UpernetError
from upernet.models.classifier import InternImageClassifier
from upernet.models.internimage import VARIANTS
from upernet.models.protocol import IMAGENET

SMALL: dict[str, Any] = {"channels": 16, "depths": (1, 1, 2, 1), "groups": (1, 2, 4, 8)}
HUGE: dict[str, Any] = {**SMALL, "level2_post_norm_blocks": (1,)}
STYLES: dict[str, tuple[dict[str, Any], Plain]] = {
    "internimage_t": (SMALL, Plain(SMALL["depths"], SMALL["groups"])),
    "internimage_s": (SMALL, Plain(SMALL["depths"], SMALL["groups"], post_norm=True)),
    "internimage_l": (SMALL, Plain(SMALL["depths"], SMALL["groups"], offset_scale=2.0, post_norm=True)),
    "internimage_h": (HUGE, Plain(SMALL["depths"], SMALL["groups"], huge=True, normed_blocks=(1,))),
}
CLASSES = 7


def published_name(key: str) -> str:
    return key.removeprefix("backbone.")


def small(name: str, **settings: Any) -> InternImageClassifier:
    return upernet.create_classifier(name, options=STYLES[name][0], **settings)


def published(name: str, classes: int = CLASSES) -> dict[str, Tensor]:
    """Return a published state dict of a small network, with values that give every part a say."""
    generator = torch.Generator().manual_seed(0)
    tensors: dict[str, Tensor] = {}
    for key, value in small(name, classes=classes).state_dict().items():
        drawn = torch.randn(value.shape, generator=generator)
        if key.endswith("num_batches_tracked"):
            drawn = torch.tensor(5)
        elif key.endswith("running_var"):
            drawn = 0.5 + drawn.abs()
        elif value.ndim > 1:
            drawn = 1.5 * drawn / value[0].numel() ** 0.5
        elif "offset.bias" not in key:
            drawn = 0.3 * drawn + float(key.endswith("weight") or "gamma" in key)
        tensors[published_name(key)] = drawn
    return tensors


@pytest.fixture(params=STYLES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def file(name: str, tmp_path: Path) -> Path:
    torch.save({"model": published(name)}, tmp_path / "published.pth")
    return tmp_path / "published.pth"


@pytest.mark.slow
def test_the_logits_are_those_of_a_plain_implementation(name: str, file: Path) -> None:
    classifier = small(name, pretrained=file).eval()
    tensors = {key: value.double() for key, value in published(name).items()}
    size = (64, 96) if name == "internimage_h" else (61, 99)
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        logits, expected = classifier(images), PlainClassifier(tensors, STYLES[name][1])(images.double())
    assert logits.shape == (2, CLASSES) and relative_error(logits, expected) < 1e-4
    assert float(expected.std(0).mean()) > 0.01, "the logits do not depend on the image"


@pytest.mark.slow
@needs_reference
@pytest.mark.parametrize("variant", [name.removeprefix("internimage_") for name in VARIANTS])
def test_names_and_shapes_are_the_published_ones(variant: str) -> None:
    with torch.device("meta"):
        classifier = upernet.create_classifier(f"internimage_{variant}")
    ours = {published_name(key): list(value.shape) for key, value in classifier.state_dict().items()}
    backbone = {
        key.removeprefix("backbone."): shape
        for key, (shape, _) in official_shapes(variant).items()
        if key.startswith("backbone.")
    }
    assert {key: shape for key, shape in ours.items() if not HEADS.match(key)} == backbone
    heads = {key: shape for key, shape in ours.items() if HEADS.match(key) and shape}
    c4, c5 = 4 * VARIANTS[f"internimage_{variant}"]["channels"], 8 * VARIANTS[f"internimage_{variant}"]["channels"]
    if variant != "h":
        width = c5 * 3 // 2
        norm = {f"conv_head.1.0.{part}": [width] for part in ("weight", "bias", "running_mean", "running_var")}
        head = {"head.weight": [1000, width], "head.bias": [1000]}
        assert heads == {"conv_head.0.weight": [width, c5, 1, 1], **norm, **head}
        return
    expected = {
        "dcnv3_head_x4.0.weight": [4096, c5, 1, 1],
        "dcnv3_head_x4.0.bias": [4096],
        "dcnv3_head_x3.weight": [1024, c4, 1, 1],
        "dcnv3_head_x3.bias": [1024],
        "clip_projector.cross_dcn.proj.weight": [768, 1024],
        "clip_projector.cross_dcn.proj.bias": [768],
        "fc_norm.0.weight": [768],
        "fc_norm.0.bias": [768],
        "head.weight": [1000, 768],
        "head.bias": [1000],
    }
    for part in "qkv":
        expected[f"clip_projector.norm1_{part}.0.weight"] = expected[f"clip_projector.norm1_{part}.0.bias"] = [1024]
        expected[f"clip_projector.cross_dcn.{part}.weight"] = [1024, 1024]
        expected[f"clip_projector.cross_dcn.{part}_bias"] = [1024]
    assert heads == expected


def test_files_of_the_hub_s_repositories_have_other_names(tmp_path: Path) -> None:
    """There, all names begin with `model.`, and the learned factors are called layer_scale."""
    tensors = published("internimage_t")
    renamed = {f"model.{re.sub(r'gamma(?=[12]$)', 'layer_scale', key)}": value for key, value in tensors.items()}
    assert any("layer_scale" in key for key in renamed)
    torch.save(renamed, tmp_path / "hub.bin")
    loaded = small("internimage_t", pretrained=tmp_path / "hub.bin").state_dict()
    assert all(torch.equal(value, tensors[published_name(key)]) for key, value in loaded.items())


def test_names_of_the_classes(tmp_path: Path) -> None:
    assert small("internimage_t").classes[:2] == ("tench, Tinca tinca", "goldfish, Carassius auratus")
    assert len(small("internimage_t").classes) == 1000
    assert small("internimage_t", classes=["cat", "dog"]).classes == ("cat", "dog")
    assert small("internimage_t", classes=3).classes == ("class 0", "class 1", "class 2")
    torch.save(published("internimage_t", 21841), tmp_path / "22k.pth")
    assert small("internimage_t", pretrained=tmp_path / "22k.pth").classes[0] == "organism, being"


def test_other_classes_start_from_random_weights(tmp_path: Path) -> None:
    tensors = published("internimage_t")
    torch.save(tensors, tmp_path / "in.pth")
    loaded = small("internimage_t", pretrained=tmp_path / "in.pth", classes=["cat", "dog"])
    own = loaded.state_dict()
    assert own["head.weight"].shape[0] == 2 and torch.equal(own["conv_head.0.weight"], tensors["conv_head.0.weight"])
    same = small("internimage_t", pretrained=tmp_path / "in.pth", classes=[f"c{index}" for index in range(CLASSES)])
    assert torch.equal(same.head.weight, tensors["head.weight"]) and same.classes[0] == "c0"


def test_the_same_file_starts_a_segmentation_network(tmp_path: Path) -> None:
    tensors = published("internimage_t")
    torch.save({"model": tensors}, tmp_path / "in.pth")
    model = upernet.UPerNet("internimage_t", classes=2, backbone_options=SMALL, decoder_channels=8)
    initialize_model(model, tmp_path / "in.pth")
    key = "levels.3.blocks.0.dcn.offset.weight"
    assert torch.equal(model.backbone.state_dict()[key], tensors[key])


def test_gradients_reach_the_whole_head(name: str) -> None:
    classifier = small(name, classes=3).train()
    tensors = published(name, 3)
    classifier.load_state_dict({key: tensors[published_name(key)] for key in classifier.state_dict()})
    classifier.backbone.requires_grad_(False).eval()
    classifier(torch.randn(4, 3, 64, 64)).logsumexp(1).sum().backward()
    heads = {key: value.grad for key, value in classifier.named_parameters() if not key.startswith("backbone.")}
    assert len(heads) >= 5
    assert all(gradient is not None and bool(gradient.isfinite().all()) for gradient in heads.values())


@pytest.mark.parametrize("size", [(500, 333), (40, 71), (224, 224), (333, 500), (225, 224)])
def test_photos_are_prepared_as_published(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    photo = Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    classifier = small("internimage_t", classes=2)
    side = classifier.image_size
    steps = transforms.Compose(
        [
            transforms.Resize(side, transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(side),
            transforms.ToTensor(),
            transforms.Normalize(IMAGENET.mean, IMAGENET.std),
        ]
    )
    expected = steps(photo)
    prepared = classifier.transform(photo)
    assert prepared.shape == (3, side, side)
    torch.testing.assert_close(prepared, expected, atol=1e-5, rtol=0)
    assert classifier.transform(photo.convert("L")).shape == prepared.shape


def test_the_zoo_has_a_classifier_of_every_variant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"t": 224, "s": 224, "b": 224, "l": 384, "xl": 384, "h": 640}
    for variant, size in sizes.items():
        entry = zoo_entry(f"internimage_{variant}")
        assert entry is not None and entry.classifier is not None and entry.classifier.image_size == size
        other = entry.as_classifier()
        assert (other.file.endswith(f"_{size}.pth") and "to1k" in other.file) or variant in ("t", "s", "b")
        assert (other.sha256 == entry.sha256) == (other.url == entry.url)
    monkeypatch.setenv("UPERNET_HOME", str(tmp_path))
    monkeypatch.setenv("UPERNET_OFFLINE", "1")
    with pytest.raises(UpernetError, match=r"internimage_l_22kto1k_384\.pth"):
        upernet.create_classifier("internimage_l", pretrained=True)


def test_what_cannot_be_created(tmp_path: Path, checkpoint: Path) -> None:
    with pytest.raises(UpernetError, match="unknown classifier 'resnet18'"):
        upernet.create_classifier("resnet18")
    for classes in (0, [], "cat"):
        with pytest.raises(UpernetError, match="classes"):
            small("internimage_t", classes=classes)
    with pytest.raises(UpernetError, match="no such checkpoint file"):
        small("internimage_t", pretrained=tmp_path / "none.pth")
    with pytest.raises(UpernetError, match="no classifier of InternImage"):
        small("internimage_t", pretrained=checkpoint)
    tensors = published("internimage_t")
    torch.save({key: value for key, value in tensors.items() if not HEADS.match(key)}, tmp_path / "backbone.pth")
    with pytest.raises(UpernetError, match="no classifier of InternImage"):
        small("internimage_t", pretrained=tmp_path / "backbone.pth")
    torch.save(tensors, tmp_path / "in.pth")
    with pytest.raises(UpernetError, match="do not fit the classifier internimage_t"):
        upernet.create_classifier("internimage_t", pretrained=tmp_path / "in.pth")
    with pytest.raises(UpernetError, match="do not fit the classifier internimage_h"):
        small("internimage_h", pretrained=tmp_path / "in.pth")
    huge = small("internimage_h", classes=2).eval()
    with pytest.raises(UpernetError, match="multiples of 32"), torch.inference_mode():
        huge(torch.zeros(1, 3, 80, 64))
