"""The command `upernet bench`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer

from upernet.cli.options import STDOUT, DeviceOption, JsonOption, ThreadsOption, complete_model, write_json

MOST_PIXELS = 2**16
"""Longest side of an image."""


def bench(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            autocompletion=complete_model,
            help="Name of a model (random weights unless they are bundled), a checkpoint file or folder, or hf://OWNER/NAME.",
        ),
    ],
    size: Annotated[
        str, typer.Option(metavar="SIZE", help="Height and width of the images in pixels: 512, or 480x640.")
    ] = "512",
    batch: Annotated[int, typer.Option(metavar="N", min=1, max=4096, help="Images per forward pass.")] = 1,
    repeats: Annotated[int, typer.Option(metavar="N", min=1, help="Timed runs; the median is reported.")] = 7,
    precision: Annotated[
        Literal["fp32", "bf16", "int8"],
        typer.Option(metavar="PRECISION", help="fp32, bf16 or int8, for matrix products and convolutions."),
    ] = "fp32",
    threads: ThreadsOption = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="Also time the published implementation's kernels, interleaved.")
    ] = False,
    explain: Annotated[bool, typer.Option("--explain", help="Show which kernel each operator chose, and why.")] = False,
    device: DeviceOption = None,
    json: JsonOption = None,
) -> None:
    """Time the forward pass of a model on this machine."""
    from rich.console import Console

    from upernet.checkpoints import create_model, find_checkpoint, load_checkpoint, shipped_checkpoint
    from upernet.devices import usable_device
    from upernet.inference.bench import bench as measure
    from upernet.models import list_models
    from upernet.ops import set_threads

    height, width = _size(size)
    place = str(usable_device(device))
    used = set_threads(threads)
    # Speed does not depend on the weights, so nothing is downloaded for it.
    random = model in list_models() and shipped_checkpoint(model) is None
    network = create_model(model) if random else load_checkpoint(find_checkpoint(model))[0]
    options = {"repeats": repeats, "compare": compare, "device": place, "precision": precision}
    result = {
        "model": model,
        "size": [height, width],
        "batch": batch,
        "threads": used,
        **options,
        **measure(network, height, width, batch, **options),
    }
    if json is not None:
        write_json(result, json)
    if json == STDOUT:
        return
    console = Console(highlight=False, soft_wrap=True)
    images = f"{batch} x {height} x {width}"
    console.print(
        f"{model}, {images} in {precision} on {place}, {result['threads']} threads: {1000 * result['seconds']:.1f} ms "
        f"(median of {repeats}), {result['images_per_second']:.2f} images/s"
    )
    if compare:
        console.print(
            f"published implementation's kernels: {1000 * result['plain_seconds']:.1f} ms, {result['ratio']:.2f} times "
            "as long"
        )
        for level, error in result["error"].items():
            agreement = 100 * result["agreement"][level]
            console.print(
                f"{level}: logits differ by {error:.1e} of their spread at most, the class agrees on {agreement:.2f} %"
            )
    for line in _lines(result["kernels"]) if explain else ():
        console.print(line)


def _size(text: str) -> tuple[int, int]:
    """Parse a size: `512` -> (512, 512), `480x640` -> (480, 640)."""
    from upernet.errors import UpernetError

    sides = text.lower().split("x")
    if not 1 <= len(sides) <= 2 or not all(side.isdecimal() and 0 < int(side) <= MOST_PIXELS for side in sides):
        raise UpernetError(f"--size {text}: give pixels up to {MOST_PIXELS}, as 512, or 480x640 for height and width.")
    return int(sides[0]), int(sides[-1])


def _lines(kernels: list[dict[str, Any]]) -> list[str]:
    """Return one line per operator and decision; --json has one entry per input size."""
    from collections import Counter

    calls: Counter[tuple[str, str, str]] = Counter()
    for row in kernels:
        calls[row["operator"], row["kernel"], row["reason"]] += row["calls"]
    return [f"{operator}: {kernel}, {count} times ({reason})" for (operator, kernel, reason), count in calls.items()]
