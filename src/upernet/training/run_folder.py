"""The folder of a run: its names, its recipe, and what removes it."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import yaml
from filelock import FileLock, Timeout

from upernet.distributed import World, wait_for_all
from upernet.errors import UpernetError
from upernet.evaluation.subject import RUN_MODEL as MODEL
from upernet.evaluation.subject import RUN_RECIPE as RECIPE
from upernet.files import write_text
from upernet.recipe import Recipe, TrainingSpec
from upernet.taxonomy import Taxonomy

STATE, LAST, LOG = "state.safetensors", "last.safetensors", "log.jsonl"
TAXONOMY, METRICS = "taxonomy.yaml", "metrics.csv"
CURVES, CONFUSION, PREDICTIONS, REPORT = "curves.png", "confusion.png", "predictions.jpg", "report.html"
OWN_FILES = (STATE, MODEL, LAST, LOG, RECIPE, TAXONOMY, METRICS, CURVES, CONFUSION, PREDICTIONS, REPORT)
OWN_SUFFIXES = {Path(name).suffix for name in OWN_FILES}
"""Suffixes of the files of a run, and so of the unfinished ones of a killed run."""


@contextmanager
def lock_folder(folder: Path) -> Generator[None, None, None]:
    """Create the folder of a run and lock it, and remove unfinished files of a killed run.

    Raises:
        UpernetError: Another run has locked the folder, or it cannot be written.
    """
    lock = FileLock(folder / ".lock", timeout=0)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
        for leftover in folder.glob(".*"):
            if leftover.suffix in OWN_SUFFIXES:
                leftover.unlink()
    except Timeout:
        raise UpernetError(f"{folder}: another run is writing there; wait for it, or give another --out.") from None
    except OSError as error:
        raise UpernetError(f"{folder}: cannot be written ({error.strerror}); choose another folder.") from error
    try:
        yield
    finally:
        lock.release()


def delete_run(folder: Path, world: World) -> None:
    """Delete the files of an earlier run, in the main process; the others wait for it.

    Raises:
        UpernetError: Another run is writing there, or there is a model without the state of its run.
    """
    if world.is_main:
        with lock_folder(folder):
            if (folder / MODEL).is_file() and not (folder / STATE).is_file():
                raise UpernetError(f"{folder}: holds a model without the state of its run; give another --out.")
            for name in OWN_FILES:
                (folder / name).unlink(missing_ok=True)
            delete_events(folder)
    wait_for_all()


def delete_events(folder: Path) -> None:
    """Delete the events of TensorBoard."""
    for file in folder.glob("tensorboard/events.out.tfevents.*"):
        file.unlink()


def write_run_recipe(folder: Path, recipe: Recipe, training: TrainingSpec, taxonomy: Taxonomy, data_dir: Path) -> None:
    """Write `recipe.yaml` and `taxonomy.yaml`, which `load_recipe` reads, with the lengths of the stages.

    Args:
        folder: Folder of the run.
        recipe: Its recipe.
        training: Its stages, with the lengths that they have.
        taxonomy: Its taxonomy.
        data_dir: Its data.
    """
    content = taxonomy.to_dict()
    write_text(folder / TAXONOMY, _yaml({key: value for key, value in content.items() if key != "name"}))
    values = recipe.model_copy(update={"training": training}).model_dump(mode="json", exclude_defaults=True)
    values |= {"taxonomy": TAXONOMY, "data": os.path.abspath(data_dir)}
    write_text(folder / RECIPE, _yaml({key: value for key, value in values.items() if key != "name"}))


def _yaml(values: dict[str, object]) -> str:
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=120)
