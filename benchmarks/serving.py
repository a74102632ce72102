"""`upernet serve` under several times the load that it can carry: what is answered, how fast, and with how much memory.

    python -m benchmarks.serving [--seconds 300] [--overload 4] [--threads 2] [--json OUT]

The server is a process of its own, on this machine, as are its clients. Three steps:

1. The network alone: this process parses the example photos one after the other, without a server.
2. The capacity: a few clients send the same photos to the server, each the next one as soon as the last is answered.
3. The overload: requests are sent at `--overload` times that rate. A client that gets 429 waits for as long as
   Retry-After says and tries again; these attempts are part of the rate.

The status is 1 if any request failed in another way than by a 429 with Retry-After, if the server held anything in the
end, or did not end with status 0 after SIGTERM. `seconds` are from the first byte of a request that was accepted to the
last byte of its answer. Memory is the resident set of the server. Linux only.
"""

from __future__ import annotations

import argparse
import asyncio
import heapq
import itertools
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import torch

import upernet
from benchmarks.side_by_side import machine
from upernet.data.images import read_image
from upernet.files import write_text

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.jpg"))
CLIENTS = 8
"""Clients that measure the capacity."""
QUERY = {"include": "pixels"}
"""What the page asks for."""
TIMEOUT = 150.0
MEMORY_POINTS = 60


@dataclass
class Outcome:
    """What became of the requests of one step."""

    seconds: list[float] = field(default_factory=list)
    """Of each request that was accepted."""
    refused: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    """Everything that is neither an answer nor a 429 with Retry-After."""


