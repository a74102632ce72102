"""UPerNet: a backbone, one pyramid decoder, one head per level of perception (arXiv 1807.10221)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from upernet.errors import UpernetError
from upernet.models.backbones import backbone_normalization, build_backbone, feature_info
from upernet.models.decoder import FeaturePyramid, Fusion, PyramidPooling
from upernet.models.familiarity import FAMILIARITY, Familiarity
from upernet.models.heads import ImageHead, PixelHead, TextureHead
from upernet.models.initialization import initialize
from upernet.recipe import ModelSpec
from upernet.settings import check_settings
from upernet.taxonomy import LEVEL_KINDS, Taxonomy, load_taxonomy

AUXILIARY = "auxiliary"
"""Key of the auxiliary head's logits in what a model in training mode returns."""


PIXELS_PER_PASS = 2**18
"""Pixels of images that go through the network together on CPUs: maps of more are slower, because caches are small."""


class Preprocess(nn.Module):
    """Normalizes RGB pixels in 0..255, of any dtype, to the values that the backbone's ImageNet weights expect.

    The arguments are the fields of a `Normalization`.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        mean: Sequence[float],
        std: Sequence[float],
        largest: float = 1.0,
        channels: Literal["RGB", "BGR"] = "RGB",
    ):
        super().__init__()
        self.channels = channels
        for name, values in (("mean", mean), ("std", std)):
            pixels = 255 / largest * np.asarray(values, np.float32)  # torch's meta arithmetic imports its compiler
            self.register_buffer(name, torch.tensor(pixels).view(3, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """Normalize [N x] 3 x H x W pixels; the result is float32, with the channels in the order of `channels`."""
        if self.channels == "BGR":
            image = image.flip(-3)
        return (image.float() - self.mean) / self.std


class UPerNet(nn.Module):
    """`model(images)` returns `{level: logits}` for the levels of its taxonomy.

    Logits come before softmax: N x K x H/4 x W/4 for dense levels, N x K for levels with one label per image. The
    channels of `part` are the slices of `taxonomy.part_groups`, concatenated. H and W may have any value.

    All weights are random: `upernet.load_backbone_weights` fills the backbone, and `upernet.create_model` starts from
    published weights.

    Args:
        backbone: Name of the backbone (`internimage_t`, or a model of timm with features at strides 4, 8, 16 and 32),
            or all settings as a `ModelSpec`.
        taxonomy: The levels and classes: a `Taxonomy`, the name of a bundled one, or the path of a YAML file.
        classes: The classes of the level `object`, instead of a taxonomy: their names, or how many there are.
        settings: Fields of `ModelSpec` besides `backbone`, such as `decoder_channels=256`.

    Raises:
        UpernetError: The backbone or the taxonomy is unknown, a setting is not valid, or not exactly one of `taxonomy`
            and `classes` is given.

    Example:
        >>> model = UPerNet(backbone="convnext_tiny", classes=21).eval()
        >>> images = model.preprocess(torch.zeros(1, 3, 128, 160, dtype=torch.uint8))
        >>> model(images)["object"].shape
        torch.Size([1, 21, 32, 40])
    """

    def __init__(
        self,
        backbone: str | ModelSpec,
        taxonomy: Taxonomy | str | Path | None = None,
        *,
        classes: int | Sequence[str] | None = None,
        **settings: object,
    ):
        super().__init__()
        if classes is not None and taxonomy is None:
            taxonomy = Taxonomy.of_objects(classes)
        elif classes is not None or taxonomy is None:
            raise UpernetError("UPerNet needs a taxonomy or classes; give one of them.")
        elif isinstance(taxonomy, (str, Path)):
            taxonomy = load_taxonomy(taxonomy)
        if isinstance(backbone, ModelSpec) and settings:
            raise UpernetError("settings beside a whole ModelSpec; put them into it, or give the backbone's name.")
        spec = (
            backbone
            if isinstance(backbone, ModelSpec)
            else check_settings({"backbone": backbone, **settings}, ModelSpec, "UPerNet")
        )
        self.spec = spec
        self.taxonomy = taxonomy
        self.preprocess = Preprocess(*backbone_normalization(spec.backbone))
        self.backbone = build_backbone(
            spec.backbone,
            options=spec.backbone_options,
            drop_path=spec.drop_path,
            feature_norms=spec.feature_norms,
        )
        channels: list[int] = feature_info(self.backbone).channels()
        width = spec.decoder_channels
        head_width = width if spec.head_channels is None else spec.head_channels

        reads = {self._reads(level) for level in taxonomy.levels}
        self.ppm = PyramidPooling(channels[-1], width, spec.pool_scales, spec.pool_channels, spec.pooling == "precise")
        self.fpn = FeaturePyramid(channels[:-1], width) if reads & {"p2", "fused"} else None
        self.fusion = Fusion(width, len(channels)) if "fused" in reads else None
        self.texture_features = tuple(int(feature[1]) - 2 for feature in spec.texture.features)

        self.heads = nn.ModuleDict()
        for level in taxonomy.levels:
            kind, num_logits = LEVEL_KINDS[level], taxonomy.num_logits(level)
            if kind.reads == "backbone":
                in_channels = [channels[index] for index in self.texture_features]
                self.heads[level] = TextureHead(in_channels, spec.texture, num_logits)
            elif kind.dense:
                self.heads[level] = PixelHead(width, head_width, num_logits, spec.dropout)
            else:
                image_width = head_width if spec.image_head.channels is None else spec.image_head.channels
                of_c5 = spec.image_head.features == "C5"
                in_width, size = (channels[-1], 1) if of_c5 else (width, 3)
                self.heads[level] = ImageHead(in_width, image_width, num_logits, spec.dropout, size)
        self.auxiliary = None
        if spec.auxiliary_channels and "object" in taxonomy.levels:
            num_logits = taxonomy.num_logits("object")
            self.auxiliary = PixelHead(channels[-2], spec.auxiliary_channels, num_logits, spec.dropout)
        self.familiarity: Familiarity | None = None
        """How familiar photos are; None until `upernet.evaluation.fit_familiarity` has been called."""
        for name, module in self.named_children():
            if name != "backbone":
                initialize(module, _initialize if spec.initialization == "he" else _initialize_as_released)
        if spec.norm_momentum is not None:
            for module in self.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.momentum = spec.norm_momentum

    @property
    def levels(self) -> tuple[str, ...]:
        """The levels of the taxonomy, in the order of `LEVELS`."""
        return tuple(self.taxonomy.levels)

    def _reads(self, level: str) -> str:
        """Return the input of the head of `level`: that of its kind or, for one label per image, the spec's."""
        kind = LEVEL_KINDS[level]
        return "c5" if not kind.dense and self.spec.image_head.features == "C5" else kind.reads

    def forward(self, images: Tensor, levels: Iterable[str] | None = None) -> dict[str, Tensor]:
        """Compute the logits of `levels` for normalized images, and nothing that they do not need.

        Args:
            images: float32 N x 3 x H x W, as `preprocess` returns them.
            levels: The levels to compute, and `FAMILIARITY`, if the model has `familiarity`. Default: all levels.

        Returns:
            level -> logits, and `FAMILIARITY` -> N values in 0..1. In training mode, the key `AUXILIARY` has the object
            logits of the auxiliary head (stride 16), if the model has one.

        Raises:
            UpernetError: The taxonomy of the model does not have one of the levels.
        """
        wanted = self.levels if levels is None else tuple(levels)
        judged = FAMILIARITY in wanted and self.familiarity is not None
        for level in wanted:
            if level not in self.heads and not (judged and level == FAMILIARITY):
                raise UpernetError(f"this model has no level {level!r}; it has {', '.join(self.levels)}.")
        step = None if self.training else _images_per_pass(images)
        if step is None or len(images) <= step:
            return self._compute(images, wanted, judged)
        parts = [self._compute(images[i : i + step], wanted, judged) for i in range(0, len(images), step)]
        return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}

    def _compute(self, images: Tensor, wanted: tuple[str, ...], judged: bool) -> dict[str, Tensor]:
        needed = {self._reads(level) for level in wanted if level in self.heads}
        features = self.backbone(images)  # [C2, C3, C4, C5] at strides 4, 8, 16, 32
        inputs: dict[str, Tensor | list[Tensor]] = {"backbone": [features[index] for index in self.texture_features]}
        inputs["c5"] = features[-1]
        if needed - {"backbone", "c5"}:
            inputs["ppm"] = p5 = self.ppm(features[-1])
            if self.fpn is not None and needed & {"p2", "fused"}:
                pyramid = self.fpn(features[:-1], p5)  # [P2, P3, P4, P5]
                inputs["p2"] = pyramid[0]
                if self.fusion is not None and "fused" in needed:
                    inputs["fused"] = self.fusion(pyramid)
        logits: dict[str, Tensor] = {}
        for reads, maps in inputs.items():
            for level in self.levels:
                if level in wanted and self._reads(level) == reads:
                    logits[level] = self.heads[level](maps)
        if judged and self.familiarity is not None:
            logits[FAMILIARITY] = self.familiarity(features)
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


def _initialize_as_released(module: nn.Module) -> None:
    """Draw weights as the released code of Unified Perceptual Parsing does.

    There, the linear layer of the scene is a 1x1 convolution, and treated like one.
    """
    if isinstance(module, (nn.Conv2d, nn.Linear)):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.ones_(module.weight)
        nn.init.constant_(module.bias, 1e-4)


def _images_per_pass(images: Tensor) -> int | None:
    """Return how many images go through the network together; None: all."""
    if images.device.type != "cpu" or torch.is_grad_enabled() or torch.compiler.is_compiling():
        return None
    height, width = images.shape[-2:]
    return max(1, PIXELS_PER_PASS // max(1, height * width))
