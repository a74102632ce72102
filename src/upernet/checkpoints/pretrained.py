"""New models and backbones that start from pretrained weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor, nn

from upernet.checkpoints.card import ModelCard
from upernet.checkpoints.finding import find_checkpoint, missing_weights, published_checkpoint
from upernet.checkpoints.imagenet import AUTO, load_backbone_weights
from upernet.checkpoints.loading import UPerNet, initialize_model
from upernet.checkpoints.native import research_only_checkpoint
from upernet.errors import UpernetError
from upernet.models.backbones import OptionValue, build_backbone, feature_info
from upernet.models.features import FeatureInfo
from upernet.recipe import load_recipe
from upernet.taxonomy import Taxonomy

Reference = str | Path


def create_model(
    name: Reference,
    *,
    classes: int | Sequence[str] | None = None,
    taxonomy: Taxonomy | Reference | None = None,
    pretrained: bool | Reference | None = False,
) -> UPerNet:
    """Return the model of a recipe in training mode, optionally for other classes and with pretrained weights.

    Args:
        name: Name of a bundled recipe (`upernet.list_models()`), or path of a YAML file.
        classes: The classes of the level `object`, which is then the only level: their names, or how many there are.
        taxonomy: The levels and classes: a `Taxonomy`, the name of a bundled one, or the path of a YAML file. Without
            `classes` and `taxonomy`, those of the recipe.
        pretrained: True loads the weights of the model that are bundled or published (downloaded at first use). A
            name, file, folder or `hf://OWNER/NAME` loads that checkpoint. Weights are copied where names and shapes
            agree, and those of classes of the same name (see `initialize_model`); other classes start from random
            weights. False or None: all weights are random.

    Raises:
        UpernetError: The name is unknown, the recipe is invalid, both `classes` and `taxonomy` are given, there are no
            such weights, or they belong to another backbone.

    Example:
        >>> model = upernet.create_model("camvid", classes=["crack", "asphalt", "marking"], pretrained=True)
        >>> model.taxonomy.level("object").names
        ('crack', 'asphalt', 'marking')
    """
    recipe = load_recipe(name)
    if classes is None and taxonomy is None:
        taxonomy = recipe.load_taxonomy()
    model = UPerNet(recipe.model, taxonomy, classes=classes)
    if pretrained is not None and pretrained is not False:
        path = published_checkpoint(recipe.name) if pretrained is True else find_checkpoint(pretrained, backbones=True)
        if path is None:
            raise missing_weights(recipe.name)
        initialize_model(model, path)
        source = recipe.name if pretrained is True else pretrained
        model.card = ModelCard(research_only=research_only_checkpoint(source, path))
    return model


def create_backbone(
    name: str,
    pretrained: bool | Reference | None = False,
    *,
    out_indices: Sequence[int] = (0, 1, 2, 3),
    options: Mapping[str, OptionValue] | None = None,
    drop_path: float = 0.0,
    feature_norms: bool = False,
) -> nn.Module:
    """Return a backbone, which maps N x 3 x H x W to a list of features, as timm's `features_only=True` does.

    `backbone.feature_info` has timm's accessors `channels()`, `reduction()` and `module_name()`.

    Args:
        name: `internimage_{t,s,b,l,xl,h}`, or the name of a timm model with features at strides 4, 8, 16 and 32.
        pretrained: True loads ImageNet weights from the first source that has them (`auto` of `load_backbone_weights`).
            A string or path is a source that `load_backbone_weights` takes, such as a file.
        out_indices: The features to return, in ascending order: 0 is C2 at stride 4, 3 is C5 at stride 32.
        options: Values that replace those of the variant `name` (InternImage: the fields of `InternImageSpec`).
        drop_path: Rate of stochastic depth at the last block; it rises linearly from 0.
        feature_norms: Whether each feature has a layer norm.

    Raises:
        UpernetError: The name is unknown, a setting is not supported, there are no such weights, or they do not fit.

    Example:
        >>> backbone = upernet.create_backbone("internimage_t", out_indices=(2, 3))
        >>> backbone.feature_info.channels(), backbone.feature_info.reduction()
        ([256, 512], [16, 32])
    """
    indices = () if isinstance(out_indices, int) else tuple(out_indices)
    if not indices or list(indices) != sorted(set(indices)) or not set(indices) <= set(range(4)):
        raise UpernetError(f"out_indices {out_indices}: give some of 0, 1, 2 and 3, in ascending order.")
    backbone = build_backbone(name, options=options, drop_path=drop_path, feature_norms=feature_norms)
    source = AUTO if pretrained is True else str(pretrained)
    if pretrained is not None and pretrained is not False and load_backbone_weights(backbone, name, source) is None:
        raise UpernetError(
            f"no ImageNet weights of backbone {name} can be had; check the connection, or give pretrained=FILE."
        )
    return backbone if indices == (0, 1, 2, 3) else SelectedFeatures(backbone, indices)


class SelectedFeatures(nn.Module):
    """A backbone that returns some of its features.

    Args:
        backbone: The backbone, as `create_backbone` returns it.
        out_indices: The features to return.
    """

    def __init__(self, backbone: nn.Module, out_indices: Sequence[int]) -> None:
        super().__init__()
        self.backbone = backbone
        self.out_indices = tuple(out_indices)

    @property
    def feature_info(self) -> FeatureInfo:
        """Channels, stride and last module of the returned features."""
        return feature_info(self.backbone).select(self.out_indices)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the selected features of N x 3 x H x W images."""
        features = self.backbone(images)
        return [features[index] for index in self.out_indices]
