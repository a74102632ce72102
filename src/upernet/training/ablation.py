"""The ablation of Unified Perceptual Parsing: one model per subset of the tasks (arXiv 1807.10221, section 4)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from upernet.distributed import World, join_world, leave_world
from upernet.errors import UpernetError
from upernet.evaluation import EvaluationResult, default_split, evaluate
from upernet.evaluation.benchmark import Row, benchmark_rows, benchmark_table, describe_scores
from upernet.evaluation.finding import current_evaluation, evaluation_folder
from upernet.evaluation.folder import read_evaluation, write_evaluation
from upernet.evaluation.subject import open_model
from upernet.files import read_limited, write_text
from upernet.recipe import Recipe, Split, without_other_levels
from upernet.training.available import photos_per_level
from upernet.training.loop import train
from upernet.training.run_folder import MODEL, lock_folder

ORDER = ("object", "part", "scene", "material", "texture")
"""The levels in the order in which the paper adds them."""
TABLE, SCORES = "ablation.md", "ablation.json"
LARGEST = 2**24
"""Bytes of the largest `ablation.json`."""


@dataclass(frozen=True)
class Ablation:
    """The scores of the subsets.

    Attributes:
        rows: Subset (`+O`, `+O+P`, ...) -> the paper's metrics; the published row is the last one, if levels have the
            classes of Broden+.
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
    """Train a model for each of the paper's subsets of the levels, and score all of them on the same split.

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
        UpernetError: No level can be trained, a run cannot (see `train`), or another ablation is writing there.
        KeyboardInterrupt, SystemExit: A run was stopped by SIGINT or SIGTERM.
    """
    world = join_world(device)
    say: Callable[[str], None] = log if world.is_main else lambda line: None
    folder = Path(out_dir)
    photos = photos_per_level(recipe, Path(data_dir))
    wanted = tuple(recipe.load_taxonomy().levels)
    left_out = tuple(level for level in wanted if level not in photos)
    chosen = subsets(tuple(photos))
    if not chosen:
        raise UpernetError(f"{data_dir}: no source of recipe {recipe.name} has photos to train on; check --data.")
    if left_out:
        say(f"Left out, as no source has photos for them: {', '.join(left_out)}.")
    recipes = {
        name: without_other_levels(recipe.model_copy(update={"levels": levels, "name": name.removeprefix("+")}))
        for name, levels in chosen.items()
    }
    runs = {
        name: _identity(own, {level: photos[level] for level in chosen[name]}, iterations)
        for name, own in recipes.items()
    }
    with lock_folder(folder) if world.is_main else nullcontext():
        splits: dict[str, Split] = {
            name: split or default_split(own.load_taxonomy(), own, data_dir) for name, own in recipes.items()
        }
        done = _finished(folder, runs, splits)
        for name, own in recipes.items():
            if name in done:
                say(f"{name}: done before")
                continue
            say(f"{name}: training {', '.join(chosen[name])}")
            place = folder / own.name
            train(own, data_dir, place, device=device, iterations=iterations, quiet=quiet, log=log)
            done[name] = _score(own, Path(data_dir), place, splits[name], join_world(device))
            done = {name: done[name] for name in recipes if name in done}
            if world.is_main:
                _write(folder, recipe, done, runs)
    leave_world()
    rows = benchmark_rows(done, recipe)
    return Ablation(rows, left_out, benchmark_table(rows), folder)


def _finished(folder: Path, runs: Mapping[str, str], splits: Mapping[str, Split]) -> dict[str, EvaluationResult]:
    """Return the scores of the subsets whose runs, by their identities, an earlier ablation in the folder has done."""
    known = _read(folder)
    places = {
        name: current_evaluation(folder / name.removeprefix("+"), splits[name])
        for name, run in runs.items()
        if known.get(name) == run
    }
    return {name: read_evaluation(place) for name, place in places.items() if place is not None}


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


def _write(folder: Path, recipe: Recipe, done: Mapping[str, EvaluationResult], runs: Mapping[str, str]) -> None:
    """Write the table and the scores of the subsets that are done."""
    rows, last = benchmark_rows(done, recipe), [*done.values()][-1]
    identities = {name: runs[name] for name in done}
    about = {"recipe": recipe.name, "split": last.split, "photos": last.photos, "rows": rows, "runs": identities}
    write_text(folder / SCORES, json.dumps(about, indent=2, allow_nan=False) + "\n")
    write_text(folder / TABLE, f"{benchmark_table(rows)}\n{describe_scores(last, recipe)}\n")


def _read(folder: Path) -> dict[str, str]:
    """Return the identities of the runs of an earlier ablation in the folder."""
    try:
        values = json.loads(read_limited(folder / SCORES, LARGEST))
        return {str(name): str(run) for name, run in values["runs"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
