"""Tests of upernet.inference.video.saving and writing: what is in the files, and what is left of an interrupted run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import weakref
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from helpers.clips import cut, read_clip, write_clip
from helpers.full_disk import file_size_limit, needs_file_size_limit
from helpers.painted_network import PaintedNetwork, four_quarters, paint
from PIL import Image

from upernet.errors import UpernetError
from upernet.inference import Parse, Parser
from upernet.inference.video import SavedVideo, VideoParse
from upernet.inference.video import saving as saving_module
from upernet.inference.video.frames import VideoReader
from upernet.inference.video.sources import VideoSource, video_source
from upernet.inference.video.writing import VideoWriter, best_encoder
from upernet.taxonomy import Level, Taxonomy

LEVELS = ["scene", "object", "part", "material"]


def moving(count: int, height: int = 64, width: int = 96) -> list[np.ndarray]:
    """Return painted frames whose quarters move to the right."""
    return [paint(np.roll(four_quarters(height, width), 8 * number, axis=1)) for number in range(count)]


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_clip(tmp_path / "clip.mkv", moving(6), [0, 0.1, 0.15, 0.6, 0.7, 2.0])


def save(parser: Parser, clip: Path, out: Path, **options: Any) -> list[tuple[float, Parse]]:
    return list(parser.video(clip, out=out, **options))


def lines_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "frames.jsonl").read_text().splitlines()]


def test_the_iterator_gives_times_and_parses(parser: Parser, clip: Path):
    found = list(parser.video(clip, ["object"]))
    assert [time for time, _ in found] == pytest.approx([0, 0.1, 0.15, 0.6, 0.7, 2.0])
    for (time, parse), pixels in zip(found, moving(6), strict=True):
        alone = parser(pixels, ["object"])
        assert np.array_equal(parse.object.labels, alone.object.labels)
        assert parse.path == f"{clip}#t={time:.3f}"


def test_label_videos_are_exact(parser: Parser, clip: Path, tmp_path: Path):
    found = save(parser, clip, tmp_path / "out")
    for level in ("object", "part", "material"):
        pixels, times = read_clip(tmp_path / "out" / "clip" / f"{level}.mkv")
        assert times == pytest.approx([0, 0.1, 0.15, 0.6, 0.7, 2.0])
        for labels, (_, parse) in zip(pixels, found, strict=True):
            expected = parse[level].labels
            assert labels.dtype == np.uint8 and np.array_equal(labels, np.where(expected < 0, 255, expected))


def test_unsure_pixels_are_255(network: PaintedNetwork, clip: Path, tmp_path: Path):
    parser = Parser(network, {"name": "painted", "thresholds": {"object": 1.0}})  # pyright: ignore[reportArgumentType]
    save(parser, clip, tmp_path, levels=["object"])
    pixels, _ = read_clip(tmp_path / "clip" / "object.mkv")
    assert (pixels[0] == 255).any()
    assert json.loads((tmp_path / "clip" / "video.json").read_text())["levels"]["object"]["unsure"] == 255


def test_more_than_255_classes_take_16_bits(clip: Path, tmp_path: Path):
    names = tuple(f"class {number}" for number in range(300))
    level = Level("object", names, tuple((number % 256, 0, 0) for number in range(300)), False)
    taxonomy = Taxonomy(name="many", description="many", levels={"object": level}, part_groups=())
    parser = Parser(PaintedNetwork(taxonomy))  # pyright: ignore[reportArgumentType]
    found = save(parser, clip, tmp_path)
    pixels, _ = read_clip(tmp_path / "clip" / "object.mkv")
    assert pixels[0].dtype == np.uint16
    assert all(np.array_equal(labels, parse.object.labels) for labels, (_, parse) in zip(pixels, found, strict=True))


@pytest.mark.parametrize("size", [(33, 47), (1, 1), (2, 3)])
def test_odd_sizes(parser: Parser, tmp_path: Path, size: tuple[int, int]):
    clip = write_clip(tmp_path / "odd.mkv", moving(2, *size))
    for alpha in (None, 0.5):
        found = save(parser, clip, tmp_path / f"{alpha}", levels=["object"], alpha=alpha)
        pixels, _ = read_clip(tmp_path / f"{alpha}" / "odd" / "object.mkv")
        assert pixels[0].shape == size and np.array_equal(pixels[1], found[1][1].object.labels)
        overlay, _ = read_clip(tmp_path / f"{alpha}" / "odd" / "object_overlay.mp4")
        assert overlay[0].shape[0] % 2 == 0 and overlay[0].shape[1] % 2 == 0


def test_overlays_show_the_frames_at_their_times(parser: Parser, clip: Path, tmp_path: Path):
    found = save(parser, clip, tmp_path, alpha=0.5, levels=["object"])
    pixels, times = read_clip(tmp_path / "clip" / "object_overlay.mp4")
    assert times == pytest.approx([0, 0.1, 0.15, 0.6, 0.7, 2.0], abs=1e-3)
    for shown, (_, parse) in zip(pixels, found, strict=True):
        difference = np.abs(shown.astype(int) - np.asarray(parse.overlay("object", 0.5)))
        assert np.median(difference) < 8
    with av.open(str(tmp_path / "clip" / "object_overlay.mp4")) as container:
        assert container.streams.video[0].codec_context.name == "h264"


@pytest.mark.skipif(os.name == "nt", reason="names on Windows have no colon")
def test_folders_with_a_colon_are_no_protocols(
    parser: Parser, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    save(parser, clip, Path("crypto:x"), levels=["object"], alpha=0.5)
    assert len(read_clip(tmp_path / "crypto:x" / "clip" / "object_overlay.mp4")[0]) == 6


def test_lines_of_json(parser: Parser, clip: Path, tmp_path: Path):
    found = save(parser, clip, tmp_path, every=2)
    lines = lines_of(tmp_path / "clip")
    assert [line["frame"] for line in lines] == [0, 2, 4]
    assert [line["time"] for line in lines] == pytest.approx([0, 0.15, 0.7])
    for line, (_, parse) in zip(lines, found, strict=True):
        assert line["object"] == pytest.approx(parse.object.shares(), abs=1e-6)
        assert line["scene"]["name"] == parse.scene[0][0]


def test_png_files(parser: Parser, clip: Path, tmp_path: Path):
    found = save(parser, clip, tmp_path, labels="png", kinds=["labels"])
    assert sorted(path.name for path in (tmp_path / "clip").iterdir()) == ["material", "object", "part", "video.json"]
    files = sorted((tmp_path / "clip" / "object").iterdir())
    assert [file.name for file in files] == [f"{number:08}.png" for number in range(6)]
    with Image.open(files[3]) as image:
        assert image.mode == "P" and np.array_equal(np.asarray(image), found[3][1].object.labels)


def test_sound_is_copied(parser: Parser, tmp_path: Path):
    clip = write_clip(tmp_path / "clip.mkv", moving(10), sound=True)
    save(parser, clip, tmp_path, levels=["object"], kinds=["overlay"])

    def sound(path: Path) -> list[tuple[bytes, float]]:
        with av.open(str(path)) as container:
            packets = container.demux(container.streams.audio[0])
            return [(bytes(packet), float(packet.pts * packet.time_base)) for packet in packets if packet.size]

    before, after = sound(clip), sound(tmp_path / "clip" / "object_overlay.mp4")
    before = [packet for packet in before if packet[1] >= 0]  # AAC begins before the pictures
    assert read_clip(tmp_path / "clip" / "object_overlay.mp4")[1][0] == 0
    assert [content for content, _ in after] == [content for content, _ in before]
    assert [time for _, time in after] == pytest.approx([time for _, time in before], abs=0.01)


def test_the_sound_of_a_video_that_has_been_read_to_its_end(parser: Parser, tmp_path: Path):
    """The overlay begins with the first frame, when the whole of a short video has been read already."""
    clip = write_clip(tmp_path / "clip.mkv", moving(1), sound=True, rate=2)
    reader = VideoReader(video_source(clip), audio=True)
    (frame,) = reader
    sound = *frame.audio, *reader.tail
    writer = VideoWriter(tmp_path / "x.mp4", best_encoder(), (64, 48), "yuv420p", 10, reader.sound)
    writer.add(np.zeros((48, 64, 3), np.uint8), 0.0, sound)
    writer.close()
    with av.open(str(tmp_path / "x.mp4")) as container:
        assert container.streams.audio[0].frames == len(sound) > 0


def test_sound_that_mp4_files_do_not_hold_is_left_out(parser: Parser, tmp_path: Path):
    clip = tmp_path / "clip.mkv"
    with av.open(str(clip), "w") as container:
        stream, tone = container.add_stream("ffv1", rate=10), container.add_stream("pcm_s16le", rate=8000)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "bgr0"  # pyright: ignore[reportAttributeAccessIssue]
        for number, pixels in enumerate(moving(2)):
            frame = av.VideoFrame.from_ndarray(pixels, "rgb24")
            frame.pts = number
            container.mux(stream.encode(frame))  # pyright: ignore
        part = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
        part.sample_rate = 8000
        container.mux(tone.encode(part))  # pyright: ignore
    save(parser, clip, tmp_path, levels=["object"])
    about = json.loads((tmp_path / "clip" / "video.json").read_text())
    assert about["sound"] == {"codec": "pcm_s16le", "copied": False}


def test_memory_is_constant(parser: Parser, tmp_path: Path):
    clip = write_clip(tmp_path / "clip.mkv", moving(60))
    alive: set[int] = set()
    most = 0
    for _, parse in parser.video(clip, ["object"], out=tmp_path, kinds=["labels"]):
        alive.add(id(parse))
        weakref.finalize(parse, alive.discard, id(parse))
        most = max(most, len(alive))
    assert most <= saving_module.BEHIND + 3


def test_the_same_video_again_replaces_its_results(parser: Parser, clip: Path, tmp_path: Path):
    save(parser, clip, tmp_path / "out", labels="png")
    (tmp_path / "out" / "clip" / "notes.txt").write_text("mine")
    save(parser, clip, tmp_path / "out", levels=["object"], kinds=["labels"])
    assert sorted(path.name for path in (tmp_path / "out" / "clip").iterdir()) == [
        "notes.txt",
        "object.mkv",
        "video.json",
    ]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["clip"]


def test_another_video_of_the_same_name(parser: Parser, clip: Path, tmp_path: Path):
    (tmp_path / "other").mkdir()
    other = write_clip(tmp_path / "other" / "clip.mkv", moving(2))
    for video in (clip, other, clip):
        save(parser, video, tmp_path / "out", levels=["object"], kinds=["json"])
    assert len(lines_of(tmp_path / "out" / "clip")) == 6
    assert len(lines_of(tmp_path / "out" / "clip-2")) == 2
    assert len(list((tmp_path / "out").iterdir())) == 2


def test_a_folder_of_somebody_else_is_not_touched(parser: Parser, clip: Path, tmp_path: Path):
    (tmp_path / "out" / "clip").mkdir(parents=True)
    (tmp_path / "out" / "clip" / "notes.txt").write_text("mine")
    save(parser, clip, tmp_path / "out", levels=["object"], kinds=["json"])
    assert [path.name for path in (tmp_path / "out" / "clip").iterdir()] == ["notes.txt"]
    assert (tmp_path / "out" / "clip-2" / "frames.jsonl").is_file()


def test_two_at_once_in_one_place(parser: Parser, clip: Path, tmp_path: Path):
    first = parser.video(clip, ["object"], out=tmp_path / "out")
    next(first)
    with pytest.raises(UpernetError, match="another process is writing it"):
        save(parser, clip, tmp_path / "out", levels=["object"])
    assert len(list(first)) == 5
    assert len(lines_of(tmp_path / "out" / "clip")) == 6


def test_what_is_stopped_early_stays_playable(parser: Parser, clip: Path, tmp_path: Path):
    video = parser.video(clip, ["object"], out=tmp_path)
    assert len(list(islice(video, 3))) == 3
    video.close()  # pyright: ignore[reportAttributeAccessIssue]
    assert not (tmp_path / "clip").exists()
    partial = tmp_path / "clip.partial"
    about = json.loads((partial / "video.json").read_text())
    assert about["complete"] is False and about["frames"] == len(lines_of(partial)) >= 3
    for name in ("object.mkv", "object_overlay.mp4"):
        assert len(read_clip(partial / name)[0]) == about["frames"]
    save(parser, clip, tmp_path, levels=["object"])
    assert not partial.exists() and len(lines_of(tmp_path / "clip")) == 6


def test_a_live_source_that_is_stopped_is_complete(parser: Parser, clip: Path, tmp_path: Path):
    video = VideoParse(parser, clip, ["object"])
    video.source = video.reader.source = VideoSource(str(clip), f"file:{clip}", live=True)
    frames = iter(SavedVideo(video, tmp_path))
    next(frames)
    frames.close()
    assert json.loads((tmp_path / "clip" / "video.json").read_text())["complete"] is True


def test_a_broken_tail_leaves_what_was_finished(parser: Parser, tmp_path: Path):
    clip = cut(write_clip(tmp_path / "clip.mkv", moving(20)), 0.6)
    found: list[Parse] = []

    def parse_all() -> None:
        for _, parse in parser.video(clip, ["object"], out=tmp_path / "out"):
            found.append(parse)

    with pytest.raises(UpernetError, match="breaks off after"):
        parse_all()
    folder = tmp_path / "out" / "cut-clip"
    about = json.loads((folder / "video.json").read_text())
    assert about["frames"] == len(found) == len(lines_of(folder)) == len(read_clip(folder / "object.mkv")[0]) > 3
    assert about["complete"] is False and "breaks off" in about["error"]


def test_no_frame_leaves_no_folder(parser: Parser, tmp_path: Path):
    clip = write_clip(tmp_path / "clip.mp4", moving(2), codec="png", pixel_format="rgb24")
    clip.write_bytes(clip.read_bytes().replace(b"\x89PNG", b"\0\0\0\0"))
    with pytest.raises(UpernetError, match="no frame"):
        save(parser, clip, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


@needs_file_size_limit
@pytest.mark.parametrize("kinds", [["overlay"], ["labels"], ["json"]])
def test_a_full_disk(parser: Parser, tmp_path: Path, kinds: list[str]):
    generator = np.random.default_rng(0)
    noise = [paint(generator.integers(0, 4, (64, 96))) for _ in range(40)]
    clip = write_clip(tmp_path / "clip.mkv", noise)
    limit = 2_000 if kinds == ["json"] else 20_000
    with file_size_limit(limit), pytest.raises(UpernetError, match="writing failed") as error:
        save(parser, clip, tmp_path / "out", levels=["object"], kinds=kinds)
    assert str(error.value).count(".") >= 1 and "\n" not in str(error.value)
    assert not (tmp_path / "out" / "clip").exists()


def test_a_folder_that_cannot_be_written(parser: Parser, clip: Path, tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UpernetError, match="cannot be written"):
        save(parser, clip, tmp_path / "file" / "out")


KILLED = """
import os, signal, sys
sys.path[:0] = {path!r}
from pathlib import Path
from helpers.painted_network import PaintedNetwork
from upernet.inference import Parser
parser = Parser(PaintedNetwork(), {{"name": "painted"}})
for number, _ in enumerate(parser.video({clip!r}, ["object"], out={out!r})):
    if number == 90:
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.skipif(os.name == "nt", reason="kill -9 is a matter of Unix")
def test_a_killed_process_leaves_playable_files(parser: Parser, tmp_path: Path):
    clip = write_clip(tmp_path / "clip.mkv", moving(100), rate=20)
    code = KILLED.format(path=sys.path, clip=str(clip), out=str(tmp_path / "out"))
    killed = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=300)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    partial = tmp_path / "out" / "clip.partial"
    assert [path.name for path in (tmp_path / "out").iterdir() if not path.name.startswith(".")] == ["clip.partial"]
    assert len(lines_of(partial)) >= 88
    for name, least in (("object_overlay.mp4", 30), ("object.mkv", 40)):
        pixels, times = read_clip(partial / name)
        assert len(pixels) >= least, name
        assert times == pytest.approx([number / 20 for number in range(len(pixels))], abs=2e-3)
    save(parser, clip, tmp_path / "out", levels=["object"], kinds=["json"])
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["clip"]


