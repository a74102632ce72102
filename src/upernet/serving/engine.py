"""The engine of the server: requests wait in a bounded queue, and one thread parses those of like size together.

All requests share the networks. While a network runs, other threads decode the next photos and encode the last
answers. At most `Limits.queue` photos wait; they stay encoded until shortly before it is their turn.
"""

from __future__ import annotations

import io
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Condition, Semaphore, Thread

import numpy as np
from PIL import Image

from upernet.data.images import read_image
from upernet.errors import UpernetError
from upernet.inference import Parse, Parser
from upernet.serving.limits import Limits


class QueueFullError(Exception):
    """The queue has no place; the client should try again later."""

    def __init__(self, seconds: int):
        super().__init__(seconds)
        self.seconds = seconds
        """Estimated number of seconds until there is a place."""


class ClosingError(Exception):
    """The server is shutting down and takes no more photos."""


@dataclass(frozen=True)
class Answer:
    """What a request is answered with."""

    content: bytes
    media_type: str
    file_name: str | None = None
    """Name under which a browser saves it; None: it is shown."""


@dataclass
class Timing:
    """Seconds that the steps of a request took; they are set as the steps end."""

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
    accepted_at: float = field(default_factory=time.perf_counter)
    photo: Future[Image.Image] | None = None


class Engine:
    """Parses the photos of many requests with shared models.

    Args:
        parsers: Name of a model -> its parser.
        limits: Sizes of the queue and of a batch.
        on_batch: Called with the number of photos of each batch and its seconds.

    Example:
        >>> engine = Engine({"everyday": upernet.load("everyday")}, Limits())
        >>> request = Request(Path("photo.jpg").read_bytes(), "everyday", ("object",), None, answer)
        >>> engine.submit(request).result()
    """

    def __init__(
        self, parsers: Mapping[str, Parser], limits: Limits, on_batch: Callable[[int, float], object] | None = None
    ):
        self.parsers, self.limits = dict(parsers), limits
        self._on_batch = on_batch
        self._waiting: deque[Request] = deque()
        self._changed = Condition()
        self._closing = False
        self._warm = False
        self._seconds_per_photo = 1.0
        self._ahead = 2 * limits.batch
        self._decoders = ThreadPoolExecutor(2, "decode")
        self._encoders = ThreadPoolExecutor(2, "encode")
        self._encoding = Semaphore(2 * limits.batch + 2)
        self._thread = Thread(target=self._run, name="network", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """The number of photos that wait for a network."""
        return len(self._waiting)

    @property
    def is_ready(self) -> bool:
        """Whether the networks have run once, so that the next photo is parsed at full speed, and photos are taken."""
        return self._warm and not self._closing

    def submit(self, request: Request) -> Future[Answer]:
        """Queue a request and return its future answer; cancelling it takes the photo out of the queue.

        The future raises `UpernetError` if the photo cannot be decoded or parsed.

        Raises:
            QueueFullError: The queue is full.
            ClosingError: `close` was called.
        """
        with self._changed:
            if self._closing:
                raise ClosingError
            if self._waits() >= self.limits.queue:
                raise QueueFullError(max(1, round(len(self._waiting) * self._seconds_per_photo)))
            self._waiting.append(request)
            self._decode_ahead()
            self._changed.notify()
        return request.done

    def close(self) -> None:
        """Take no more requests, and return as soon as those that were accepted are answered."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()
        for executor in (self._decoders, self._encoders):
            executor.shutdown()

    def _waits(self) -> int:
        """Return how many requests wait, after removing those whose clients have gone."""
        gone = [request for request in self._waiting if request.done.cancelled()]
        for request in gone:
            self._waiting.remove(request)
        return len(self._waiting)

    def _decode_ahead(self) -> None:
        for request in list(self._waiting)[: self._ahead]:
            if request.photo is None:
                request.photo = self._decoders.submit(self._decode, request)

    @staticmethod
    def _decode(request: Request) -> Image.Image:
        photo = read_image(io.BytesIO(request.content))
        request.content = b""
        if request.max_side is not None:
            photo.thumbnail((request.max_side, request.max_side), Image.Resampling.BILINEAR, reducing_gap=3.0)
        return photo

    def _run(self) -> None:
        for parser in self.parsers.values():
            parser(np.zeros((64, 64, 3), np.uint8))
        self._warm = True
        while batch := self._next_batch():
            self._parse(batch)

    def _next_batch(self) -> list[Request]:
        """Wait for a request, and return it with those that can go through the network with it; none: the end."""
        while True:
            with self._changed:
                while not self._waits() and not self._closing:
                    self._changed.wait()
                if not self._waiting:
                    return []
                first = self._waiting.popleft()
                self._decode_ahead()
            if not first.done.set_running_or_notify_cancel():
                continue
            photo = self._decoded(first)
            if photo is not None:
                return [first, *self._companions(first, photo)]

    def _companions(self, first: Request, photo: Image.Image) -> list[Request]:
        """Take the decoded requests out of the queue that the network gets in the same size as the first."""
        sizes = self.parsers[first.model].sizes_for(photo)
        room = self.limits.pixels - photo.width * photo.height
        found: list[Request] = []
        with self._changed:
            for request in list(self._waiting)[: self._ahead]:
                if len(found) + 1 == self.limits.batch:
                    break
                if (request.model, request.levels) != (first.model, first.levels):
                    continue
                if request.photo is None or not request.photo.done() or request.photo.exception() is not None:
                    continue
                other = request.photo.result()
                if self.parsers[first.model].sizes_for(other) != sizes or other.width * other.height > room:
                    continue
                room -= other.width * other.height
                self._waiting.remove(request)
                if request.done.set_running_or_notify_cancel():
                    found.append(request)
            self._decode_ahead()
        return found

    def _decoded(self, request: Request) -> Image.Image | None:
        """Return the photo of a request; None, after answering it, if it cannot be decoded."""
        if request.photo is None:  # it was behind those that are decoded ahead
            request.photo = self._decoders.submit(self._decode, request)
        try:
            return request.photo.result()
        except Exception as error:
            request.done.set_exception(error)
            return None

    def _parse(self, batch: list[Request]) -> None:
        start = time.perf_counter()
        photos = [(photo, request.name) for request in batch if (photo := self._decoded(request)) is not None]
        try:
            found = self.parsers[batch[0].model].parse_batch(photos, batch[0].levels)
        except Exception as error:  # a defect of ours must not end the thread that serves everybody
            for request in batch:
                request.done.set_exception(error)
            return
        seconds = time.perf_counter() - start
        self._seconds_per_photo += 0.2 * (seconds / len(batch) - self._seconds_per_photo)
        if self._on_batch is not None:
            self._on_batch(len(batch), seconds)
        for request, parse in zip(batch, found, strict=True):
            request.timing = Timing(start - request.accepted_at, seconds, len(batch))
            request.photo = None
            if isinstance(parse, UpernetError):
                request.done.set_exception(parse)
            else:
                self._encoding.acquire()
                self._encoders.submit(self._answer, request, parse)

    def _answer(self, request: Request, parse: Parse) -> None:
        try:
            request.done.set_result(request.answer(parse, request.timing))
        except Exception as error:
            request.done.set_exception(error)
        finally:
            self._encoding.release()
