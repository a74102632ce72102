"""Building blocks that every backbone shares: the description of its features, and stochastic depth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

STRIDES = (4, 8, 16, 32)
"""Strides of C2, C3, C4 and C5."""


@dataclass(frozen=True)
class Feature:
    """One feature map that a backbone returns."""

    channels: int
    stride: int
    module: str
    """Name, inside the backbone, of the last module that contributes to the feature."""


class FeatureInfo:
    """The features that a backbone returns, in order, with the accessors of timm's class of the same name.

    Example:
        >>> info = upernet.create_backbone("internimage_t").feature_info
        >>> info.channels(), info.reduction(), info[3]["num_chs"]
        ([64, 128, 256, 512], [4, 8, 16, 32], 512)
    """

    def __init__(self, *features: Feature, out_indices: Sequence[int] | None = None):
        self._features = features
        self.out_indices = tuple(range(len(features)) if out_indices is None else out_indices)
        """Index of each feature among C2, C3, C4 and C5."""

    def __len__(self) -> int:
        """Return the number of features."""
        return len(self._features)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return the description of a feature: `num_chs`, `reduction` and `module`."""
        feature = self._features[index]
        return {"num_chs": feature.channels, "reduction": feature.stride, "module": feature.module}

    def get_dicts(self, keys: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """Return the descriptions of all features, or those of their entries that `keys` lists."""
        return [
            {key: value for key, value in self[index].items() if keys is None or key in keys}
            for index in range(len(self))
        ]

    def channels(self) -> list[int]:
        """Return the number of channels of each feature."""
        return [feature.channels for feature in self._features]

    def reduction(self) -> list[int]:
        """Return the stride of each feature."""
        return [feature.stride for feature in self._features]

    def module_name(self) -> list[str]:
        """Return the name of the module that ends each feature."""
        return [feature.module for feature in self._features]

    def select(self, indices: Sequence[int]) -> FeatureInfo:
        """Return the description of the features at `indices`."""
        return FeatureInfo(*(self._features[index] for index in indices), out_indices=indices)


class DropPath(nn.Module):
    """Stochastic depth (arXiv 1603.09382): in training, drops a residual branch per image with probability `drop_prob`.

    Branches that are kept are divided by 1 - drop_prob.
    """

    def __init__(self, drop_prob: float):
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` with the branches of some images set to zero; in eval mode, `x` itself."""
        if not self.training or self.drop_prob == 0:
            return x
        kept = x.new_empty(x.shape[0], *[1] * (x.ndim - 1)).bernoulli_(1 - self.drop_prob)
        return x * kept.div_(1 - self.drop_prob)
