"""Benchmark of a model on this machine, with the kernels that its operators choose."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from typing import Any

import torch

from upernet.devices import usable_device
from upernet.errors import UpernetError
from upernet.models import Precision, UPerNet, prepare_for_inference
from upernet.ops import PLAIN, recorded_decisions, use_kernel


def bench(
    model: UPerNet,
    height: int = 512,
    width: int = 512,
    batch: int = 1,
    *,
    repeats: int = 7,
    compare: bool = False,
    device: str | torch.device = "cpu",
    precision: Precision = "fp32",
) -> dict[str, Any]:
    """Time the forward pass of a model on random images, and list the kernels that its operators chose.

    Args:
        model: Model, which is put into eval mode and moved to `device`; a copy prepared for inference is timed, as in a
            `Parser`.
        height: Height of the images in pixels.
        width: Width of the images in pixels.
        batch: Number of images per forward pass.
        repeats: Number of timed runs, after one warm-up.
        compare: Also time the kernels of the published implementation (`upernet.ops.PLAIN`) on the same weights in
            float32, interleaved, and compare the logits.
        device: Device in torch's notation.
        precision: Numeric precision; see `prepare_for_inference`.

    Returns:
        `seconds` (median of the repeats), `images_per_second` and `kernels`: one entry per operator and kind of input,
        with `operator`, `shapes`, `dtype`, `kernel`, `reason` and `calls`. With `compare`, also `plain_seconds`,
        `ratio` and, per level, `error` (largest difference of the logits, divided by their standard deviation) and
        `agreement` (share of pixels with the same class).

    Raises:
        UpernetError: The device is unavailable, does not support `precision`, or has too little memory.
    """
    try:
        return _measure(model, (batch, 3, height, width), repeats, compare, device, precision)
    except (MemoryError, RuntimeError) as error:
        if "memory" not in str(error) and not isinstance(error, MemoryError):
            raise
        size = f"{batch} x {height} x {width}"
        raise UpernetError(
            f"{size} pixels do not fit into the memory of {device}; choose smaller or fewer images."
        ) from None


@torch.inference_mode()
def _measure(
    model: UPerNet,
    shape: tuple[int, int, int, int],
    repeats: int,
    compare: bool,
    device: str | torch.device,
    precision: Precision,
) -> dict[str, Any]:
    target = usable_device(device)
    model = model.eval().to(target)
    images = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(target)
    variants: dict[str, tuple[UPerNet, dict[str, str]]] = {
        "fast": (prepare_for_inference(model, precision, [images]), {})
    }
    if compare:
        variants["plain"] = model, PLAIN
    logits: dict[str, dict[str, torch.Tensor]] = {}
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    kernels: list[dict[str, Any]] = []
    for repeat in range(repeats + 1):
        for name, (network, overrides) in variants.items():
            with use_kernel(**overrides):
                if repeat == 0:  # warm-up: compiles kernels, packs weights and fills caches
                    with recorded_decisions() as decisions:
                        logits[name] = network(images)
                    if name == "fast":
                        kernels = [
                            dict(decision._asdict(), calls=calls) for decision, calls in Counter(decisions).items()
                        ]
                    continue
                start = time.perf_counter()
                network(images)
                _synchronize(target)
                seconds[name].append(time.perf_counter() - start)
    median = statistics.median(seconds["fast"])
    result: dict[str, Any] = {"seconds": median, "images_per_second": shape[0] / median}
    if compare:
        plain = statistics.median(seconds["plain"])
        result |= {"plain_seconds": plain, "ratio": plain / median, "error": {}, "agreement": {}}
        for level, expected in logits["plain"].items():
            found = logits["fast"][level]
            result["error"][level] = float((found - expected).abs().max() / expected.std())
            result["agreement"][level] = float((found.argmax(1) == expected.argmax(1)).double().mean())
    return result | {"kernels": kernels}


def _synchronize(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
