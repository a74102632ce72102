"""InternImage as a classifier in plain PyTorch, from published tensors: written from arXiv 2211.05778, without upernet.

Nothing here is fast. DCNv3 gathers the four neighbors of every sampling point one by one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Plain:
    """What distinguishes the variants."""

    depths: tuple[int, int, int, int]
    groups: tuple[int, int, int, int]
    offset_scale: float = 1.0
    post_norm: bool = False
    huge: bool = False
    """InternImage-H: norms before and after each branch, gates, further norms in stage 3, attention pooling."""
    normed_blocks: tuple[int, ...] = ()


class PlainClassifier:
    """`PlainClassifier(tensors, variant)(images)` returns N x K logits, in the precision of the tensors."""

    def __init__(self, tensors: Mapping[str, Tensor], variant: Plain):
        self.tensors, self.variant = tensors, variant

    def __call__(self, images: Tensor) -> Tensor:
        features = self.features(images)
        pooled = self.attention(features) if self.variant.huge else self.average(features[-1])
        return self.linear(pooled, "head")

    def features(self, images: Tensor) -> list[Tensor]:
        """Return C2, C3, C4 and C5."""
        x = self.conv(images, "patch_embed.conv1", stride=2)
        x = F.gelu(self.norm(x, "patch_embed.norm1.1"))
        x = self.norm(self.conv(x, "patch_embed.conv2", stride=2), "patch_embed.norm2.1")
        features: list[Tensor] = []
        for stage in range(4):
            x = self.stage(x, stage)
            features.append(x)
            if stage < 3:
                x = self.conv(x, f"levels.{stage}.downsample.conv", stride=2)
                x = self.norm(x, f"levels.{stage}.downsample.norm.1")
        return features

    def average(self, x: Tensor) -> Tensor:
        x = F.conv2d(x, self.tensors["conv_head.0.weight"])
        mean, variance, weight, bias = (
            self.tensors[f"conv_head.1.0.{name}"][:, None, None]
            for name in ("running_mean", "running_var", "weight", "bias")
        )
        return F.gelu((x - mean) / torch.sqrt(variance + 1e-5) * weight + bias).mean((2, 3))

    def attention(self, features: list[Tensor]) -> Tensor:
        c4 = self.conv(features[2], "dcnv3_head_x3", padding=0)
        c5 = self.conv(features[3], "dcnv3_head_x4.0", padding=0)
        batch, _, rows, columns = c5.shape
        shuffled = c5.reshape(batch, -1, 2, 2, rows, columns).permute(0, 1, 4, 2, 5, 3)
        tokens = (shuffled.reshape(batch, -1, 2 * rows, 2 * columns) + c4).flatten(2).transpose(1, 2)
        pooled = {"q": tokens.mean(1, keepdim=True), "k": tokens, "v": tokens}
        projected: dict[str, Tensor] = {}
        for name, x in pooled.items():
            x = self.norm_last(x, f"clip_projector.norm1_{name}.0")
            prefix = f"clip_projector.cross_dcn.{name}"
            projected[name] = x @ self.tensors[f"{prefix}.weight"].T + self.tensors[f"{prefix}_bias"]
        heads: list[Tensor] = []
        for q, k, v in zip(*(projected[name].chunk(16, -1) for name in "qkv"), strict=True):
            heads.append(torch.softmax(q @ k.transpose(1, 2) / q.shape[-1] ** 0.5, -1) @ v)
        out = self.linear(torch.cat(heads, -1)[:, 0], "clip_projector.cross_dcn.proj")
        return self.norm_last(out, "fc_norm.0")

    def stage(self, x: Tensor, stage: int) -> Tensor:
        for index in range(self.variant.depths[stage]):
            prefix = f"levels.{stage}.blocks.{index}."
            x = self.branch(x, self.dcn(stage, prefix), prefix, "1")
            x = self.branch(x, lambda y, prefix=prefix: self.mlp(y, prefix), prefix, "2")
            if stage == 2 and index in self.variant.normed_blocks:
                x = self.norm(x, f"levels.2.post_norms.{self.variant.normed_blocks.index(index)}.0")
        return self.norm(x, f"levels.{stage}.norm.0") if f"levels.{stage}.norm.0.weight" in self.tensors else x

    def branch(self, x: Tensor, function, prefix: str, number: str) -> Tensor:
        if self.variant.post_norm:
            y = self.norm(function(x), f"{prefix}norm{number}.0")
        else:
            y = function(self.norm(x, f"{prefix}norm{number}.0"))
        if self.variant.huge:
            y = self.norm(y, f"{prefix}res_post_norm{number}.0")
        gamma = self.tensors.get(f"{prefix}gamma{number}")
        return x + (y if gamma is None else y * gamma[:, None, None])

    def mlp(self, x: Tensor, prefix: str) -> Tensor:
        hidden = F.gelu(self.linear(x.movedim(1, -1), f"{prefix}mlp.fc1"))
        return self.linear(hidden, f"{prefix}mlp.fc2").movedim(-1, 1)

    def dcn(self, stage: int, prefix: str):
        groups, name = self.variant.groups[stage], f"{prefix}dcn."

        def apply(x: Tensor) -> Tensor:
            channels = x.shape[1]
            values = self.linear(x.movedim(1, -1), f"{name}input_proj")
            query = self.conv(x, f"{name}dw_conv.0", groups=channels)
            query = F.gelu(self.norm(query, f"{name}dw_conv.1.1")).movedim(1, -1)
            offsets = self.linear(query, f"{name}offset").unflatten(-1, (groups, 9, 2))
            masks = self.linear(query, f"{name}mask").unflatten(-1, (groups, 9)).softmax(-1)
            y = sample(values.unflatten(-1, (groups, -1)), offsets * self.variant.offset_scale, masks, self.variant)
            if self.variant.huge:
                weight = self.tensors[f"{name}center_feature_scale_proj_weight"]
                gate = torch.sigmoid(query @ weight.T + self.tensors[f"{name}center_feature_scale_proj_bias"])
                gate = gate.repeat_interleave(channels // groups, -1)
                y = y * (1 - gate) + values * gate
            return self.linear(y, f"{name}output_proj").movedim(-1, 1)

        return apply

    def conv(self, x: Tensor, name: str, stride: int = 1, groups: int = 1, padding: int | None = None) -> Tensor:
        weight = self.tensors[f"{name}.weight"]
        return F.conv2d(
            x,
            weight,
            self.tensors.get(f"{name}.bias"),
            stride,
            weight.shape[-1] // 2 if padding is None else padding,
            groups=groups,
        )

    def linear(self, x: Tensor, name: str) -> Tensor:
        return x @ self.tensors[f"{name}.weight"].T + self.tensors.get(f"{name}.bias", 0)

    def norm(self, x: Tensor, name: str) -> Tensor:
        return self.norm_last(x.movedim(1, -1), name).movedim(-1, 1)

    def norm_last(self, x: Tensor, name: str) -> Tensor:
        centered = x - x.mean(-1, keepdim=True)
        scaled = centered / torch.sqrt(centered.square().mean(-1, keepdim=True) + 1e-6)
        return scaled * self.tensors[f"{name}.weight"] + self.tensors[f"{name}.bias"]


def sample(values: Tensor, offsets: Tensor, masks: Tensor, variant: Plain) -> Tensor:
    """Return DCNv3 (equation 2) of N x H x W x G x C values, as N x H x W x GC.

    Points run over columns first; an offset is (dx, dy). Outside of the map, values are 0.
    """
    batch, rows, columns, groups, _ = values.shape
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    one, group = torch.arange(batch)[:, None, None, None], torch.arange(groups)
    total = torch.zeros_like(values)
    for point in range(9):
        dx, dy = point // 3 - 1, point % 3 - 1
        x = column[None, :, :, None] + variant.offset_scale * dx + offsets[..., point, 0]
        y = row[None, :, :, None] + variant.offset_scale * dy + offsets[..., point, 1]
        for right in (0, 1):
            for below in (0, 1):
                near_x, near_y = x.floor() + right, y.floor() + below
                weight = (1 - (x - near_x).abs()) * (1 - (y - near_y).abs())
                inside = (near_x >= 0) & (near_x < columns) & (near_y >= 0) & (near_y < rows)
                at_x, at_y = near_x.long().clamp(0, columns - 1), near_y.long().clamp(0, rows - 1)
                neighbor = values[one, at_y, at_x, group]
                total += neighbor * (weight * inside * masks[..., point])[..., None]
    return total.flatten(-2)
