"""Layers of torch whose products go through `upernet.ops`; modules, so that hooks and parametrizations hold."""

from __future__ import annotations

from torch import Tensor, nn

from upernet.ops import conv1x1, linear


class Linear(nn.Linear):
    """... x C -> ... x D."""

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, self.bias)


class Classifier(nn.Conv2d):
    """N x C x H x W -> N x K x H x W: logits of each pixel by itself."""

    def __init__(self, in_channels: int, num_logits: int):
        super().__init__(in_channels, num_logits, 1)

    def forward(self, input: Tensor) -> Tensor:
        return conv1x1(input, self.weight, self.bias)
