"""Tests of upernet.training.loggers: programs that are installed, and the errors of missing packages."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from helpers.full_disk import file_size_limit, needs_file_size_limit
from PIL import Image

from upernet.errors import UpernetError
from upernet.training.loggers import LOGGERS, TensorBoardLogger, check_loggers, open_loggers

needs_tensorboard = pytest.mark.skipif(find_spec("tensorboard") is None, reason="tensorboard is not installed")


def events(folder: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(folder / "tensorboard"))
    accumulator.Reload()
    return accumulator


@pytest.mark.slow
@needs_tensorboard
def test_tensorboard_reads_scalars_and_pictures(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path, {}, 0)
    for iteration in (1, 2):
        logger.scalars({"streets/object": 1 / iteration, "learning_rate": 0.5}, iteration)
    logger.picture("curves", Image.new("RGB", (30, 20), "red"), 2)
    logger.close()
    found = events(tmp_path)
    assert [(event.step, event.value) for event in found.Scalars("streets/object")] == [(1, 1.0), (2, 0.5)]
    (picture,) = found.Images("curves")
    assert (picture.step, picture.width, picture.height) == (2, 30, 20)


@pytest.mark.slow
@needs_tensorboard
def test_a_resumed_run_replaces_its_later_events(tmp_path: Path) -> None:
    for done, iterations, value in ((0, (1, 2, 3), 1.0), (1, (2, 3), 2.0)):
        logger = TensorBoardLogger(tmp_path, {}, done)
        for iteration in iterations:
            logger.scalars({"loss": value}, iteration)
        logger.close()
        for file in (tmp_path / "tensorboard").iterdir():  # two runs within a second would share a name
            file.rename(file.with_name(f"{file.name}.{done}"))
    assert [(event.step, event.value) for event in events(tmp_path).Scalars("loss")] == [(1, 1.0), (2, 2.0), (3, 2.0)]


@needs_tensorboard
@needs_file_size_limit
def test_a_full_disk_ends_tensorboard_and_not_the_run(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    logger = TensorBoardLogger(tmp_path, {}, 0)
    with file_size_limit(500):
        for iteration in range(100):
            logger.scalars({"loss": 1.0}, iteration)
        logger.close()
    assert capfd.readouterr().err.count("\n") == 1
    (tmp_path / "file").touch()
    TensorBoardLogger(tmp_path / "file", {}, 0).close()
    error = capfd.readouterr().err
    assert error.startswith("tensorboard: cannot be written (") and error.count("\n") == 1


def test_a_missing_package_is_named() -> None:
    missing = [name for name in LOGGERS if find_spec(name) is None]
    for name in missing:
        with pytest.raises(UpernetError, match=f"pip install {name}"):
            check_loggers([name])
    with pytest.raises(UpernetError, match="unknown logger 'tensorbord'"):
        check_loggers(["tensorbord"])
    check_loggers(None)


def test_own_loggers_are_taken_as_they_are(tmp_path: Path) -> None:
    own = object()
    assert open_loggers([own], tmp_path, {}, 0) == [own]  # pyright: ignore[reportArgumentType]
    assert open_loggers([], tmp_path, {}, 0) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["wandb", "mlflow", "trackio"])
def test_an_installed_program_takes_the_run_and_its_continuation(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The programs record locally; losses of a source are named `SOURCE/LEVEL` and `SOURCE/LEVEL/auxiliary`."""
    pytest.importorskip(name)
    for variable, value in {
        "WANDB_MODE": "offline",
        "MLFLOW_TRACKING_URI": (tmp_path / "mlflow").as_uri(),
        "MLFLOW_ALLOW_FILE_STORE": "true",
        "TRACKIO_DIR": str(tmp_path / "trackio"),
    }.items():
        monkeypatch.setenv(variable, value)
    for done in (0, 2):
        (logger,) = open_loggers([name], tmp_path, {"name": "mine"}, done)
        for iteration in (done + 1, done + 2):
            logger.scalars({"streets/object": 1 / iteration, "streets/object/auxiliary": 0.5}, iteration)
        logger.picture("curves", Image.new("RGB", (30, 20), "red"), done + 2)
        logger.close()
    if name == "mlflow":
        (metric,) = (tmp_path / "mlflow").glob("*/*/metrics/streets.object")
        assert [line.split()[2] for line in metric.read_text().splitlines()] == ["1", "2", "3", "4"]


def test_a_program_that_refuses_the_run_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mlflow.py").write_text("def set_experiment(name):\n    raise ValueError('no server\\nat all')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "mlflow", raising=False)
    with pytest.raises(UpernetError, match=r"logger mlflow cannot start \(no server\); set it up, or leave it out\."):
        open_loggers(["mlflow"], tmp_path, {}, 0)
    monkeypatch.delitem(sys.modules, "mlflow", raising=False)
