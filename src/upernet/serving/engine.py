"""The engine of the server: requests wait in a bounded queue, and one thread parses those of like size together.

All requests share the networks. While a network runs, other threads decode the next photos and encode the last
answers. A photo takes memory from the time when it is decoded until its answer is encoded; `Limits.in_memory` bounds
the pixels of all such photos. Those behind them stay encoded, and `Limits.queue` bounds their number.

A request is out of the queue as soon as its future is cancelled. Until its answer is being encoded, nothing is computed
for it any more; a pass of the network that has begun ends.
"""

from __future__ import annotations

import io
import time
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from threading import Condition, Thread

import numpy as np
from PIL import Image

from upernet.data.images import read_image
from upernet.inference import Parse, Parser
from upernet.ops.runtime.heap import HeapTrimmer
from upernet.serving.limits import Limits

LONGEST_RETRY = 60
"""Largest number of seconds after which clients are asked to try again."""


class QueueFullError(Exception):
    """The queue has no place; the client should try again later."""

    def __init__(self, seconds: int):
        super().__init__(seconds)
        self.seconds = seconds
        """Estimated number of seconds until there is a place."""


class ClosingError(Exception):
    """The engine takes no photos: it is closing, or a model does not run."""


@dataclass(frozen=True)
class Answer:
    """What a request is answered with."""

    content: bytes
    media_type: str
    file_name: str | None = None
    """Name under which a browser saves it; None: it is shown."""


@dataclass(frozen=True)
class Timing:
    """Seconds that the steps of a request took."""

    queued: float = 0.0
    network: float = 0.0
    """Network and label maps of the batch that the photo was in."""
    batch: int = 0
    """Number of photos in that batch."""


@dataclass(eq=False)
class Request:
    """A photo that waits to be parsed, or is being parsed."""

    content: bytes
    """The image file; empty as soon as it is decoded."""
    pixels: int
    """Width times height, as the header of the file says."""
    name: str | None
    """Name of the file, which becomes the path of the parse."""
    model: str
    levels: tuple[str, ...]
    """Levels of the model, in its order."""
    max_side: int | None
    """Longest side to which the photo is reduced before it is parsed."""
    answer: Callable[[Parse, Timing], Answer]
    """Encodes the parse; it runs in a thread of its own."""
    done: Future[Answer] = field(default_factory=lambda: Future[Answer]())
    timing: Timing = field(default_factory=Timing)
    """Set before the answer is encoded."""
    accepted_at: float = field(default_factory=time.perf_counter)
    in_memory: int = 0
    """Pixels that count towards `Limits.in_memory`; 0 before the photo is decoded, and after its answer is encoded."""
    photo: Image.Image | None = None
    """The decoded photo, as long as it waits."""


