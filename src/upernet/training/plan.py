"""The length of a run: how many iterations each stage has, and how that changes when a run goes on for longer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from upernet.errors import UpernetError


@dataclass(frozen=True)
class Position:
    """How far a run is: `iteration` iterations of stage number `stage` are done, and all of earlier stages."""

    stage: int = 0
    iteration: int = 0


def iterations_done(lengths: Sequence[int], position: Position) -> int:
    """Return the number of iterations of all stages that are done."""
    return sum(lengths[: position.stage]) + position.iteration


def scale_rest(lengths: Sequence[int], position: Position, total: int) -> tuple[int, ...]:
    """Return the lengths of the stages of a run of `total` iterations that is at `position`.

    What is done stays. The iterations that are left are scaled by one factor in all stages, each of which keeps at
    least one; if none are left, the last stage is lengthened.

    Args:
        lengths: Iterations of each stage so far.
        position: How far the run is.
        total: New number of iterations of all stages.

    Raises:
        UpernetError: More iterations are done, or a stage would have none.
    """
    done = iterations_done(lengths, position)
    rest = [*lengths[position.stage :]]
    rest[0] -= position.iteration
    unfinished = [index for index, length in enumerate(rest) if length] or [len(rest) - 1]
    added = total - done - len(unfinished)
    if total < done:
        raise UpernetError(f"--iterations {total}: the run has done {done} iterations already; ask for more.")
    if added < 0 and (total > done or any(rest)):
        raise UpernetError(f"--iterations {total}: each stage needs one; ask for at least {done + len(unfinished)}.")
    if added >= 0:
        # Each stage gets one iteration; the shares of the others, rounded cumulatively, add up to all of them.
        weights = [max(rest[index] - 1, 0) for index in unfinished]
        if not any(weights):
            weights = [1] * len(unfinished)
        whole = sum(weights)
        bounds = [(2 * added * sum(weights[:n]) + whole) // (2 * whole) for n in range(len(weights) + 1)]
        for index, low, high in zip(unfinished, bounds, bounds[1:], strict=False):
            rest[index] = 1 + high - low
    rest[0] += position.iteration
    return (*lengths[: position.stage], *rest)


def plan_lengths(
    lengths: Sequence[int],
    planned: Sequence[int],
    recipe: Sequence[int],
    position: Position,
    total: int | None,
    asked: int | None,
) -> tuple[int, ...]:
    """Return the lengths of the stages of a run that starts or goes on.

    Args:
        lengths: Iterations of each stage so far.
        planned: Those of the recipe when the run got these lengths.
        recipe: Those of the recipe now.
        position: How far the run is.
        total: Number of iterations of all stages that is asked for. None: that of the recipe, if it has changed, or as
            before.
        asked: The last `total` that was asked for; asking for it again changes nothing, even where stages have ended
            early since.

    Raises:
        UpernetError: `total` is too small, see `scale_rest`.
    """
    if len(recipe) != len(lengths):
        return tuple(recipe)  # another recipe, which is refused later
    if total is not None and total not in (asked, sum(lengths)):
        return scale_rest(lengths, position, total)
    if total is None and tuple(recipe) != tuple(planned):
        done, current = lengths[: position.stage], recipe[position.stage]
        return (*done, max(current, position.iteration), *recipe[position.stage + 1 :])
    return tuple(lengths)
