"""`upernet parse` over many photos, and the network alone on the same photos, in turns.

    python -m benchmarks.collections [--threads 2] [--repeats 5] [--json OUT]

*Whole* reads and decodes the files, runs the network, makes label maps of the photos' sizes, and saves label PNGs,
parse.json, the manifest and summary.csv, as `upernet parse FOLDER` does; start-up and loading are not counted.
*Network* only runs the same passes of the network, over photos that are decoded and reduced. The steps are each
measured alone. CPU seconds are those of all threads; they depend less on what else the machine does. With the default
number of rounds, this takes less than three minutes on two idle cores.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image

import upernet
from benchmarks.side_by_side import command_line, compare, save, show
from upernet.data.images import read_image
from upernet.inference import Parser
from upernet.inference.photos import parse_photos
from upernet.inference.resizing import image_view, reduced
from upernet.inference.tiling import dense_logits, logits_of_batch
from upernet.models import prepare_for_inference
from upernet.models.familiarity import FAMILIARITY
from upernet.taxonomy import LEVEL_KINDS

EXAMPLES = Path(__file__).parents[1] / "examples"
FEW = 3
"""Photos for a network that takes seconds for each; `everyday` gets all of the examples."""
SHORT_SIDE = 512
"""Of the photos for the network whose checkpoint does not say."""


def parsers(quick: bool) -> dict[str, tuple[Parser, list[Path]]]:
    """Return each network and the photos that it parses."""
    files = sorted(EXAMPLES.glob("*.jpg"))
    everyday = upernet.load("everyday"), files[: 2 if quick else len(files)]
    if quick:
        return {"everyday": everyday}
    torch.manual_seed(0)
    large = Parser(upernet.create_model("upernet_internimage_t_512_160k_ade20k"), short_side=SHORT_SIDE)
    return {"everyday": everyday, "InternImage-T, random weights": (large, files[:FEW])}


def network_passes(parser: Parser, photos: list[Image.Image]) -> Callable[[], None]:
    """Return a function that runs what a `Parser` runs of the network."""
    network = prepare_for_inference(parser.model)
    dense = [level for level in parser.levels if LEVEL_KINDS[level].dense]
    whole = [level for level in parser.levels if level not in dense]
    whole += [] if parser.model.familiarity is None else [FAMILIARITY]
    side = parser.short_side
    views = [np.asarray(photo if side is None else reduced(photo, side)) for photo in photos]
    small = [np.asarray(image_view(photo)) for photo in photos]

    def run() -> None:
        for view, image in zip(views, small, strict=True):
            if whole:
                logits_of_batch(network, [image], whole)
            dense_logits(network, view, dense)

    return run


def on_cpu(run: Callable[[], None], seconds: dict[str, list[float]], name: str) -> Callable[[], None]:
    """Return a function that runs `run` and notes its CPU seconds."""

    def measured() -> None:
        start = time.process_time()
        run()
        seconds.setdefault(name, []).append(time.process_time() - start)

    return measured


def steps(parser: Parser, files: list[Path], network: float) -> dict[str, float]:
    """Return seconds per photo of each step by itself."""
    seconds: dict[str, float] = {}

    def timed(name: str, run: Callable[[Any], Any], values: Sequence[Any]) -> list[Any]:
        start = time.perf_counter()
        results = [run(value) for value in values]
        seconds[name] = (time.perf_counter() - start) / len(files)
        return results

    photos = timed("decode", read_image, files)
    seconds["network"] = network
    computed = [parser.run_network([(photo, None)], parser.levels)[0] for photo in photos]
    parses = timed("label maps", lambda make: make(), computed)
    with TemporaryDirectory() as out:
        timed("save", lambda pair: pair[1].save(out, str(pair[0]), kinds=["labels"]), list(enumerate(parses)))
    return seconds


def main() -> None:
    arguments = command_line(__doc__)
    rows: dict[str, Any] = {}
    for name, (parser, files) in parsers(arguments.quick).items():
        photos = [read_image(file) for file in files]

        def whole(parser: Parser = parser, files: list[Path] = files) -> None:
            with TemporaryDirectory() as out:
                for outcome in parse_photos(parser, files, parser.levels, Path(out), ["labels", "json"]):
                    assert not isinstance(outcome.result, Exception), outcome.result

        with torch.inference_mode():
            cpu: dict[str, list[float]] = {}
            ways = {
                "network": on_cpu(network_passes(parser, photos), cpu, "network"),
                "whole": on_cpu(whole, cpu, "whole"),
            }
            rows[name] = compare(ways, arguments.repeats) | {"photos": len(files)}
        # The first round warms up.
        rows[name]["cpu"] = {way: statistics.median(values[1:]) / len(files) for way, values in cpu.items()}
        rows[name]["steps"] = steps(parser, files, rows[name]["seconds"]["network"]["median"] / len(files))
        show(name, rows[name])
        cpu_ratio = rows[name]["cpu"]["network"] / rows[name]["cpu"]["whole"]
        print(f"  CPU seconds of the network over those of the whole: {cpu_ratio:.2f}")
        print("  per photo:", ", ".join(f"{step} {1000 * value:.0f} ms" for step, value in rows[name]["steps"].items()))
        save(arguments, rows=rows)


if __name__ == "__main__":
    main()
