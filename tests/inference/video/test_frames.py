"""Tests of upernet.inference.video.frames and sources: what is read of a video, and what is refused."""

from __future__ import annotations

import re
import socket
import threading
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from helpers.clips import cut, turn_clip, write_clip, write_sound
from helpers.web import Server, running

from upernet.errors import UpernetError
from upernet.inference.video import frames, is_video, sources
from upernet.inference.video.frames import Frame, VideoReader
from upernet.inference.video.sources import VideoSource, video_source


def numbered(count: int, height: int = 24, width: int = 32) -> list[np.ndarray]:
    """Return frames whose gray level is 10 x their number, with a white upper left corner."""
    found = [np.full((height, width, 3), 10 * number, np.uint8) for number in range(count)]
    for frame in found:
        frame[:8, :8] = 255
    return found


def read(path: Path | str, every: int = 1, seconds: float | None = None) -> list[Frame]:
    return list(VideoReader(video_source(path), every, seconds))


def levels_of(found: list[Frame]) -> list[int]:
    return [int(np.asarray(frame.image)[-1, -1, 0]) for frame in found]


def test_frames_and_times(tmp_path: Path):
    clip = write_clip(tmp_path / "clip.mkv", numbered(6))
    found = read(clip)
    assert levels_of(found) == [0, 10, 20, 30, 40, 50]
    assert [frame.number for frame in found] == list(range(6))
    assert [frame.time for frame in found] == pytest.approx([0.1 * number for number in range(6)])
    assert np.array_equal(np.asarray(found[3].image), numbered(4)[3])


def test_variable_frame_rate(tmp_path: Path):
    times = [0.0, 0.1, 0.15, 1.0, 1.01, 4.0]
    assert [frame.time for frame in read(write_clip(tmp_path / "clip.mkv", numbered(6), times))] == pytest.approx(times)


@pytest.mark.parametrize(
    ("every", "seconds", "expected"), [(2, None, [0, 20, 40]), (1, 0.25, [0, 10, 20]), (3, 0.35, [0, 30])]
)
def test_every_and_seconds(tmp_path: Path, every: int, seconds: float | None, expected: list[int]):
    reader = VideoReader(
        video_source(write_clip(tmp_path / "clip.mp4", numbered(6), codec="libx264rgb", pixel_format="rgb24")),
        every,
        seconds,
    )
    total = reader.total
    found = list(reader)
    assert levels_of(found) == expected
    assert total == len(expected)
    assert found[0].duration == pytest.approx(0.1 * every)


def test_times_begin_at_the_beginning_of_the_file(tmp_path: Path):
    clip = write_clip(
        tmp_path / "clip.ts",
        numbered(4),
        codec="libx264",
        pixel_format="yuv420p",
        rate=25,
        options={"output_ts_offset": "2"},
    )
    with av.open(str(clip)) as container:
        assert container.start_time
    assert [frame.time for frame in read(clip)] == pytest.approx([0, 0.04, 0.08, 0.12])


def test_wrong_time_stamps_still_increase(tmp_path: Path):
    times = [0, 0.1, 90_000.0, 90_000.1]
    found = [frame.time for frame in read(write_clip(tmp_path / "clip.mkv", numbered(4), times))]
    assert found == pytest.approx([0, 0.1, 0.2, 0.3])


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_rotation_of_phones(tmp_path: Path, turns: int):
    clip = write_clip(tmp_path / "clip.mp4", numbered(2), codec="libx264rgb", pixel_format="rgb24")
    turn_clip(clip, turns)
    assert np.array_equal(np.asarray(read(clip)[0].image), np.rot90(numbered(1)[0], turns))


def test_pixels_that_are_not_square(tmp_path: Path):
    clip = write_clip(tmp_path / "clip.mp4", numbered(1), codec="libx264", pixel_format="yuv420p", aspect=Fraction(2))
    assert read(clip)[0].image.size == (64, 24)


@pytest.mark.parametrize("pixel_format", ["yuvj420p", "yuv420p", "yuv444p10le", "gray"])
def test_colors_of_other_pixel_formats(tmp_path: Path, pixel_format: str):
    codec = {"yuvj420p": "mjpeg", "yuv444p10le": "ffv1", "gray": "ffv1"}.get(pixel_format, "libx264")
    gray = [np.full((32, 32, 3), value, np.uint8) for value in (0, 128, 255)]
    found = read(write_clip(tmp_path / "clip.mkv", gray, codec=codec, pixel_format=pixel_format))
    assert levels_of(found) == pytest.approx([0, 128, 255], abs=3)


