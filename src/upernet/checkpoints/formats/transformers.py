"""Checkpoints of `UperNetForSemanticSegmentation` of Hugging Face transformers, with a Swin or ConvNeXt backbone."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from upernet.checkpoints.formats.rename import DECODER, Names, reading, rename, writing
from upernet.checkpoints.reading import Weights
from upernet.errors import UpernetError
from upernet.files import read_limited

MAX_CONFIG_BYTES = 2**24

NAME = "transformers"
_SWIN_BLOCK = "backbone.body.layers_{}.blocks.{}.", "encoder.layers.{}.blocks.{}."
_CONVNEXT_BLOCK = "backbone.body.stages_{}.blocks.{}.", "backbone.encoder.stages.{}.layers.{}."


def _swin(ours: str, *theirs: str) -> Names:
    """Return the names of a part of Swin, in front of which state dicts in memory have `swin.`."""
    return ours, tuple(f"backbone.{swin}{their}" for their in theirs for swin in ("", "swin."))


def _swin_block(ours: str, *theirs: str) -> Names:
    return _swin(_SWIN_BLOCK[0] + ours, *(_SWIN_BLOCK[1] + their for their in theirs))


def _convnext_block(ours: str, theirs: str) -> Names:
    return _CONVNEXT_BLOCK[0] + ours, (_CONVNEXT_BLOCK[1] + theirs,)


# Where there are two names, files have the first, and state dicts of transformers 5 the second.
NAMES: Sequence[Names] = [
    *DECODER,
    *((f"backbone.norms.{stage}.", (f"backbone.hidden_states_norms.stage{stage + 1}.",)) for stage in range(4)),
    _swin("backbone.body.patch_embed.proj.", "embeddings.patch_embeddings.projection."),
    _swin("backbone.body.patch_embed.norm.", "embeddings.norm."),
    _swin_block(
        "attn.relative_position",
        "attention.self.relative_position",
        "attention.relative_position_bias.relative_position",
    ),
    _swin_block("attn.q.", "attention.self.query.", "attention.q_proj."),
    _swin_block("attn.k.", "attention.self.key.", "attention.k_proj."),
    _swin_block("attn.v.", "attention.self.value.", "attention.v_proj."),
    _swin_block("attn.proj.", "attention.output.dense.", "attention.o_proj."),
    _swin_block("norm1.", "layernorm_before."),
    _swin_block("norm2.", "layernorm_after."),
    _swin_block("mlp.fc1.", "intermediate.dense.", "mlp.fc1."),
    _swin_block("mlp.fc2.", "output.dense.", "mlp.fc2."),
    # downsampling ends a stage there; in timm it begins the next one
    *(
        _swin(f"backbone.body.layers_{stage + 1}.downsample.", f"encoder.layers.{stage}.downsample.")
        for stage in range(3)
    ),
    ("backbone.body.stem_0.", ("backbone.embeddings.patch_embeddings.",)),
    ("backbone.body.stem_1.", ("backbone.embeddings.layernorm.",)),
    ("backbone.body.stages_{}.downsample.", ("backbone.encoder.stages.{}.downsampling_layer.",)),
    _convnext_block("gamma", "layer_scale_parameter"),
    _convnext_block("conv_dw.", "dwconv."),
    _convnext_block("norm.", "layernorm."),
    _convnext_block("mlp.fc{}.", "pwconv{}."),
]
IGNORED = r"\.relative_position_index$|^backbone\.(swin\.)?layernorm\."  # computed; part of the classifier


def recognizes(tensors: Mapping[str, Tensor]) -> bool:
    """Return whether these are the tensors of a `UperNetForSemanticSegmentation`."""
    return "decode_head.classifier.weight" in tensors


def translate(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors under our names; Swin's queries, keys and values become one tensor, as in timm."""
    ours = rename(tensors, reading(NAMES), IGNORED)
    for key in [key for key in ours if re.search(r"\.attn\.q\.(weight|bias)$", key)]:
        parts = [key, key.replace(".attn.q.", ".attn.k."), key.replace(".attn.q.", ".attn.v.")]
        if all(part in ours and ours[part].shape == ours[key].shape for part in parts):
            ours[key.replace(".attn.q.", ".attn.qkv.")] = torch.cat([ours.pop(part) for part in parts])
    return ours


def translate_back(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return our tensors under the names in files of transformers; Swin's queries, keys and values are separate."""
    separate: dict[str, Tensor] = {}
    for key, value in tensors.items():
        if ".attn.qkv." in key:
            for part, third in zip("qkv", value.chunk(3), strict=True):
                separate[key.replace(".qkv.", f".{part}.")] = third
        else:
            separate[key] = value
    return rename(separate, writing(NAMES), r"^familiarity\.")


def class_names(weights: Weights) -> object:
    """Return the class names in the `config.json` beside the file; [] if there are none, or only placeholders."""
    try:
        labels = json.loads(read_limited(weights.path.parent / "config.json", MAX_CONFIG_BYTES))["id2label"]
        names: list[object] = [labels[str(label)] for label in range(len(labels))]
    except (OSError, ValueError, KeyError, TypeError, RecursionError, UpernetError):
        return []
    return [] if all(re.fullmatch(r"LABEL_\d+", str(name)) for name in names) else names
