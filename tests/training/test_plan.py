"""Tests of upernet.training.plan: the length of a run, and how it changes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upernet.errors import UpernetError
from upernet.training.plan import Position, iterations_done, plan_lengths, scale_rest


@st.composite
def runs(draw: st.DrawFn) -> tuple[tuple[int, ...], Position]:
    lengths = tuple(draw(st.lists(st.integers(1, 2000), min_size=1, max_size=4)))
    stage = draw(st.integers(0, len(lengths) - 1))
    return lengths, Position(stage, draw(st.integers(0, lengths[stage])))


@given(runs(), st.integers(0, 10_000))
def test_what_is_done_stays_and_the_total_is_the_one_asked_for(
    run: tuple[tuple[int, ...], Position], more: int
) -> None:
    lengths, position = run
    done = iterations_done(lengths, position)
    unfinished = sum(position.iteration < lengths[position.stage] if n == position.stage else n > position.stage
                     for n in range(len(lengths)))  # fmt: skip
    if more < unfinished:
        with pytest.raises(UpernetError, match="each stage needs one"):
            scale_rest(lengths, position, done + more)
        return
    new = scale_rest(lengths, position, done + more)
    assert sum(new) == done + more and new[: position.stage] == lengths[: position.stage]
    assert new[position.stage] >= position.iteration and all(length >= 1 for length in new[position.stage + 1 :])


@given(runs())
def test_the_same_total_changes_nothing(run: tuple[tuple[int, ...], Position]) -> None:
    lengths, position = run
    assert scale_rest(lengths, position, sum(lengths)) == lengths


def test_examples() -> None:
    assert scale_rest((1100, 450), Position(), 155) == (110, 45)
    assert scale_rest((1100, 450), Position(1, 450), 3000) == (1100, 1900)  # finished: the last stage goes on
    assert scale_rest((1100, 450), Position(0, 100), 300) == (238, 62)
    with pytest.raises(UpernetError, match="has done 1200 iterations already"):
        scale_rest((1100, 450), Position(1, 100), 1000)


def test_the_same_number_again_does_not_lengthen_a_stage_that_ended_early() -> None:
    recipe, lengths = (40, 20), (15, 33)  # of 100 iterations, the first stage ended after 15
    at = Position(1, 10)
    assert plan_lengths(lengths, recipe, recipe, at, total=100, asked=100) == lengths
    assert sum(plan_lengths(lengths, recipe, recipe, at, total=120, asked=100)) == 120
    assert sum(plan_lengths(lengths, recipe, recipe, at, total=100, asked=None)) == 100
