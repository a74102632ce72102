"""The harness of all benchmarks: alternatives take turns in one process, on a fixed number of threads."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numba
import torch

from upernet.files import write_text

Run = Callable[[], object]
STEPS = 2
"""Training steps that are timed at a time, after one that is not."""
AVX2 = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "NUMBA_CPU_NAME": "haswell",
    "NUMBA_CPU_FEATURES": "+avx2,+fma",  # without it, Numba keeps the features of the processor at hand
}
"""Environment in which torch, oneDNN, MKL and Numba use no instructions beyond AVX2."""


def command_line(documentation: str | None, *paths: str) -> argparse.Namespace:
    """Parse the options that all benchmarks have and the `paths` that this one needs; set torch's threads and seed."""
    parser = argparse.ArgumentParser(description=(documentation or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=2, help="that everything measured runs on (default: 2)")
    parser.add_argument("--repeats", type=int, default=5, help="rounds that count, after one to warm up (default: 5)")
    parser.add_argument("--json", type=Path, help="file for the result")
    parser.add_argument("--quick", action="store_true", help="tiny sizes and networks, to try the benchmark itself")
    parser.add_argument("--avx2", action="store_true", help="use no instructions beyond AVX2, on any x86 processor")
    for name in paths:
        required: dict[str, Any] = {"required": True} if name.startswith("-") else {}
        parser.add_argument(name, type=Path, **required)
    arguments = parser.parse_args()
    if arguments.avx2 and any(os.environ.get(key) != value for key, value in AVX2.items()):
        # The libraries read their environment when they are imported.
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | AVX2)
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    return arguments


def compare(runs: Mapping[str, Run], repeats: int, pause: float = 0.0) -> dict[str, Any]:
    """Time `runs` in turns: a warm-up round (compilation, packed weights, caches), then `repeats` rounds that count.

    Every second round goes backwards, so that nobody always follows the same one.

    Args:
        pause: seconds between two runs, in which the threads of the first go to sleep, if each brings its own.

    Returns:
        {"seconds": {name: {"median", "lowest", "highest"}}, "ratio": {name: the first one's median over its own}}.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(repeats + 1):
        for name, run in list(runs.items())[:: -1 if repeat % 2 else 1]:
            time.sleep(pause)
            start = time.perf_counter()
            run()
            if repeat:
                seconds[name].append(time.perf_counter() - start)
    return summary(seconds)


def compare_steps(
    step: Run, contexts: Mapping[str, Callable[[], AbstractContextManager[object]]], repeats: int
) -> dict[str, Any]:
    """Time training steps in each context in turns; see `compare`.

    Each time that a context is entered, one step that is not timed fills the memory of the process as the steps before
    it have done in a run of training, and the mean of the STEPS that follow counts.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contexts}
    for repeat in range(repeats + 1):
        for name, context in list(contexts.items())[:: -1 if repeat % 2 else 1]:
            with context():
                step()
                start = time.perf_counter()
                for _ in range(STEPS):
                    step()
                if repeat:
                    seconds[name].append((time.perf_counter() - start) / STEPS)
    return summary(seconds)


def summary(seconds: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Return what `compare` returns, from measured seconds."""
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    first = next(iter(medians.values()))
    return {
        "seconds": {
            name: {"median": medians[name], "lowest": min(values), "highest": max(values)}
            for name, values in seconds.items()
        },
        "ratio": {name: first / median for name, median in medians.items()},
    }


def show(name: str, result: Mapping[str, Any]) -> None:
    """Print one comparison: a line per alternative with its median, its range and its ratio to the first."""
    print(name)
    for alternative, times in result["seconds"].items():
        median, lowest, highest = (1000 * times[key] for key in ("median", "lowest", "highest"))
        between = f"({lowest:.1f} to {highest:.1f})"
        print(f"  {alternative:<40} {median:>9.1f} ms {between:>22} {result['ratio'][alternative]:>7.2f} x", flush=True)


def show_agreement(differences: Mapping[str, Mapping[str, float]]) -> None:
    """Print what `networks.agreement` says about each alternative."""
    for alternative, values in differences.items():
        print(f"  {alternative}: logits differ by {values['relative_error']:.1e} of their spread,", end=" ")
        print(f"{100 * values['argmax_agreement']:.3f} % of the pixels have the same class", flush=True)


def machine() -> dict[str, Any]:
    """Return the machine and the versions that measurements were made with."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "vectors": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numba": numba.__version__,
    }


def _processor() -> str:
    """Return the name of the processor, which `platform` knows on Windows and macOS only."""
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def save(arguments: argparse.Namespace, **results: Any) -> None:
    """Write the results to `--json`, if given, with the machine and the number of rounds."""
    if arguments.json:
        content = {"machine": machine(), "repeats": arguments.repeats, **results}
        write_text(arguments.json, json.dumps(content, indent=2) + "\n")