def test_frames_of_another_size_get_that_of_the_first(tmp_path: Path):
    parts = [
        write_clip(tmp_path / f"{size}.ts", numbered(2, size, size), codec="libx264", pixel_format="yuv420p", rate=25)
        for size in (32, 64)
    ]
    both = tmp_path / "both.ts"
    both.write_bytes(b"".join(part.read_bytes() for part in parts))
    assert {frame.image.size for frame in read(both)} == {(32, 32)}


def read_until_error(path: Path | str) -> tuple[list[Frame], str]:
    """Return the frames of a damaged video, and the error at their end."""
    found: list[Frame] = []
    try:
        found.extend(VideoReader(video_source(path)))
    except UpernetError as error:
        return found, str(error)
    raise AssertionError("the video is not damaged")


def fails(path: Path | str, count: int = 0) -> str:
    """Return the error that ends the reading of a video after `count` frames."""
    found, message = read_until_error(path)
    assert len(found) == count
    assert message.startswith(str(path)) and message.endswith(".") and "\n" not in message
    return message


def test_a_broken_tail(tmp_path: Path):
    clip = write_clip(
        tmp_path / "clip.mp4", numbered(20), codec="libx264rgb", pixel_format="rgb24", options={"movflags": "faststart"}
    )
    whole = len(read(clip))
    broken = cut(clip, 0.9)
    found, message = read_until_error(broken)
    assert re.search(r"breaks off after \d\.\d seconds|damaged packets were left out", message)
    assert 0 < len(found) < whole == 20
    assert levels_of(found) == [10 * number % 256 for number in range(len(found))]


def test_a_tail_that_is_missing_without_an_error(tmp_path: Path):
    clip = write_clip(tmp_path / "clip.mkv", numbered(20))
    found, message = read_until_error(cut(clip, 0.4))
    assert re.search(r"breaks off after .* of 2\.0 seconds are missing", message)
    assert found


def test_damage_in_the_middle(tmp_path: Path):
    clip = write_clip(tmp_path / "clip.mp4", numbered(10), codec="png", pixel_format="rgb24")
    content = bytearray(clip.read_bytes())
    second = content.index(b"\x89PNG", content.index(b"\x89PNG") + 1)
    content[second : second + 40] = bytes(40)
    clip.write_bytes(content)
    assert "1 damaged packets were left out" in fails(clip, 9)


def test_no_frames(tmp_path: Path):
    clip = write_clip(tmp_path / "clip.mp4", numbered(3), codec="png", pixel_format="rgb24")
    clip.write_bytes(clip.read_bytes().replace(b"\x89PNG", b"\0\0\0\0"))
    assert "no frame that can be decoded" in fails(clip)


def test_sound_alone(tmp_path: Path):
    assert "has no pictures" in fails(write_sound(tmp_path / "sound.mp4"))


def test_files_that_are_no_videos(tmp_path: Path):
    text = tmp_path / "text.mp4"
    text.write_text("not a video")
    assert "not a video that FFmpeg can read" in fails(text)
    (tmp_path / "empty.mp4").write_bytes(b"")
    assert "not a video that FFmpeg can read" in fails(tmp_path / "empty.mp4")
    assert "no such file" in fails(tmp_path / "missing.mp4")
    assert "is a folder" in fails(tmp_path)


def test_absurd_sizes_are_refused_before_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    clip = write_clip(tmp_path / "clip.mkv", numbered(2, 48, 64))
    monkeypatch.setattr(sources, "MOST_PIXELS", 64 * 48 - 1)
    assert "has frames of 64 x 48 pixels" in fails(clip)


def test_absurd_lengths_are_not_believed(tmp_path: Path):
    clip = write_clip(
        tmp_path / "clip.mp4", numbered(3), codec="libx264rgb", pixel_format="rgb24", options={"movflags": "faststart"}
    )
    content = bytearray(clip.read_bytes())
    for box, offset in ((b"mvhd", 20), (b"tkhd", 24), (b"mdhd", 20)):  # ISO 14496-12: where headers have the duration
        start = content.index(box) + offset
        content[start : start + 4] = b"\x7f\xff\xff\xff"
    clip.write_bytes(content)
    reader = VideoReader(video_source(clip))
    assert reader.total is None or reader.total <= 10**8
    assert len(list(reader)) == 3


