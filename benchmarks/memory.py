"""Peak memory of a process that builds InternImage-T + UPerHead and runs one photo through it; Linux only.

In int8, the ranges are observed on the same photo before.

python -m benchmarks.memory [--threads 2] [--json OUT]
"""

from __future__ import annotations

import re
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from benchmarks.networks import network, official_way
from benchmarks.side_by_side import command_line, save
from upernet.models import Precision, prepare_for_inference
from upernet.ops import bfloat16_unavailable, int8_unavailable

STATUS = Path("/proc/self/status")
WAYS: dict[str, Precision | None] = {"official": None, "fast": "fp32", "fast, bf16": "bf16", "fast, int8": "int8"}


def one_photo(way: str, size: int, threads: int, tiny: bool) -> None:
    """Run one photo in a process of its own, and print the peak memory in KiB."""
    torch.set_num_threads(threads)
    precision, images = WAYS[way], torch.randn(1, 3, size, size)
    with nullcontext() if precision else official_way(), torch.inference_mode():
        model = network("T", tiny)
        if precision:
            model = prepare_for_inference(model, precision, [images])
        model(images)
    match = re.search(r"VmHWM:\s+(\d+) kB", STATUS.read_text())
    assert match
    print(match[1])


def peak(*arguments: Any) -> int:
    """Return the peak memory in bytes."""
    program = f"from benchmarks.memory import one_photo; one_photo{arguments!r}"
    done = subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.PIPE, text=True)
    return 1024 * int(done.stdout)


def main() -> None:
    arguments = command_line(__doc__)
    if not STATUS.is_file():
        sys.exit("peak memory is read from Linux's /proc")
    lacking = {"fast, bf16": bfloat16_unavailable(), "fast, int8": int8_unavailable()}
    ways = [way for way in WAYS if not lacking.get(way)]
    rows: dict[str, dict[str, int]] = {}
    for size in (64,) if arguments.quick else (512, 1024, 2048):
        rows[f"T at {size}"] = {way: peak(way, size, arguments.threads, arguments.quick) for way in ways}
        print(f"T at {size}:", *(f"{way} {value / 2**30:.2f} GiB" for way, value in rows[f"T at {size}"].items()))
    save(arguments, rows=rows)


if __name__ == "__main__":
    main()
