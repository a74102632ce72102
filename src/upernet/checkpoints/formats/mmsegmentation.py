"""Files of mmsegmentation, and of what is built on it: InternImage's, its ImageNet backbones included.

Backbones: InternImage, ResNetV1c and ResNet (bottlenecks), Swin, ConvNeXt (of mmclassification / mmpretrain).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from upernet.checkpoints.architecture import BACKBONES
from upernet.checkpoints.formats.rename import DECODER, Rule, rename

_SWIN_BLOCK = r"backbone\.stages\.(\d)\.blocks\.(\d+)\."
_CONVNEXT_BLOCK = r"backbone\.stages\.(\d)\.(\d+)\."
RULES: list[Rule] = [
    *DECODER,
    (r"backbone\.norm(\d)\.", r"backbone.norms.\1."),
    # ResNetV1c: three 3x3 convolutions, each with its norm
    (r"backbone\.stem\.7\.", "backbone.bn1."),
    (r"backbone\.stem\.", "backbone.conv1."),
    (r"backbone\.patch_embed\.projection\.", "backbone.body.patch_embed.proj."),
    (r"backbone\.patch_embed\.norm\.", "backbone.body.patch_embed.norm."),
    (_SWIN_BLOCK + r"attn\.w_msa\.", r"backbone.body.layers_\1.blocks.\2.attn."),
    (_SWIN_BLOCK + r"ffn\.layers\.0\.0\.", r"backbone.body.layers_\1.blocks.\2.mlp.fc1."),
    (_SWIN_BLOCK + r"ffn\.layers\.1\.", r"backbone.body.layers_\1.blocks.\2.mlp.fc2."),
    (_SWIN_BLOCK, r"backbone.body.layers_\1.blocks.\2."),
    # the way down is the end of a stage here, and the beginning of the next one in timm
    (r"backbone\.stages\.(\d)\.downsample\.", lambda m: f"backbone.body.layers_{int(m[1]) + 1}.downsample."),
    (r"backbone\.downsample_layers\.0\.(\d)\.", r"backbone.body.stem_\1."),
    (r"backbone\.downsample_layers\.(\d)\.", r"backbone.body.stages_\1.downsample."),
    (_CONVNEXT_BLOCK + r"depthwise_conv\.", r"backbone.body.stages_\1.blocks.\2.conv_dw."),
    (_CONVNEXT_BLOCK + r"pointwise_conv(\d)\.", r"backbone.body.stages_\1.blocks.\2.mlp.fc\3."),
    (_CONVNEXT_BLOCK, r"backbone.body.stages_\1.blocks.\2."),
]
IGNORED = (
    r"^ema_"  # of mmcv's moving average, which has swapped its average with the network's own tensors
    r"|\.relative_position_index$|\.attn_mask$|^data_preprocessor\."  # computed
    r"|^(backbone\.)?(head|fc|conv_head|fc_norm|clip_projector|dcnv3_head_x[34])\."  # ImageNet classifiers
)


def translate(tensors: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """`tensors` under own names; None if they are no UPerNet of mmsegmentation and no backbone of one."""
    if not any(key.startswith("backbone.") for key in tensors):
        tensors = {f"backbone.{key}": value for key, value in tensors.items()}
    own = rename(tensors, RULES, IGNORED)
    if "heads.object.classifier.weight" not in own and not _is_backbone(own):
        return None
    for key, value in own.items():
        if re.search(r"layers_\d\.downsample\.(norm|reduction)\.", key) and value.shape[-1] % 4 == 0:
            own[key] = _positions_first(value)
    return own


def class_names(metadata: Mapping[str, Any]) -> object:
    """What `meta` of a file calls its classes; None: nothing."""
    described = metadata.get("dataset_meta")  # since mmsegmentation 1.0
    return metadata.get("CLASSES") or (described.get("classes") if isinstance(described, dict) else None)


def _is_backbone(own: Mapping[str, Tensor]) -> bool:
    return not BACKBONES.isdisjoint(own) and all(key.startswith("backbone.") for key in own)


def _positions_first(value: Tensor) -> Tensor:
    """Channels of Swin's merged 2x2 patches, ... x (C, row, column) -> ... x (column, row, C) as timm has them."""
    split = value.unflatten(-1, (-1, 2, 2))
    return split.movedim(-3, -1).transpose(-3, -2).flatten(-3)
