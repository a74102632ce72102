"""Sampling: which photos of which source each batch takes, and the loader that reads them.

A plan is a pure function of a seed and the number of the iteration. So all processes agree without talking to each
other, and an interrupted run continues as if nothing had happened.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping
from hashlib import blake2b
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, Dataset

from upernet.data.mixing import Mixer
from upernet.data.sample import Batch, Sample, stack
from upernet.data.sources import Source
from upernet.errors import UpernetError


class BatchPlan(NamedTuple):
    """The photos of one batch, all of one source, and a seed for the augmentation of each."""

    source: str
    indices: list[int]
    seeds: list[int]


class BatchSampler:
    """Sampler of the batches of a stage.

    Each iteration draws one source. Within a source, every photo is taken once, in a new random order, before any is
    taken again.

    Args:
        seed: Seed of all draws.
        sources: Name -> (number of photos, weight or None for the number of photos, batch size).

    Raises:
        UpernetError: There is no source, or one has no photo.
    """

    def __init__(self, seed: int, sources: Mapping[str, tuple[int, float | None, int]]) -> None:
        if not sources:
            raise UpernetError("there is no data source to draw from; list at least one under sources.")
        for name, (size, _, _) in sources.items():
            if size < 1:
                raise UpernetError(f"source {name} has no photos to draw; add photos or take it out of the stage.")
        self.seed = seed
        self.sources = dict(sources)
        self.weights = {name: float(size if weight is None else weight) for name, (size, weight, _) in sources.items()}
        self._names = list(sources)
        self._choices = np.empty(0, dtype=np.int64)
        self._earlier = np.empty(0, dtype=np.int64)
        self._orders: dict[str, tuple[int, np.ndarray]] = {}

    def plan(self, iteration: int) -> BatchPlan:
        """Return the plan of `iteration` (from 0); it does not depend on earlier calls."""
        self._know(iteration)
        name = self._names[int(self._choices[iteration])]
        size, _, batch_size = self.sources[name]
        first = int(self._earlier[iteration]) * batch_size
        positions = range(first, first + batch_size)
        indices = [int(self._order(name, position // size)[position % size]) for position in positions]
        seeds = (_random(self.seed, f"augment/{name}", np.array(positions)) >> np.uint64(1)).tolist()
        return BatchPlan(name, indices, seeds)

    def _know(self, iteration: int) -> None:
        """Extend `_choices` (source of an iteration) and `_earlier` (how often it came before) to `iteration`."""
        if iteration < len(self._choices):
            return
        length = max(1024, 2 * (iteration + 1))
        self._choices = _choose(self.seed, np.arange(length), np.array(list(self.weights.values())))
        self._earlier = np.empty(length, dtype=np.int64)
        for number in range(len(self._names)):
            drawn = self._choices == number
            self._earlier[drawn] = np.arange(drawn.sum())

    def _order(self, name: str, number: int) -> np.ndarray:
        """Return the order of the photos in pass `number` over a source."""
        known, order = self._orders.get(name, (-1, None))
        if order is None or known != number:
            size = self.sources[name][0]
            order = np.argsort(_random(self.seed, f"pass/{name}/{number}", np.arange(size)), kind="stable")
            self._orders[name] = number, order
        return order


class TrainingSet(Dataset["Batch | UpernetError"]):
    """Data set whose item `i` is the batch of iteration `i`, or this process's share of it.

    Args:
        sources: Name -> source, for every source of the sampler and those that are mixed with them.
        sampler: Plans the batches.
        rank, world_size: This process takes photos `rank`, `rank + world_size`, ... of each batch.
    """

    def __init__(
        self, sources: Mapping[str, Source], sampler: BatchSampler, rank: int = 0, world_size: int = 1
    ) -> None:
        check_batch_sizes(sampler, world_size)
        self.mixers = {name: Mixer(sources[name], sources) for name in sampler.sources}
        self.sampler = sampler
        self.rank = rank
        self.world_size = world_size

    def __getitem__(self, iteration: int) -> Batch | UpernetError:
        name, indices, seeds = self.sampler.plan(iteration)
        mixer = self.mixers[name]
        samples: list[Sample] = []
        # An exception that crosses a process boundary is buried in a traceback of the worker: return it instead.
        try:
            for index, seed in list(zip(indices, seeds, strict=True))[self.rank :: self.world_size]:
                generator = torch.Generator().manual_seed(seed)
                samples.append(mixer(index, generator))
        except UpernetError as error:
            return error
        return stack(samples, name)


def check_batch_sizes(sampler: BatchSampler, world_size: int) -> None:
    """Check that every process gets a photo of every batch.

    Raises:
        UpernetError: A batch is smaller than the number of processes.
    """
    for name, (_, _, batch_size) in sampler.sources.items():
        if batch_size < world_size:
            raise UpernetError(
                f"sources.{name}.batch_size: {batch_size} photos cannot be shared by {world_size} processes; "
                "raise the batch size or start fewer processes."
            )


def batches(
    sources: Mapping[str, Source],
    sampler: BatchSampler,
    first_iteration: int,
    last_iteration: int,
    workers: int = 0,
    rank: int = 0,
    world_size: int = 1,
) -> Iterator[Batch]:
    """Yield the batches of iterations `first_iteration` up to, not including, `last_iteration`.

    They are the same for any number of `workers` (processes that read ahead; 0: this process reads). The global random
    state of this process does not change.

    Raises:
        UpernetError: A photo or mask cannot be read, or does not fit the source's class mapping.
    """
    loader = DataLoader(
        TrainingSet(sources, sampler, rank, world_size),
        batch_size=None,
        sampler=range(first_iteration, last_iteration),
        num_workers=workers,
        worker_init_fn=_prepare_worker,
        generator=torch.Generator(),
    )
    for batch in loader:
        if isinstance(batch, UpernetError):
            raise batch
        yield batch.widened()


def _prepare_worker(worker: int) -> None:
    """Use one thread, and leave Ctrl-C and SIGTERM, which reach all processes of a job, to the main process."""
    torch.set_num_threads(1)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _choose(seed: int, iterations: np.ndarray, weights: np.ndarray) -> np.ndarray:
    uniform = (_random(seed, "source", iterations) >> np.uint64(11)) * 2.0**-53
    bounds = np.cumsum(weights) / np.sum(weights)
    return np.minimum(np.searchsorted(bounds, uniform, side="right"), len(weights) - 1)


def _random(seed: int, stream: str, counters: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
    """Return one uint64 per counter: SplitMix64 (Steele et al. 2014), started from a hash of seed and stream."""
    start = int.from_bytes(blake2b(f"{seed}/{stream}".encode(), digest_size=8).digest(), "little")
    value = _uint64(np.uint64(start) + (counters.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15))
    value = _uint64((value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9))
    value = _uint64((value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB))
    return _uint64(value ^ (value >> np.uint64(31)))


def _uint64(value: Any) -> npt.NDArray[np.uint64]:
    """Give an expression its type, which numpy's stubs lose in arithmetic."""
    return value
