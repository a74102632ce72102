"""The fast kernels beside the plain ones (DCNv3 in plain torch, direct convolutions of concatenated maps).

    python -m benchmarks.speed [--threads 2] [--repeats 7] [--json OUT]

Random weights, float32. Plain and fast runs take turns in one process; what counts is the ratio of their medians.
Memory is the peak of a process that makes InternImage-T and sends one image of 2048 x 2048 pixels through it.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from upernet.files import write_text
from upernet.models import UPerNet, create_model
from upernet.models.internimage import VARIANTS
from upernet.ops import PLAIN, dcnv3, use_kernel

T = "upernet_internimage_t_512_160k_ade20k"


def compare(run: Callable[[], Any], repeats: int) -> dict[str, float]:
    """Median seconds of `run`, plain and fast, in turn."""
    seconds: dict[str, list[float]] = {"plain": [], "fast": []}
    for repeat in range(repeats + 1):
        for name, kernels in (("plain", PLAIN), ("fast", {})):
            with use_kernel(**kernels):
                start = time.perf_counter()
                run()
            if repeat:  # the first compiles, prepares weights and fills caches
                seconds[name].append(time.perf_counter() - start)
    plain, fast = (statistics.median(seconds[name]) for name in ("plain", "fast"))
    return {"plain_seconds": plain, "fast_seconds": fast, "ratio": plain / fast}


def dcnv3_layers(size: int, gradients: bool) -> Callable[[], Any]:
    """DCNv3 of all layers of InternImage-T, one after the other; with `gradients` forward and backward."""
    variant = VARIANTS["internimage_t"]
    layers = []
    for level, (depth, groups) in enumerate(zip(variant["depths"], variant["groups"], strict=True)):
        side, channels = size // (4 * 2**level), variant["channels"] * 2**level
        tensors = [torch.randn(1, side, side, width) for width in (channels, 18 * groups, 9 * groups)]
        layers.append((depth, groups, [tensor.requires_grad_(gradients) for tensor in tensors]))

    def run() -> None:
        for depth, groups, (x, offset, mask) in layers:
            for _ in range(depth):
                out = dcnv3(x, offset, mask, groups=groups)
                if gradients:
                    torch.autograd.grad(out.sum(), (x, offset, mask))

    return run


def forward(model: UPerNet, size: int) -> Callable[[], Any]:
    images = torch.randn(1, 3, size, size)
    return torch.inference_mode()(lambda: model(images))


def head(model: UPerNet, size: int) -> Callable[[], Any]:
    """What comes after the backbone."""
    with torch.inference_mode():
        features = model.backbone(torch.randn(1, 3, size, size))

    def run() -> torch.Tensor:
        assert model.fpn is not None and model.fusion is not None
        return model.heads["object"](model.fusion(model.fpn(features[:-1], model.ppm(features[-1]))))

    return torch.inference_mode()(run)


def training_step(model: UPerNet, size: int, batch: int) -> Callable[[], Any]:
    images = torch.randn(batch, 3, size, size)

    def run() -> None:
        model.zero_grad(set_to_none=True)
        sum(logits.square().mean() for logits in model(images).values()).backward()

    return run


def agreement(model: UPerNet, size: int) -> dict[str, float]:
    """Largest difference of logits over their spread, and the share of pixels with the same class."""
    images = torch.randn(1, 3, size, size)
    with torch.inference_mode():
        fast = model(images)["object"]
        with use_kernel(**PLAIN):
            plain = model(images)["object"]
    same = (fast.argmax(1) == plain.argmax(1)).float().mean()
    return {"relative_error": float((fast - plain).abs().max() / plain.std()), "argmax_agreement": float(same)}


def multiplications(height: int, width: int) -> int:
    """Of InternImage-T as it runs, Winograd's savings not counted."""
    model, images = create_model(T).eval(), torch.randn(1, 3, height, width)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model(images)
    return counter.get_total_flops() // 2


PEAK = f"""
import re, sys, torch
from upernet.models import create_model
from upernet.ops import PLAIN, use_kernel
torch.set_num_threads(int(sys.argv[2]))
model = create_model({T!r}).eval()
with use_kernel(**(PLAIN if sys.argv[1] == "plain" else {{}})), torch.inference_mode():
    model(torch.randn(1, 3, 2048, 2048))
print(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])
"""


def peak_memory(threads: int) -> dict[str, float]:
    """GiB, plain and fast; Linux only."""
    peaks = {}
    for name in ("plain", "fast"):
        command = [sys.executable, "-c", PEAK, name, str(threads)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        peaks[f"{name}_gib"] = int(re.findall(r"\d+", done.stdout)[-1]) / 2**20
    return peaks


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)

    model, everyday = create_model(T).eval(), create_model("everyday").eval()
    photo = torch.randn(1, 3, 360, 480)
    cases: dict[str, Callable[[], Any]] = {
        "DCNv3, 30 layers of T at 512, forward": torch.inference_mode()(dcnv3_layers(512, False)),
        "DCNv3, 30 layers of T at 512, forward and backward": dcnv3_layers(512, True),
        "UPerHead of T at 512": head(model, 512),
        "T at 512": forward(model, 512),
        "everyday at 360 x 480": torch.inference_mode()(lambda: everyday(photo)),
        "training step of T at 256, batch 2": training_step(create_model(T).train(), 256, 2),
    }
    results: dict[str, Any] = {"threads": arguments.threads, "repeats": arguments.repeats, "cases": {}}
    print(f"{'median milliseconds':<52} {'plain':>8} {'fast':>8} {'ratio':>6}")
    for name, run in cases.items():
        case = results["cases"][name] = compare(run, arguments.repeats)
        plain, fast = 1000 * case["plain_seconds"], 1000 * case["fast_seconds"]
        print(f"{name:<52} {plain:>8.1f} {fast:>8.1f} {case['ratio']:>6.2f}", flush=True)
    results["agreement"] = agreement(model, 512)
    results["multiplications_512x2048"] = multiplications(512, 2048)
    if Path("/proc/self/status").is_file():
        results["peak_memory_2048x2048"] = peak_memory(arguments.threads)
    print({key: value for key, value in results.items() if key != "cases"})
    if arguments.json:
        write_text(arguments.json, json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
