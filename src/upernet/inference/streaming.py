"""The pipeline of many photos: the next ones are decoded, and the last ones saved, while the network runs."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from PIL import Image

from upernet.errors import UpernetError
from upernet.inference.inputs import PhotoLike, read_photo
from upernet.inference.parse import Parse
from upernet.ops import usable_cores
from upernet.ops.runtime.openmp import compute_alone

if TYPE_CHECKING:
    from upernet.inference.parser import Parser

AHEAD = 2
"""Number of photos that are decoded before the network is ready for them, for each photo of a batch."""
BEHIND = 2
"""Number of parses that wait to be saved while the network runs, for each photo of a batch."""
MOST_DECODERS = 4
"""Largest number of threads that decode."""
MOST_MAKERS = 4
"""Largest number of threads that make label maps of what the network has computed, each on one core."""

Result = TypeVar("Result")


@dataclass
class Job(Generic[Result]):
    """A photo that goes through the pipeline."""

    photo: PhotoLike
    """The photo as it was given."""
    settled: Result | UpernetError | None = None
    """What became of it, if that is known without parsing it: it only passes through, in its order."""
    group: int = 0
    """Photos of different groups do not share a batch."""


AnyJob = TypeVar("AnyJob", bound="Job[Any]")
Decoded = tuple[Image.Image, "str | None"]


@dataclass
class _Step(Generic[AnyJob, Result]):
    """Where a job is in the pipeline."""

    job: AnyJob
    decoded: Future[Decoded] | None = None
    """The photo; None as soon as the network has it."""
    finished: Future[Result] | None = None


def run_jobs(
    parser: Parser,
    jobs: Iterable[AnyJob],
    levels: Sequence[str],
    finish: Callable[[AnyJob, Parse], Result],
    *,
    probabilities: bool = False,
    batch: int = 1,
) -> Generator[tuple[AnyJob, Result | UpernetError], None, None]:
    """Parse photos, and yield what became of each, in order.

    Threads decode, others make label maps of what the network has computed, one finishes, and the network runs in the
    thread of the caller. At most `(AHEAD + BEHIND) * batch + 2` photos are in memory. Jobs are taken from `jobs` when
    they are needed.

    Args:
        parser: The parser.
        jobs: The photos.
        levels: Levels of the model, in its order.
        finish: What is done with a parse in the thread that finishes, such as saving it.
        probabilities: As `Parser` takes it.
        batch: Largest number of photos that go through the network together: the first that waits, and those behind it
            that the network gets in the same size. Which ones does not depend on how fast they arrive.
    """
    waiting = iter(jobs)
    ahead: deque[_Step[AnyJob, Result]] = deque()
    behind: deque[_Step[AnyJob, Result]] = deque()

    def take_ahead() -> None:
        while len(ahead) < AHEAD * batch and (job := next(waiting, None)) is not None:
            needed = job.settled is None
            ahead.append(_Step(job, decoder.submit(read_photo, job.photo) if needed else None))

    def parse_first() -> None:
        first = ahead.popleft()
        behind.append(first)
        take_ahead()
        if first.decoded is None:
            return
        steps = _batch(parser, [first, *ahead], batch)
        if not steps:
            return
        photos = [step.decoded.result() for step in steps if step.decoded]
        for step, make in zip(steps, parser.run_network(photos, levels, probabilities), strict=True):
            step.decoded = None
            parse = maker.submit(copy_context().run, make)  # with the kernels that the caller has asked for
            step.finished = finisher.submit(_finished, finish, step.job, parse)

    with (
        ThreadPoolExecutor(min(batch, MOST_DECODERS), "decode") as decoder,
        ThreadPoolExecutor(min(usable_cores(), MOST_MAKERS), "make", compute_alone) as maker,
        ThreadPoolExecutor(1, "finish") as finisher,
    ):
        try:
            take_ahead()
            while ahead or behind:
                if ahead:
                    parse_first()
                while behind and (not ahead or len(behind) > BEHIND * batch or _is_done(behind[0])):
                    step = behind.popleft()
                    yield step.job, _outcome(step)
        finally:  # also where the caller stops early, or is interrupted
            for executor in (decoder, maker, finisher):
                executor.shutdown(wait=False, cancel_futures=True)


def _batch(parser: Parser, steps: Sequence[_Step[AnyJob, Result]], most: int) -> list[_Step[AnyJob, Result]]:
    """Return the first step and those that the network gets in the same size; none if the first cannot be decoded."""
    found: list[_Step[AnyJob, Result]] = []
    size = None
    for step in steps:
        if step.decoded is None or len(found) == most or step.job.group != steps[0].job.group:
            continue
        try:
            photo, _ = step.decoded.result()
        except UpernetError as error:
            step.decoded, step.finished = None, _failed(error)
            if step is steps[0]:
                return []
            continue
        if size is None:
            size = parser.sizes_for(photo)
        if parser.sizes_for(photo) == size:
            found.append(step)
    return found


def _finished(finish: Callable[[AnyJob, Parse], Result], job: AnyJob, made: Future[Parse | UpernetError]) -> Result:
    parse = made.result()
    if isinstance(parse, UpernetError):
        raise parse
    return finish(job, parse)


def _failed(error: UpernetError) -> Future[Any]:
    failed: Future[Any] = Future()
    failed.set_exception(error)
    return failed


def _is_done(step: _Step[AnyJob, Result]) -> bool:
    return step.finished is None or step.finished.done()


def _outcome(step: _Step[AnyJob, Result]) -> Result | UpernetError:
    if step.finished is None:
        return cast("Result | UpernetError", step.job.settled)
    try:
        return step.finished.result()
    except UpernetError as error:
        return error
