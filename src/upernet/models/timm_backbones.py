"""Backbones from timm. Importing timm takes longer than parsing a photo; `timm_family` imports this module lazily."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache, cached_property
from typing import Any, cast

import timm
import timm.models
import torch
import torch.nn.functional as F
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD  # pyright: ignore[reportPrivateImportUsage]
from timm.models import group_parameters, is_model  # pyright: ignore[reportUnknownVariableType]
from timm.models.swin_transformer import SwinTransformerBlock
from torch import Tensor, nn

from upernet.errors import UpernetError
from upernet.models.features import STRIDES, Feature, FeatureInfo
from upernet.models.pairs import find_pairs
from upernet.models.protocol import BackboneSettings, ConvNormPair, Normalization


def create_timm_backbone(name: str, settings: BackboneSettings) -> nn.Module:
    """Return the features of the timm model `name` at strides 4, 8, 16, 32. It implements `Backbone`.

    Raises:
        UpernetError: timm cannot create the model, or the decoder cannot use its features.
    """
    arguments: dict[str, Any] = {"features_only": True}
    if settings.drop_path:
        arguments["drop_path_rate"] = settings.drop_path
    is_swin = name.startswith("swin_")
    if is_swin:  # images of any size, and windows that keep their size on small ones
        arguments.update(strict_img_size=False, always_partition=True)
    network = _create(name, arguments)
    if getattr(network, "output_fmt", "NCHW") != "NCHW" and not is_swin:
        raise UpernetError(
            f"backbone {name!r} returns features with channels last, which the decoder cannot use; choose another."
        )
    info = cast(timm.models.FeatureInfo, network.feature_info)
    last_at: dict[int, int] = {stride: index for index, stride in enumerate(cast(list[int], info.reduction()))}
    missing = [stride for stride in STRIDES if stride not in last_at]
    if missing:
        raise UpernetError(
            f"backbone {name!r} has features at strides {info.reduction()}, none at {missing}; "
            "choose one that has 4, 8, 16 and 32."
        )
    indices = tuple(info.out_indices[last_at[stride]] for stride in STRIDES)
    network = _create(name, {"out_indices": indices, **arguments})
    backbone = adopt(network, name)
    if is_swin or settings.feature_norms:
        return AdaptedFeatures(backbone, is_swin, settings.feature_norms)
    return backbone


def _create(name: str, arguments: dict[str, Any]) -> nn.Module:
    try:
        return timm.create_model(name, **arguments)
    except Exception as error:  # timm raises many types, of its own and of the client that downloads weights
        reason = str(error).partition("\n")[0].rstrip(".") or type(error).__name__
        raise UpernetError(f"backbone {name!r} cannot be created ({reason}); choose another.") from error


def adopt(network: nn.Module, name: str) -> TimmBackbone:
    """Give `network`, the features of the timm model `name`, the methods of `Backbone`.

    Only the class changes: modules, parameters and their names stay those of timm.
    """
    info = cast(timm.models.FeatureInfo, network.feature_info)
    own = _by_timm_name(name for name, _ in cast(Iterable[tuple[str, nn.Module]], network.named_modules()))
    channels, strides = cast(list[int], info.channels()), cast(list[int], info.reduction())
    rows = zip(channels, strides, cast(list[str], info.module_name()), strict=True)
    features = [Feature(channels, stride, own.get(_flat(module), module)) for channels, stride, module in rows]
    network.__class__ = _extended(type(network))
    backbone = cast(TimmBackbone, network)
    backbone.timm_name = name
    backbone.feature_info = FeatureInfo(*features)
    return backbone


class TimmBackbone(nn.Module):
    """The methods of `Backbone` for a feature extractor of timm, whose class is extended by this one (see `adopt`)."""

    timm_name: str
    feature_info: FeatureInfo

    @cached_property
    def _layers(self) -> tuple[dict[str, int], int]:
        """The layer of each parameter and that of timm's classifier, by timm's own groups for layer-wise decay."""
        with torch.device("meta"):
            classifier = timm.create_model(self.timm_name, num_classes=1)
        matcher = getattr(classifier, "group_matcher", None)
        if matcher is None:
            raise UpernetError(f"layer_decay: timm does not group the layers of {self.timm_name}; leave it out.")
        groups = cast(dict[str, int], group_parameters(classifier, matcher(coarse=False), reverse=True))
        names = _by_timm_name(name for name, _ in self.named_parameters())
        layers = {names[_flat(name)]: layer for name, layer in groups.items() if _flat(name) in names}
        if len(layers) != len(names):
            raise UpernetError(
                f"layer_decay: the parameters of {self.timm_name} have other names in timm; leave it out."
            )
        return layers, max(groups.values())

    @property
    def num_layers(self) -> int:
        """Number of layers, which is the layer of the classifier in timm."""
        return self._layers[1]

    def layer_of(self, parameter: str) -> int:
        """Return the layer of a parameter, as timm's `param_groups_layer_decay` numbers it."""
        return self._layers[0][parameter]

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Let timm recompute activations in the backward pass.

        Raises:
            UpernetError: timm's features of this model cannot.
        """
        candidates = (super(), *self.children())
        methods = (getattr(candidate, "set_grad_checkpointing", None) for candidate in candidates)
        method = next(filter(None, methods), None)
        if method is None:
            raise UpernetError(f"backbone {self.timm_name} has no gradient checkpointing in timm; leave it out.")
        cast(Callable[[bool], None], method)(enable)

    def foldable_pairs(self) -> list[ConvNormPair]:
        """Return the pairs that a run on a small image shows; none for a network without values.

        Networks that do not take the small image run on one of the size that timm states for their weights.
        """
        weight = next(self.parameters())
        if weight.is_meta:
            return []
        config = timm.get_pretrained_cfg(self.timm_name)
        small = (3, 2 * STRIDES[-1], 2 * STRIDES[-1])
        images = torch.zeros(1, *small, dtype=weight.dtype, device=weight.device)
        try:
            return find_pairs(self, images)
        except (RuntimeError, AssertionError):
            if config is None:
                raise
            return find_pairs(self, images.new_zeros(1, *config.input_size))

    def __reduce__(self) -> tuple[Callable[[type[nn.Module]], nn.Module], tuple[type[nn.Module]], dict[str, object]]:
        return _empty, (type(self).__bases__[1],), self.__dict__


class AdaptedFeatures(nn.Module):
    """A timm backbone that computes the features of mmsegmentation's and transformers' Swin and ConvNeXt.

    Args:
        body: the timm backbone.
        is_swin: the body's features are N x H x W x C, and its images need sides that are multiples of 4.
        norms: add a layer norm to each feature, with the epsilon of the body's.
    """

    def __init__(self, body: TimmBackbone, is_swin: bool, norms: bool):
        super().__init__()
        self.body = body
        self.is_swin = is_swin
        info = body.feature_info
        modules = [f"body.{module}" for module in info.module_name()]
        self.feature_info = FeatureInfo(*map(Feature, info.channels(), info.reduction(), modules))
        self.norms = None
        if norms:
            epsilon = next((module.eps for module in body.modules() if isinstance(module, nn.LayerNorm)), 1e-6)
            self.norms = nn.ModuleList(nn.LayerNorm(channels, epsilon) for channels in info.channels())
        for module in body.modules():
            if type(module) is SwinTransformerBlock:
                module.__class__ = PaddedSwinBlock

    @property
    def num_layers(self) -> int:
        """Number of layers of the body."""
        return self.body.num_layers

    def layer_of(self, parameter: str) -> int:
        """Return the layer of a parameter; norms of features learn as fast as the decoder, as in mmsegmentation."""
        part, _, name = parameter.partition(".")
        return self.body.layer_of(name) if part == "body" else self.num_layers

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Let timm recompute activations of the body in the backward pass."""
        self.body.set_grad_checkpointing(enable)

    def foldable_pairs(self) -> list[ConvNormPair]:
        """Return the pairs of the body."""
        return self.body.foldable_pairs()

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return C2, C3, C4, C5 of `images`, N x 3 x H x W."""
        if self.is_swin:
            images = F.pad(images, (0, _missing(images.shape[-1], 4), 0, _missing(images.shape[-2], 4)))
        features: list[Tensor] = self.body(images)
        if self.is_swin:
            features = [feature.permute(0, 3, 1, 2) for feature in features]
        if self.norms is not None:
            pairs = zip(features, self.norms, strict=True)
            features = [norm(feature.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) for feature, norm in pairs]
        return features


class PaddedSwinBlock(SwinTransformerBlock):
    """A Swin block that pads a map to whole windows before it shifts them, as published.

    timm shifts first, which gives other values at the borders.
    """

    def _attn(self, x: Tensor) -> Tensor:
        (rows, columns), (height, width) = self.window_size, x.shape[1:3]
        padded = F.pad(x, (0, 0, 0, _missing(width, columns), 0, _missing(height, rows)))
        return super()._attn(padded)[:, :height, :width]  # pyright: ignore[reportUnknownMemberType]


def _missing(size: int, multiple: int) -> int:
    """Return how many pixels `size` lacks to a multiple; no term is negative, as exported graphs need it."""
    return (size + multiple - 1) // multiple * multiple - size


def normalization(name: str) -> Normalization:
    """Return the normalization that timm states for the weights `name`.

    Raises:
        UpernetError: timm has no weights with the tag in `name`.
    """
    model = name.split(".")[0]
    try:
        config = timm.get_pretrained_cfg(name) if is_model(model) else None
    except RuntimeError:
        tags = ", ".join(timm.list_pretrained(f"{model}.*")) or "none"
        raise UpernetError(f"backbone {name!r}: timm has no such weights of {model}; it has {tags}.") from None
    if config is None:
        return Normalization(IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
    return Normalization(tuple(config.mean), tuple(config.std))


@cache
def _extended(base: type[nn.Module]) -> type[nn.Module]:
    return type(f"Timm{base.__name__}", (TimmBackbone, base), {})


def _empty(base: type[nn.Module]) -> nn.Module:
    """Return an instance without attributes, for copies and pickles."""
    extended = _extended(base)
    return extended.__new__(extended)


def _flat(name: str) -> str:
    """Return `name` without the dots, which timm's extractors replace by underscores in some places."""
    return name.replace(".", "_")


def _by_timm_name(names: Iterable[str]) -> dict[str, str]:
    """Map the flat name in timm's classifier to each name in the extractor of its features.

    Extractors that keep the classifier whole hold it as `body` or `model`.
    """
    names = list(names)
    for prefix in ("body.", "model."):
        if all(name.startswith(prefix) for name in names if name not in ("", prefix[:-1])):
            return {_flat(name.removeprefix(prefix)): name for name in names}
    return {_flat(name): name for name in names}
