"""Tests of upernet.training.ablation: interruptions, what is kept, and two ablations at once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import upernet
from upernet.errors import UpernetError
from upernet.overrides import override
from upernet.recipe import load_recipe
from upernet.training.run_folder import lock_folder


def subsets_in(folder: Path) -> list[str]:
    return [*json.loads((folder / "ablation.json").read_text())["rows"]]


class Interruption:
    """Log that raises KeyboardInterrupt at a line, as Ctrl-C would."""

    def __init__(self, start: str = "") -> None:
        self.start, self.lines = start, list[str]()

    def __call__(self, line: str) -> None:
        self.lines.append(line)
        if self.start and line.startswith(self.start):
            raise KeyboardInterrupt


@pytest.mark.slow
def test_an_interruption_loses_nothing_of_an_ablation(data, recipe_file, tmp_path) -> None:
    recipe, out = override(load_recipe(recipe_file()), ["levels=[object, texture]"]), tmp_path / "ablation"

    def run(start: str = "") -> list[str]:
        log = Interruption(start)
        if start:
            with pytest.raises(KeyboardInterrupt):
                upernet.ablate(recipe, data, out, device="cpu", quiet=True, log=log)
        else:
            upernet.ablate(recipe, data, out, device="cpu", quiet=True, log=log)
        return log.lines

    assert "+O: training object" in run("+O+T: training")
    assert subsets_in(out) == ["+O"]
    lines = run()
    assert "+O: done before" in lines and "+O+T: training object, texture" in lines
    assert subsets_in(out) == ["+O", "+O+T"]
    run("+O+T: done before")
    assert subsets_in(out) == ["+O", "+O+T"]
    assert [line for line in run() if line.startswith("+")] == ["+O: done before", "+O+T: done before"]


def test_two_ablations_do_not_share_a_folder(data, recipe_file, tmp_path) -> None:
    recipe, out = load_recipe(recipe_file()), tmp_path / "ablation"
    with lock_folder(out), pytest.raises(UpernetError, match="another run is writing there; wait for it, or give"):
        upernet.ablate(recipe, data, out, device="cpu", quiet=True, log=Interruption())
    assert {path.name for path in out.iterdir()} == {".lock"}