def test_arguments_out_of_range(parser: Parser, clip: Path, tmp_path: Path):
    for options, message in (
        ({"every": 0}, "every 0"),
        ({"smooth": 1.0}, "smooth 1.0"),
        ({"smooth": float("nan")}, "smooth nan"),
        ({"seconds": 0}, "seconds 0"),
        ({"levels": ["nothing"]}, "no level 'nothing'"),
        ({"out": tmp_path, "kinds": ["sheet"]}, "'sheet' of a video"),
        ({"out": tmp_path, "labels": "gif"}, "labels 'gif'"),
        ({"out": tmp_path, "alpha": 2.0}, "alpha 2.0"),
    ):
        with pytest.raises(UpernetError, match=message):
            parser.video(clip, **options)  # pyright: ignore[reportArgumentType]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip.mkv"]


def test_smoothing_steadies_labels(network: PaintedNetwork, tmp_path: Path):
    """A pixel block that flickers between two classes while its neighborhood stands still keeps one of them."""
    parser = Parser(PaintedNetwork(sharpness=0.05), {"name": "painted"})  # pyright: ignore[reportArgumentType]
    frames: list[np.ndarray] = []
    for number in range(12):
        pixels = paint(four_quarters())
        pixels[8:16, 8:16, 0] = 19 if number % 2 else 22  # between sky (0) and road (40)
        frames.append(pixels)
    clip = write_clip(tmp_path / "clip.mkv", frames)

    def changes(smooth: float) -> int:
        maps = [parse.object.labels for _, parse in parser.video(clip, ["object"], smooth=smooth)][4:]
        return sum(int((one != other).sum()) for one, other in pairwise(maps))

    assert changes(0.0) > 0
    assert changes(0.9) < changes(0.0) / 3


