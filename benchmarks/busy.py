"""One thread beside two, while the other programs are idle and while one of them keeps a core busy; Linux only.

    python -m benchmarks.busy [--threads 2] [--repeats 5] [--json OUT]

`long waits` is how threads wait for each other without `upernet.ops.runtime.waiting`: as GNU's OpenMP lets them. The
ways take turns, each in a process of its own, which parses or trains for `SETTLE` seconds before it is timed, as a
program does that has more than one photo. `load_of_others` says how many cores were used by what does not belong here.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from PIL import Image

import upernet
from benchmarks.networks import network
from benchmarks.side_by_side import Run, command_line, save, show, summary
from benchmarks.training import step
from upernet.models import prepare_for_inference

PHOTO = Path(__file__).parents[1] / "examples" / "street.jpg"
LONG_WAITS = {"GOMP_SPINCOUNT": "300000"}
"""What GNU's OpenMP does by itself. `upernet` leaves the waits alone if it is set explicitly."""
SETTLE = 0.6
PAUSE = 0.1
"""Seconds in which the threads of one process go to sleep before another one is timed."""
SPAWN = multiprocessing.get_context("spawn")


def tasks(quick: bool) -> dict[str, Run]:
    """Return what is timed."""
    size, side = (64, 64) if quick else (512, 256)
    model, parser, photo = prepare_for_inference(network("T", quick)), upernet.load("everyday"), Image.open(PHOTO)
    images = torch.randn(1, 3, size, size)
    if quick:
        photo = photo.resize((64, 48))

    @torch.inference_mode()
    def parse() -> None:
        model(images)

    return {
        f"T at {size}": parse,
        f"everyday, all levels of a photo of {photo.width} x {photo.height}": lambda: parser(photo),
        f"training step of T at {side}, batch of 2": step(network("T", quick).train(), 2, side),
    }


def serve(pipe: Connection, threads: int, quick: bool) -> None:
    """Send the names of all tasks; then, for each name that comes, run that task and send its seconds."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    runs = tasks(quick)
    pipe.send(list(runs))
    while name := pipe.recv():
        start = now = time.perf_counter()
        while not quick and now - start < SETTLE:
            runs[name]()
            now = time.perf_counter()
        runs[name]()
        pipe.send(time.perf_counter() - now)


class Way:
    """A way to run all tasks: a process with a number of threads and an environment."""

    def __init__(self, threads: int, quick: bool, environment: dict[str, str]):
        self.pipe, theirs = SPAWN.Pipe()
        self.process = SPAWN.Process(target=serve, args=(theirs, threads, quick), daemon=True)
        os.environ.update(environment)  # OpenMP reads it when it is loaded
        self.process.start()
        for name in environment:
            del os.environ[name]
        self.tasks: list[str] = self.pipe.recv()

    def seconds(self, task: str) -> float:
        time.sleep(PAUSE)
        self.pipe.send(task)
        return self.pipe.recv()

    def end(self) -> None:
        self.pipe.send("")
        self.process.join()


def compute_forever(core: int) -> None:
    os.sched_setaffinity(0, {core})
    while True:
        pass


@contextmanager
def one_core_busy() -> Iterator[None]:
    """Keep one of the cores of this process busy."""
    hog = SPAWN.Process(target=compute_forever, args=(min(os.sched_getaffinity(0)),), daemon=True)
    hog.start()
    time.sleep(2 * SETTLE)
    try:
        yield
    finally:
        hog.kill()
        hog.join()


def measure(ways: dict[str, Way], task: str, repeats: int) -> dict[str, Any]:
    """Time a task in all ways in turns: a warm-up round, then `repeats` rounds, every second one backwards."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(repeats + 1):
        for name, way in list(ways.items())[:: -1 if repeat % 2 else 1]:
            measured = way.seconds(task)
            if repeat:
                seconds[name].append(measured)
    return summary(seconds)


def cpu_seconds() -> tuple[float, float]:
    """Return the CPU seconds that all processes of the machine used, and those of this one and its ended children."""
    ticks = [int(field) for field in Path("/proc/stat").read_text(encoding="ascii").split()[1:9]]
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    everything = (sum(ticks) - sum(ticks[3:5])) / os.sysconf("SC_CLK_TCK")  # without idle and iowait
    return everything, sum(each.ru_utime + each.ru_stime for each in usage)


def main() -> None:
    arguments = command_line(__doc__)
    if not sys.platform.startswith("linux"):
        sys.exit("cores and their load are those of Linux")
    start, (all_before, own_before) = time.perf_counter(), cpu_seconds()
    threads = arguments.threads
    ways = {
        "1 thread": Way(1, arguments.quick, {}),
        f"{threads} threads, long waits": Way(threads, arguments.quick, LONG_WAITS),
        f"{threads} threads": Way(threads, arguments.quick, {}),
    }
    rows: dict[str, dict[str, Any]] = {}

    def measure_all(load: str) -> None:
        for task in next(iter(ways.values())).tasks:
            rows[f"{task}; {load}"] = measure(ways, task, arguments.repeats)
            show(f"{task}; {load}", rows[f"{task}; {load}"])

    measure_all("no other load")
    with one_core_busy():
        measure_all("one core busy")
    for way in ways.values():
        way.end()
    all_after, own_after = cpu_seconds()
    others = (all_after - all_before - (own_after - own_before)) / (time.perf_counter() - start)
    print(f"Other programs used {others:.2f} cores.")
    save(arguments, rows=rows, load_of_others=others)


if __name__ == "__main__":
    main()
