"""Where InternImage-T's time goes at 512 x 512: torch's profiler, the time of each operator itself, forward in float32.

python -m benchmarks.breakdown [--threads 2] [--repeats 5] [--json OUT]
"""

from __future__ import annotations

from collections import Counter

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.networks import network
from benchmarks.side_by_side import command_line, save
from upernet.models import prepare_for_inference

SHOWN = 10


def main() -> None:
    arguments = command_line(__doc__)
    size = 64 if arguments.quick else 512
    model, images = prepare_for_inference(network("T", tiny=arguments.quick)), torch.randn(1, 3, size, size)
    seconds: Counter[str] = Counter()
    with torch.inference_mode():
        model(images)  # compiles, prepares weights
        with profile(activities=[ProfilerActivity.CPU]) as profiled:
            for _ in range(arguments.repeats):
                model(images)
    for event in profiled.key_averages():
        seconds[event.key.partition("::")[2] or event.key] += event.self_cpu_time_total / 1e6 / arguments.repeats
    total = sum(seconds.values())
    parts = dict(seconds.most_common(SHOWN))
    parts["all others"] = total - sum(parts.values())
    for name, value in parts.items():
        print(f"{name:<28} {1000 * value:>8.1f} ms {100 * value / total:>6.1f} %")
    save(arguments, size=size, seconds=parts)


if __name__ == "__main__":
    main()
