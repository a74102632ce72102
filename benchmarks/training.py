"""Forward and backward pass of InternImage-T + UPerHead, the official way and fast.

python -m benchmarks.training [--threads 2] [--repeats 5] [--json OUT]
"""

from __future__ import annotations

import torch

from benchmarks.networks import network, official_way
from benchmarks.side_by_side import Run, command_line, compare_steps, save, show
from upernet.models import UPerNet
from upernet.ops.runtime.heap import kept_heap

WAYS = {"official": official_way, "fast": kept_heap}
"""The official way, and what `upernet train` does."""


def step(model: UPerNet, batch: int, size: int) -> Run:
    """Gradients of all parameters, the auxiliary head's among them; drop path and dropout as in the recipe."""
    images = torch.randn(batch, 3, size, size)

    def run() -> None:
        model.zero_grad(set_to_none=True)
        torch.stack([logits.square().mean() for logits in model(images).values()]).sum().backward()

    return run


def main() -> None:
    arguments = command_line(__doc__)
    batch, size = (2, 64) if arguments.quick else (2, 256)
    name = f"T at {size}, batch of {batch}, forward and backward"
    run = step(network("T", tiny=arguments.quick).train(), batch, size)
    rows = {name: compare_steps(run, WAYS, arguments.repeats)}
    show(name, rows[name])
    save(arguments, rows=rows)


if __name__ == "__main__":
    main()
