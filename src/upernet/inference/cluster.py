"""Parsing on a cluster, with Ray Data: the work of a run in one process, done by one actor per device.

Each actor loads the model, and takes chunks of photos and shards as it has time for them; Ray bounds what is under way,
and gives the work of an actor that dies to another one. Results go to a folder that all machines share; what became of
each photo comes back to this process, which alone writes the manifest.
"""

from __future__ import annotations

import os
import pickle
import platform
import signal
import threading
import warnings
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import import_module
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

from upernet.checkpoints import exported_suffix
from upernet.devices import usable_device
from upernet.errors import UpernetError, printable
from upernet.inference.parser import Parser, Scales, load
from upernet.inference.photos import JobResult, Work, full_disk, settings_hash
from upernet.inference.planning import Finished, PhotoJob, ShardJob, photo_jobs
from upernet.inference.saving import hidden_folder
from upernet.inference.web import is_address
from upernet.models import Precision
from upernet.ops import set_threads
from upernet.taxonomy.mapping import Table

ATTEMPTS = 3
"""How many actors may die while they have the same photos."""
IN_FLIGHT = 2
"""Number of chunks that an actor has or waits for."""
MOST_TASKS = 10_000
"""Number of tasks from which on each has several chunks."""
BLOCK = 4096
"""Bytes of results after which an actor sends them; a result has about half of them."""


@dataclass(frozen=True)
class ModelChoice:
    """How a model is loaded, on any machine; see `upernet.load` and `Parser.show_as`."""

    name: str
    short_side: int | Literal["card"] | None = "card"
    precision: Precision = "fp32"
    calibration: str | None = None
    scales: Scales | None = None
    taxonomy: str | None = None
    table: Table | None = None

    def load(self, device: str | None) -> Parser:
        """Load the model to a device; None: cuda if it is available, else the CPU."""
        place = "cpu" if device is None and exported_suffix(self.name) else usable_device(device)
        parser = load(
            self.name,
            place,
            short_side=self.short_side,
            precision=self.precision,
            calibration=self.calibration,
            scales=self.scales,
        )
        return parser if self.taxonomy is None else parser.show_as(self.taxonomy, self.table)


