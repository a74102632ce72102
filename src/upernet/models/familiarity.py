"""Familiarity: whether a photo looks like the training photos, judged by the statistics of its shallow features.

The mean and the standard deviation of each channel of C2 and C3 say what kind of picture it is: a photo, a drawing, a
page of text, a screenshot. One Gaussian per source of photos says which statistics are usual. They find more pictures
that are no photos than C4, C5, softmax probabilities and energies do (docs/results/familiarity.json), most of all those
that programs draw; of scanned, medical and microscope pictures they find few.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

FAMILIARITY = "familiarity"
"""Key of the familiarity in what a model returns, and of its statistics among the model's tensors."""


class Familiarity(nn.Module):
    """The statistics that tell how familiar a photo is; `upernet.evaluation.fit_familiarity` finds them.

    Args:
        statistics: Number of statistics of a photo: twice the channels of C2 and C3.
        components: Number of components that they are projected to.
        sources: Number of Gaussians.
        photos: Number of distances of familiar photos.
    """

    scale: Tensor
    """float32 D: what the statistics are divided by before the logarithm."""
    projection: Tensor
    """float32 D x C: from the logarithms to components, whose variance within sources is 1."""
    centers: Tensor
    """float32 S x C: mean of each source."""
    whitening: Tensor
    """float32 S x C x C: makes the covariance of each source that of independent components with variance 1."""
    offsets: Tensor
    """float32 S: twice the logarithm of the normalizing factor of each Gaussian, up to a constant."""
    distances: Tensor
    """float32 N: distances of familiar photos, ascending."""

    def __init__(self, statistics: int, components: int, sources: int, photos: int) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(statistics))
        self.register_buffer("projection", torch.zeros(statistics, components))
        self.register_buffer("centers", torch.zeros(sources, components))
        self.register_buffer("whitening", torch.zeros(sources, components, components))
        self.register_buffer("offsets", torch.zeros(sources))
        self.register_buffer("distances", torch.zeros(photos))

    @classmethod
    def like(cls, tensors: Mapping[str, Tensor], channels: Sequence[int]) -> Familiarity | None:
        """Return a module with the sizes that the tensors of a model ask for, or None if it has none.

        Args:
            tensors: Tensors of a whole model, by name.
            channels: Channels of its features, [C2, C3, ...].
        """
        if not any(key.startswith(f"{FAMILIARITY}.") for key in tensors):
            return None
        missing = torch.empty(0, 0)
        centers, distances = (tensors.get(f"{FAMILIARITY}.{name}", missing) for name in ("centers", "distances"))
        sources, components = (*centers.shape, 0, 0)[:2]
        return cls(2 * sum(channels[:2]), components, sources, distances.numel())

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Return the share of familiar photos that are as unusual as each photo: float32 N, in 0..1.

        Args:
            features: [C2, C3, ...] of N photos.
        """
        found = self.distance(photo_statistics(features))
        larger = (self.distances >= found[:, None]).sum(1)
        return larger.float() / max(1, len(self.distances))

    def distance(self, statistics: Tensor) -> Tensor:
        """Return how improbable statistics (N x D) are under the nearest Gaussian: float32 N, -2 log p + constant."""
        components = compressed(statistics, self.scale) @ self.projection
        deviations = components[None] - self.centers[:, None]  # S x N x C
        return ((deviations @ self.whitening).square().sum(2) + self.offsets[:, None]).amin(0)


def photo_statistics(features: Sequence[Tensor]) -> Tensor:
    """Return the mean and the standard deviation of each channel of C2 and C3: float32 N x D.

    Args:
        features: [C2, C3, ...] of N photos.
    """
    found: list[Tensor] = []
    for feature in features[:2]:
        values = feature.float().flatten(2)
        found += [values.mean(2), values.std(2, unbiased=False)]
    return torch.cat(found, dim=1)


def compressed(statistics: Tensor, scale: Tensor) -> Tensor:
    """Return logarithms that keep the sign of the statistics, and are close to linear below `scale`."""
    return statistics.sign() * (statistics.abs() / scale).log1p()
