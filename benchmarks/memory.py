"""Peak memory of a process that builds InternImage-T + UPerHead and runs one photo through it; Linux only.

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
from torch import nn

from benchmarks.networks import network, official_way
from benchmarks.side_by_side import command_line, save
from upernet.models import prepare_for_inference

STATUS = Path("/proc/self/status")
WAYS = {"official": (nn.Module.eval, official_way), "fast": (prepare_for_inference, nullcontext)}


def one_photo(way: str, size: int, threads: int, tiny: bool) -> None:
    """Run one photo in a process of its own, and print the peak memory in KiB."""
    torch.set_num_threads(threads)
    prepare, context = WAYS[way]
    with context(), torch.inference_mode():
        prepare(network("T", tiny))(torch.randn(1, 3, size, size))
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
    rows: dict[str, dict[str, int]] = {}
    for size in (64,) if arguments.quick else (512, 1024, 2048):
        rows[f"T at {size}"] = {way: peak(way, size, arguments.threads, arguments.quick) for way in WAYS}
        print(f"T at {size}:", *(f"{way} {value / 2**30:.2f} GiB" for way, value in rows[f"T at {size}"].items()))
    save(arguments, rows=rows)


if __name__ == "__main__":
    main()
