"""Each operator against plain torch, at the sizes that InternImage-T with UPerHead has for a photo of 512 x 512.

    python -m benchmarks.operators [--threads 2] [--repeats 5] [--json OUT]

A row is a function that makes tensors for a photo of `size` x `size` and returns what is timed, and a line in `ROWS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.networks import official_and_fast, official_way
from benchmarks.side_by_side import Run, command_line, compare, save, show
from upernet.models.internimage import VARIANTS
from upernet.ops import dcnv3, grouped_softmax, lateral, linear, mlp, upsample_conv3x3

WIDTH = 512
"""Channels of the decoder."""


class Level(NamedTuple):
    """A stage of the backbone: `depth` layers on maps of `side` x `side` pixels."""

    depth: int
    side: int
    channels: int
    groups: int


def levels(size: int) -> Iterator[Level]:
    variant = VARIANTS["internimage_t"]
    for level, (depth, groups) in enumerate(zip(variant["depths"], variant["groups"], strict=True)):
        yield Level(depth, max(1, size // (4 * 2**level)), variant["channels"] * 2**level, groups)


def dcnv3_inputs(level: Level) -> tuple[Tensor, Tensor, Tensor]:
    """Return x, offsets of about a pixel, and a mask that sums to 1."""
    x, offset, mask = (
        torch.randn(1, level.side, level.side, width) for width in (level.channels, 18 * level.groups, 9 * level.groups)
    )
    return x, offset, mask.unflatten(-1, (level.groups, 9)).softmax(-1).flatten(-2)


def dcnv3_forward(size: int) -> dict[str, Run]:
    inputs = [(level, *dcnv3_inputs(level)) for level in levels(size)]

    def run() -> None:
        for level, x, offset, mask in inputs:
            for _ in range(level.depth):
                dcnv3(x, offset, mask, groups=level.groups)

    return official_and_fast(torch.inference_mode()(run))


def dcnv3_backward(size: int) -> dict[str, Run]:
    """Compute the gradients of all inputs; the graphs are built beforehand, so that no forward pass is timed."""

    def prepare() -> Run:
        graphs = []
        for level in levels(size):
            x, offset, mask = (tensor.requires_grad_() for tensor in dcnv3_inputs(level))
            out = dcnv3(x, offset, mask, groups=level.groups)
            graphs.append((level.depth, (x, offset, mask), out, torch.randn_like(out)))

        def run() -> None:
            for depth, inputs, out, gradient in graphs:
                for _ in range(depth):
                    torch.autograd.grad(out, inputs, gradient, retain_graph=True)

        return run

    with official_way():
        official = prepare()
    return {"official": official, "fast": prepare()}


def pyramid(size: int) -> list[Tensor]:
    """Return P2 to P5."""
    return [torch.randn(1, WIDTH, level.side, level.side) for level in levels(size)]


def convolution(maps: list[Tensor]) -> dict[str, Run]:
    """Convolve 3x3 to WIDTH channels, with the scale and shift of a batch norm."""
    weight = torch.randn(WIDTH, sum(x.shape[1] for x in maps), 3, 3) / 100
    scale, shift = torch.rand(WIDTH) + 0.5, torch.randn(WIDTH)
    return official_and_fast(torch.inference_mode()(lambda: upsample_conv3x3(maps, weight, scale, shift, relu=True)))


def fusion(size: int) -> dict[str, Run]:
    return convolution(pyramid(size))


def ppm_bottleneck(size: int) -> dict[str, Run]:
    *_, last = levels(size)
    pooled = [torch.randn(1, WIDTH, scale, scale) for scale in (1, 2, 3, 6)]
    return convolution([torch.randn(1, last.channels, last.side, last.side), *pooled])


def single_map(size: int) -> dict[str, Run]:
    return convolution(pyramid(size)[:1])


def fusion_in_training(size: int) -> dict[str, Run]:
    maps = [x.requires_grad_() for x in pyramid(size)]
    weight = (torch.randn(WIDTH, 4 * WIDTH, 3, 3) / 100).requires_grad_()

    def run() -> None:
        torch.autograd.grad(upsample_conv3x3(maps, weight).sum(), [*maps, weight])

    return official_and_fast(run)


def laterals(size: int) -> dict[str, Run]:
    """Compute the three steps of the top-down path."""
    steps = []
    for level, (fine, coarse) in zip(levels(size), pairwise(pyramid(size)), strict=False):
        weight = torch.randn(WIDTH, level.channels, 1, 1) / 10
        steps.append((torch.randn(1, level.channels, *fine.shape[2:]), weight, coarse))
    scale, shift = torch.rand(WIDTH) + 0.5, torch.randn(WIDTH)

    def run() -> None:
        for x, weight, coarse in steps:
            lateral(x, weight, scale, shift, coarse)

    return official_and_fast(torch.inference_mode()(run))


def linears(size: int) -> dict[str, Run]:
    """Compute the projections, offsets and masks of DCNv3."""
    inputs = []
    for level in levels(size):
        x = torch.randn(1, level.side, level.side, level.channels)
        widths = (level.channels, level.channels, 18 * level.groups, 9 * level.groups)
        inputs.append((level.depth, x, [(torch.randn(width, level.channels), torch.randn(width)) for width in widths]))

    def run() -> None:
        for depth, x, parameters in inputs:
            for _ in range(depth):
                for weight, bias in parameters:
                    linear(x, weight, bias)

    return official_and_fast(torch.inference_mode()(run))


def softmaxes(size: int) -> dict[str, Run]:
    inputs = [
        (level.depth, level.groups, torch.randn(1, level.side, level.side, 9 * level.groups)) for level in levels(size)
    ]

    def run() -> None:
        for depth, groups, x in inputs:
            for _ in range(depth):
                grouped_softmax(x, groups)

    return official_and_fast(torch.inference_mode()(run))


def mlps(size: int) -> dict[str, Run]:
    inputs = []
    for level in levels(size):
        channels, hidden = level.channels, 4 * level.channels
        shapes = ((hidden, channels), (hidden,), (channels, hidden), (channels,))
        tensors = [torch.randn(shape) / 10 for shape in shapes]
        inputs.append((level.depth, torch.randn(1, level.side, level.side, channels), tensors))

    def run() -> None:
        for depth, x, tensors in inputs:
            for _ in range(depth):
                mlp(x, *tensors)

    return official_and_fast(torch.inference_mode()(run))


ROWS: dict[str, Callable[[int], dict[str, Run]]] = {
    "dcnv3, 30 layers, forward": dcnv3_forward,
    "dcnv3, 30 layers, backward alone": dcnv3_backward,
    "upsample_conv3x3, fusion layer": fusion,
    "upsample_conv3x3, fusion layer, forward and backward": fusion_in_training,
    "upsample_conv3x3, PPM bottleneck": ppm_bottleneck,
    "upsample_conv3x3, one map of 512 channels at stride 4": single_map,
    "lateral, three steps": laterals,
    "linear, 120 of DCNv3": linears,
    "grouped_softmax, 30 layers": softmaxes,
    "mlp, 30 layers": mlps,
}


def main() -> None:
    arguments = command_line(__doc__)
    rows: dict[str, Any] = {}
    for name, row in ROWS.items():
        rows[name] = compare(row(64 if arguments.quick else 512), arguments.repeats)
        show(name, rows[name])
    save(arguments, rows=rows)


if __name__ == "__main__":
    main()
