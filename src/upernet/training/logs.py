"""The records of a run: its log, the live line, and the programs that show its progress."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from PIL import Image

from upernet.files import write_text
from upernet.training.history import IterationRecord, Validation, read_log
from upernet.training.live import LiveLine
from upernet.training.loggers import Logger


class RunLog:
    """Log of a run: one record per iteration in `log.jsonl` of its folder, in the live line, and in the loggers.

    A resumed run repeats the iterations after its saved state. Their earlier records are dropped, so that the log is
    that of an uninterrupted run.

    Args:
        folder: Folder of the run.
        done: Number of iterations that are done.
        live: The live line.
        loggers: Receive the same numbers and pictures.
    """

    def __init__(self, folder: Path, done: int, live: LiveLine, loggers: Sequence[Logger] = ()) -> None:
        self.path = folder / "log.jsonl"
        kept = read_log(self.path, last=done)
        write_text(self.path, "".join(json.dumps(record) + "\n" for record in kept))
        self.file = self.path.open("a", encoding="utf-8")
        self.live, self.loggers = live, loggers

    def __enter__(self) -> RunLog:
        self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.live.stop()
        self.file.close()
        for logger in self.loggers:
            logger.close()

    def write(self, record: IterationRecord) -> None:
        """Write the record of an iteration and advance the live line."""
        self.file.write(json.dumps(record) + "\n")
        self.file.flush()
        values = {f"{record['source']}/{name}": value for name, value in record["losses"].items()}
        for logger in self.loggers:
            logger.scalars({**values, "learning_rate": record["learning_rate"]}, record["iteration"])
        self.live.advance(record)

    def write_validation(self, validation: Validation, deciding: tuple[str, float], best: float) -> None:
        """Write the scores of a validation.

        Args:
            validation: The scores.
            deciding: Metric that decides which model is the best, and its value now.
            best: Its best value so far.
        """
        for logger in self.loggers:
            logger.scalars({f"validation/{k}": v for k, v in validation.metrics.items()}, validation.iteration)
        self.live.validated(*deciding, best)

    def write_pictures(self, pictures: Mapping[str, Image.Image], iteration: int) -> None:
        """Send pictures to the loggers."""
        for name, picture in pictures.items():
            for logger in self.loggers:
                logger.picture(name, picture, iteration)
