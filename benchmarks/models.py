"""Whole networks with the same weights, the official way and fast; and the time that T's multiplications would take.

    python -m benchmarks.models [--threads 2] [--repeats 5] [--json OUT] [--avx2]

The roofline is what T's remaining multiplications at 512 x 512, the savings of Winograd's F(4x4, 3x3) counted, take at
the best rate that this machine reaches in float32 in any of `rates`. The limit of each network is how many times as
fast as the official way it would be if it took that time for its multiplications, those that F(6x6, 3x3) saves left
out too, and none for all else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.networks import agreement, head, network, official_way
from benchmarks.side_by_side import Run, command_line, compare, save, show, show_agreement
from upernet.models import UPerNet, prepare_for_inference
from upernet.ops import bfloat16_unavailable, int8_unavailable

NETWORKS = {"T": (512, 1024), "S": (512, 1024), "B": (512, 1024), "L": (640,)}
"""Network -> sides of the photos."""
COUNTED_AT = (512, 2048)
"""Height and width for which the published tables give multiply-adds."""


def alternatives(model: UPerNet, calibration: Sequence[Tensor]) -> dict[str, Callable[[Tensor], Tensor]]:
    """Return the alternatives, each photos -> object logits; the others are compared with the first.

    Another way to run a network is one more entry. Ranges for int8 are observed on the images of `calibration`.
    """

    def forward(network: UPerNet, images: Tensor) -> Tensor:
        return network(images)["object"]

    ways = {"official": official_way()(partial(forward, model)), "fast": partial(forward, prepare_for_inference(model))}
    if not bfloat16_unavailable():
        ways["fast, bf16"] = partial(forward, prepare_for_inference(model, "bf16"))
    if not int8_unavailable():
        ways["fast, int8"] = partial(forward, prepare_for_inference(model, "int8", calibration))
    return ways


def whole(model: UPerNet, size: int, repeats: int) -> dict[str, Any]:
    """Time all alternatives, and compare their logits with those of the first."""
    images = torch.randn(1, 3, size, size)
    functions = alternatives(model, [images])
    result = compare({name: lambda f=f: f(images) for name, f in functions.items()}, repeats)
    (_, reference), *others = [(name, f(images)) for name, f in functions.items()]
    return result | {"agreement": {name: agreement(logits, reference) for name, logits in others}}


def parts(model: UPerNet, size: int) -> dict[str, dict[str, Run]]:
    """Return backbone and UPerHead, each the official way and fast."""
    images = torch.randn(1, 3, size, size)
    features, fast = model.backbone(images), prepare_for_inference(model)
    return {
        "backbone": {
            "official": official_way()(lambda: model.backbone(images)),
            "fast": lambda: fast.backbone(images),
        },
        "UPerHead": {"official": official_way()(lambda: head(model, features)), "fast": lambda: head(fast, features)},
    }


def multiply_adds(model: UPerNet, height: int, width: int, tiles: Sequence[int] = ()) -> int:
    """Count the multiply-adds of one image as it runs here.

    Args:
        tiles: Sides of Winograd's tiles of outputs, the best of which counts; none: direct convolutions count.
    """
    savings = {torch.ops.upernet.upsample_conv3x3: partial(winograd_operations, tiles)} if tiles else None
    with FlopCounterMode(display=False, custom_mapping=savings) as counter:
        model(torch.randn(1, 3, height, width))
    return counter.get_total_flops() // 2


def winograd_operations(
    tiles: Sequence[int], maps: Any, weight: Any, scale: Any, shift: Any, relu: bool, winograd: bool, **_: Any
) -> int:
    """Count the operations of `upsample_conv3x3` from shapes: F(4x4, 3x3) takes 36 products per 4 x 4 outputs, not 144.

    A map that takes fewer at its own resolution goes that way.
    """
    images, _, height, width = maps[0]
    transformed = [(side + 2) ** 2 * -(-height // side) * -(-width // side) for side in tiles]
    fine = min(transformed) if winograd else 9 * height * width
    products = sum(channels * min(9 * h * w, fine) for _, channels, h, w in maps)
    return 2 * images * weight[0] * products


def rates(side: int) -> dict[str, tuple[Run, int]]:
    """Return ways to multiply in float32, with 512 channels at side x side pixels, and the multiply-adds of each."""
    pixels, channels = side * side, 512
    rows, kernel1 = torch.randn(pixels, channels), torch.randn(channels, channels, 1, 1)
    maps, kernel3 = torch.randn(1, channels, side, side), torch.randn(channels, channels, 3, 3)
    last, kernel1_last = (x.contiguous(memory_format=torch.channels_last) for x in (maps, kernel1))
    square = torch.randn(8 * side, 8 * side)
    batch, factors = torch.randn(36, pixels // 16, channels), torch.randn(36, channels, channels)
    return {
        "square matrices": (lambda: square @ square, (8 * side) ** 3),
        "linear": (lambda: F.linear(rows, kernel1[:, :, 0, 0]), pixels * channels**2),
        "bmm of 36": (lambda: batch @ factors, 36 * (pixels // 16) * channels**2),
        "1x1 convolution, channels-last": (lambda: F.conv2d(last, kernel1_last), pixels * channels**2),
        "3x3 convolution": (lambda: F.conv2d(maps, kernel3, padding=1), 9 * pixels * channels**2),
        "3x3 convolution, channels-last": (lambda: F.conv2d(last, kernel3, padding=1), 9 * pixels * channels**2),
    }


def roofline(model: UPerNet, size: int, repeats: int, seconds: float) -> dict[str, Any]:
    """Compare with the roofline; `model` takes `seconds` for a photo of `size` x `size`."""
    candidates = rates(side=size // 4)
    times = compare({name: run for name, (run, _) in candidates.items()}, repeats)["seconds"]
    reached = {name: macs / times[name]["median"] for name, (_, macs) in candidates.items()}
    macs = multiply_adds(model, size, size, tiles=(4,))
    least = macs / max(reached.values())
    return {
        "multiply_adds": macs,
        "multiply_adds_per_second": reached,
        "seconds": least,
        "measured_seconds": seconds,
        "measured_over_roofline": seconds / least,
    }


def limit_of(row: Mapping[str, Any], macs: int, roofline: Mapping[str, Any]) -> dict[str, Any]:
    """Return how long a network's multiply-adds take at the best rate, and how many times as long the official way."""
    seconds = macs * roofline["seconds"] / roofline["multiply_adds"]
    official = row["seconds"]["official"]["median"]
    return {"multiply_adds": macs, "seconds": seconds, "ratio": official / seconds}


