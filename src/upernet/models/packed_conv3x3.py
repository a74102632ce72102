"""3x3 convolutions of the decoder for inference on CPUs: packed weights in place of the modules."""

from __future__ import annotations

from typing import TypeGuard

from torch import Tensor, nn

from upernet.models.decoder import Conv3x3BnRelu, scale_and_shift
from upernet.ops import packed_conv3x3
from upernet.ops.conv3x3 import MIN_CHANNELS
from upernet.ops.conv3x3.winograd_weights_cpu import tap_panels
from upernet.ops.eligibility import LANES


class PackedConv3x3BnRelu(nn.Module):
    """A `Conv3x3BnRelu` in eval mode, with a packed copy of its weight."""

    def __init__(self, layer: Conv3x3BnRelu):
        super().__init__()
        conv, norm, _ = layer.parts
        self.panels = tap_panels(conv.weight.detach()).panels
        self.scale, self.shift = (each.detach() for each in scale_and_shift(norm))

    def forward(self, *maps: Tensor) -> Tensor:
        """Map features N x C_k x h_k x w_k to N x D x h_1 x w_1, without gradients."""
        return packed_conv3x3(maps, self.panels, self.scale, self.shift, relu=True)


def pack_convolutions(network: nn.Module) -> None:
    """Replace the 3x3 convolutions of `network` that `PackedConv3x3BnRelu` computes fast, in place.

    Args:
        network: The network, with weights in float32 on a CPU.
    """
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if _can_pack(child):
                setattr(parent, name, PackedConv3x3BnRelu(child))


def _can_pack(module: nn.Module) -> TypeGuard[Conv3x3BnRelu]:
    if type(module) is not Conv3x3BnRelu:
        return False
    channels = (module.parts[0].out_channels, *module.map_channels)
    return all(count % LANES == 0 and count >= MIN_CHANNELS for count in channels)
