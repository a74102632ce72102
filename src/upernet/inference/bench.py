"""How long a model takes on this machine, and which kernels it runs."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from typing import Any

import torch

from upernet.inference.parser import usable_device
from upernet.models import UPerNet
from upernet.ops import PLAIN, use_kernel
from upernet.ops.choice import recorded_decisions


@torch.inference_mode()
def bench(
    model: UPerNet,
    height: int = 512,
    width: int = 512,
    batch: int = 1,
    *,
    repeats: int = 7,
    compare: bool = False,
    device: str | torch.device = "cpu",
) -> dict[str, Any]:
    """Time `model`'s forward pass on random images, and list what its operators chose.

    Args:
        model: put into eval mode and moved to `device`.
        height, width, batch: of the images.
        repeats: runs that are timed, after one that is not.
        compare: also time the kernels of the published implementation (`upernet.ops.PLAIN`) on the same weights, in
            turn with the others, and compare the logits.
        device: as torch writes it.

    Returns:
        `seconds` (median of the repeats), `images_per_second` and `kernels`: one entry per operator and kind of input,
        with `operator`, `shapes`, `dtype`, `kernel`, `reason` and `calls`. With `compare` also `plain_seconds`, `ratio`
        and, per level, `error` (largest difference of the logits over their spread) and `agreement` (share of places
        with the same class).

    Raises:
        UpernetError: the device is not there.
    """
    where = usable_device(device)
    model = model.eval().to(where)
    images = torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(0)).to(where)
    configurations: dict[str, dict[str, str]] = {"fast": {}} | ({"plain": PLAIN} if compare else {})
    logits: dict[str, dict[str, torch.Tensor]] = {}
    seconds: dict[str, list[float]] = {name: [] for name in configurations}
    kernels: list[dict[str, Any]] = []
    for repeat in range(repeats + 1):
        for name, overrides in configurations.items():
            with use_kernel(**overrides):
                if repeat == 0:  # this one compiles, lays out weights and fills caches
                    with recorded_decisions() as decisions:
                        logits[name] = model(images)
                    if name == "fast":
                        kernels = [dict(d._asdict(), calls=calls) for d, calls in Counter(decisions).items()]
                    continue
                start = time.perf_counter()
                model(images)
                _wait(where)
                seconds[name].append(time.perf_counter() - start)
    median = statistics.median(seconds["fast"])
    result: dict[str, Any] = {"seconds": median, "images_per_second": batch / median}
    if compare:
        plain = statistics.median(seconds["plain"])
        result |= {"plain_seconds": plain, "ratio": plain / median, "error": {}, "agreement": {}}
        for level, expected in logits["plain"].items():
            found = logits["fast"][level]
            result["error"][level] = float((found - expected).abs().max() / expected.std())
            result["agreement"][level] = float((found.argmax(1) == expected.argmax(1)).double().mean())
    return result | {"kernels": kernels}


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
