"""Networks in int8: ranges of numbers are observed on photos, then layers with int8 products take the places of others.

The linear layers of InternImage and FlashInternImage and the 3x3 convolutions and lateral connections of the decoder
are replaced. All other layers stay in float32: norms, sampling, depthwise convolutions, classifiers, other backbones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from upernet.models.decoder import Conv3x3BnRelu, Lateral, scale_and_shift
from upernet.models.internimage_blocks import Mlp
from upernet.models.layers import Linear
from upernet.models.packed_block import PackedBlock, pack_blocks
from upernet.ops import linear
from upernet.ops.eligibility import LANES
from upernet.ops.packed.conv3x3 import Int8Conv3x3, Int8Lateral
from upernet.ops.packed.linear import PackedLinear, PackedMlp
from upernet.ops.packed.ranges import Range, TileRange


class Replacement(nn.Module):
    """A layer in place of another: `compute` takes the same inputs."""

    def __init__(self, compute: Callable[..., Tensor]):
        super().__init__()
        self.compute = compute

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return what `compute` returns."""
        return self.compute(*inputs)


class ObservedMap(NamedTuple):
    """One of the maps that a 3x3 convolution takes."""

    range: Range
    tiles: TileRange


OBSERVED: tuple[type[nn.Module], ...] = (Linear, Mlp, Lateral, Conv3x3BnRelu)
"""Layers that may be replaced; subclasses are not."""


class Observer:
    """Observes the inputs of layers while a network runs.

    Attributes:
        ranges: Linear layer or 1x1 convolution -> the range of its inputs.
        maps: 3x3 convolution whose channels are multiples of 16 -> its maps.
    """

    def __init__(self) -> None:
        self.ranges: dict[nn.Module, Range] = {}
        self.maps: dict[nn.Module, list[ObservedMap]] = {}

    @torch.inference_mode()
    def run(self, network: nn.Module, images: Sequence[Tensor]) -> None:
        """Run the network on `images`, N x 3 x H x W each."""
        layers = [module for module in network.modules() if type(module) in OBSERVED]
        handles = [layer.register_forward_pre_hook(self._observe) for layer in layers]
        try:
            for x in images:
                network(x)
        finally:
            for handle in handles:
                handle.remove()

    def _observe(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if isinstance(layer, Conv3x3BnRelu):
            if any(count % LANES for count in (layer.parts[0].out_channels, *(x.shape[1] for x in inputs))):
                return
            maps = self.maps.setdefault(layer, [ObservedMap(Range(), TileRange()) for _ in inputs])
            for x, each in zip(inputs, maps, strict=True):
                each.range.observe(x)
                each.tiles.observe(x)
        elif isinstance(layer, Mlp):
            self._extend(layer.fc1, inputs[0])
            self._extend(layer.fc2, F.gelu(linear(inputs[0], layer.fc1.weight, layer.fc1.bias)))
        else:
            self._extend(layer.parts[0] if isinstance(layer, Lateral) else layer, inputs[0])

    def _extend(self, layer: nn.Module, x: Tensor) -> None:
        self.ranges.setdefault(layer, Range()).observe(x)


def replace_by_int8(network: nn.Module, images: Sequence[Tensor]) -> None:
    """Replace layers of `network`, in place, with ranges that are observed on `images`, N x 3 x H x W each."""
    observer = Observer()
    observer.run(network, images)
    pack_blocks(network, observer.ranges.__getitem__)
    _replace_children(network, observer)


def _replace_children(parent: nn.Module, observer: Observer) -> None:
    for name, child in list(parent.named_children()):
        if (compute := _int8(child, observer)) is not None:
            setattr(parent, name, Replacement(compute))
        elif not isinstance(child, PackedBlock):
            _replace_children(child, observer)


def _int8(layer: nn.Module, observer: Observer) -> Callable[..., Tensor] | None:
    """Return what computes a layer in int8, or None, if it was not observed or its channels do not fit."""
    ranges = observer.ranges
    if type(layer) is Linear and layer in ranges:
        return PackedLinear(layer.weight, layer.bias, ranges[layer])
    if type(layer) is Mlp and layer.fc1 in ranges and layer.fc1.out_features % LANES == 0:
        first, second = layer.fc1, layer.fc2
        weights = (first.weight, first.bias, second.weight, second.bias)
        return PackedMlp(*weights, (ranges[first], ranges[second]))
    if type(layer) is Lateral and layer.parts[0] in ranges and layer.parts[0].out_channels % LANES == 0:
        return _lateral(layer, ranges[layer.parts[0]])
    if type(layer) is Conv3x3BnRelu and layer in observer.maps:
        return _conv3x3(layer, observer.maps[layer])
    return None


def _lateral(layer: Lateral, inputs: Range) -> Callable[..., Tensor]:
    conv, norm, _ = layer.parts
    lateral = Int8Lateral(conv.weight, inputs)

    def compute(x: Tensor, coarse: Tensor) -> Tensor:
        return lateral(x, *scale_and_shift(norm), coarse)

    return compute


def _conv3x3(layer: Conv3x3BnRelu, observed: Sequence[ObservedMap]) -> Callable[..., Tensor]:
    conv, norm, _ = layer.parts
    conv3x3 = Int8Conv3x3(conv.weight, [each.range for each in observed], [each.tiles for each in observed])

    def compute(*maps: Tensor) -> Tensor:
        return conv3x3(maps, *scale_and_shift(norm), relu=True)

    return compute
