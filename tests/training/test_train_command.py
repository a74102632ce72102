"""Tests of upernet.cli.train and upernet.training.quick: `upernet train` with its options."""

from __future__ import annotations

import pytest
from helpers.command_line import Run

from upernet.recipe import list_recipes, load_recipe
from upernet.training.quick import quick_recipe
from upernet.training.run_folder import OWN_FILES


@pytest.mark.parametrize("name", list_recipes())
def test_every_recipe_can_be_tried_quickly(name: str) -> None:
    recipe = load_recipe(name)
    quick = quick_recipe(recipe)
    if recipe.training is None or quick.training is None:
        assert quick == recipe
        return
    assert len(quick.training.stages) == len(recipe.training.stages)
    assert all(stage.iterations <= 6 for stage in quick.training.stages)
    assert quick.model == recipe.model and set(quick.sources) == set(recipe.sources)


@pytest.mark.slow
def test_quick_writes_every_file_into_its_own_folder(recipe_file, data, tmp_path, monkeypatch, run: Run) -> None:
    monkeypatch.chdir(tmp_path)
    path = recipe_file()
    arguments = ("train", path, "--data", data, "--quick", "--device", "cpu", "--threads", 1, "--quiet")
    splits = "--set", "sources.streets.splits={train: train, val: test}"
    for _ in range(2):  # the second one starts over
        result = run(*arguments, *splits)
        assert result.status == 0, result.stderr
        assert "Wrote runs/tiny-quick/model.safetensors" in result.stdout and "Going on" not in result.stdout
    assert {path.name for path in (tmp_path / "runs" / "tiny-quick").iterdir()} >= set(OWN_FILES)


@pytest.mark.slow
def test_options_of_the_command(recipe_file, data, tmp_path, run: Run) -> None:
    command = ("train", recipe_file(), "--data", data, "--device", "cpu", "--out", tmp_path / "run", "--quiet")
    assert run(*command, "--set", "training.stages.0.lr=1").status == 2
    result = run(*command, "--set", "training.stages.0.learning_rate=0.5", "--iterations", 4)
    assert result.status == 0 and (tmp_path / "run" / "log.jsonl").read_text().count("\n") == 4
    assert '"learning_rate": 0.5' in (tmp_path / "run" / "log.jsonl").read_text()
    assert "holds a run of another recipe" in run(*command).stderr
    result = run(*command, "--logger", "nonsense")
    assert result.status == 2 and "unknown logger 'nonsense'" in result.stderr
