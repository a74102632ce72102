"""Parsing of videos frame by frame, in constant memory."""

from __future__ import annotations

import math
import os
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from upernet.errors import UpernetError
from upernet.inference.parse import Parse
from upernet.inference.video.frames import Frame, VideoReader
from upernet.inference.video.smoothing import Smoother
from upernet.inference.video.sources import video_source

if TYPE_CHECKING:
    from upernet.inference.parser import Parser


@dataclass(frozen=True)
class ParsedFrame:
    """A frame of a video, and its parse."""

    frame: Frame
    parse: Parse

    def to_dict(self) -> dict[str, Any]:
        """Return number, time, image labels, familiarity and shares, as a line of `frames.jsonl`.

        A label of the whole frame is null where it is unsure. Shares are fractions of the frame, largest first,
        including "unsure".
        """
        parse = self.parse
        line: dict[str, Any] = {"frame": self.frame.number, "time": round(self.frame.time, 6)}
        for level, ranking in parse.rankings.items():
            name, probability = ranking[0]
            line[level] = {"name": name if parse.is_sure(level) else None, "probability": round(probability, 4)}
        if parse.familiarity is not None and math.isfinite(parse.familiarity):
            line["familiarity"] = round(parse.familiarity, 4)
        for level, label_map in parse.maps.items():
            line[level] = {name: round(share, 6) for name, share in label_map.shares().items()}
        return line


class VideoParse:
    """A video that is being parsed: iterate over it once to get its frames.

    Args:
        parser: The parser.
        source: Path of a video file, an http, https, rtsp, rtmp, udp or srt address, or `camera:NUMBER`.
        levels: The levels to parse. Default: all levels of the model.
        every: Every how many frames one is parsed.
        smooth: Weight of the past in the average of the logits over time, from 0 (each frame for itself) to below 1.
        seconds: Length of the beginning that is parsed. Default: all.
        sound: Whether sound is read, to be copied.

    Raises:
        UpernetError: An argument is out of range, PyAV is not installed, or the video cannot be opened.
    """

    def __init__(
        self,
        parser: Parser,
        source: str | os.PathLike[str],
        levels: Iterable[str] | None = None,
        *,
        every: int = 1,
        smooth: float = 0.0,
        seconds: float | None = None,
        sound: bool = False,
    ):
        if every < 1:
            raise UpernetError(f"every {every}: give a number of frames, 1 or more.")
        if not 0 <= smooth < 1:
            raise UpernetError(f"smooth {smooth}: give the weight of the past, from 0 to below 1.")
        if seconds is not None and not seconds > 0:
            raise UpernetError(f"seconds {seconds}: give a length above 0.")
        self.parser, self.every, self.smooth, self.seconds = parser, every, smooth, seconds
        self.levels = parser.select_levels(levels)
        self.source = video_source(source)
        self._smoother = Smoother(smooth) if smooth else None
        if self._smoother is not None:
            parser.check_smoothing()
        self.reader = VideoReader(self.source, every, seconds, sound)

    def __iter__(self) -> Generator[ParsedFrame, None, None]:
        """Parse the frames in order.

        Raises:
            UpernetError: After the last frame, if frames are damaged or missing; or there are none at all; or the
                network fails.
        """
        for frame in self.reader:
            path = f"{self.source.name}#t={frame.time:.3f}"
            parse = self.parser.parse_decoded(frame.image, path, self.levels, smoother=self._smoother)
            yield ParsedFrame(frame, parse)
