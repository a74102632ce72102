"""Peak memory of a process that builds InternImage-T + UPerHead and runs a photo through it or trains it; Linux only.

In int8, the ranges are observed on the same photo before.

python -m benchmarks.memory [--threads 2] [--json OUT]
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from benchmarks.networks import network, official_way
from benchmarks.side_by_side import command_line, save
from benchmarks.training import WAYS as TRAINING_WAYS
from benchmarks.training import step as training_step
from upernet.models import Precision, prepare_for_inference
from upernet.ops import bfloat16_unavailable, int8_unavailable

STATUS = Path("/proc/self/status")
BATCH = 2
WAYS: dict[str, Precision | None] = {"official": None, "fast": "fp32", "fast, bf16": "bf16", "fast, int8": "int8"}


def one_photo(way: str, size: int, tiny: bool) -> None:
    """Run one photo through the network."""
    precision, images = WAYS[way], torch.randn(1, 3, size, size)
    with nullcontext() if precision else official_way(), torch.inference_mode():
        model = network("T", tiny)
        if precision:
            model = prepare_for_inference(model, precision, [images])
        model(images)


def training(way: str, size: int, tiny: bool) -> None:
    """Train the network for two steps, so that the second finds the gradients and the kept memory of the first."""
    step = training_step(network("T", tiny).train(), BATCH, size)
    with TRAINING_WAYS[way]():
        step()
        step()


def print_peak(what: Callable[..., None], threads: int, *arguments: Any) -> None:
    """Run `what` and print the peak memory of this process in KiB."""
    torch.set_num_threads(threads)
    what(*arguments)
    match = re.search(r"VmHWM:\s+(\d+) kB", STATUS.read_text())
    assert match
    print(match[1])


def peak(what: Callable[..., None], threads: int, *arguments: Any) -> int:
    """Return the peak memory in bytes of a process of its own that runs `what`."""
    call = f"memory.print_peak(memory.{what.__name__}, *{(threads, *arguments)!r})"
    program = f"from benchmarks import memory; {call}"
    done = subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.PIPE, text=True)
    return 1024 * int(done.stdout)


def main() -> None:
    arguments = command_line(__doc__)
    if not STATUS.is_file():
        sys.exit("peak memory is read from Linux's /proc")
    lacking = {"fast, bf16": bfloat16_unavailable(), "fast, int8": int8_unavailable()}
    ways = [way for way in WAYS if not lacking.get(way)]
    photos, trained = ((64,), 64) if arguments.quick else ((512, 1024, 2048), 256)
    tasks = {f"T at {size}": (one_photo, size, ways) for size in photos}
    tasks[f"training step of T at {trained}, batch of {BATCH}"] = training, trained, list(TRAINING_WAYS)
    rows: dict[str, dict[str, int]] = {}
    for name, (what, size, compared) in tasks.items():
        rows[name] = {way: peak(what, arguments.threads, way, size, arguments.quick) for way in compared}
        print(f"{name}:", *(f"{way} {value / 2**30:.2f} GiB" for way, value in rows[name].items()))
    save(arguments, rows=rows)


if __name__ == "__main__":
    main()
