"""Published InternImage networks for tests: parameter names, rule-made weights, small models."""

from __future__ import annotations

import importlib.util
import json
import re
from typing import Any

import numpy as np
import torch
from helpers.shared import REFERENCE

from upernet.models import UPerNet
from upernet.recipe import ModelSpec
from upernet.taxonomy import load_taxonomy

RENAMES = (
    (r"^ppm\.pooled\.(\d)\.", r"decode_head.psp_modules.\1.1."),
    (r"^ppm\.bottleneck\.", r"decode_head.bottleneck."),
    (r"^fpn\.lateral\.", r"decode_head.lateral_convs."),
    (r"^fpn\.output\.", r"decode_head.fpn_convs."),
    (r"^fusion\.conv\.", r"decode_head.fpn_bottleneck."),
    (r"^auxiliary\.conv\.", r"auxiliary_head.convs.0."),
    (r"^heads\.object\.classifier\.", r"decode_head.conv_seg."),
    (r"^auxiliary\.classifier\.", r"auxiliary_head.conv_seg."),
    (r"^(?!backbone)(.*)\.0\.(?=weight$)", r"\1.conv."),
    (r"^(?!backbone)(.*)\.1\.(?=[a-z_]+$)", r"\1.bn."),
)


def official_name(name: str) -> str:
    """Return the published name of a parameter of UPerNet with an InternImage backbone."""
    for pattern, replacement in RENAMES:
        name = re.sub(pattern, replacement, name)
    return name


def load_rule() -> Any:
    """Import the module with the rule that fills a state dict by name."""
    spec = importlib.util.spec_from_file_location("fill_state_dict", REFERENCE / "fill_state_dict.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def official_shapes(variant: str) -> dict[str, tuple[list[int], str]]:
    """Return the published name -> (shape, dtype) of every tensor of a published network."""
    keys = json.loads((REFERENCE / "keys" / f"keys_{variant}.json").read_text())
    return {key: (shape, dtype) for key, shape, dtype in keys}


def official_state(variant: str) -> dict[str, torch.Tensor]:
    """Return the state dict of a published network, with values made by the rule."""
    rule, shapes = load_rule(), official_shapes(variant)
    return {key: torch.from_numpy(np.asarray(rule.value(key, s))).reshape(s) for key, (s, _) in shapes.items()}


def golden(name: str) -> dict[str, Any]:
    """Read the arrays of a golden file as tensors; anything but numbers stays as it is."""
    with np.load(REFERENCE / "golden" / f"{name}.npz") as file:
        arrays = {key: file[key] for key in file.files}
    return {key: torch.from_numpy(a) if a.dtype.kind in "fiu" else a for key, a in arrays.items()}


def official_model(variant: str) -> UPerNet:
    """Build UPerNet-InternImage for ADE20K, `variant` t to h, with the published widths."""
    return UPerNet(ModelSpec(backbone=f"internimage_{variant}", head_channels=0), load_taxonomy("ade20k150"))


def tiny_model(style: str) -> UPerNet:
    """Build the small model of golden file `tiny_{style}` with its rule-made weights."""
    config = json.loads(str(golden(f"tiny_{style}")["config"]))
    options = {key: value for key, value in config["backbone"].items() if key not in ("norm_layer", "level2_post_norm")}
    if blocks := options.pop("level2_post_norm_block_ids", ()):
        options["level2_post_norm_blocks"] = blocks
    model = UPerNet(
        ModelSpec(
            backbone="internimage_t",
            backbone_options=options,
            head_channels=0,
            decoder_channels=config["head_channels"],
            auxiliary_channels=config["aux_channels"],
            dropout=0.0,
        ),
        load_taxonomy("camvid"),  # 11 classes, too
    )
    return load_rule().fill_(model, official_name)


def relative_error(value: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the largest difference over the spread of what is expected."""
    return float((value - expected).abs().max() / expected.double().std())