def test_playlists_do_not_open_other_files(tmp_path: Path):
    write_clip(tmp_path / "secret.ts", numbered(25), codec="libx264", pixel_format="yuv420p", rate=25)
    playlist = tmp_path / "clip.m3u8"
    playlist.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nsecret.ts\n#EXT-X-ENDLIST\n")
    with av.open(str(playlist)) as container:  # what FFmpeg would do
        assert container.streams.video
    assert "not a video that FFmpeg can read" in fails(playlist)


def test_a_video_from_a_web_server(tmp_path: Path):
    clip = write_clip(tmp_path / "clip.mkv", numbered(3))
    with running(Server()) as server:
        server.content = clip.read_bytes()
        assert levels_of(read(f"{server.base}/clip.mkv")) == [0, 10, 20]


def test_a_server_that_refuses_and_one_that_is_silent(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sources, "OPENING_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        for scheme in ("http", "rtmp"):
            assert "does not answer within" in fails(f"{scheme}://127.0.0.1:{port}/clip.mp4")
        assert f"rtsp://127.0.0.1:{port}" in fails(f"rtsp://127.0.0.1:{port}/clip")
    with running(Server()) as server:
        server.script = [lambda handler: handler.answer(404, {"Content-Length": "0"}, b"")]
        assert "cannot be opened" in fails(f"{server.base}/clip.mp4")


def test_no_such_camera():
    assert "no such camera" in fails("camera:987")
    assert "names no camera" in fails("camera:")


def test_addresses_of_other_schemes():
    assert "videos come from" in fails("gopher://example.org/clip.mp4")


def test_a_live_source_leaves_out_what_comes_too_fast(tmp_path: Path):
    clip = write_clip(tmp_path / "clip.mkv", numbered(25))
    source = VideoSource("camera", f"file:{clip}", live=True)
    reader = iter(VideoReader(source))
    first = next(reader)
    rest = list(reader)
    times = [frame.time for frame in (first, *rest)]
    assert times == sorted(set(times))
    assert rest[-1].number == 24  # the newest one waits


def test_a_generated_live_source():
    pytest.importorskip("av")
    if "lavfi" not in av.formats_available:
        pytest.skip("this FFmpeg has no device lavfi")
    source = VideoSource("camera:test", "testsrc=size=64x48:rate=25:duration=1", live=True, format="lavfi")
    found = list(VideoReader(source))
    assert found and {frame.image.size for frame in found} == {(64, 48)}


def test_stopping_early_ends_the_thread(tmp_path: Path):
    reader = iter(VideoReader(video_source(write_clip(tmp_path / "clip.mkv", numbered(25)))))
    next(reader)
    reader.close()
    assert all(thread.name != "decode" for thread in threading.enumerate())


@pytest.mark.parametrize(
    "name",
    [
        "a.mp4",
        "a.MOV",
        "a/b.mkv",
        "camera:0",
        "rtsp://host/x",
        "http://host/a.mp4?x=1",
        "https://host/a.m3u8",
        "udp://@:1",
    ],
)
def test_names_of_videos(name: str):
    assert is_video(name)


@pytest.mark.parametrize(
    "name", ["a.jpg", "a", "http://host/a.jpg", "https://host/", "", "*.mp4x", "http://[::1/a.mp4"]
)
def test_names_of_photos(name: str):
    assert not is_video(name)


def test_videos_are_known_by_their_first_bytes(tmp_path: Path):
    clip = write_clip(tmp_path / "clip.mp4", numbered(2), codec="libx264rgb", pixel_format="rgb24")
    for name in (clip, write_clip(tmp_path / "clip.avi", numbered(1), codec="mjpeg", pixel_format="yuvj420p")):
        plain = name.with_suffix("")
        name.rename(plain)
        assert is_video(plain)
    photo = tmp_path / "photo"
    photo.write_bytes(b"\0\0\0\x1cftypheic\0\0\0\0")
    assert not is_video(photo)


def test_clock_survives_any_time_stamps():
    clock = frames._Clock(0.04)
    found = [clock.tick(time, None)[0] for time in (None, 5.0, None, -3.0, float(10**12), 10**12 + 0.1)]
    assert all(later > earlier for earlier, later in pairwise(found))
    assert found[-1] < 10
