"""Reading of videos: upright frames with their times, decoded ahead of whoever reads them."""

from __future__ import annotations

import math
import queue
import re
import threading
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing, suppress
from fractions import Fraction
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

import numpy as np
from PIL import Image

from upernet.errors import UpernetError
from upernet.inference.video.sources import VideoSource, check_size, open_video, reason, require_av

if TYPE_CHECKING:
    from av.audio.stream import AudioStream
    from av.packet import Packet
    from av.video.frame import VideoFrame

AHEAD = 2
"""Number of frames that are decoded before the network is ready for them."""
LONGEST_GAP = 3600.0
"""Seconds between two frames from which on time stamps count as wrong."""
USUAL_RATE = 25.0
"""Frames per second where a video does not say."""
MISSING_SECONDS = 0.5
"""How much earlier than announced the pictures of an intact video may end."""
MOST_SECONDS = 86_400.0
MOST_FRAMES = 10**7
"""Announced lengths from which on they are not believed."""
MOST_PACKETS = 10_000
"""Number of packets of sound between two frames from which on they are left out: minutes of sound."""
BLOCKED_SECONDS = 2.0
"""How long a live source is waited for when its reader stops."""

T = TypeVar("T")


class Frame(NamedTuple):
    """A frame of a video."""

    number: int
    """Number of the frame in the video, from 0."""
    time: float
    """Seconds since the beginning of the video."""
    duration: float
    """Seconds until the next frame that is read, as far as the video says; the video may end before that (see
    `VideoReader.end`)."""
    image: Image.Image
    """The frame as an upright RGB image with square pixels."""
    audio: tuple[Packet[AudioStream], ...] = ()
    """Packets of sound that come before the frame in the file."""


class VideoReader:
    """An open video.

    Iterate once; then `tail` has the packets of sound after the last frame. The iteration raises UpernetError after
    the last frame that can be decoded if frames are damaged or missing, or if there are none at all.

    Args:
        source: The video.
        every: Every how many frames one is read.
        seconds: Length of the beginning that is read. Default: all.
        audio: Whether packets of sound are read, too.

    Raises:
        UpernetError: The video cannot be opened; see `open_video`.
    """

    def __init__(self, source: VideoSource, every: int = 1, seconds: float | None = None, audio: bool = False):
        self.source, self.every, self.seconds = source, every, seconds
        self._container, self._stream = open_video(source)
        sounds = self._container.streams.audio
        self.sound: AudioStream | None = sounds[0] if audio and sounds and not source.live else None
        """The sound whose packets are read."""
        rate = self._stream.average_rate or self._stream.guessed_rate
        self.rate = float(rate) if rate and 0 < rate <= 1000 else USUAL_RATE
        """Frames per second, on average, before `every`."""
        start = cast("int | None", self._container.start_time)
        self._start = None if start is None else Fraction(start, 1_000_000)
        self.tail: tuple[Packet[AudioStream], ...] = ()
        self.end = 0.0
        """Seconds from the beginning of the video to the end of the last frame that has been decoded so far."""

    @property
    def total(self) -> int | None:
        """Number of frames that will be read, as far as the video says; None if it does not, or cannot be believed."""
        count = self._stream.frames or (self._announced_seconds or 0) * self.rate
        if self.source.live or not 0 < count < MOST_FRAMES:
            return None
        if self.seconds is not None:
            count = min(count, self.seconds * self.rate)
        return math.ceil(count / self.every)

    @property
    def _announced_seconds(self) -> float | None:
        """Length of the pictures; that of the file may be that of the sound."""
        stream = self._stream
        if stream.duration and stream.time_base:
            seconds = float(stream.duration * stream.time_base)
        elif tagged := re.match(r"(\d+):(\d\d):(\d\d\.\d+)", stream.metadata.get("DURATION", "")):  # Matroska
            seconds = 3600 * int(tagged[1]) + 60 * int(tagged[2]) + float(tagged[3])
        else:
            return None
        return seconds if 0 < seconds < MOST_SECONDS else None

    def __iter__(self) -> Generator[Frame, None, None]:
        """Read the frames that are asked for, decoded in another thread."""
        with closing(_ahead(self._frames(), AHEAD, newest=self.source.live)) as frames:
            yield from frames

    def _frames(self) -> Generator[Frame, None, None]:
        try:
            yield from self._decoded()
        finally:
            if (
                self.sound is None
            ):  # else, what copies the sound still reads its parameters; it is closed with the reader
                self._container.close()

    def _decoded(self) -> Generator[Frame, None, None]:
        name, damaged, read = self.source.name, 0, 0
        sounds: list[Packet[AudioStream]] = []
        clock = _Clock(1 / self.rate)
        size: tuple[int, int] | None = None
        problem: str | None = None
        av = require_av()
        packets: Iterator[Any] = self._container.demux(
            [stream for stream in (self._stream, self.sound) if stream is not None]
        )
        while True:
            try:
                packet = next(packets, None)
            except (av.FFmpegError, OSError) as error:
                silent = isinstance(error, (av.ExitError, TimeoutError))
                problem = "the source has gone silent" if silent else reason(error)
                break
            if packet is None:
                break
            if packet.stream is self.sound:
                packet = self._from_start(packet)
                # The last packet has no content, and those before the beginning only prepare the decoder.
                if packet.pts is not None and packet.pts >= 0 and len(sounds) < MOST_PACKETS:
                    sounds.append(packet)
                continue
            try:
                decoded: list[VideoFrame] = list(packet.decode())
            except (av.FFmpegError, ValueError, MemoryError):
                damaged += 1
                continue
            for picture in decoded:
                check_size(name, picture.width, picture.height)
                time, duration = clock.tick(self._seconds_of(picture), _duration(picture))
                if self.seconds is not None and time >= self.seconds:
                    self.tail = tuple(sounds)
                    return
                self.end = time + duration
                if read % self.every == 0:
                    image = self._upright(picture)
                    size = size or image.size
                    if image.size != size:  # the files that are written have one size
                        image = image.resize(size, Image.Resampling.BILINEAR)
                    yield Frame(read, time, duration * self.every, image, tuple(sounds))
                    sounds.clear()
                read += 1
        self.tail = tuple(sounds)
        if not read:
            raise UpernetError(f"{name}: has no frame that can be decoded; check the file, or convert it to MP4.")
        announced = self._announced_seconds
        if problem is None and not self.source.live and announced is not None:
            missing = announced - self.end
            if missing > max(MISSING_SECONDS, 2 / self.rate):
                problem = f"{missing:.1f} of {announced:.1f} seconds are missing"
        if problem is not None:
            raise UpernetError(
                f"{name}: breaks off after {self.end:.1f} seconds ({problem}); the frames before are parsed, get a "
                "complete copy for the rest."
            )
        if damaged:
            raise UpernetError(
                f"{name}: {damaged} damaged packets were left out; the other frames are parsed, get an intact copy "
                "for the rest."
            )

    def _seconds_of(self, picture: VideoFrame) -> float | None:
        if picture.pts is None or not picture.time_base:
            return None
        seconds = picture.pts * picture.time_base
        if self._start is None:
            self._start = seconds
        return float(seconds - self._start)

    def _from_start(self, packet: Packet[AudioStream]) -> Packet[AudioStream]:
        """Return a packet of sound with times that count from the beginning of the video."""
        shift = round((self._start or 0) / packet.time_base) if packet.time_base else 0
        packet.pts = None if packet.pts is None else packet.pts - shift
        packet.dts = None if packet.dts is None else packet.dts - shift
        return packet

    def _upright(self, picture: VideoFrame) -> Image.Image:
        pixels = picture.to_ndarray(format="rgb24", **_range_of(picture))
        turns = round(picture.rotation / 90) % 4
        aspect = self._stream.sample_aspect_ratio
        image = Image.fromarray(np.ascontiguousarray(np.rot90(pixels, turns)) if turns else pixels)
        if aspect and aspect != 1 and Fraction(1, 8) <= aspect <= 8:
            wide = aspect if turns % 2 == 0 else 1 / aspect  # pixels are `wide` times as wide as high, once upright
            width, height = image.size
            size = (round(width * wide), height) if wide > 1 else (width, round(height / wide))
            check_size(self.source.name, *size)
            image = image.resize((max(1, size[0]), max(1, size[1])), Image.Resampling.BILINEAR)
        return image