class Server:
    """`upernet serve` as a process."""

    def __init__(self, process: subprocess.Popen[bytes], url: str):
        self.process, self.url = process, url
        self.memory: list[tuple[float, float]] = []
        """Seconds since the start of the load, and MiB."""

    def resident(self, field: str = "VmRSS") -> float:
        """Return a line of /proc/PID/status in MiB."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.findall(rf"{field}:\s+(\d+) kB", text)[0]) / 1024

    async def watch(self) -> None:
        """Note the memory every second."""
        start = time.perf_counter()
        while True:
            self.memory.append((round(time.perf_counter() - start, 1), round(self.resident())))
            await asyncio.sleep(1)


@contextmanager
def running(threads: int) -> Iterator[Server]:
    """Run the server, until it is ready."""
    command = [sys.executable, "-m", "upernet", "serve", "--port", "0", "--no-browser", "--log", "json"]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen([*command, "--threads", str(threads)], stderr=log)
        try:
            while True:
                log.seek(0)
                if found := re.search(rb'"url": "([^"]+)"', log.read()):
                    break
                if process.poll() is not None:
                    log.seek(0)
                    sys.exit(log.read().decode())
                time.sleep(0.1)
            server = Server(process, found[1].decode())
            while httpx.get(f"{server.url}ready", timeout=TIMEOUT).status_code != 200:
                time.sleep(0.1)
            yield server
        finally:
            process.kill()
            process.wait()


def network_alone(seconds: float) -> float:
    """Return the photos per second that the parser takes one after the other."""
    parser = upernet.load("everyday")
    photos = [read_image(path) for path in EXAMPLES]
    levels = parser.select_levels(None)
    for photo in photos:
        parser.parse_decoded(photo, None, levels)
    start, count = time.perf_counter(), 0
    while (passed := time.perf_counter() - start) < seconds or count % len(photos):
        parser.parse_decoded(photos[count % len(photos)], None, levels)
        count += 1
    return count / passed


async def attempt(client: httpx.AsyncClient, photo: bytes, outcome: Outcome) -> float | None:
    """Send a photo once; return the seconds after which to try again, if the server is busy."""
    start = time.perf_counter()
    try:
        answer = await client.post("v1/parse", params=QUERY, files={"file": ("photo.jpg", photo, "image/jpeg")})
    except httpx.HTTPError as error:
        outcome.failures[type(error).__name__] += 1
        return None
    if answer.status_code == 200 and answer.json()["maps"].keys() >= {"object", "part", "material", "texture"}:
        outcome.seconds.append(time.perf_counter() - start)
        return None
    if answer.status_code == 429 and re.fullmatch(r"[1-9]\d*", answer.headers.get("retry-after", "")):
        outcome.refused += 1
        return float(answer.headers["retry-after"])
    outcome.failures[f"status {answer.status_code}"] += 1
    return None


async def capacity(client: httpx.AsyncClient, photos: Sequence[bytes], seconds: float) -> Outcome:
    """Let `CLIENTS` clients send photos, one after the other each."""
    outcome, taken = Outcome(), itertools.cycle(photos)
    end = time.perf_counter() + seconds

    async def work() -> None:
        while time.perf_counter() < end:
            await asyncio.sleep(await attempt(client, next(taken), outcome) or 0)

    await asyncio.gather(*(work() for _ in range(CLIENTS)))
    return outcome


async def overload(client: httpx.AsyncClient, photos: Sequence[bytes], rate: float, seconds: float) -> Outcome:
    """Send `rate` requests per second: photos whose time to try again has come, or else new ones."""
    outcome, taken, number = Outcome(), itertools.cycle(photos), itertools.count()
    later: list[tuple[float, int, bytes]] = []
    running: set[asyncio.Task[None]] = set()
    start = time.perf_counter()

    async def send(photo: bytes) -> None:
        wait = await attempt(client, photo, outcome)
        if wait is not None:
            heapq.heappush(later, (time.perf_counter() + wait, next(number), photo))

    for tick in itertools.count():
        now = time.perf_counter()
        await asyncio.sleep(max(0.0, start + tick / rate - now))
        if now - start > seconds:
            break
        is_due = bool(later) and later[0][0] <= now
        task = asyncio.create_task(send(heapq.heappop(later)[2] if is_due else next(taken)))
        running.add(task)
        task.add_done_callback(running.discard)
    await asyncio.gather(*running)
    return outcome


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    cuts = statistics.quantiles(seconds, n=100, method="inclusive")
    return {"p50": cuts[49], "p95": cuts[94], "p99": cuts[98], "highest": max(seconds)}


async def load(server: Server, seconds: float, factor: float) -> dict[str, Any]:
    """Measure the capacity, and then what happens beyond it."""
    photos = [path.read_bytes() for path in EXAMPLES]
    limits = httpx.Limits(max_connections=500, max_keepalive_connections=100)
    async with httpx.AsyncClient(base_url=server.url, timeout=TIMEOUT, limits=limits) as client:
        await capacity(client, photos, 1)  # to warm up
        start = time.perf_counter()
        below = await capacity(client, photos, max(1.0, min(30.0, seconds / 5)))
        photos_per_second = len(below.seconds) / (time.perf_counter() - start)
        print(f"capacity: {photos_per_second:.2f} photos/s with {CLIENTS} clients", flush=True)
        watching = asyncio.create_task(server.watch())
        start = time.perf_counter()
        above = await overload(client, photos, factor * photos_per_second, seconds)
        passed = time.perf_counter() - start
        watching.cancel()
        metrics = (await client.get("metrics")).text
    failures = below.failures + above.failures
    left = {name: float(re.findall(rf"^{name} (\S+)$", metrics, re.MULTILINE)[0]) for name in HELD}
    step = max(1, len(server.memory) // MEMORY_POINTS)
    return {
        "capacity": {
            "photos_per_second": photos_per_second,
            "seconds": percentiles(below.seconds),
            "refused": below.refused,
        },
        "overload": {
            "seconds_of_load": passed,
            "requests_per_second": (len(above.seconds) + above.refused + sum(above.failures.values())) / passed,
            "photos_per_second": len(above.seconds) / passed,
            "seconds": percentiles(above.seconds),
            "accepted": len(above.seconds),
            "refused": above.refused,
        },
        "failures": dict(failures),
        "left_in_memory": left,
        "memory_mib": {
            "peak": round(server.resident("VmHWM")),
            "over_time": server.memory[::step],
        },
    }


HELD = ("upernet_waiting_photos", "upernet_in_memory_pixels", "upernet_held_bytes")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=300, help="of overload (default: 300)")
    parser.add_argument("--overload", type=float, default=4, help="requests per photo that can be parsed (default: 4)")
    parser.add_argument("--threads", type=int, default=2, help="of the server (default: 2)")
    parser.add_argument("--json", type=Path, help="file for the result")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    alone = network_alone(max(1.0, min(15.0, arguments.seconds / 10)))
    print(f"network alone: {alone:.2f} photos/s", flush=True)
    with running(arguments.threads) as server:
        result = asyncio.run(load(server, arguments.seconds, arguments.overload))
        server.process.terminate()
        status = server.process.wait(TIMEOUT)
    over, memory = result["overload"], result["memory_mib"]
    times = ", ".join(f"{name} {value:.2f} s" for name, value in over["seconds"].items())
    print(
        f"overload: {over['requests_per_second']:.2f} requests/s, {over['accepted']} answered "
        f"({over['photos_per_second']:.2f} photos/s, {over['photos_per_second'] / alone:.2f} of the network alone), "
        f"{over['refused']} refused with 429\n"
        f"answered after: {times}\n"
        f"memory: at most {memory['peak']} MiB; {memory['over_time'][0][1]} MiB at first, "
        f"{memory['over_time'][-1][1]} MiB in the end\n"
        f"failures: {result['failures'] or 'none'}; left in memory: {result['left_in_memory']}; exit status {status}"
    )
    if arguments.json:
        settings = {"threads": arguments.threads, "overload_factor": arguments.overload, "photos": len(EXAMPLES)}
        content = {"machine": machine(), **settings, "network_alone": alone, **result, "exit_status": status}
        write_text(arguments.json, json.dumps(content, indent=2) + "\n")
    sys.exit(bool(result["failures"] or any(result["left_in_memory"].values()) or status))


if __name__ == "__main__":
    main()
