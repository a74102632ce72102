"""Tests of upernet.checkpoints.formats.mmsegmentation: UPerNet with ResNetV1c, Swin and ConvNeXt.

mmsegmentation is not needed: its names are written out here, stage by stage, as its modules are nested.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from upernet.checkpoints import load_backbone_weights, load_checkpoint
from upernet.checkpoints.formats import NamedWeights, mmsegmentation
from upernet.checkpoints.identify import taxonomy_of
from upernet.checkpoints.reading import Weights
from upernet.errors import UpernetError
from upernet.models import UPerNet
from upernet.models.backbones import build_backbone
from upernet.recipe import ModelSpec
from upernet.taxonomy import Taxonomy, load_taxonomy

NAMES = ("road", "sidewalk", "building", "wall ", "fence")
NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
Pairs = Iterator[tuple[str, str]]


def renamed(theirs: str, ours: str, kinds: tuple[str, ...] = ("weight", "bias")) -> Pairs:
    yield from ((f"{theirs}.{kind}", f"{ours}.{kind}") for kind in kinds)


def conv_module(theirs: str, ours: str) -> Pairs:
    yield from renamed(f"{theirs}.conv", f"{ours}.0", ("weight",))
    yield from renamed(f"{theirs}.bn", f"{ours}.1", NORM)


def heads() -> Pairs:
    for index in range(4):
        yield from conv_module(f"decode_head.psp_modules.{index}.1", f"ppm.pooled.{index}")
    for index in range(3):
        yield from conv_module(f"decode_head.lateral_convs.{index}", f"fpn.lateral.{index}")
        yield from conv_module(f"decode_head.fpn_convs.{index}", f"fpn.output.{index}")
    yield from conv_module("decode_head.bottleneck", "ppm.bottleneck")
    yield from conv_module("decode_head.fpn_bottleneck", "fusion.conv")
    yield from renamed("decode_head.conv_seg", "heads.object.classifier")
    yield from conv_module("auxiliary_head.convs.0", "auxiliary.conv")
    yield from renamed("auxiliary_head.conv_seg", "auxiliary.classifier")


def resnet50() -> Pairs:
    for index in (0, 3, 6):
        yield from renamed(f"backbone.stem.{index}", f"backbone.conv1.{index}", ("weight",))
    for index, ours in ((1, "conv1.1"), (4, "conv1.4"), (7, "bn1")):
        yield from renamed(f"backbone.stem.{index}", f"backbone.{ours}", NORM)
    for stage, depth in enumerate((3, 4, 6, 3), start=1):
        for block in range(depth):
            prefix = f"backbone.layer{stage}.{block}"
            for index in (1, 2, 3):
                yield from renamed(f"{prefix}.conv{index}", f"{prefix}.conv{index}", ("weight",))
                yield from renamed(f"{prefix}.bn{index}", f"{prefix}.bn{index}", NORM)
        shortcut = f"backbone.layer{stage}.0.downsample"
        yield from renamed(f"{shortcut}.0", f"{shortcut}.0", ("weight",))
        yield from renamed(f"{shortcut}.1", f"{shortcut}.1", NORM)


def swin_tiny() -> Pairs:
    yield from renamed("backbone.patch_embed.projection", "backbone.body.patch_embed.proj")
    yield from renamed("backbone.patch_embed.norm", "backbone.body.patch_embed.norm")
    for stage, depth in enumerate((2, 2, 6, 2)):
        for block in range(depth):
            theirs, ours = f"backbone.stages.{stage}.blocks.{block}", f"backbone.body.layers_{stage}.blocks.{block}"
            yield from renamed(f"{theirs}.norm1", f"{ours}.norm1")
            table = "relative_position_bias_table"
            yield f"{theirs}.attn.w_msa.{table}", f"{ours}.attn.{table}"
            yield from renamed(f"{theirs}.attn.w_msa.qkv", f"{ours}.attn.qkv")
            yield from renamed(f"{theirs}.attn.w_msa.proj", f"{ours}.attn.proj")
            yield from renamed(f"{theirs}.norm2", f"{ours}.norm2")
            yield from renamed(f"{theirs}.ffn.layers.0.0", f"{ours}.mlp.fc1")
            yield from renamed(f"{theirs}.ffn.layers.1", f"{ours}.mlp.fc2")
        if stage < 3:
            theirs, ours = f"backbone.stages.{stage}.downsample", f"backbone.body.layers_{stage + 1}.downsample"
            yield from renamed(f"{theirs}.norm", f"{ours}.norm")
            yield from renamed(f"{theirs}.reduction", f"{ours}.reduction", ("weight",))
        yield from renamed(f"backbone.norm{stage}", f"backbone.norms.{stage}")


def convnext_tiny() -> Pairs:
    for stage, depth in enumerate((3, 3, 9, 3)):
        for index in (0, 1):
            ours = f"stages_{stage}.downsample.{index}" if stage else f"stem_{index}"
            yield from renamed(f"backbone.downsample_layers.{stage}.{index}", f"backbone.body.{ours}")
        for block in range(depth):
            theirs, ours = f"backbone.stages.{stage}.{block}", f"backbone.body.stages_{stage}.blocks.{block}"
            yield f"{theirs}.gamma", f"{ours}.gamma"
            yield from renamed(f"{theirs}.depthwise_conv", f"{ours}.conv_dw")
            yield from renamed(f"{theirs}.norm", f"{ours}.norm")
            yield from renamed(f"{theirs}.pointwise_conv1", f"{ours}.mlp.fc1")
            yield from renamed(f"{theirs}.pointwise_conv2", f"{ours}.mlp.fc2")
        yield from renamed(f"backbone.norm{stage}", f"backbone.norms.{stage}")


def unfolded(value: Tensor) -> Tensor:
    """Reorder Swin's merged channels from timm's order to that of `nn.Unfold`, by unfolding the channel numbers."""
    width = value.shape[-1] // 4
    # A 2 x 2 map whose pixel (row, column) holds timm's number of each channel there.
    numbers = torch.empty(1, width, 2, 2)
    for row in (0, 1):
        for column in (0, 1):
            numbers[0, :, row, column] = torch.arange(width) + (2 * column + row) * width
    return value[..., nn.Unfold(2, stride=2)(numbers).long().flatten()]


def as_mmsegmentation(model: UPerNet, backbone: Callable[[], Pairs]) -> dict[str, Tensor]:
    own = model.state_dict()
    state = {theirs: own[ours] for theirs, ours in [*backbone(), *heads()]}
    assert len(state) == len(own)
    for key, value in list(state.items()):
        if ".downsample.norm." in key or ".downsample.reduction." in key:
            state[key] = unfolded(value)
        if key.endswith("relative_position_bias_table"):
            state[key.replace("bias_table", "index")] = torch.zeros(49, 49, dtype=torch.long)
    return state


BACKBONES = {
    "resnet50c": resnet50,
    "swin_tiny_patch4_window7_224": swin_tiny,
    "convnext_tiny": convnext_tiny,
}


@pytest.fixture(scope="module", params=BACKBONES)
def model(request: pytest.FixtureRequest) -> UPerNet:
    torch.manual_seed(0)
    classes = {"levels": {"object": {"classes": [name.strip() for name in NAMES]}}}
    spec = ModelSpec(
        backbone=request.param,
        feature_norms=request.param != "resnet50c",
        head_channels=0,
        decoder_channels=16,
        auxiliary_channels=8,
    )
    model = UPerNet(spec, Taxonomy.from_dict(classes)).eval()
    with torch.no_grad():
        for value in model.state_dict().values():
            if value.is_floating_point() and value.ndim == 1:
                value.uniform_(0.5, 1.5)
    return model


@pytest.mark.slow
def test_files_of_mmsegmentation_are_recognized_and_loaded(model: UPerNet, tmp_path: Path) -> None:
    state = as_mmsegmentation(model, BACKBONES[model.spec.backbone])
    meta = {"CLASSES": NAMES, "PALETTE": [[0, 0, 0]] * 5, "mmseg_version": "0.30.0", "config": "model = dict()"}
    path = tmp_path / "upernet.pth"
    torch.save({"meta": meta, "state_dict": state, "optimizer": {"param_groups": []}}, path)
    loaded, card = load_checkpoint(path)
    assert loaded.spec == model.spec and card.origin == "mmsegmentation"
    assert loaded.taxonomy.levels["object"].names == tuple(name.strip() for name in NAMES)
    images = torch.randn(1, 3, 66, 75)
    with torch.inference_mode():
        assert torch.equal(loaded(images)["object"], model(images)["object"])
    path.unlink()


def test_classes_of_newer_files_and_of_none(tmp_path: Path) -> None:
    """The `meta` of a file is read without its network."""
    path = tmp_path / "file.pth"
    assert mmsegmentation.class_names(Weights(path, {}, {"dataset_meta": {"classes": NAMES}})) == NAMES
    assert mmsegmentation.class_names(Weights(path, {}, {})) is None


def test_merged_patches_are_those_of_unfold() -> None:
    """Compare mmsegmentation's patch merging, written out, with timm's on the translated tensors."""
    torch.manual_seed(0)
    width = 6
    norm, reduction = nn.LayerNorm(4 * width), nn.Linear(4 * width, 2 * width, bias=False)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = torch.randn(2, width, 9, 7)
    columns = F.unfold(F.pad(x, (0, 1, 0, 1)), 2, stride=2).transpose(1, 2)
    expected = reduction(norm(columns)).view(2, 5, 4, 2 * width)

    theirs = {f"norm.{key}": value for key, value in norm.state_dict().items()} | {"reduction.weight": reduction.weight}
    state = {f"backbone.stages.0.downsample.{key}": value.detach() for key, value in theirs.items()}
    marker = {"backbone.patch_embed.projection.weight": torch.zeros(width, 3, 4, 4)}
    assert mmsegmentation.recognizes(state | marker)
    own = mmsegmentation.translate(state | marker)
    from timm.models.swin_transformer import PatchMerging

    merging = PatchMerging(width)
    prefix = "backbone.body.layers_1.downsample."
    merging.load_state_dict({key.removeprefix(prefix): value for key, value in own.items() if key.startswith(prefix)})
    torch.testing.assert_close(merging(x.permute(0, 2, 3, 1)), expected)


@pytest.mark.slow
def test_other_window_sizes_are_refused(tmp_path: Path) -> None:
    """Tables of relative positions are neither cut nor stretched."""
    name = "swin_tiny_patch4_window7_224"
    backbone = build_backbone(name)
    state = {f"backbone.{key}": value.half() for key, value in backbone.state_dict().items()}
    tables = {key: torch.zeros(23**2, value.shape[1]) for key, value in state.items() if "bias_table" in key}
    torch.save(state | tables, tmp_path / "swin.pth")
    with pytest.raises(UpernetError, match="relative_position_bias_table: file 529x3 -> model 169x3"):
        load_backbone_weights(backbone, name, str(tmp_path / "swin.pth"))


def test_other_decode_heads_are_refused(tmp_path: Path) -> None:
    layers = {"backbone.layer1.0.conv3.weight": torch.zeros(256, 64, 1, 1)}
    head = {
        "decode_head.convs.0.conv.weight": torch.zeros(4, 4, 3, 3),
        "decode_head.conv_seg.weight": torch.zeros(150, 4, 1, 1),
    }
    torch.save({"state_dict": layers | head}, tmp_path / "fcn.pth")
    with pytest.raises(UpernetError, match="whose decode head is not UPerNet's"):
        load_checkpoint(tmp_path / "fcn.pth")


def test_150_classes_are_those_of_ade20k_unless_the_file_says_otherwise() -> None:
    ade20k = load_taxonomy("ade20k150")
    own_words = ("wall", "building", "sky", *(f"thing {label}" for label in range(3, 150)))
    close = (*ade20k.levels["object"].names[:140], *(f"thing {label}" for label in range(140, 150)))
    for names, expected in (((), ade20k.name), (close, ade20k.name), (own_words, "file")):
        file = NamedWeights(Path("file.pth"), "mmsegmentation", {}, {}, names)
        assert taxonomy_of(file, 150).name == expected