@dataclass(frozen=True)
class RayEngine:
    """Parses photos on a Ray cluster; see `Engine`.

    Args:
        model: The model that each actor loads.
        device: Device of each actor; None: its GPU if the cluster has any, else the CPU.
        threads: CPU cores of each actor; without GPUs, each machine has as many actors as they fit. None: all cores of
            the smallest machine, so each has one actor; with GPUs, an equal share of the cores.
        address: Address of the cluster. None: the one that this process is connected to or that RAY_ADDRESS names; if
            there is none, a cluster of this machine alone, for as long as the run takes.

    Raises:
        UpernetError: When it is called: Ray is not installed, no cluster answers, its machines cannot load the model as
            it is here, or the disk is full.
    """

    model: ModelChoice
    device: str | None = None
    threads: int | None = None
    address: str | None = None

    def __call__(self, work: Work, jobs: Iterable[PhotoJob | ShardJob]) -> Generator[JobResult, None, None]:
        """Parse and save photos, and yield what became of each, in the order in which they are done."""
        if work.out is None:
            raise UpernetError("a cluster saves its results to a folder; give one with --out.")
        ray = _ray()
        with hidden_folder(work.out) as attempts, _connected(ray, self.address):
            rows = [{"chunk": pickle.dumps((number, chunk))} for number, chunk in enumerate(_chunks(jobs))]
            if not rows:
                return
            remote, actors, device, threads = self._resources(ray)
            ray.data.DataContext.get_current().target_max_block_size = BLOCK
            settings = (self.model, device, threads, work, str(attempts.resolve()), os.getcwd())
            results = ray.data.from_items(rows, override_num_blocks=min(len(rows), MOST_TASKS)).map_batches(
                Actor,
                batch_size=1,
                fn_constructor_args=settings,
                compute=ray.data.ActorPoolStrategy(size=actors, max_tasks_in_flight_per_actor=IN_FLIGHT),
                **remote,
            )
            try:
                for row in results.iter_rows():
                    result = pickle.loads(row["result"])
                    if isinstance(result, UpernetError):
                        raise result
                    yield result
            except ray.exceptions.RayError as error:
                raise UpernetError(
                    f"the cluster gave up ({_first_line(error)}); look at its logs, and run the command again to go on."
                ) from None

    def _resources(self, ray: Any) -> tuple[dict[str, float], int, str, int]:
        """Return what Ray reserves for each actor, how many there are, and their device and threads."""
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        with_gpu = [node for node in nodes if node.get("GPU", 0) >= 1]
        if with_gpu and self.device != "cpu":
            share = max(1, min(int(node.get("CPU", 1) / node["GPU"]) for node in with_gpu))
            gpus = sum(int(node["GPU"]) for node in with_gpu)
            return {"num_gpus": 1}, gpus, self.device or "cuda", self.threads or share
        cores = [int(node["CPU"]) for node in nodes if node.get("CPU", 0) >= 1]
        if not cores:
            raise UpernetError("the cluster has neither GPUs nor CPU cores for actors; check `ray status`.")
        threads = min(self.threads or min(cores), max(cores))
        return {"num_cpus": threads}, sum(node // threads for node in cores), "cpu", threads


class Actor:
    """A process of the cluster that parses photos with a model of its own."""

    def __init__(self, model: ModelChoice, device: str, threads: int, work: Work, attempts: str, folder: str):
        self._work, self._attempts = work, Path(attempts)
        self._problem: UpernetError | None = None
        if os.path.isdir(folder):  # so that relative paths mean the same here
            os.chdir(folder)
        try:
            set_threads(threads)
            self._parser = model.load(device)
        except UpernetError as error:
            self._problem = UpernetError(f"{platform.node()}: {error}")
            return
        if not self._attempts.is_dir():
            self._problem = UpernetError(
                f"{work.out}: is not the same folder on {platform.node()}; give an --out that all machines share."
            )
        elif settings_hash(self._parser, work) != work.settings:
            self._problem = UpernetError(
                f"{platform.node()} has another version of upernet, or other weights of {model.name}; install the same."
            )

    def __call__(self, batch: dict[str, Any]) -> Iterator[dict[str, list[bytes]]]:
        """Yield what became of each photo of a chunk."""
        for packed in batch["chunk"]:
            number, chunk = pickle.loads(packed)
            results = iter([self._problem]) if self._problem else self._results(number, chunk)
            for result in results:
                yield {"result": [pickle.dumps(result)]}

    def _results(self, number: int, chunk: list[PhotoJob | ShardJob]) -> Iterator[JobResult | UpernetError]:
        """Yield the results, or why the run cannot go on; the same ones in the same order at every attempt."""
        with open(self._attempts / str(number), "ab") as file:
            attempt = file.tell() + 1
            file.write(b".")
        for job, result in self._work.run(self._parser, chunk) if attempt <= ATTEMPTS else self._given_up(chunk):
            if (problem := full_disk(result)) is not None:
                yield problem
                return
            kept = replace(result, parse=None) if isinstance(result, Finished) else result
            yield replace(job, photo=job.name, settled=None), kept

    def _given_up(self, chunk: list[PhotoJob | ShardJob]) -> Iterator[JobResult]:
        for given in chunk:
            if isinstance(given, PhotoJob) and is_address(given.name):
                jobs = iter((given,))  # not downloaded once more: that may be what they died of
            else:
                jobs = photo_jobs([given], self._work.out)
            for job in jobs:
                problem = f"{ATTEMPTS} workers died with this photo or others of its chunk; parse it by itself."
                yield job, job.settled or UpernetError(f"{job.name}: {problem}")


def _chunks(jobs: Iterable[PhotoJob | ShardJob]) -> Iterator[list[PhotoJob | ShardJob]]:
    """Yield the jobs in chunks: photos of one group, or one shard."""
    for _, chunk in groupby(jobs, key=lambda job: job.group):
        yield list(chunk)


def _ray() -> Any:
    try:
        ray: Any = import_module("ray")
        import_module("ray.data")
    except ImportError:
        raise UpernetError("--engine ray needs Ray; run: pip install 'upernet[cluster]'.") from None
    return ray


@contextmanager
def _connected(ray: Any, address: str | None) -> Generator[None, None, None]:
    """Connect to a cluster, or start one on this machine, until the end of the block; unless there is a connection."""
    if ray.is_initialized():
        yield
        return
    known = address or os.environ.get("RAY_ADDRESS")
    options: dict[str, Any] = {} if known else {"include_dashboard": False}
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ray.init(address=known or "local", logging_level="ERROR", log_to_driver=False, **options)
    except Exception as error:  # of several kinds, by what is wrong
        where = f"{known}: no Ray cluster answers there" if known else "Ray cannot be started on this machine"
        raise UpernetError(f"{where} ({_first_line(error)}); check --ray-address.") from None
    try:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_sigterm)  # Ray has set its own
        ray.data.DataContext.get_current().enable_progress_bars = False
        yield
    finally:
        ray.shutdown()


def _first_line(error: Exception) -> str:
    return printable((str(error).strip() or type(error).__name__).splitlines()[-1].rstrip("."))
