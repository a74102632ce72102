"""Training logs: JSON lines, TensorBoard, and a progress bar with the remaining time."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as ProgressBar

from upernet.files import write_text
from upernet.training.history import IterationRecord, Validation, read_log
from upernet.training.state import Progress

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class RunLog:
    """Log of a run: one record per iteration in `log.jsonl` and `tensorboard/` of its folder, and a progress bar.

    A resumed run repeats the iterations after its saved state. Their earlier records are dropped, so that the log is
    that of an uninterrupted run.

    Args:
        folder: Folder of the run.
        progress: How far the run is.
        quiet: Show no progress bar.
    """

    def __init__(self, folder: Path, progress: Progress, quiet: bool) -> None:
        total, done = progress.total, progress.done
        self.path = folder / "log.jsonl"
        kept = read_log(self.path, last=done)
        write_text(self.path, "".join(json.dumps(record) + "\n" for record in kept))
        self.file = self.path.open("a", encoding="utf-8")
        self.board = _tensorboard(folder / "tensorboard", done)
        self.progress = ProgressBar(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[loss]}"),
            console=Console(stderr=True),
            disable=quiet,
        )
        self.task = self.progress.add_task("training", total=total, completed=done, loss="")

    def __enter__(self) -> RunLog:
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()
        self.file.close()
        if self.board is not None:
            self.board.close()

    def write(self, record: IterationRecord) -> None:
        """Write the record of an iteration and advance the progress bar."""
        self.file.write(json.dumps(record) + "\n")
        self.file.flush()
        if self.board is not None:
            for name, value in record["losses"].items():
                self.board.add_scalar(f"{record['source']}/{name}", value, record["iteration"])
            self.board.add_scalar("learning_rate", record["learning_rate"], record["iteration"])
        self.progress.update(
            self.task, advance=1, description=record["stage"], loss=f"{record['source']} {record['loss']:.3f}"
        )

    def write_validation(self, validations: Sequence[Validation], metric: str | None) -> None:
        """Write the scores of the last validation."""
        if self.board is not None:
            for name, value in validations[-1].metrics.items():
                self.board.add_scalar(f"validation/{name}", value, validations[-1].iteration)


def _tensorboard(folder: Path, done: int) -> SummaryWriter | None:
    """Return a writer that drops the events after iteration `done`; None if TensorBoard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=done + 1 if done else None)
