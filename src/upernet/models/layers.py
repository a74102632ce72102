"""Layers of torch that compute through `upernet.ops`; as modules, they support hooks and parametrizations."""

from __future__ import annotations

from torch import Tensor, nn

from upernet.ops import conv1x1, linear


class Linear(nn.Linear):
    """A linear layer, ... x C -> ... x D."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the linear map of `input`."""
        return linear(input, self.weight, self.bias)


class Classifier(nn.Conv2d):
    """A 1x1 convolution that classifies each pixel, N x C x H x W -> N x K x H x W."""

    def __init__(self, in_channels: int, num_logits: int):
        super().__init__(in_channels, num_logits, 1)  # pyright: ignore[reportUnknownMemberType]

    def forward(self, input: Tensor) -> Tensor:
        """Return the logits."""
        return conv1x1(input, self.weight, self.bias)
