"""Writing a model as `UperNetForSemanticSegmentation` of Hugging Face transformers, which need not be installed.

What transformers can express is one level, `object`, with a Swin or ConvNeXt backbone, layer norms on the features, and
a classifier directly behind the decoder. `formats/transformers.py` reads such folders.
"""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from upernet.checkpoints.card import ModelCard
from upernet.checkpoints.formats.transformers import translate_back
from upernet.checkpoints.header import CARD
from upernet.errors import UpernetError
from upernet.files import atomic_path, write_safetensors
from upernet.models import UPerNet
from upernet.models.backbones import backbone_normalization, feature_info
from upernet.models.timm_family import CONVNEXT, SWIN, SWIN_WINDOW

FILES = ("model.safetensors", "config.json", "preprocessor_config.json")
HEAD_WIDTH = 32
"""Channels of each attention head of Swin."""
SWIN_WINDOWS = {name: (round(rows**0.5) + 1) // 2 for rows, name in SWIN_WINDOW.items()}
"""Ending of a name of timm -> side of the windows."""


def write_transformers(folder: Path, model: UPerNet, card: ModelCard) -> tuple[Path, ...]:
    """Write `model.safetensors`, `config.json` and `preprocessor_config.json` to `folder`; return their paths.

    The header of the weights keeps the card, so that thresholds and terms come back with the model when upernet reads
    the folder. How familiar photos are is left out. No file changes unless all of them can be written.

    Raises:
        UpernetError: transformers has no such network, or a file cannot be written.
    """
    config = model_config(model)
    mean, std, *_ = backbone_normalization(model.spec.backbone)
    weights, settings, preprocessor = files = tuple(folder / name for name in FILES)
    with ExitStack() as stack:
        metadata = {"format": "pt", CARD: json.dumps(card.to_dict())}
        write_safetensors(stack.enter_context(atomic_path(weights)), their_tensors(model), metadata)
        _write_json(stack.enter_context(atomic_path(settings)), config)
        _write_json(stack.enter_context(atomic_path(preprocessor)), _preprocessing(mean, std))
    return files


def model_config(model: UPerNet) -> dict[str, Any]:
    """Return the content of `config.json`.

    Raises:
        UpernetError: transformers has no such network.
    """
    spec = model.spec
    if reason := _why_not(model):
        raise UpernetError(f"transformers' UperNet cannot express this network: {reason}.")
    names = model.taxonomy.levels["object"].names
    return {
        "architectures": ["UperNetForSemanticSegmentation"],
        "model_type": "upernet",
        "backbone_config": _backbone_config(spec.backbone),
        "hidden_size": spec.decoder_channels,
        "pool_scales": list(spec.pool_scales),
        "use_auxiliary_head": model.auxiliary is not None,
        "auxiliary_in_channels": feature_info(model.backbone).channels()[2],
        "auxiliary_channels": spec.auxiliary_channels or 256,
        "auxiliary_num_convs": 1,
        "auxiliary_concat_input": False,
        "id2label": {str(label): name for label, name in enumerate(names)},
        "label2id": {name: label for label, name in enumerate(names)},
        "dtype": "float32",
    }


def their_tensors(model: UPerNet) -> dict[str, Tensor]:
    """Return the tensors of `model` under the names in files of transformers."""
    tensors = translate_back({name: value.detach().cpu() for name, value in model.state_dict().items()})
    theirs = {name: value.contiguous() for name, value in tensors.items()}
    if "backbone.embeddings.norm.weight" in theirs:  # the norm of Swin's classifier, which no feature passes
        channels = feature_info(model.backbone).channels()[-1]
        theirs["backbone.swin.layernorm.weight"] = torch.ones(channels)
        theirs["backbone.swin.layernorm.bias"] = torch.zeros(channels)
    return theirs


def _why_not(model: UPerNet) -> str:
    """Return why transformers does not have the network, and what would do; "" if it does."""
    spec = model.spec
    if model.levels != ("object",):
        return f"it has the levels {', '.join(model.levels)}, and there is only object"
    if _backbone_config(spec.backbone) is None:
        known = ", ".join([*(f"{name}_patch4_window7_224" for name in SWIN.values()), *CONVNEXT.values()])
        return f"it has the backbone {spec.backbone}, and there are only Swin and ConvNeXt ({known})"
    if not spec.feature_norms:
        return "its features have no layer norms; train it with `feature_norms: true`"
    if spec.head_channels != 0:
        return "its head has a convolution before the classifier; train it with `head_channels: 0`"
    if spec.pooling != "average":
        return f"it has `pooling: {spec.pooling}`; train it with `pooling: average`"
    if spec.pool_channels not in (None, spec.decoder_channels):
        return "its `pool_channels` differ from `decoder_channels`; train it without them"
    return ""


def _backbone_config(name: str) -> dict[str, Any] | None:
    """Return the settings of a backbone of timm in transformers, or None if it has none."""
    plain, stages = name.partition(".")[0], [f"stage{number}" for number in (1, 2, 3, 4)]
    for (channels, depths), convnext in CONVNEXT.items():
        if plain == convnext:
            sizes = [channels * 2**stage for stage in range(4)]
            return {
                "model_type": "convnext",
                "hidden_sizes": sizes,
                "depths": list(depths),
                "layer_norm_eps": 1e-6,
                "out_features": stages,
            }
    for (channels, depths), swin in SWIN.items():
        for ending, window in SWIN_WINDOWS.items():
            if plain == f"{swin}_{ending}":
                return {
                    "model_type": "swin",
                    "embed_dim": channels,
                    "depths": list(depths),
                    "num_heads": [channels * 2**stage // HEAD_WIDTH for stage in range(4)],
                    "window_size": window,
                    "out_features": stages,
                }
    return None


def _preprocessing(mean: tuple[float, ...], std: tuple[float, ...]) -> dict[str, Any]:
    """Return the settings of an image processor that does what `model.preprocess` does, and resizes nothing."""
    return {
        "image_processor_type": "SegformerImageProcessor",
        "do_resize": False,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(mean),
        "image_std": list(std),
        "do_reduce_labels": False,
    }


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
