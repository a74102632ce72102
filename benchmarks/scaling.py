"""How the time of InternImage-T + UPerHead grows with pixels and batch, and shrinks with threads.

python -m benchmarks.scaling [--threads 2] [--repeats 5] [--json OUT]
"""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.networks import network, official_way
from benchmarks.side_by_side import command_line, compare, save, show
from upernet.models import prepare_for_inference


@torch.inference_mode()
def main() -> None:
    arguments = command_line(__doc__)
    sides, batches, size = ((32, 64), (1, 2), 64) if arguments.quick else ((256, 384, 512, 768, 1024), (1, 2, 4), 512)
    model = network("T", tiny=arguments.quick)
    fast = prepare_for_inference(model)
    groups: dict[str, dict[str, Any]] = {"pixels": {}, "batch": {}, "threads": {}}

    def measure(group: str, name: str, batch: int, side: int) -> None:
        images = torch.randn(batch, 3, side, side)
        groups[group][name] = compare(
            {"official": official_way()(lambda: model(images)), "fast": lambda: fast(images)}, arguments.repeats
        )
        show(name, groups[group][name])

    for side in sides:
        measure("pixels", f"{side} x {side}", 1, side)
    for batch in batches:
        measure("batch", f"{size} x {size}, batch of {batch}", batch, size)
    doublings = {2**power for power in range(arguments.threads.bit_length())}
    for threads in sorted(doublings | {arguments.threads}):
        torch.set_num_threads(threads)
        measure("threads", f"{size} x {size}, {threads} thread{'s' if threads > 1 else ''}", 1, size)
    save(arguments, groups=groups)


if __name__ == "__main__":
    main()
