"""What a run tells: JSON lines, TensorBoard, and a progress bar with the time left."""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from upernet.files import write_text


class RunLog:
    """Writes one record per iteration to `log.jsonl` and `tensorboard/` of the run's folder.

    After a resume, records of iterations that the saved state does not know are dropped, so that the log is the one
    that an uninterrupted run would have written.
    """

    def __init__(self, folder: Path, total: int, done: int, quiet: bool):
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

    def write(self, record: dict[str, Any]) -> None:
        """Log an iteration (numbered from 1 over all stages); `losses` are by name, `loss` is their weighted sum."""
        self.file.write(json.dumps(record) + "\n")
        self.file.flush()
        if self.board is not None:
            for name, value in record["losses"].items():
                self.board.add_scalar(f"{record['source']}/{name}", value, record["iteration"])
            self.board.add_scalar("learning_rate", record["learning_rate"], record["iteration"])
        self.progress.update(
            self.task, advance=1, description=record["stage"], loss=f"{record['source']} {record['loss']:.3f}"
        )


def _records_before(path: Path, done: int) -> list[dict[str, Any]]:
    """Whole records of the first `done` iterations; a line that a killed process left unfinished is dropped."""
    records = []
    if path.is_file() and done > 0:
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if record["iteration"] <= done:
                records.append(record)
    return records


def _tensorboard(folder: Path, done: int):
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=done + 1 if done else None)
