"""Tiny videos, lossless where labels are read from colors, and videos that are damaged."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

MILLISECOND = Fraction(1, 1000)


def write_clip(
    path: Path,
    frames: Iterable[np.ndarray],
    times: Sequence[float] | None = None,
    rate: int = 10,
    codec: str = "ffv1",
    pixel_format: str = "bgr0",
    sound: bool = False,
    options: dict[str, str] | None = None,
    aspect: Fraction | None = None,
) -> Path:
    """Write uint8 H x W x 3 RGB frames to a video, at `times` in seconds, or `rate` frames per second."""
    with av.open(str(path), "w", options=options or {}) as container:
        stream: Any = None
        tone = container.add_stream("aac", rate=8000) if sound else None
        count = 0
        for number, pixels in enumerate(frames):
            if stream is None:
                stream = container.add_stream(codec, rate=rate)
                stream.height, stream.width = pixels.shape[:2]
                stream.pix_fmt = pixel_format
                stream.codec_context.time_base = stream.time_base = MILLISECOND
                if codec.startswith("libx264"):
                    stream.codec_context.options = {"g": "1", "crf": "0", "bf": "0"}
                if aspect is not None:
                    stream.codec_context.sample_aspect_ratio = aspect
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), "rgb24")
            frame.pts, frame.time_base = round(1000 * (number / rate if times is None else times[number])), MILLISECOND
            container.mux(stream.encode(frame))
            count = number + 1
        if stream is not None:
            container.mux(stream.encode(None))
        if tone is not None:
            for start in range(0, 8000 * count // rate, 1024):
                wave = 0.3 * np.sin(2 * np.pi * 440 * np.arange(start, start + 1024) / 8000)
                part = av.AudioFrame.from_ndarray(wave.astype(np.float32)[None], "fltp", "mono")
                part.sample_rate, part.pts = 8000, start
                container.mux(tone.encode(part))
            container.mux(tone.encode(None))
    return path


def write_sound(path: Path) -> Path:
    """Write a file with sound and no pictures."""
    with av.open(str(path), "w") as container:
        tone = container.add_stream("aac", rate=8000)
        part = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        part.sample_rate = 8000
        container.mux(tone.encode(part))
        container.mux(tone.encode(None))
    return path


def read_clip(path: Path) -> tuple[list[np.ndarray], list[float]]:
    """Return the frames of a video as they are in the file (gray) or in RGB, and their times in seconds."""
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    gray = frames[0].format.name.startswith("gray")
    arrays = [frame.to_ndarray() if gray else frame.to_ndarray(format="rgb24") for frame in frames]
    return arrays, [float(frame.time or 0) for frame in frames]


def turn_clip(path: Path, quarter_turns: int) -> None:
    """Make players turn an MP4 file counterclockwise, by the matrix in the header of its first track."""
    one, content = 1 << 16, bytearray(path.read_bytes())
    matrix = {1: (0, -one, one, 0), 2: (-one, 0, 0, -one), 3: (0, one, -one, 0)}[quarter_turns]
    start = content.index(b"tkhd") + 4 + 40  # ISO 14496-12, 8.3.2: the matrix of a header of version 0
    a, b, c, d = matrix
    content[start : start + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(content)


def cut(path: Path, share: float) -> Path:
    """Keep the beginning of a file, a share of its bytes, in a file beside it."""
    content = path.read_bytes()
    shorter = path.with_name(f"cut-{path.name}")
    shorter.write_bytes(content[: int(share * len(content))])
    return shorter