@torch.inference_mode()
def main() -> None:
    arguments = command_line(__doc__)
    networks = {"T": (64,)} if arguments.quick else NETWORKS
    rows: dict[str, Any] = {}
    left: dict[str, int] = {}
    for letter, sizes in networks.items():
        model = network(letter, tiny=arguments.quick)
        for size in sizes:
            name = f"{letter} at {size}"
            rows[name] = whole(model, size, arguments.repeats)
            show(name, rows[name])
            show_agreement(rows[name]["agreement"])
            left[name] = multiply_adds(model, size, size, tiles=(4, 6))
        for part, runs in parts(model, sizes[0]).items():
            name = f"{letter} at {sizes[0]}, {part}"
            rows[name] = compare(runs, arguments.repeats)
            show(name, rows[name])

    model, size = network("T", tiny=arguments.quick), networks["T"][0]
    limit = roofline(model, size, arguments.repeats, rows[f"T at {size}"]["seconds"]["fast"]["median"])
    for name, rate in limit["multiply_adds_per_second"].items():
        print(f"{name:<40} {rate / 1e9:>8.1f} G multiply-adds per second")
    print(f"T at {size}: {limit['multiply_adds'] / 1e9:.1f} G multiply-adds left, {1000 * limit['seconds']:.0f} ms at")
    print(f"the best rate; measured: {limit['measured_over_roofline']:.2f} times as long")
    limits = {name: limit_of(rows[name], macs, limit) for name, macs in left.items()}
    for name, found in limits.items():
        print(f"{name}: products alone take {1000 * found['seconds']:.0f} ms, the official way {found['ratio']:.2f} x")
    height, width = (size, size) if arguments.quick else COUNTED_AT
    macs = multiply_adds(model, height, width)
    print(f"T at {height} x {width}, Winograd's savings not counted: {macs / 1e9:.1f} G multiply-adds")
    direct = {"height": height, "width": width, "multiply_adds": macs}
    save(arguments, rows=rows, roofline=limit, limits=limits, direct=direct)


if __name__ == "__main__":
    main()