class Engine:
    """Parses the photos of many requests with shared models.

    Args:
        parsers: Name of a model -> its parser.
        limits: Sizes of the queue, of a batch and of the memory.
        on_batch: Called with the name of the model, the pixels of each photo of a batch, and its seconds.

    Example:
        >>> engine = Engine({"everyday": upernet.load("everyday")}, Limits())
        >>> request = Request(content, 640 * 480, None, "everyday", ("object",), None, answer)
        >>> engine.submit(request).result()
    """

    def __init__(
        self,
        parsers: Mapping[str, Parser],
        limits: Limits,
        on_batch: Callable[[str, list[int], float], object] | None = None,
    ):
        self.parsers, self.limits = dict(parsers), limits
        self.warmed: Future[None] = Future()
        """Done when each network has run once, so that the next photo is parsed at full speed; its exception is that of
        a model that does not run, after which no photos are taken."""
        self._on_batch = on_batch
        self._waiting: deque[Request] = deque()
        self._in_memory = 0
        self._changed = Condition()
        """Guards all of the state; notified when there may be something for the network."""
        self._closing = self._abandoned = False
        self._seconds_per_photo = 1.0
        self._ahead = 2 * limits.batch
        self._decoders = ThreadPoolExecutor(2, "decode")
        self._encoders = ThreadPoolExecutor(2, "encode")
        self._thread = Thread(target=self._run, name="network", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """The number of photos that wait for a network."""
        return len(self._waiting)

    @property
    def in_memory(self) -> int:
        """Pixels of the photos that are decoded, in a network, or being encoded."""
        return self._in_memory

    @property
    def is_ready(self) -> bool:
        """Whether photos are taken, and the networks have run once."""
        return self.warmed.done() and not self._closing

    def check_place(self) -> None:
        """Raise what `submit` would raise now, for a photo that need not be received if there is no place for it.

        Raises:
            QueueFullError: The queue is full, or so long that the answer would come too late.
            ClosingError: `close` was called, or a model does not run.
        """
        if self._closing:
            raise ClosingError
        waiting = len(self._waiting)
        seconds = waiting * self._seconds_per_photo
        if waiting >= self.limits.queue or seconds > self.limits.seconds / 2:
            raise QueueFullError(min(max(1, round(seconds)), LONGEST_RETRY))

    def submit(self, request: Request) -> Future[Answer]:
        """Queue a request and return its future answer; cancelling it takes the photo out of the queue.

        The future raises `UpernetError` if the photo cannot be decoded or parsed.

        Raises:
            QueueFullError: The queue is full, or so long that the answer would come too late.
            ClosingError: `close` was called, or a model does not run.
        """
        with self._changed:
            self.check_place()
            self._waiting.append(request)
            self._decode_ahead()
        # Futures keep their callbacks. A reference to the request would make a cycle, and its answer, often megabytes,
        # would stay until the garbage collector runs.
        known = weakref.ref(request)
        request.done.add_done_callback(lambda _: self._forget_cancelled(known()))
        return request.done

    def close(self) -> None:
        """Take no more requests, and return as soon as those that were accepted are answered."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()
        for executor in (self._decoders, self._encoders):
            executor.shutdown()

    def abandon(self) -> None:
        """Take no more requests, cancel those that wait, and return as soon as no answer is being encoded.

        A network that runs goes on, but what it finds is dropped.
        """
        with self._changed:
            self._closing = self._abandoned = True
            waiting = list(self._waiting)
            self._changed.notify()
        for request in waiting:
            request.done.cancel()
        for executor in (self._decoders, self._encoders):
            executor.shutdown(cancel_futures=True)

    def _forget_cancelled(self, request: Request | None) -> None:
        if request is None or not request.done.cancelled():
            return
        with self._changed:
            if request in self._waiting:
                self._waiting.remove(request)
                if request.photo is not None:  # else it is not decoded, or a decoder has it and finds it gone
                    self._release(request)
            self._changed.notify()

    def _hold(self, request: Request, pixels: int) -> None:
        self._in_memory += pixels - request.in_memory
        request.in_memory = pixels

    def _release(self, request: Request) -> None:
        request.photo = None
        self._hold(request, 0)
        self._decode_ahead()

    def _decode_ahead(self) -> None:
        """Start to decode the first requests, in their order, as far as there is memory for them."""
        if self._abandoned:
            return
        for request in islice(self._waiting, self._ahead):
            if request.in_memory:
                continue
            if self._in_memory and self._in_memory + request.pixels > self.limits.in_memory:
                return
            self._hold(request, request.pixels)
            self._decoders.submit(self._decode, request)

    def _decode(self, request: Request) -> None:
        photo, problem = None, None
        if not request.done.cancelled():
            try:
                photo = _decoded(request)
            except Exception as error:
                problem = error
        request.content = b""
        with self._changed:
            waits = request in self._waiting
            if photo is not None and waits and not request.done.cancelled():
                request.photo = photo
                self._hold(request, photo.width * photo.height)
            else:
                if waits:
                    self._waiting.remove(request)
                self._release(request)
            self._decode_ahead()
            self._changed.notify()
        if problem is not None:
            _fail(request, problem)

    def _run(self) -> None:
        try:
            for parser in self.parsers.values():
                parser(np.zeros((64, 64, 3), np.uint8))
        except Exception as error:
            self._give_up(error)
            return
        self.warmed.set_result(None)
        trim = HeapTrimmer()
        while batch := self._next_batch():
            self._parse(batch)
            trim()
            del batch  # and with it the answers, while this waits for the next photo

    def _give_up(self, error: Exception) -> None:
        with self._changed:
            self._closing = True
            waiting = list(self._waiting)
        for request in waiting:
            request.done.cancel()
        self.warmed.set_exception(error)

    def _next_batch(self) -> list[Request]:
        """Wait for a photo, and take it out of the queue with those that go through the network with it; none: the end.

        It is the first that is decoded: a photo that takes long to decode does not hold up those behind it.
        """
        with self._changed:
            while True:
                ahead = islice(self._waiting, self._ahead)
                ready = [request for request in ahead if request.photo is not None and not request.done.cancelled()]
                if ready:
                    batch = self._like_first(ready)
                    for request in batch:
                        self._waiting.remove(request)
                    self._decode_ahead()
                    return batch
                if self._closing and not self._waiting:
                    return []
                self._changed.wait()

    def _like_first(self, ready: list[Request]) -> list[Request]:
        """Return the first request, and those for the same model and levels that it gets in the same size."""
        first, parser = ready[0], self.parsers[ready[0].model]
        sizes = _sizes(parser, first)
        found, pixels = [first], first.in_memory
        for request in ready[1:]:
            if len(found) == self.limits.batch:
                break
            alike = (request.model, request.levels) == (first.model, first.levels) and _sizes(parser, request) == sizes
            if alike and pixels + request.in_memory <= self.limits.pixels:
                found.append(request)
                pixels += request.in_memory
        return found

    def _parse(self, batch: list[Request]) -> None:
        start, first = time.perf_counter(), batch[0]
        # Without their names: the messages of errors go to the log, which has no names of files.
        photos = [(request.photo, None) for request in batch if request.photo is not None]
        try:
            parses = self.parsers[first.model].parse_batch(photos, first.levels)
        except Exception as error:  # a defect of ours must not end the thread that serves everybody
            parses = [error] * len(batch)
        del photos
        seconds = time.perf_counter() - start
        self._seconds_per_photo += 0.2 * (seconds / len(batch) - self._seconds_per_photo)
        if self._on_batch is not None:
            self._on_batch(first.model, [request.in_memory for request in batch], seconds)
        for request, parse in zip(batch, parses, strict=True):
            request.timing = Timing(start - request.accepted_at, seconds, len(batch))
            request.photo = None
            if isinstance(parse, Exception):
                self._end(request)
                _fail(request, parse)
            else:
                parse.path = request.name
                self._encode(request, parse)

    def _encode(self, request: Request, parse: Parse) -> None:
        with self._changed:
            if not self._abandoned:
                self._encoders.submit(self._answer, request, parse)
                return
        request.done.cancel()

    def _answer(self, request: Request, parse: Parse) -> None:
        try:
            if not request.done.set_running_or_notify_cancel():
                return
            answer = request.answer(parse, request.timing)
        except Exception as error:
            request.done.set_exception(error)
        else:
            request.done.set_result(answer)
        finally:
            del parse
            self._end(request)

    def _end(self, request: Request) -> None:
        with self._changed:
            self._release(request)
            self._changed.notify()


def _decoded(request: Request) -> Image.Image:
    photo = read_image(io.BytesIO(request.content))
    if request.max_side is not None:
        photo.thumbnail((request.max_side, request.max_side), Image.Resampling.BILINEAR, reducing_gap=3.0)
    return photo


def _sizes(parser: Parser, request: Request) -> tuple[object, ...]:
    return () if request.photo is None else parser.sizes_for(request.photo)


def _fail(request: Request, error: Exception) -> None:
    if request.done.set_running_or_notify_cancel():
        request.done.set_exception(error)
