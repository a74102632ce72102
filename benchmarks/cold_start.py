"""`upernet parse` on one photo with `everyday` as a process of its own, its steps, and the network's photos per second.

    python -m benchmarks.cold_start [--threads 2] [--repeats 5] [--json OUT]

"First ever" is with an empty cache of compiled kernels; the other runs find it filled. Packages' own files are in the
system's cache in either case.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from PIL import Image

import upernet
from benchmarks.networks import official_way
from benchmarks.side_by_side import command_line, compare, save, show, summary
from upernet.models import prepare_for_inference

PHOTO = Path(__file__).parents[1] / "examples" / "street.jpg"
STEPS = """
import json, sys, time

seconds, start = {}, time.perf_counter()

def done(step):
    global start
    now = time.perf_counter()
    seconds[step], start = now - start, now

import torch
done("import torch")
from upernet.inference import load
done("import upernet")
parser = load("everyday")
done("load")
parse = parser(sys.argv[1])
done("first parse")
parse.save(sys.argv[2])
done("save")
parser(sys.argv[1])
done("second parse")
print(json.dumps(seconds))
"""
"""What a process does, in seconds; the second parse is there to compare the first one with."""


def process(arguments: list[str], environment: dict[str, str]) -> tuple[float, str]:
    """Seconds that a process of this Python takes from start to end, and what it printed."""
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *arguments], env=os.environ | environment, check=True, stdout=subprocess.PIPE, text=True
    )
    return time.perf_counter() - start, done.stdout


def processes(photo: Path, environment: dict[str, str], repeats: int) -> tuple[dict[str, Any], dict[str, float]]:
    """Seconds of the whole process, and median seconds of the steps inside one with a filled cache."""
    seconds: dict[str, list[float]] = {"first ever": [], "filled cache": []}
    steps: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as out:
        command = ["-m", "upernet", "parse", str(photo), "--out", out]
        seconds["first ever"].append(process(command, environment)[0])
        for _ in range(repeats):
            seconds["filled cache"].append(process(command, environment)[0])
            for step, value in json.loads(process(["-c", STEPS, str(photo), out], environment)[1]).items():
                steps.setdefault(step, []).append(value)
    return summary(seconds), {step: statistics.median(values) for step, values in steps.items()}


def main() -> None:
    arguments = command_line(__doc__)
    rows: dict[str, Any] = {}
    height, width = (36, 48) if arguments.quick else (360, 480)
    threads = {"OMP_NUM_THREADS": str(arguments.threads)}
    with tempfile.TemporaryDirectory() as folder:
        photo = PHOTO
        if arguments.quick:  # a small photo, and kernels that are compiled already
            photo = Path(folder) / PHOTO.name
            Image.open(PHOTO).resize((width, height)).save(photo)
        cache = {} if arguments.quick else {"NUMBA_CACHE_DIR": folder}
        rows["upernet parse"], steps = processes(photo, threads | cache, arguments.repeats)
    show("upernet parse", rows["upernet parse"])
    print("steps:", ", ".join(f"{step} {value:.2f} s" for step, value in steps.items()))

    model = upernet.load("everyday").model
    prepared = prepare_for_inference(model)  # what a Parser runs
    images, name = torch.randn(1, 3, height, width), f"everyday at {height} x {width}"
    ways = {"official": official_way()(lambda: model(images)), "fast": lambda: prepared(images)}
    with torch.inference_mode():
        rows[name] = compare(ways, arguments.repeats)
    show(name, rows[name])
    print(f"  {1 / rows[name]['seconds']['fast']['median']:.1f} photos per second")
    save(arguments, rows=rows, steps=steps)


if __name__ == "__main__":
    main()
