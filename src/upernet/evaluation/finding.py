"""Finding the evaluation that a folder, a JSON file or a training run stands for."""

from __future__ import annotations

from pathlib import Path

from upernet.errors import UpernetError
from upernet.evaluation.folder import COUNTS, SCORES
from upernet.evaluation.subject import RUN_MODEL
from upernet.recipe import Split

EVALUATIONS = "evaluation"
"""Folder in a run that holds a folder of its evaluation per split."""


def evaluation_folder(run: str | Path, split: Split) -> Path:
    """Return the folder that the evaluation of a run is written to."""
    return Path(run) / EVALUATIONS / split


def current_evaluation(run: str | Path, split: Split) -> Path | None:
    """Return the folder of a run's evaluation; None if its model has not been evaluated since it was written."""
    folder, model = evaluation_folder(run, split), Path(run) / RUN_MODEL
    files = [folder / SCORES, folder / COUNTS]
    if not all(file.is_file() for file in (*files, model)):
        return None
    return folder if min(file.stat().st_mtime for file in files) >= model.stat().st_mtime else None


def find_evaluation(reference: str | Path) -> Path:
    """Return the folder of an evaluation.

    Args:
        reference: The folder, or the `scores.json` in it.

    Raises:
        UpernetError: It is neither, or what was counted in each photo is missing there.
    """
    path = Path(reference)
    folder = path.parent if path.suffix == ".json" else path
    if (folder / COUNTS).is_file():
        return folder
    if path.suffix == ".json" and path.is_file():
        raise UpernetError(
            f"{reference}: the scores alone do not tell what was counted in each photo; "
            "evaluate the model again with `upernet evaluate --out`."
        )
    raise UpernetError(
        f"{reference}: neither the folder of a training run nor that of an evaluation; "
        "give a run, or a folder that `upernet evaluate --out` wrote."
    )
