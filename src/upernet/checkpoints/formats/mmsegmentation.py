"""Checkpoints of mmsegmentation and of projects built on it, such as InternImage; also their ImageNet backbones.

Backbones: InternImage, FlashInternImage, ResNetV1c and ResNet (bottlenecks), Swin, ConvNeXt (of mmclassification /
mmpretrain).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor

from upernet.checkpoints.architecture import BACKBONES
from upernet.checkpoints.formats.rename import DECODER, Rule, reading, rename
from upernet.checkpoints.reading import Weights
from upernet.models.flash_internimage import SAMPLING_MULTIPLE

NAME = "mmsegmentation"
_SWIN_BLOCK = r"backbone\.stages\.(\d)\.blocks\.(\d+)\."
_CONVNEXT_BLOCK = r"backbone\.stages\.(\d)\.(\d+)\."
RULES: list[Rule] = [
    *reading(DECODER),
    (r"backbone\.norm(\d)\.", r"backbone.norms.\1."),
    (r"(backbone\.levels\.\d\.blocks\.\d+\.)layer_scale(\d)$", r"\1gamma\2"),  # InternImage's repositories on the Hub
    # ResNetV1c: three 3x3 convolutions, each with its norm
    (r"backbone\.stem\.7\.", "backbone.bn1."),
    (r"backbone\.stem\.", "backbone.conv1."),
    (r"backbone\.patch_embed\.projection\.", "backbone.body.patch_embed.proj."),
    (r"backbone\.patch_embed\.norm\.", "backbone.body.patch_embed.norm."),
    (_SWIN_BLOCK + r"attn\.w_msa\.", r"backbone.body.layers_\1.blocks.\2.attn."),
    (_SWIN_BLOCK + r"ffn\.layers\.0\.0\.", r"backbone.body.layers_\1.blocks.\2.mlp.fc1."),
    (_SWIN_BLOCK + r"ffn\.layers\.1\.", r"backbone.body.layers_\1.blocks.\2.mlp.fc2."),
    (_SWIN_BLOCK, r"backbone.body.layers_\1.blocks.\2."),
    # downsampling ends a stage here; in timm it begins the next one
    (r"backbone\.stages\.(\d)\.downsample\.", lambda m: f"backbone.body.layers_{int(m[1]) + 1}.downsample."),
    (r"backbone\.downsample_layers\.0\.(\d)\.", r"backbone.body.stem_\1."),
    (r"backbone\.downsample_layers\.(\d)\.", r"backbone.body.stages_\1.downsample."),
    (_CONVNEXT_BLOCK + r"depthwise_conv\.", r"backbone.body.stages_\1.blocks.\2.conv_dw."),
    (_CONVNEXT_BLOCK + r"pointwise_conv(\d)\.", r"backbone.body.stages_\1.blocks.\2.mlp.fc\3."),
    (_CONVNEXT_BLOCK, r"backbone.body.stages_\1.blocks.\2."),
]
IGNORED = (
    r"^ema_"  # mmcv's moving average: on saving it swaps the average into the network's own tensors
    r"|\.relative_position_index$|\.attn_mask$|^data_preprocessor\."  # computed
    r"|^(backbone\.)?(head|fc|conv_head|fc_norm|clip_projector|dcnv3_head_x[34])\."  # ImageNet classifiers
)


def recognizes(tensors: Mapping[str, Tensor]) -> bool:
    """Return whether these are the tensors of a UPerNet of mmsegmentation, or of a backbone alone."""
    ours = _rename(tensors)
    backbone_alone = not BACKBONES.isdisjoint(ours) and all(key.startswith("backbone.") for key in ours)
    return "heads.object.classifier.weight" in ours or backbone_alone


def translate(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors under our names.

    The channels of Swin's patch merging are put into timm's order, and the layers that compute the offsets and masks of
    DCNv4 are padded with zeros, which some published files are not.
    """
    ours = _rename(tensors)
    for key, value in ours.items():
        if re.search(r"layers_\d\.downsample\.(norm|reduction)\.", key) and value.shape[-1] % 4 == 0:
            ours[key] = _to_timm_order(value)
        elif re.search(r"\.dcn\.offset_mask\.(weight|bias)$", key) and value.ndim:
            rows = -value.shape[0] % SAMPLING_MULTIPLE
            ours[key] = torch.cat([value, value.new_zeros(rows, *value.shape[1:])]) if rows else value
    return ours


def class_names(weights: Weights) -> object:
    """Return the class names in the `meta` of a file, or None."""
    dataset = weights.metadata.get("dataset_meta")  # since mmsegmentation 1.0
    newer = cast(dict[str, object], dataset).get("classes") if isinstance(dataset, dict) else None
    return weights.metadata.get("CLASSES") or newer


def _rename(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    if not any(key.startswith("backbone.") for key in tensors):  # a backbone alone
        tensors = {f"backbone.{key}": value for key, value in tensors.items()}
    return rename(tensors, RULES, IGNORED)


def _to_timm_order(value: Tensor) -> Tensor:
    """Reorder the channels of merged 2x2 patches: ... x (C, row, column) -> ... x (column, row, C)."""
    split = value.reshape(*value.shape[:-1], -1, 2, 2)
    return split.movedim(-3, -1).transpose(-3, -2).flatten(-3)
