"""Writing of videos and label maps, so that what is on disk can be read at any time, whatever ends the program.

* Overlays are H.264 in MP4 by libx264; where FFmpeg lacks it, by OpenH264, or else MPEG-4. The file is written in
  fragments, which can be played as far as they go, and becomes an ordinary MP4 file when it is finished.
* Label maps are lossless FFV1 in Matroska, gray with 8 or 16 bits, or PNG files.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from upernet.errors import UpernetError
from upernet.inference.video.sources import reason, require_av

if TYPE_CHECKING:
    from av.audio.stream import AudioStream
    from av.packet import Packet

ENCODERS = ("libx264", "libopenh264", "mpeg4")
"""Encoders of overlays, best first."""
OPTIONS = {
    # A fragment ends before each key frame; frames that the encoder holds back are lost if the program is killed. With
    # B-frames, fragments would begin late, and the sound would be early.
    "libx264": {"preset": "veryfast", "crf": "20", "g": "24", "bf": "0", "rc-lookahead": "12"},
    "libopenh264": {"g": "24", "b": "4000000"},
    "mpeg4": {"g": "24", "bf": "0", "flags": "+qscale", "global_quality": "354"},
}
MP4_SOUNDS = frozenset(("aac", "mp3", "mp3float", "ac3", "eac3", "alac", "opus", "libopus", "flac"))
"""Decoders of the sound that MP4 files hold and players understand."""
TIME_BASE = Fraction(1, 60_000)
"""Resolution of the times in MP4 files, in seconds, which MPEG-4 allows; those in Matroska files are milliseconds."""


def best_encoder(names: Iterable[str] = ENCODERS) -> str:
    """Return the first of the encoders that FFmpeg has here.

    Raises:
        UpernetError: It has none.
    """
    av = require_av()
    for name in names:
        with suppress(av.codec.codec.UnknownCodecError):
            av.codec.Codec(name, "w")
            return name
    raise UpernetError("FFmpeg has no encoder for overlays here; install PyAV from PyPI: pip install 'upernet[video]'.")


class VideoWriter:
    """A video file that is being written.

    Args:
        path: The file; its suffix says the container.
        encoder: Name of FFmpeg's encoder.
        size: Width and height in pixels.
        pixel_format: FFmpeg's name of the format of the pixels in the file.
        rate: Frames per second, on average.
        sound: Sound whose packets are copied, if MP4 files hold it.

    Raises:
        UpernetError: The file cannot be written.
    """

    def __init__(
        self,
        path: Path,
        encoder: str,
        size: tuple[int, int],
        pixel_format: str,
        rate: float,
        sound: AudioStream | None = None,
    ):
        self.path = path
        self._av = require_av()
        mp4 = path.suffix == ".mp4"
        options = {"movflags": "hybrid_fragmented+frag_keyframe"} if mp4 else {"cluster_time_limit": "1000"}
        try:
            # "file:", because FFmpeg takes what stands before a colon for a protocol
            self._container = self._av.open(f"file:{path}", "w", options={**options, "flush_packets": "1"})
        except (self._av.FFmpegError, OSError) as error:
            raise self._failure(error) from None
        stream: Any = self._container.add_stream(encoder, rate=Fraction(rate).limit_denominator(1001))
        stream.width, stream.height = size
        stream.pix_fmt = pixel_format
        stream.codec_context.options = OPTIONS.get(encoder, {})
        stream.time_base = stream.codec_context.time_base = TIME_BASE if mp4 else Fraction(1, 1000)
        stream.thread_type = "SLICE" if encoder == "ffv1" else "AUTO"
        stream.codec_context.thread_count = 2
        self._color = pixel_format == "yuv420p"
        if self._color:
            standard = self._av.video.reformatter.Colorspace.ITU709
            stream.codec_context.colorspace = stream.codec_context.color_primaries = stream.codec_context.color_trc = 1
            stream.codec_context.color_range = self._av.video.reformatter.ColorRange.MPEG
            self._to_yuv = {"format": pixel_format, "dst_colorspace": standard}
        self._stream = stream
        self.sound: Any = None
        """The copied sound; None if there is none."""
        if sound is not None and sound.codec_context.name in MP4_SOUNDS:
            self.sound = self._container.add_stream_from_template(sound)
        self._last = -1

    def add(self, pixels: np.ndarray, time: float, audio: Sequence[Packet[AudioStream]] = ()) -> None:
        """Write a frame, and the packets of sound before it.

        Args:
            pixels: uint8 H x W x 3, RGB, or uint8 or uint16 H x W, gray.
            time: Seconds since the beginning of the video.
            audio: The packets; their times count from the beginning of the file that they come from.

        Raises:
            UpernetError: The file cannot be written, or the disk is full.
        """
        form = "rgb24" if self._color else "gray" if pixels.dtype == np.uint8 else "gray16le"
        frame = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), form)
        if self._color:
            frame = frame.reformat(**self._to_yuv)
        self._last = max(self._last + 1, round(time / self._stream.codec_context.time_base))
        frame.pts, frame.time_base = self._last, self._stream.codec_context.time_base
        self.add_sound(audio)
        self._write(self._stream, frame)

    def add_sound(self, packets: Iterable[Packet[AudioStream]]) -> None:
        """Write packets of sound. Raises the errors of `add`."""
        if self.sound is None:
            return
        for packet in packets:
            copy = self._av.Packet(bytes(packet))
            copy.pts, copy.dts, copy.duration = packet.pts, packet.dts, packet.duration
            copy.time_base, copy.stream = packet.time_base, self.sound
            self._mux(copy)

    def close(self) -> None:
        """Finish the file. Raises the errors of `add`."""
        try:
            if self._last >= 0:
                self._write(self._stream, None)
        finally:
            try:
                self._container.close()
            except (self._av.FFmpegError, OSError) as error:
                raise self._failure(error) from None

    def _write(self, stream: Any, frame: Any) -> None:
        try:
            packets = stream.encode(frame)
        except (self._av.FFmpegError, OSError) as error:
            raise self._failure(error) from None
        for packet in packets:
            self._mux(packet)

    def _mux(self, packet: Any) -> None:
        try:
            self._container.mux_one(packet)
        except (self._av.FFmpegError, OSError) as error:
            raise self._failure(error) from None

    def _failure(self, error: BaseException) -> UpernetError:
        return UpernetError(
            f"{self.path}: writing failed ({reason(error)}); make room on the disk, or use another one."
        )