class _Clock:
    """Makes times that increase, whatever the time stamps say.

    Args:
        usual: Seconds between frames where time stamps are missing or wrong.
    """

    def __init__(self, usual: float):
        self.usual = usual
        self._last: float | None = None
        self._shift = 0.0

    def tick(self, time: float | None, duration: float | None) -> tuple[float, float]:
        """Return the time and the duration of the next frame, in seconds."""
        step = duration if duration and 0 < duration < LONGEST_GAP else self.usual
        if self._last is None:
            found = time if time is not None and 0 <= time < LONGEST_GAP else 0.0
            self._shift = 0.0 if time is None else found - time
        elif time is not None and 0 < time + self._shift - self._last < LONGEST_GAP:
            found = time + self._shift
        else:
            found = self._last + self.usual
            self._shift = self._shift if time is None else found - time
        self._last = found
        return found, step


def _duration(picture: VideoFrame) -> float | None:
    return float(picture.duration * picture.time_base) if picture.duration and picture.time_base else None


def _range_of(picture: VideoFrame) -> dict[str, Any]:
    """Return the argument with which the conversion to RGB heeds the range of the brightness: 0..255, or 16..235."""
    return {"src_color_range": picture.color_range} if picture.color_range else {}


def _ahead(items: Iterable[T], most: int, newest: bool = False) -> Generator[T, None, None]:
    """Yield `items`, which another thread takes ahead of time; with `newest`, leave out all but the latest that waits.

    Args:
        items: A generator, which is closed by that thread if the caller stops early.
        most: Number of items that wait.
        newest: Whether the thread never waits: an item that nobody has taken gives way to the next one.
    """
    waiting: queue.Queue[T | BaseException | None] = queue.Queue(1 if newest else most)
    stopped = threading.Event()

    def put(item: T | BaseException | None, keep: bool) -> None:
        while not stopped.is_set():
            try:
                waiting.put(item, timeout=0 if newest and not keep else 0.1)
                return
            except queue.Full:
                if newest and not keep:
                    with suppress(queue.Empty):
                        waiting.get_nowait()

    def take() -> None:
        end: BaseException | None = None
        try:
            for item in items:
                put(item, keep=False)
                if stopped.is_set():
                    break
        except BaseException as error:
            end = error
        finally:
            if isinstance(items, Generator):
                items.close()
        put(end, keep=True)

    thread = threading.Thread(target=take, name="decode", daemon=True)
    thread.start()
    try:
        while (item := waiting.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()
        thread.join(BLOCKED_SECONDS if newest else None)
