"""Checkpoints of `UperNetForSemanticSegmentation` of Hugging Face transformers, with a Swin or ConvNeXt backbone."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

import torch
from torch import Tensor

from upernet.checkpoints.formats.rename import DECODER, Rule, rename
from upernet.checkpoints.reading import Weights
from upernet.errors import UpernetError
from upernet.files import read_limited

MAX_CONFIG_BYTES = 2**24

NAME = "transformers"
_SWIN = r"backbone\.(?:swin\.)?"
_SWIN_BLOCK = _SWIN + r"encoder\.layers\.(\d)\.blocks\.(\d+)\."
_CONVNEXT_BLOCK = r"backbone\.encoder\.stages\.(\d)\.layers\.(\d+)\."
_TIMM_SWIN = r"backbone.body.layers_\1.blocks.\2."
_TIMM_CONVNEXT = r"backbone.body.stages_\1.blocks.\2."
# Where a pattern has two names for one tensor, files have the first, and state dicts of transformers 5 the second.
RULES: list[Rule] = [
    *DECODER,
    (r"backbone\.hidden_states_norms\.stage(\d)\.", lambda m: f"backbone.norms.{int(m[1]) - 1}."),
    (_SWIN + r"embeddings\.patch_embeddings\.projection\.", "backbone.body.patch_embed.proj."),
    (_SWIN + r"embeddings\.norm\.", "backbone.body.patch_embed.norm."),
    (
        _SWIN_BLOCK + r"attention\.(?:self|relative_position_bias)\.relative_position",
        _TIMM_SWIN + "attn.relative_position",
    ),
    (_SWIN_BLOCK + r"attention\.(?:self\.query|q_proj)\.", _TIMM_SWIN + "attn.q."),
    (_SWIN_BLOCK + r"attention\.(?:self\.key|k_proj)\.", _TIMM_SWIN + "attn.k."),
    (_SWIN_BLOCK + r"attention\.(?:self\.value|v_proj)\.", _TIMM_SWIN + "attn.v."),
    (_SWIN_BLOCK + r"attention\.(?:output\.dense|o_proj)\.", _TIMM_SWIN + "attn.proj."),
    (_SWIN_BLOCK + r"layernorm_before\.", _TIMM_SWIN + "norm1."),
    (_SWIN_BLOCK + r"layernorm_after\.", _TIMM_SWIN + "norm2."),
    (_SWIN_BLOCK + r"(?:intermediate\.dense|mlp\.fc1)\.", _TIMM_SWIN + "mlp.fc1."),
    (_SWIN_BLOCK + r"(?:output\.dense|mlp\.fc2)\.", _TIMM_SWIN + "mlp.fc2."),
    (_SWIN + r"encoder\.layers\.(\d)\.downsample\.", lambda m: f"backbone.body.layers_{int(m[1]) + 1}.downsample."),
    (r"backbone\.embeddings\.patch_embeddings\.", "backbone.body.stem_0."),
    (r"backbone\.embeddings\.layernorm\.", "backbone.body.stem_1."),
    (r"backbone\.encoder\.stages\.(\d)\.downsampling_layer\.", r"backbone.body.stages_\1.downsample."),
    (_CONVNEXT_BLOCK + r"layer_scale_parameter", _TIMM_CONVNEXT + "gamma"),
    (_CONVNEXT_BLOCK + r"dwconv\.", _TIMM_CONVNEXT + "conv_dw."),
    (_CONVNEXT_BLOCK + r"layernorm\.", _TIMM_CONVNEXT + "norm."),
    (_CONVNEXT_BLOCK + r"pwconv(\d)\.", _TIMM_CONVNEXT + r"mlp.fc\3."),
]
IGNORED = r"\.relative_position_index$|^backbone\.(swin\.)?layernorm\."  # computed; part of the classifier


def recognizes(tensors: Mapping[str, Tensor]) -> bool:
    """Return whether these are the tensors of a `UperNetForSemanticSegmentation`."""
    return "decode_head.classifier.weight" in tensors


def translate(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors under our names; Swin's queries, keys and values become one tensor, as in timm."""
    ours = rename(tensors, RULES, IGNORED)
    for key in [key for key in ours if re.search(r"\.attn\.q\.(weight|bias)$", key)]:
        parts = [key, key.replace(".attn.q.", ".attn.k."), key.replace(".attn.q.", ".attn.v.")]
        if all(part in ours and ours[part].shape == ours[key].shape for part in parts):
            ours[key.replace(".attn.q.", ".attn.qkv.")] = torch.cat([ours.pop(part) for part in parts])
    return ours


def class_names(weights: Weights) -> object:
    """Return the class names in the `config.json` beside the file; [] if there are none, or only placeholders."""
    try:
        labels = json.loads(read_limited(weights.path.parent / "config.json", MAX_CONFIG_BYTES))["id2label"]
        names: list[object] = [labels[str(label)] for label in range(len(labels))]
    except (OSError, ValueError, KeyError, TypeError, RecursionError, UpernetError):
        return []
    return [] if all(re.fullmatch(r"LABEL_\d+", str(name)) for name in names) else names
