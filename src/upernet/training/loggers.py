"""Programs that show the progress of a run: TensorBoard, Weights & Biases, MLflow and trackio behind one protocol."""

from __future__ import annotations

import io
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

from PIL import Image

from upernet.errors import UpernetError, printable
from upernet.files import write_text

PROJECT = "upernet"
"""Name of the project, or experiment, that the runs belong to."""
Scalars = Mapping[str, float]


class Logger(Protocol):
    """Receives the numbers and pictures of a run; an own one can be given to `upernet.train(loggers=[...])`."""

    def scalars(self, values: Scalars, iteration: int) -> None:
        """Record values by name, such as `streets/object` (a loss), `learning_rate` or `validation/object.miou`."""
        ...

    def picture(self, name: str, picture: Image.Image, iteration: int) -> None:
        """Record a picture."""
        ...

    def close(self) -> None:
        """Finish; nothing is recorded afterwards."""
        ...


class TensorBoardLogger:
    """Writes event files for TensorBoard.

    The file is written at once rather than by a thread of TensorBoard, whose errors nobody can catch. When the disk is
    full, the run goes on without it.

    Args:
        folder: Folder of the run; the events go to `tensorboard/` in it.
        done: Number of iterations that are done; TensorBoard forgets earlier events after them.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], done: int) -> None:
        from tensorboard.compat.proto import event_pb2
        from tensorboard.summary.writer.record_writer import RecordWriter

        events: Any = event_pb2  # generated: its classes are not in its text
        self._event = events.Event
        self._records: Any = None
        board = folder / "tensorboard"
        try:
            board.mkdir(parents=True, exist_ok=True)
            name = f"events.out.tfevents.{int(time.time()):010d}.{PROJECT}.{os.getpid()}"
            self._records = RecordWriter(open(board / name, "ab", buffering=0))  # noqa: SIM115 (closed in close)
        except OSError as error:
            self._give_up(error)
        self._write(self._event(wall_time=time.time(), file_version="brain.Event:2"))
        if done:
            start = events.SessionLog(status=events.SessionLog.START)
            self._write(self._event(wall_time=time.time(), step=done + 1, session_log=start))

    def scalars(self, values: Scalars, iteration: int) -> None:
        """Record values."""
        from torch.utils.tensorboard.summary import scalar

        for name, value in values.items():
            self._write(self._event(wall_time=time.time(), step=iteration, summary=scalar(name, value)))

    def picture(self, name: str, picture: Image.Image, iteration: int) -> None:
        """Record a picture as PNG."""
        from tensorboard.compat.proto import summary_pb2

        summaries: Any = summary_pb2
        encoded = io.BytesIO()
        picture.save(encoded, "PNG")
        image = summaries.Summary.Image(
            height=picture.height, width=picture.width, colorspace=3, encoded_image_string=encoded.getvalue()
        )
        summary = summaries.Summary(value=[summaries.Summary.Value(tag=name, image=image)])
        self._write(self._event(wall_time=time.time(), step=iteration, summary=summary))

    def close(self) -> None:
        """Close the file."""
        if self._records is not None:
            self._records.close()
            self._records = None

    def _write(self, event: Any) -> None:
        if self._records is not None:
            try:
                self._records.write(event.SerializeToString())
            except OSError as error:
                self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        self._records = None
        print(f"tensorboard: cannot be written ({error.strerror}); the run goes on without it.", file=sys.stderr)


class WandbLogger:
    """Sends a run to Weights & Biases; a resumed run goes on there."""

    def __init__(self, folder: Path, settings: Mapping[str, Any], done: int) -> None:
        import wandb  # pyright: ignore[reportMissingImports]

        self._wandb = wandb
        known = _remembered(folder / "wandb_id", lambda: uuid4().hex)
        self._run = wandb.init(
            project=PROJECT, name=folder.name, dir=str(folder), config=dict(settings), id=known, resume="allow"
        )

    def scalars(self, values: Scalars, iteration: int) -> None:
        """Record values."""
        self._run.log(dict(values), step=iteration)

    def picture(self, name: str, picture: Image.Image, iteration: int) -> None:
        """Record a picture."""
        self._run.log({name: self._wandb.Image(picture)}, step=iteration)

    def close(self) -> None:
        """End the run."""
        self._run.finish()


class MlflowLogger:
    """Sends a run to the MLflow server of `MLFLOW_TRACKING_URI`; a resumed run goes on there."""

    def __init__(self, folder: Path, settings: Mapping[str, Any], done: int) -> None:
        import mlflow  # pyright: ignore[reportMissingImports]

        self._mlflow = mlflow
        mlflow.set_experiment(PROJECT)
        known = folder / "mlflow_id"
        run = mlflow.start_run(run_id=known.read_text() if known.is_file() else None, run_name=folder.name)
        _remembered(known, lambda: run.info.run_id)
        if not done:
            mlflow.log_dict(dict(settings), "recipe.json")

    def scalars(self, values: Scalars, iteration: int) -> None:
        """Record values."""
        # A file store makes a folder of what precedes a slash, which must not be the name of another metric.
        self._mlflow.log_metrics({name.replace("/", "."): value for name, value in values.items()}, step=iteration)

    def picture(self, name: str, picture: Image.Image, iteration: int) -> None:
        """Record a picture."""
        self._mlflow.log_image(picture, f"{name}/{iteration:07d}.png")

    def close(self) -> None:
        """End the run."""
        self._mlflow.end_run()


class TrackioLogger:
    """Records a run with trackio, which shows it locally or in a Space on the Hub."""

    def __init__(self, folder: Path, settings: Mapping[str, Any], done: int) -> None:
        import trackio  # pyright: ignore[reportMissingImports]

        self._trackio = trackio
        trackio.init(project=PROJECT, name=folder.name, config=dict(settings), resume="allow")

    def scalars(self, values: Scalars, iteration: int) -> None:
        """Record values."""
        self._trackio.log(dict(values), step=iteration)

    def picture(self, name: str, picture: Image.Image, iteration: int) -> None:
        """Record a picture."""
        self._trackio.log({name: self._trackio.Image(picture)}, step=iteration)

    def close(self) -> None:
        """End the run."""
        self._trackio.finish()


LOGGERS: dict[str, Callable[[Path, Mapping[str, Any], int], Logger]] = {
    "tensorboard": TensorBoardLogger,
    "wandb": WandbLogger,
    "mlflow": MlflowLogger,
    "trackio": TrackioLogger,
}
"""Name of an adapter, which is that of its package -> the adapter."""


def check_loggers(names: Sequence[str | Logger] | None) -> None:
    """Check that the packages of the named adapters are installed.

    Raises:
        UpernetError: A name is unknown, or its package is missing.
    """
    for name in names or ():
        if isinstance(name, str):
            if name not in LOGGERS:
                raise UpernetError(f"unknown logger {name!r}; choose among {', '.join(LOGGERS)}.")
            if find_spec(name) is None:
                raise UpernetError(f"logger {name}: the package is not installed; pip install {name}, or leave it out.")


def open_loggers(
    names: Sequence[str | Logger] | None, folder: Path, settings: Mapping[str, Any], done: int
) -> list[Logger]:
    """Open the adapters of a run.

    Args:
        names: Names of adapters, or own loggers. None: TensorBoard, if it is installed.
        folder: Folder of the run.
        settings: The recipe, as JSON types.
        done: Number of iterations that are done.

    Raises:
        UpernetError: A program refuses the run, for instance because nobody is logged in.
    """
    if names is None:
        names = [name for name in ("tensorboard",) if find_spec(name) is not None]
    return [_open(name, folder, settings, done) if isinstance(name, str) else name for name in names]


def _open(name: str, folder: Path, settings: Mapping[str, Any], done: int) -> Logger:
    try:
        return LOGGERS[name](folder, settings, done)
    except Exception as error:  # each program has its own types
        reason = printable(str(error).partition("\n")[0].rstrip(".")) or type(error).__name__
        raise UpernetError(f"logger {name} cannot start ({reason}); set it up, or leave it out.") from error


def _remembered(path: Path, create: Callable[[], str]) -> str:
    """Return the text of a file, which is created first if it is missing."""
    if not path.is_file():
        write_text(path, create())
    return path.read_text(encoding="utf-8")
