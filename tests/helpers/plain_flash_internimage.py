"""FlashInternImage in plain PyTorch, from published tensors: written from arXiv 2401.06197, without upernet.

Also the names and shapes of the published tensors, as the published source code builds them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from helpers.plain_internimage import Plain, PlainClassifier, sample
from torch import Tensor


class PlainFlash(PlainClassifier):
    """`PlainFlash(tensors, variant).features(images)` returns C2 to C5, in the precision of the tensors."""

    def dcn(self, stage: int, prefix: str):
        groups, name = self.variant.groups[stage], f"{prefix}dcn."

        def apply(x: Tensor) -> Tensor:
            query = x
            if f"{name}offset_mask_dw.weight" in self.tensors:
                query = self.conv(x, f"{name}offset_mask_dw", groups=x.shape[1])
            numbers = self.linear(query.movedim(1, -1), f"{name}offset_mask")[..., : 27 * groups]
            numbers = numbers.unflatten(-1, (groups, 27))
            offsets, masks = numbers[..., :18].unflatten(-1, (9, 2)), numbers[..., 18:]
            values = self.linear(x.movedim(1, -1), f"{name}value_proj").unflatten(-1, (groups, -1))
            y = sample(values, offsets * self.variant.offset_scale, masks, self.variant)
            return self.linear(y, f"{name}output_proj").movedim(-1, 1)

        return apply


@dataclass(frozen=True)
class Published:
    """A published configuration."""

    channels: int
    depths: tuple[int, int, int, int]
    groups: tuple[int, int, int, int]
    offset_scale: float = 1.0
    post_norm: bool = True
    depthwise: bool = True
    """A 3x3 depthwise convolution precedes the layer of offsets and masks."""
    biases: bool = False
    """The last layers of DCNv4 and of the MLP have biases."""

    def plain(self) -> Plain:
        """Return what the plain network takes."""
        return Plain(self.depths, self.groups, self.offset_scale, self.post_norm)


VARIANTS = {
    "t": Published(64, (4, 4, 18, 4), (4, 8, 16, 32), post_norm=False, depthwise=False),
    "s": Published(80, (4, 4, 21, 4), (5, 10, 20, 40)),
    "b": Published(112, (4, 4, 21, 4), (7, 14, 28, 56), offset_scale=0.5),
    "l": Published(160, (5, 5, 22, 5), (10, 20, 40, 80), offset_scale=2.0, biases=True),
}


def published_shapes(variant: Published, padded: bool = True) -> dict[str, tuple[int, ...]]:
    """Return the published name -> shape of every tensor of a backbone.

    Args:
        variant: the configuration.
        padded: the offsets and masks of a pixel are padded to a multiple of 8 numbers.
    """
    return dict(_shapes(variant, padded))


def _shapes(variant: Published, padded: bool) -> Iterator[tuple[str, tuple[int, ...]]]:
    def layer(name: str, *shape: int, bias: bool = True) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield f"{name}.weight", shape
        if bias:
            yield f"{name}.bias", shape[:1]

    first = variant.channels
    yield from layer("patch_embed.conv1", first // 2, 3, 3, 3)
    yield from layer("patch_embed.norm1.1", first // 2)
    yield from layer("patch_embed.conv2", first, first // 2, 3, 3)
    yield from layer("patch_embed.norm2.1", first)
    for stage, (depth, groups) in enumerate(zip(variant.depths, variant.groups, strict=True)):
        channels, level = first * 2**stage, f"levels.{stage}"
        numbers = groups * 9 * 3
        if padded:
            numbers = (numbers + 7) // 8 * 8
        for index in range(depth):
            block = f"{level}.blocks.{index}"
            yield from ((f"{block}.gamma{number}", (channels,)) for number in (1, 2))
            yield from layer(f"{block}.norm1.0", channels)
            if variant.depthwise:
                yield from layer(f"{block}.dcn.offset_mask_dw", channels, 1, 3, 3)
            yield from layer(f"{block}.dcn.offset_mask", numbers, channels)
            yield from layer(f"{block}.dcn.value_proj", channels, channels)
            yield from layer(f"{block}.dcn.output_proj", channels, channels, bias=variant.biases)
            yield from layer(f"{block}.norm2.0", channels)
            yield from layer(f"{block}.mlp.fc1", 4 * channels, channels)
            yield from layer(f"{block}.mlp.fc2", channels, 4 * channels, bias=variant.biases)
        if not variant.post_norm:
            yield from layer(f"{level}.norm.0", channels)
        if stage < 3:
            yield from layer(f"{level}.downsample.conv", 2 * channels, channels, 3, 3, bias=False)
            yield from layer(f"{level}.downsample.norm.1", 2 * channels)
