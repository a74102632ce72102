"""Videos as callers name them: files, addresses, cameras and live streams; and how FFmpeg opens them."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from upernet.errors import UpernetError, printable
from upernet.files import refuse_special_file
from upernet.inference.web import is_address

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream

SUFFIXES = frozenset(
    (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".3gp", ".wmv", ".ogv")
)
PLAYLIST = ".m3u8"
LIVE_SCHEMES = frozenset(("rtsp", "rtsps", "rtmp", "rtmps", "rtp", "udp", "srt"))
CAMERA = "camera:"
CAMERA_FORMATS = {"linux": "v4l2", "darwin": "avfoundation", "win32": "dshow"}
"""FFmpeg's input format for cameras, by `sys.platform`."""

FILE_FORMATS = (
    "mov,mp4,m4a,3gp,matroska,webm,avi,mpegts,mpeg,mpegvideo,h264,hevc,m4v,ivf,obu,flv,asf,ogg,mxf,"
    "mp3,wav,flac,aac"  # without pictures, for an error that says so
)
"""Containers that are read. Playlists are not among them, because a hostile one would make FFmpeg open other files."""
WEB_FORMATS = f"{FILE_FORMATS},hls"
WEB_PROTOCOLS = "http,https,tcp,tls,crypto"
OPENING_SECONDS = 10.0
"""How long an address or a camera may take to answer."""
SILENCE_SECONDS = 20.0
"""How long it may then stay silent."""
MOST_PIXELS = 36_000_000
"""Largest number of pixels of a frame: that of 8K video. Decoders keep up to a few dozen frames."""

_MAGIC = re.compile(
    rb"....ftyp(?!avif|avis|heic|heix|hevc|hevx|heim|heis|mif1|msf1|jxl )|\x1a\x45\xdf\xa3|RIFF....AVI ",
    re.DOTALL,
)
"""The first bytes of MP4 and QuickTime (but not AVIF and HEIC photos), Matroska and WebM, and AVI."""


@dataclass(frozen=True)
class VideoSource:
    """A video, and what FFmpeg needs to know to open it."""

    name: str
    """As the caller gave it."""
    url: str
    live: bool = False
    """Whether frames come when they happen: those that come too fast for the network are left out."""
    format: str | None = None
    """FFmpeg's input format; None: by content."""
    options: tuple[tuple[str, str], ...] = ()


def is_video(path: str | os.PathLike[str]) -> bool:
    """Return whether a path, an address or `camera:NUMBER` stands for a video rather than a photo.

    Files count by their suffix, or by their first bytes; http and https addresses by the suffix of their path.
    """
    name = os.fspath(path)
    if name.startswith(CAMERA):
        return True
    if is_address(name):
        try:
            parts = urlsplit(name)
        except ValueError:
            return False
        suffix = Path(unquote(parts.path)).suffix.lower()
        return parts.scheme.lower() in LIVE_SCHEMES or suffix in SUFFIXES or suffix == PLAYLIST
    if Path(name).suffix.lower() in SUFFIXES:
        return not os.path.isdir(name)
    try:
        if not os.path.isfile(name):
            return False
        with open(name, "rb") as file:
            return _MAGIC.match(file.read(16)) is not None
    except (OSError, ValueError):
        return False


def video_source(path: str | os.PathLike[str]) -> VideoSource:
    """Return how to open what `path` stands for.

    Raises:
        UpernetError: It is no file, or an address or a camera that cannot be opened here.
    """
    name = os.fspath(path)
    if name.startswith(CAMERA):
        return _camera(name)
    if is_address(name):
        return _stream(name)
    if not os.path.lexists(name):
        raise UpernetError(f"{name}: no such file; check the path.")
    if os.path.isdir(name):
        raise UpernetError(f"{name}: is a folder; give the file of a video.")
    refuse_special_file(name)
    options = (("format_whitelist", FILE_FORMATS), ("protocol_whitelist", "file"))
    return VideoSource(name, f"file:{name}", options=options)