def test_the_encoder_falls_back():
    assert best_encoder(("no such encoder", "mpeg4")) == "mpeg4"
    with pytest.raises(UpernetError, match="no encoder"):
        best_encoder(("no such encoder",))


def test_the_fallback_encoder_writes_videos(tmp_path: Path):
    writer = VideoWriter(tmp_path / "x.mp4", "mpeg4", (64, 48), "yuv420p", 10)
    for number in range(5):
        writer.add(np.full((48, 64, 3), 40 * number, np.uint8), number / 10)
    writer.close()
    pixels, times = read_clip(tmp_path / "x.mp4")
    assert times == pytest.approx([0, 0.1, 0.2, 0.3, 0.4], abs=1e-3)
    assert [int(frame.mean()) for frame in pixels] == pytest.approx([0, 40, 80, 120, 160], abs=6)


def test_colors_of_legends_are_kept(tmp_path: Path):
    colors = [(200, 30, 30), (30, 180, 60), (40, 60, 220), (255, 255, 255)]
    writer = VideoWriter(tmp_path / "x.mp4", best_encoder(), (64, 48), "yuv420p", 10)
    for number, color in enumerate(colors):
        writer.add(np.full((48, 64, 3), color, np.uint8), number / 10)
    writer.close()
    for frame, color in zip(read_clip(tmp_path / "x.mp4")[0], colors, strict=True):
        assert frame[24, 32] == pytest.approx(color, abs=8)


def test_a_finished_mp4_file_is_an_ordinary_one(parser: Parser, clip: Path, tmp_path: Path):
    save(parser, clip, tmp_path, levels=["object"], kinds=["overlay"])
    content = (tmp_path / "clip" / "object_overlay.mp4").read_bytes()
    boxes, start = [], 0
    while start < len(content):
        size = int.from_bytes(content[start : start + 4], "big")
        size = int.from_bytes(content[start + 8 : start + 16], "big") if size == 1 else size
        boxes.append(content[start + 4 : start + 8])
        start += size
    assert b"moov" in boxes and b"moof" not in boxes
