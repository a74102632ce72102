"""Saving of parsed videos: a folder for each, which appears as a whole when its video has ended.

Until then, the files are in the folder NAME.partial beside it. They can be read as far as they go, and stay there if
the program is interrupted or killed, until the same video is parsed again.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
from collections import deque
from collections.abc import Collection, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any, Literal, cast, get_args
from urllib.parse import unquote, urlsplit

import numpy as np
from filelock import FileLock, Timeout

from upernet.errors import UpernetError, did_you_mean, printable
from upernet.files import write_text
from upernet.inference.label_map import UNSURE, LabelMap
from upernet.inference.render import check_alpha
from upernet.inference.saving import label_image, relative, unsure_value
from upernet.inference.video.overlay import OverlayPainter
from upernet.inference.video.parsing import ParsedFrame, VideoParse
from upernet.inference.video.writing import VideoWriter, best_encoder
from upernet.inference.web import is_address
from upernet.taxonomy import LEVELS

VideoKind = Literal["overlay", "labels", "json"]
VIDEO_KINDS: tuple[VideoKind, ...] = get_args(VideoKind)
"""What can be saved of a video; video.json always is, because a later run knows the folder of a video by it."""
LabelForm = Literal["video", "png"]
VIDEO_FILE = "video.json"
FRAMES_FILE = "frames.jsonl"
BEHIND = 2
"""Number of parsed frames that wait to be saved while the network runs."""
PARTIAL = ".partial"


def check_video_kinds(kinds: Collection[str]) -> set[str]:
    """Return `kinds`, or the only one, as a set. Raises UpernetError for a name that is none of `VIDEO_KINDS`."""
    kinds = {kinds} if isinstance(kinds, str) else set(kinds)
    for kind in kinds:
        if kind not in VIDEO_KINDS:
            raise UpernetError(
                f"{kind!r} of a video cannot be saved{did_you_mean(kind, VIDEO_KINDS)}; choose from "
                f"{', '.join(VIDEO_KINDS)}."
            )
    return kinds


class SavedVideo:
    """A video that is parsed and saved: iterate over it once to get its frames, and to write them.

    The folder contains, for each dense LEVEL:

    * overlay: `LEVEL_overlay.mp4`, the frames with the colors of the classes and a legend, with the sound of the video
    * labels: `LEVEL.mkv`, lossless gray video whose pixels are the labels, 255 (65535 from 256 classes on) where
      unsure; or `LEVEL/FRAME.png`, as `Parse.save` writes them
    * json: `frames.jsonl`, a line for each parsed frame; see `ParsedFrame.to_dict`

    and `video.json`, which says what the labels mean.

    Args:
        video: The video.
        directory: Where the folder is created, named after the video; if there is one of another video, NAME-2, ...
        kinds: What is saved; names of `VIDEO_KINDS`.
        labels: Form of the label maps.
        alpha: As `Parse.overlay` takes it.

    Raises:
        UpernetError: An argument is wrong, the folder cannot be written, or another process is writing it.
    """

    def __init__(
        self,
        video: VideoParse,
        directory: str | os.PathLike[str],
        kinds: Collection[str] = VIDEO_KINDS,
        labels: LabelForm = "video",
        alpha: float | None = None,
    ):
        self.video, self.kinds, self.alpha = video, check_video_kinds(kinds), alpha
        check_alpha(alpha)
        if labels not in get_args(LabelForm):
            raise UpernetError(f"labels {labels!r}: choose video or png.")
        self.labels: LabelForm = labels
        self.encoder = best_encoder() if "overlay" in self.kinds else None
        self.folder = Path(directory)
        """Where the results are: the folder of the video, or what there is of it. Set when the iteration begins."""

    def __iter__(self) -> Generator[ParsedFrame, None, None]:
        """Parse and save the frames in order; the files are finished before the iteration ends or raises an error.

        An iteration that is not continued to its end leaves the partial folder; that of a live source ends as if the
        source had ended.

        Raises:
            UpernetError: As `VideoParse` raises it, or a file cannot be written.
        """
        with ExitStack() as stack:
            place, partial = self._claim(Path(self.folder), stack)
            self.folder = partial
            files = _Files(self, partial, _identity(self.video, place))
            saver = stack.enter_context(ThreadPoolExecutor(1, "save"))
            waiting: deque[tuple[ParsedFrame, Future[None]]] = deque()
            ended, problem = False, None
            try:
                with closing(iter(self.video)) as frames:
                    for frame in frames:
                        waiting.append((frame, saver.submit(files.add, frame)))
                        while len(waiting) > BEHIND or (waiting and waiting[0][1].done()):
                            saved, future = waiting.popleft()
                            future.result()
                            yield saved
                ended = True
            except UpernetError as error:
                problem, ended = error, files.problem is None
            finally:
                files.wait(future for _, future in waiting)
                live = self.video.source.live and files.problem is None
                files.close(self.video.reader.tail, complete=(ended or live), problem=problem)
                if not files.count:
                    shutil.rmtree(partial, ignore_errors=True)
                elif (ended or live) and files.problem is None:
                    self.folder = place
                    _move(partial, place)
            if files.problem is not None:
                raise files.problem
            while waiting:
                yield waiting.popleft()[0]
            if problem is not None:
                raise problem

    def _claim(self, directory: Path, stack: ExitStack) -> tuple[Path, Path]:
        """Return the folder of the results, and the partial one, which is empty and locked until `stack` is closed."""
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _unwritable(directory, error) from None
        stem = _stem(self.video.source.name)
        for number in itertools.count(1):
            place = directory / (stem if number == 1 else f"{stem}-{number}")
            partial = place.with_name(f"{place.name}{PARTIAL}")
            if not _may_use(place, self.video) or not _may_use(partial, self.video):
                continue
            lock: Any = FileLock(place.with_name(f".{place.name}.lock"))
            try:
                lock.acquire(timeout=0)
            except Timeout:
                raise UpernetError(
                    f"{place}: another process is writing it; wait until it has ended, or choose another --out."
                ) from None
            except OSError as error:
                raise _unwritable(directory, error) from None
            stack.callback(_release, lock)
            try:
                if partial.exists():
                    shutil.rmtree(partial)
                partial.mkdir()
            except OSError as error:
                raise _unwritable(partial, error) from None
            return place, partial
        raise AssertionError


class _Files:
    """The open files of a video."""

    def __init__(self, saved: SavedVideo, folder: Path, identity: dict[str, Any]):
        self.saved, self.folder, self.identity = saved, folder, identity
        self.count = 0
        self.problem: UpernetError | None = None
        """Why nothing can be written any more."""
        self._painters: dict[str, OverlayPainter] = {}
        self._overlays: dict[str, VideoWriter] = {}
        self._labels: dict[str, VideoWriter] = {}
        self._lines: Any = None
        self._levels: dict[str, LabelMap] = {}
        self._size = 0, 0
        self._end = 0.0

    def add(self, parsed: ParsedFrame) -> None:
        """Write a frame to all files; does nothing after an error."""
        if self.problem is not None:
            return
        try:
            if not self.count:
                self._open(parsed)
            self._add(parsed)
        except UpernetError as error:
            self.problem = error
            raise
        except OSError as error:
            self.problem = _failure(self.folder, error)
            raise self.problem from None

    def wait(self, futures: Iterator[Future[None]]) -> None:
        """Wait for frames that are being written; errors are in `problem`."""
        for future in futures:
            with suppress(UpernetError):
                future.result()

    def close(self, tail: tuple[Any, ...], complete: bool, problem: UpernetError | None) -> None:
        """Finish all files, and write video.json."""
        for writer in (*self._overlays.values(), *self._labels.values()):
            try:
                if self.problem is None:
                    writer.add_sound(tail)
                writer.close()
            except UpernetError as error:
                self.problem = self.problem or error
        if self._lines is not None:
            try:
                self._lines.close()
            except OSError as error:
                self.problem = self.problem or _failure(self.folder, error)
        if self.count and self.problem is None:
            try:
                self._describe(complete, problem)
            except UpernetError as error:
                self.problem = error

    def _open(self, parsed: ParsedFrame) -> None:
        saved, reader, maps = self.saved, self.saved.video.reader, parsed.parse.maps
        rate = reader.rate / reader.every
        self._size = parsed.parse.photo.size
        for level, label_map in maps.items():
            self._levels[level] = label_map
            if saved.encoder is not None:
                path = self.folder / f"{level}_overlay.mp4"
                size = self._size[0] + self._size[0] % 2, self._size[1] + self._size[1] % 2
                if saved.alpha is None:
                    self._painters[level] = OverlayPainter(label_map)
                    size = self._painters[level].size
                writer = VideoWriter(path, saved.encoder, size, "yuv420p", rate, reader.sound)
                self._overlays[level] = writer
            if "labels" in saved.kinds and saved.labels == "video":
                pixels = "gray" if unsure_value(label_map) == 255 else "gray16le"
                self._labels[level] = VideoWriter(self.folder / f"{level}.mkv", "ffv1", self._size, pixels, rate)
            elif "labels" in saved.kinds:
                (self.folder / level).mkdir()
        if "json" in saved.kinds:
            self._lines = open(self.folder / FRAMES_FILE, "w", encoding="utf-8", newline="")  # noqa: SIM115
        self._describe(complete=False, problem=None)

    def _add(self, parsed: ParsedFrame) -> None:
        frame, parse = parsed.frame, parsed.parse
        for level, label_map in parse.maps.items():
            if level in self._overlays:
                pixels = self._drawn(parsed, level)
                self._overlays[level].add(pixels, frame.time, frame.audio)
            if level in self._labels:
                unsure = unsure_value(label_map)
                labels = np.where(label_map.labels == UNSURE, unsure, label_map.labels)
                self._labels[level].add(labels.astype(np.uint8 if unsure == 255 else np.uint16), frame.time)
            elif "labels" in self.saved.kinds:
                label_image(label_map).save(self.folder / level / f"{frame.number:08}.png")
        if self._lines is not None:
            self._lines.write(json.dumps(parsed.to_dict(), ensure_ascii=False, allow_nan=False) + "\n")
            self._lines.flush()
        self.count += 1
        self._end = frame.time + frame.duration

    def _drawn(self, parsed: ParsedFrame, level: str) -> np.ndarray:
        if self.saved.alpha is None:
            return np.asarray(self._painters[level].paint(parsed.parse, level, parsed.frame.time))
        pixels = np.asarray(parsed.parse.overlay(level, self.saved.alpha))
        height, width = pixels.shape[:2]
        return np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")

    def _describe(self, complete: bool, problem: UpernetError | None) -> None:
        video = self.saved.video
        sound = video.reader.sound
        copied = [writer.sound for writer in self._overlays.values() if writer.sound is not None]
        content = {
            **self.identity,
            "model": video.parser.card.name,
            "complete": complete and problem is None,
            "error": None if problem is None else printable(problem),
            "width": self._size[0],
            "height": self._size[1],
            "frames": self.count,
            "seconds": round(min(self._end, video.reader.end), 6),
            "every": video.every,
            "smooth": video.smooth,
            "sound": None if sound is None else {"codec": sound.codec_context.name, "copied": bool(copied)},
            "levels": {
                level: {
                    "names": list(label_map.names),
                    "colors": [list(color) for color in label_map.colors],
                    "background": label_map.background,
                    "unsure": unsure_value(label_map),
                }
                for level, label_map in self._levels.items()
            },
        }
        write_text(self.folder / VIDEO_FILE, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def _identity(video: VideoParse, place: Path) -> dict[str, Any]:
    name = video.source.name
    return {"video": name if video.source.format or is_address(name) else relative(name, place)}


def _stem(name: str) -> str:
    """Return the name of the folder: that of the file without its suffix; that of a camera or a host."""
    if is_address(name):
        parts = urlsplit(name)
        path = unquote(parts.path).replace("\\", "/")
        name = printable(Path(path).stem or parts.hostname or "")
    elif name.startswith("camera:"):
        name = name.replace(":", "-").replace("/", "-").replace("\\", "-")
    return Path(name).stem.strip(".") or "video"


def _may_use(folder: Path, video: VideoParse) -> bool:
    """Return whether there is nothing at a place, an empty folder, or the results of the same video."""
    if not os.path.lexists(folder) or (folder.is_dir() and not any(folder.iterdir())):
        return True
    try:
        content: Any = json.loads((folder / VIDEO_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    found = cast("dict[str, Any]", content).get("video") if isinstance(content, dict) else None
    return found == _identity(video, folder)["video"]


def _move(partial: Path, place: Path) -> None:
    """Let the partial folder take the place of an earlier one of the same video, whose other files stay."""
    try:
        if not os.path.lexists(place):
            partial.rename(place)
            return
        new = {file.name for file in partial.iterdir()}
        own = {FRAMES_FILE, *(f"{level}{end}" for level in LEVELS for end in ("_overlay.mp4", ".mkv", ""))}
        for name in own - new:
            _remove(place / name)
        for name in sorted(new, key=lambda name: name == VIDEO_FILE):  # video.json last
            if (place / name).is_dir():
                _remove(place / name)
            os.replace(partial / name, place / name)
        partial.rmdir()
    except OSError as error:
        raise UpernetError(f"{place}: cannot be written ({error.strerror}); the results are in {partial}.") from None


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _release(lock: Any) -> None:
    """Remove the lock's file, then release it: afterward, the file may be that of another process."""
    with suppress(OSError):  # Windows removes no file that is open, but filelock does so there
        os.unlink(lock.lock_file)
    lock.release()


def _unwritable(folder: Path, error: OSError) -> UpernetError:
    return UpernetError(f"{folder}: cannot be written ({error.strerror}); choose another folder with --out.")


def _failure(folder: Path, error: OSError) -> UpernetError:
    return UpernetError(
        f"{folder}: writing failed ({error.strerror or error}); make room on the disk, or use another one."
    )
