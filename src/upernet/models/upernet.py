"""UPerNet: a backbone, one pyramid decoder, one head per level of perception (arXiv 1807.10221)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from upernet.errors import UpernetError
from upernet.models.backbones import backbone_normalization, create_backbone, feature_info
from upernet.models.decoder import FeaturePyramid, Fusion, PyramidPooling
from upernet.models.heads import PixelHead, SceneHead, TextureHead
from upernet.models.initialization import initialize
from upernet.recipe import ModelSpec
from upernet.taxonomy import Taxonomy

AUXILIARY = "auxiliary"
"""Key of the auxiliary head's logits in what a model in training mode returns."""


class Preprocess(nn.Module):
    """Pixels in 0..255 (RGB, any dtype) to the float32 values that the backbone's ImageNet weights expect."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        for name, values in (("mean", mean), ("std", std)):
            pixels = np.float32(255) * np.asarray(values, np.float32)  # torch's meta arithmetic imports its compiler
            self.register_buffer(name, torch.tensor(pixels).view(3, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """[N x] 3 x H x W -> the same shape, float32."""
        return (image.float() - self.mean) / self.std


class UPerNet(nn.Module):
    """`model(images)` returns `{level: logits}` for the levels of its taxonomy.

    Logits come before softmax, at stride 4 (N x K x H/4 x W/4) or N x K for the scene; the channels of `part` are the
    slices of `taxonomy.part_groups` one after another. H and W need not be multiples of anything.
    """

    def __init__(self, spec: ModelSpec, taxonomy: Taxonomy, pretrained: bool = False):
        super().__init__()
        self.spec = spec
        self.taxonomy = taxonomy
        self.preprocess = Preprocess(*backbone_normalization(spec.backbone))
        self.backbone = create_backbone(
            spec.backbone,
            pretrained,
            options=spec.backbone_options,
            drop_path=spec.drop_path,
            feature_norms=spec.feature_norms,
        )
        channels: list[int] = feature_info(self.backbone).channels()
        width = spec.decoder_channels
        head_width = width if spec.head_channels is None else spec.head_channels

        needs_pyramid = bool({"object", "part", "material"} & set(taxonomy.levels))
        needs_fusion = bool({"object", "part"} & set(taxonomy.levels))
        self.ppm = PyramidPooling(channels[-1], width, spec.pool_scales)
        self.fpn = FeaturePyramid(channels[:-1], width) if needs_pyramid else None
        self.fusion = Fusion(width, len(channels)) if needs_fusion else None

        self.heads = nn.ModuleDict()
        for level in taxonomy.levels:
            num_logits = taxonomy.num_logits(level)
            if level == "scene":
                self.heads[level] = SceneHead(width, head_width, num_logits, spec.dropout)
            elif level == "texture":
                self.texture_features = tuple(int(feature[1]) - 2 for feature in spec.texture.features)
                in_channels = [channels[index] for index in self.texture_features]
                self.heads[level] = TextureHead(in_channels, spec.texture.channels, spec.texture.depth, num_logits)
            else:
                self.heads[level] = PixelHead(width, head_width, num_logits, spec.dropout)
        self.auxiliary = None
        if spec.auxiliary_channels and "object" in taxonomy.levels:
            num_logits = taxonomy.num_logits("object")
            self.auxiliary = PixelHead(channels[-2], spec.auxiliary_channels, num_logits, spec.dropout)
        for name, module in self.named_children():
            if name != "backbone":
                initialize(module, _initialize)

    @property
    def levels(self) -> tuple[str, ...]:
        return tuple(self.taxonomy.levels)

    def forward(self, images: Tensor, levels: Iterable[str] | None = None) -> dict[str, Tensor]:
        """Logits of `levels` (default: all) for normalised images N x 3 x H x W; only what they need is computed.

        In training mode the auxiliary head's object logits (stride 16) come along under `AUXILIARY`.

        Raises:
            UpernetError: a level that the model's taxonomy does not have.
        """
        wanted = self.levels if levels is None else tuple(levels)
        for level in wanted:
            if level not in self.heads:
                raise UpernetError(f"this model has no level {level!r}; it has {', '.join(self.levels)}.")

        logits: dict[str, Tensor] = {}
        features = self.backbone(images)  # [C2, C3, C4, C5] at strides 4, 8, 16, 32
        if "texture" in wanted:
            logits["texture"] = self.heads["texture"]([features[index] for index in self.texture_features])
        if set(wanted) <= {"texture"}:
            return logits

        p5 = self.ppm(features[-1])
        if "scene" in wanted:
            logits["scene"] = self.heads["scene"](p5)
        if self.fpn is not None and {"object", "part", "material"} & set(wanted):
            pyramid = self.fpn(features[:-1], p5)  # [P2, P3, P4, P5]
            if "material" in wanted:
                logits["material"] = self.heads["material"](pyramid[0])
            if self.fusion is not None and {"object", "part"} & set(wanted):
                fused = self.fusion(pyramid)
                for level in ("object", "part"):
                    if level in wanted:
                        logits[level] = self.heads[level](fused)
        if self.training and self.auxiliary is not None and "object" in wanted:
            logits[AUXILIARY] = self.auxiliary(features[-2])
        return logits


def _initialize(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.01)
        nn.init.zeros_(module.bias)
