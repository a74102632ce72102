"""FlashInternImage-T beside InternImage-T, both with UPerHead for ADE20K: whole networks, backbones and operators.

    python -m benchmarks.flash [--threads 2] [--repeats 5] [--json OUT]

All weights are random. The operators are the layers of the backbone for one photo: DCNv3 with the softmax of its masks,
and DCNv4.
"""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.networks import network, official_way
from benchmarks.operators import levels
from benchmarks.side_by_side import Run, command_line, compare, save, show
from upernet.models import prepare_for_inference
from upernet.ops import dcnv3, dcnv4, grouped_softmax


def operators(size: int) -> dict[str, Run]:
    """Return the deformable convolutions of both backbones, for one photo of `size` x `size` pixels."""
    layers = [
        (
            level,
            torch.randn(1, level.side, level.side, level.channels),
            *torch.randn(1, level.side, level.side, 27 * level.groups).split([18 * level.groups, 9 * level.groups], -1),
            torch.randn(1, level.side, level.side, 27 * level.groups + -27 * level.groups % 8),
        )
        for level in levels(size)
    ]
    layers = [(level, x, offset.contiguous(), mask.contiguous(), both) for level, x, offset, mask, both in layers]

    def third() -> None:
        for level, x, offset, mask, _ in layers:
            for _ in range(level.depth):
                dcnv3(x, offset, grouped_softmax(mask, level.groups), groups=level.groups)

    def fourth() -> None:
        for level, x, _, _, both in layers:
            for _ in range(level.depth):
                dcnv4(x, both, groups=level.groups)

    return {"DCNv3": third, "DCNv4": fourth}


@torch.inference_mode()
def main() -> None:
    arguments = command_line(__doc__)
    size = 64 if arguments.quick else 512
    third, fourth = (
        network("T", tiny=arguments.quick, family=family) for family in ("internimage", "flash_internimage")
    )
    official, third, fourth = third, prepare_for_inference(third), prepare_for_inference(fourth)
    images = torch.randn(1, 3, size, size)
    rows: dict[str, Any] = {
        "whole network": {
            "InternImage-T, official": official_way()(lambda: official(images)),
            "InternImage-T": lambda: third(images),
            "FlashInternImage-T": lambda: fourth(images),
        },
        "backbone": {
            "InternImage-T": lambda: third.backbone(images),
            "FlashInternImage-T": lambda: fourth.backbone(images),
        },
        "30 operators": operators(size),
    }
    rows = {name: compare(runs, arguments.repeats) for name, runs in rows.items()}
    for name, row in rows.items():
        show(f"{name}, {size} x {size}", row)
    save(arguments, rows=rows)


if __name__ == "__main__":
    main()
