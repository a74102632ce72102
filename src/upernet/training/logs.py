"""Training logs: JSON lines, TensorBoard, and a progress bar with the remaining time."""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, TypedDict

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from upernet.files import write_text

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class IterationRecord(TypedDict):
    """One line of `log.jsonl`.

    Attributes:
        iteration: Number of the iteration, from 1 over all stages.
        stage: Name of the stage.
        source: Name of the source.
        learning_rate: Learning rate of the decoder and heads.
        loss: Weighted sum of the losses.
        losses: Losses by name.
        seconds: Duration of the iteration, including the wait for its photos.
    """

    iteration: int
    stage: str
    source: str
    learning_rate: float
    loss: float
    losses: dict[str, float]
    seconds: float


class RunLog:
    """Log of a run: one record per iteration in `log.jsonl` and `tensorboard/` of its folder, and a progress bar.

    A resumed run repeats the iterations after its saved state. Their earlier records are dropped, so that the log is
    that of an uninterrupted run.

    Args:
        folder: Folder of the run.
        total: Number of iterations of all stages.
        done: Number of iterations that are done.
        quiet: Show no progress bar.
    """

    def __init__(self, folder: Path, total: int, done: int, quiet: bool) -> None:
        self.path = folder / "log.jsonl"
        kept = _records_before(self.path, done)
        write_text(self.path, "".join(json.dumps(record) + "\n" for record in kept))
        self.file = self.path.open("a", encoding="utf-8")
        self.board = _tensorboard(folder / "tensorboard", done)
        self.progress = Progress(
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


def _records_before(path: Path, done: int) -> list[IterationRecord]:
    """Return the records of the first `done` iterations, without lines that a killed process left unfinished."""
    records: list[IterationRecord] = []
    if path.is_file() and done > 0:
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if record["iteration"] <= done:
                records.append(record)
    return records


def _tensorboard(folder: Path, done: int) -> SummaryWriter | None:
    """Return a writer that drops the events after iteration `done`; None if TensorBoard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=done + 1 if done else None)
