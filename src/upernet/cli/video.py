"""What `upernet parse` does with videos."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Generator
from contextlib import closing, contextmanager
from pathlib import Path
from signal import SIGINT, SIGTERM
from typing import IO, TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import typer

from upernet.cli.options import STDOUT
from upernet.cli.termination import Terminated, terminable
from upernet.errors import UpernetError, printable

if TYPE_CHECKING:
    from upernet.inference import Parser
    from upernet.inference.video import SavedVideo, VideoParse

EveryOption = Annotated[
    int | None,
    typer.Option("--every", metavar="N", min=1, help="Video: parse every N-th frame.", show_default="every frame"),
]
SmoothOption = Annotated[
    float | None,
    typer.Option(
        "--smooth",
        metavar="W",
        min=0,
        max=0.99,
        help="Video: steady the labels by averaging over time, with the weight W of the past, from 0 to 0.99. The "
        "average follows the motion, and forgets what has changed.",
        show_default="0, each frame for itself",
    ),
]
SecondsOption = Annotated[
    float | None,
    typer.Option("--seconds", metavar="S", help="Video: parse the first S seconds.", show_default="the whole video"),
]
LabelsOption = Annotated[
    Literal["video", "png"] | None,
    typer.Option(
        "--labels",
        help="Video: save the label maps as lossless video, or as a PNG file for each frame.",
        show_default="video",
    ),
]


class VideoOptions(NamedTuple):
    """The options for videos as they were given."""

    every: int | None
    smooth: float | None
    seconds: float | None
    labels: Literal["video", "png"] | None

    def are_for(self, paths: Collection[str]) -> bool:
        """Return whether `paths` are videos.

        Raises:
            UpernetError: Some are, and others are photos; or none is, and there are options for videos.
        """
        from upernet.inference.video import is_video

        videos = [is_video(path) for path in paths]
        if any(videos) and not all(videos):
            raise UpernetError("videos and photos are parsed by separate commands; leave one kind out.")
        for name, value in self._asdict().items():
            if value is not None and not any(videos):
                raise UpernetError(f"--{name} is for videos, and none is given; leave it out.")
        return any(videos)


def parse_videos(
    paths: Collection[str],
    make_parser: Callable[[], tuple[Parser, list[str]]],
    options: VideoOptions,
    out: Path | None,
    what: Collection[str],
    alpha: float | None,
    lines: Path | None,
    quiet: bool,
) -> int:
    """Parse videos one after another, and return the exit status.

    Args:
        paths: The videos.
        make_parser: Returns the parser and the levels.
        options: The options for videos.
        out: `--out`.
        what: `--save`.
        alpha: `--alpha`.
        lines: `--json`: where a line for each frame is written.
        quiet: `--quiet`.
    """
    import sys

    from upernet.inference.video import VIDEO_KINDS, SavedVideo, VideoParse, require_av

    require_av()
    kinds = set(what) & set(VIDEO_KINDS)
    if what and not kinds:
        known = ", ".join(VIDEO_KINDS)
        raise UpernetError(f"{', '.join(sorted(what))} cannot be saved of a video; choose from {known}.")
    folder = None if not kinds or (lines is not None and out is None) else out or Path("parses")
    parser, levels = make_parser()
    every, smooth, form = options.every or 1, options.smooth or 0.0, options.labels or "video"
    complete = begun = 0
    with _line_file(lines) as line_file:
        for path in paths:
            run = _Run(path, line_file, len(paths) > 1, quiet)
            sound = folder is not None and "overlay" in kinds
            try:
                video = VideoParse(
                    parser, path, levels, every=every, smooth=smooth, seconds=options.seconds, sound=sound
                )
                run.parse(video, None if folder is None else SavedVideo(video, folder, kinds, form, alpha))
            except UpernetError as error:
                print(f"upernet: {printable(error)}", file=sys.stderr)
            else:
                complete += 1
            begun += run.count > 0
            if run.count and lines != STDOUT and not quiet:
                print(f"{printable(path)}{run.place}\n  {run.summary}\n", flush=True)
            if run.signal is not None:
                if not run.stopped_early:
                    return 0
                print(f"upernet: {printable(path)}: stopped after {run.count} frames{run.place}.", file=sys.stderr)
                return 128 + run.signal
    return 0 if complete == len(paths) else 1 if begun else 2


class _Run:
    """The parsing of one video."""

    def __init__(self, path: str, line_file: IO[str] | None, named: bool, quiet: bool):
        self.path, self.quiet = path, quiet
        self.count = 0
        self.place = ""
        self.signal: int | None = None
        self.stopped_early = False
        """Whether a signal stopped a video that has an end of its own; a live source is ended by one."""
        self.end = 0.0
        self._line_file, self._named = line_file, named

    @property
    def summary(self) -> str:
        frames = "1 frame" if self.count == 1 else f"{self.count} frames"
        return f"{frames}, {self.end:.1f} seconds of video."

    def parse(self, video: VideoParse, saved: SavedVideo | None) -> None:
        """Parse the video to its end, or to a signal."""
        frames = iter(video if saved is None else saved)
        try:
            with terminable(), closing(frames), _progress(self.quiet, video.reader.total) as advance:
                for parsed in frames:
                    self.count += 1
                    self.end = parsed.frame.time + parsed.frame.duration
                    self._write(parsed.to_dict())
                    advance()
        except KeyboardInterrupt as interrupt:
            self.signal = SIGTERM if isinstance(interrupt, Terminated) else SIGINT
            self.stopped_early = not video.source.live
        finally:
            self.end = min(self.end, video.reader.end)
            if saved is not None and self.count:
                self.place = f" -> {printable(saved.folder)}"

    def _write(self, line: dict[str, Any]) -> None:
        if self._line_file is None:
            return
        named = {"path": self.path, **line} if self._named else line
        text = json.dumps(named, ensure_ascii=False, allow_nan=False).encode("utf-8", "backslashreplace").decode()
        print(text, file=self._line_file, flush=True)


@contextmanager
def _line_file(file: Path | None) -> Generator[IO[str] | None, None, None]:
    """Open what `--json` names: stdout, or a file, which appears when all is done."""
    import sys

    from upernet.files import atomic_path

    if file is None or file == STDOUT:
        yield None if file is None else sys.stdout
        return
    with atomic_path(file) as temporary, open(temporary, "w", encoding="utf-8", newline="") as opened:
        yield opened


@contextmanager
def _progress(quiet: bool, total: int | None) -> Generator[Callable[[], object], None, None]:
    """Show a bar with frames per second and the remaining time on stderr, if that is a terminal.

    Yields:
        What is called after each frame.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    console = Console(stderr=True)
    counted = "{task.completed} frames" if total is None else "{task.completed} of about {task.total} frames"
    columns = [TextColumn(counted), TextColumn("{task.fields[rate]}")]
    columns += [TimeElapsedColumn()] if total is None else [TimeRemainingColumn()]
    bar = Progress(
        SpinnerColumn() if total is None else BarColumn(),
        *columns,
        console=console,
        transient=True,
        disable=quiet or not console.is_terminal,
    )
    with bar:
        task = bar.add_task("", total=total, rate="")

        def advance() -> None:
            bar.advance(task)
            speed = bar.tasks[0].speed
            bar.update(task, rate="" if speed is None else f"{speed:.1f} frames/s")

        yield advance
