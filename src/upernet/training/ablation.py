"""The ablation of Unified Perceptual Parsing: one model per subset of the tasks (arXiv 1807.10221, section 4)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from upernet.distributed import World, join_world, leave_world
from upernet.errors import UpernetError
from upernet.evaluation import EvaluationResult, default_split, evaluate
from upernet.evaluation.benchmark import (
    PAPER,
    PUBLISHED,
    Row,
    benchmark_row,
    benchmark_table,
    describe_scores,
    is_benchmark,
)
from upernet.evaluation.finding import current_evaluation, evaluation_folder
from upernet.evaluation.folder import read_evaluation, write_evaluation
from upernet.evaluation.subject import open_model
from upernet.files import read_limited, write_text
from upernet.recipe import Recipe, Split, without_other_levels
from upernet.training.available import photos_per_level
from upernet.training.loop import train
from upernet.training.run_folder import MODEL

ORDER = ("object", "part", "scene", "material", "texture")
"""The levels in the order in which the paper adds them."""
TABLE, SCORES = "ablation.md", "ablation.json"
LARGEST = 2**24
"""Bytes of the largest `ablation.json`."""


@dataclass(frozen=True)
class Ablation:
    """The scores of the subsets.

    Attributes:
        rows: Subset (`+O`, `+O+P`, ...) -> the paper's metrics; the published row is the last one, on Broden+.
        left_out: Levels that no source with photos annotates.
        table: Markdown table with a column per subset.
        folder: Folder with a run per subset, `ablation.md` and `ablation.json`.
    """

    rows: Mapping[str, Row]
    left_out: tuple[str, ...]
    table: str
    folder: Path


def subsets(levels: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """Return the paper's subsets of `levels`: each adds one level to the one before.

    Example:
        >>> subsets(("scene", "object"))
        {'+O': ('object',), '+O+S': ('object', 'scene')}
    """
    ordered = [level for level in ORDER if level in levels]
    ends = range(1, len(ordered) + 1)
    return {"".join(f"+{level[0].upper()}" for level in ordered[:end]): tuple(ordered[:end]) for end in ends}


def ablate(
    recipe: Recipe,
    data_dir: str | Path,
    out_dir: str | Path,
    *,
    split: Split | None = None,
    device: str | None = None,
    iterations: int | None = None,
    quiet: bool = False,
    log: Callable[[str], None] = print,
) -> Ablation:
    """Train a model for each of the paper's subsets of the levels, and score all of them on the same photos.

    After each subset, `out_dir` receives `ablation.md` and `ablation.json`; the runs are in folders named as the
    subsets (`O`, `O+P`, ...). An interrupted ablation goes on where it stopped, and subsets that are done are kept.

    Args:
        recipe: Recipe with a `training` section and sources.
        data_dir: Folder that contains the folders of the sources.
        out_dir: Folder of the ablation.
        split: Photos to score; None: `test` if there are any, otherwise `val`.
        device: Device in torch's notation; None: a GPU if there is one.
        iterations: Number of iterations of each run, of all its stages. None: as the recipe says.
        quiet: Show no progress.
        log: Called with lines for the user.

    Raises:
        UpernetError: No level can be trained, or a run cannot; see `train`.
        KeyboardInterrupt, SystemExit: A run was stopped by SIGINT or SIGTERM.
    """
    folder = Path(out_dir)
    photos = photos_per_level(recipe, Path(data_dir))
    wanted = tuple(recipe.load_taxonomy().levels)
    left_out = tuple(level for level in wanted if level not in photos)
    chosen = subsets(tuple(photos))
    if not chosen:
        raise UpernetError(f"{data_dir}: no source of recipe {recipe.name} has photos to train on; check --data.")
    if left_out:
        log(f"Left out, as no source has photos for them: {', '.join(left_out)}.")
    known = _read(folder)
    done: dict[str, EvaluationResult] = {}
    runs: dict[str, str] = {}
    table = ""
    for name, levels in chosen.items():
        own = without_other_levels(recipe.model_copy(update={"levels": levels, "name": name.removeprefix("+")}))
        place, scored = folder / own.name, split or default_split(own.load_taxonomy(), own, data_dir)
        runs[name] = _identity(own, {level: photos[level] for level in levels}, iterations)
        finished = current_evaluation(place, scored) if known.get(name) == runs[name] else None
        if finished is not None:
            log(f"{name}: done before")
            done[name] = read_evaluation(finished)
        else:
            log(f"{name}: training {', '.join(levels)}")
            train(own, data_dir, place, device=device, iterations=iterations, quiet=quiet, log=log)
            done[name] = _score(own, Path(data_dir), place, scored, join_world(device))
        table = _write(folder, recipe, done, runs)
    rows = _rows(recipe, done)
    return Ablation(rows, left_out, table, folder)


def _identity(recipe: Recipe, photos: Mapping[str, int], iterations: int | None) -> str:
    """Return what the run of a subset depends on, as a hash."""
    values = [recipe.model_dump(mode="json"), photos, iterations]
    return blake2b(json.dumps(values, sort_keys=True).encode(), digest_size=16).hexdigest()


def _score(recipe: Recipe, data_dir: Path, run: Path, split: Split, world: World) -> EvaluationResult:
    """Score the model of a run; the main process writes the evaluation into the folder of the run."""
    try:
        result = evaluate(open_model(run), recipe, data_dir, split, world.device)
    finally:
        leave_world()
    if world.is_main:
        write_evaluation(evaluation_folder(run, split), result, f"Evaluation of {run / MODEL}")
    return result


def _rows(recipe: Recipe, done: Mapping[str, EvaluationResult]) -> dict[str, Row]:
    rows = {name: benchmark_row(result) for name, result in done.items()}
    return {**rows, PAPER: PUBLISHED} if is_benchmark(recipe.load_taxonomy()) else rows


def _write(folder: Path, recipe: Recipe, done: Mapping[str, EvaluationResult], runs: Mapping[str, str]) -> str:
    """Write the table and the scores of the subsets that are done, and return the table."""
    rows, last = _rows(recipe, done), [*done.values()][-1]
    table = benchmark_table(rows)
    about = {"recipe": recipe.name, "split": last.split, "photos": last.photos, "rows": rows, "runs": {**runs}}
    write_text(folder / SCORES, json.dumps(about, indent=2, allow_nan=False) + "\n")
    notes = f"\n{describe_scores(last)}\n" if PAPER in rows else ""
    write_text(folder / TABLE, table + notes)
    return table


def _read(folder: Path) -> dict[str, str]:
    """Return the identities of the runs of an earlier ablation in the folder."""
    try:
        values = json.loads(read_limited(folder / SCORES, LARGEST))
        return {str(name): str(run) for name, run in values["runs"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