def _camera(name: str) -> VideoSource:
    device = name.removeprefix(CAMERA)
    form = CAMERA_FORMATS.get(sys.platform)
    if form is None:
        raise UpernetError(f"{name}: cameras are not supported on {sys.platform}; give a file or an address.")
    if not device:
        raise UpernetError(f"{name}: names no camera; give its number or name, such as camera:0.")
    if form == "v4l2" and device.isdecimal():
        device = f"/dev/video{device}"
    if form == "dshow":
        if device.isdecimal():
            raise UpernetError(f"{name}: cameras have names on Windows; give one, such as 'camera:Integrated Camera'.")
        device = f"video={device}"
    return VideoSource(name, device, live=True, format=form)


def _stream(name: str) -> VideoSource:
    try:
        scheme = urlsplit(name).scheme.lower()
    except ValueError as error:
        raise UpernetError(f"{name}: not a valid address ({error}); check it.") from None
    if scheme in ("http", "https"):
        protocols = WEB_PROTOCOLS if scheme == "http" else WEB_PROTOCOLS.replace("http,", "")
        return VideoSource(name, name, options=(("format_whitelist", WEB_FORMATS), ("protocol_whitelist", protocols)))
    if scheme in LIVE_SCHEMES:
        options = (("protocol_whitelist", f"{scheme},rtp,srtp,udp,{WEB_PROTOCOLS}"),)
        if scheme in ("rtsp", "rtsps"):
            options += (("rtsp_transport", "tcp"),)  # UDP loses packets, and does not pass firewalls
        return VideoSource(name, name, live=True, options=options)
    known = ", ".join(sorted(LIVE_SCHEMES))
    raise UpernetError(f"{name}: videos come from http, https, {known} addresses; download it first.")


def open_video(source: VideoSource) -> tuple[InputContainer, VideoStream]:
    """Open a video, and return it with its stream of pictures.

    Raises:
        UpernetError: PyAV is not installed, or the video cannot be opened, has no pictures, or frames of more than
            `MOST_PIXELS`.
    """
    av = require_av()
    try:
        container = av.open(
            source.url,
            format=source.format,
            options=dict(source.options),
            timeout=(OPENING_SECONDS, SILENCE_SECONDS),
            metadata_errors="replace",
        )
    except (av.FFmpegError, OSError, ValueError) as error:
        raise _opening_error(source, error) from None
    try:
        pictures = [stream for stream in container.streams.video if not _is_cover(stream)]
        if not pictures:
            raise UpernetError(f"{source.name}: has no pictures, only sound or other data; give a video.")
        stream = pictures[0]
        check_size(source.name, stream.codec_context.width or 0, stream.codec_context.height or 0)
        stream.thread_type = "AUTO"
        stream.codec_context.thread_count = 2
    except BaseException:
        container.close()
        raise
    return container, stream


def check_size(name: str, width: int, height: int) -> None:
    """Raise UpernetError for frames of more than `MOST_PIXELS`, which would not fit into the memory."""
    if width * height > MOST_PIXELS:
        raise UpernetError(
            f"{name}: has frames of {width} x {height} pixels, more than {MOST_PIXELS // 1_000_000} megapixels; "
            "reduce the video first."
        )


def require_av() -> Any:
    """Import PyAV and return it.

    Raises:
        UpernetError: It is not installed.
    """
    try:
        import av
    except ImportError:
        raise UpernetError("videos need PyAV; run: pip install 'upernet[video]'.") from None
    return av


def reason(error: BaseException) -> str:
    """Return what an error of FFmpeg says, without its number and the address."""
    text = getattr(error, "strerror", None) or str(error)
    return printable(text).rstrip(".").lower()


def _is_cover(stream: VideoStream) -> bool:
    """Return whether a stream is the cover picture of a piece of music."""
    return "attached_pic" in str(stream.disposition)


def _opening_error(source: VideoSource, error: BaseException) -> UpernetError:
    av = require_av()
    if source.format is not None:
        return UpernetError(f"{source.name}: no such camera, or it is in use ({reason(error)}); choose another one.")
    if is_address(source.name):
        if isinstance(error, (av.ExitError, TimeoutError)):
            return UpernetError(
                f"{source.name}: does not answer within {OPENING_SECONDS:.0f} seconds; check the address."
            )
        return UpernetError(f"{source.name}: cannot be opened ({reason(error)}); check the address.")
    if isinstance(error, PermissionError):
        return UpernetError(f"{source.name}: cannot be read ({reason(error)}); change its permissions.")
    return UpernetError(
        f"{source.name}: is not a video that FFmpeg can read, or is damaged at its beginning or end; convert it to MP4."
    )
