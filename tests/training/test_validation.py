"""Tests of upernet.training.validation: scores during training, the best model, and early stopping."""

from __future__ import annotations

import csv
import json
import os
import signal
from pathlib import Path

import pytest
import torch
import yaml
from helpers.interrupts import interruptible
from safetensors.torch import load_file

from upernet.checkpoints import load_checkpoint
from upernet.errors import UpernetError
from upernet.evaluation import evaluate
from upernet.recipe import load_recipe
from upernet.training import train
from upernet.training.state import SavedState


@pytest.fixture
def validated(recipe_file, tmp_path):
    """Return a function that writes the tiny recipe with its test photos as `val`."""

    def write(validation=None, **training):
        sources = {
            name: source | {"splits": {"train": "train", "val": "test"}}
            for name, source in recipe_file.recipe["sources"].items()
        }
        settings = recipe_file.recipe["training"] | {"validation": {"every": 3, **(validation or {})}} | training
        path = tmp_path / "validated.yaml"
        path.write_text(yaml.safe_dump(recipe_file.recipe | {"sources": sources, "training": settings}))
        return load_recipe(path)

    return write


class StopAt:
    """A logger that stops the run as SIGTERM does, when it gets a value after an iteration."""

    def __init__(self, name, iteration):
        self.name, self.iteration = name, iteration

    def scalars(self, values, iteration):
        if iteration == self.iteration and self.name in values:
            os.kill(os.getpid(), signal.SIGTERM)

    def picture(self, name, picture, iteration):
        pass

    def close(self):
        pass


def losses(folder: Path) -> list[dict]:
    return [json.loads(line)["losses"] for line in (folder / "log.jsonl").read_text().splitlines()]


def validations(folder: Path):
    return SavedState(folder / "state.safetensors").progress.validations


def run(recipe, data, folder, **options) -> list[str]:
    lines: list[str] = []
    train(recipe, data, folder, device="cpu", quiet=True, log=lines.append, **options)
    return lines


@pytest.mark.slow
def test_scores_are_those_of_evaluate_and_training_does_not_notice(validated, data, tmp_path):
    recipe = validated()
    run(recipe, data, tmp_path / "run")
    run(validated().model_copy(update={"training": recipe.training.model_copy(update={"validation": None})}), data,
        tmp_path / "plain")  # fmt: skip
    assert losses(tmp_path / "run") == losses(tmp_path / "plain")
    found = validations(tmp_path / "run")
    assert [validation.iteration for validation in found] == [3, 6, 9, 10]
    assert [validation.stage for validation in found] == ["all", "all", "texture", "texture"]
    last, _ = load_checkpoint(tmp_path / "run" / "last.safetensors")
    assert found[-1].metrics["object.miou"] == evaluate(last, recipe, data, "val")["object"]["miou"]
    with (tmp_path / "run" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["iteration"] for row in rows] == ["3", "6", "9", "10"]
    assert float(rows[1]["object.miou"]) == pytest.approx(found[1].metrics["object.miou"], abs=1e-6)
    # Without validation, the result is the last model, and there is no other.
    assert not (tmp_path / "plain" / "last.safetensors").exists()
    plain, last_weights = (load_file(tmp_path / place) for place in ("plain/model.safetensors", "run/last.safetensors"))
    assert all(torch.equal(plain[key], value) for key, value in last_weights.items())


@pytest.mark.slow
def test_the_result_is_the_best_model(validated, data, tmp_path):
    """The second stage destroys what the first one learned."""
    stages = [
        {"name": "learn", "iterations": 30, "sources": ["streets"], "learning_rate": 0.01},
        {"name": "forget", "iterations": 10, "sources": ["places"], "learning_rate": 3.0, "optimizer": "sgd"},
    ]
    recipe = validated({"every": 10}, stages=stages, ema_decay=None, gradient_clipping=None)
    run(recipe, data, tmp_path / "run")
    found = {validation.iteration: validation.metrics["object.miou"] for validation in validations(tmp_path / "run")}
    progress = SavedState(tmp_path / "run" / "state.safetensors").progress
    assert progress.kept is not None and found[progress.kept] == max(found.values()) and progress.kept < 40
    for name, value in (("model", found[progress.kept]), ("last", found[40])):
        model, card = load_checkpoint(tmp_path / "run" / f"{name}.safetensors")
        assert evaluate(model, recipe, data, "val")["object"]["miou"] == value and card.name == "validated"
        assert card.scores.get("object", {}).get("miou") == (value if name == "model" else None)
        assert card.scored_on.endswith("(split val)") == (name == "model")


@pytest.mark.slow
def test_the_best_model_has_the_head_that_the_last_stage_trains(validated, data, tmp_path):
    """The texture stage leaves the score of objects as it is, and a model without it is not finished."""
    run(validated(ema_decay=None), data, tmp_path / "run")
    found = {validation.iteration: validation for validation in validations(tmp_path / "run")}
    assert found[9].stage == "texture" and found[9].metrics["object.miou"] == found[10].metrics["object.miou"]
    assert SavedState(tmp_path / "run" / "state.safetensors").progress.kept == 10
    best, last = (load_file(tmp_path / "run" / f"{name}.safetensors") for name in ("model", "last"))
    heads = [key for key in last if key.startswith("heads.texture.")]
    assert heads and all(torch.equal(best[key], last[key]) for key in heads)


@pytest.mark.slow
def test_a_stopped_run_knows_the_best_so_far(validated, data, tmp_path):
    """Stopped inside a validation too, which the resumed run repeats."""
    recipe = validated(checkpoint_every=100)

    run(recipe, data, tmp_path / "whole")
    for stop in (StopAt("learning_rate", 4), StopAt("validation/object.miou", 6), StopAt("learning_rate", 9)):
        with interruptible(), pytest.raises(SystemExit):
            run(recipe, data, tmp_path / "stopped", loggers=[stop])
    run(recipe, data, tmp_path / "stopped")
    assert losses(tmp_path / "whole") == losses(tmp_path / "stopped")
    whole, stopped = (SavedState(tmp_path / name / "state.safetensors") for name in ("whole", "stopped"))
    assert whole.progress == stopped.progress
    assert all(torch.equal(stopped.tensors[key], value) for key, value in whole.tensors.items())
    for name in ("model.safetensors", "last.safetensors"):
        first, second = (load_file(tmp_path / place / name) for place in ("whole", "stopped"))
        assert all(torch.equal(second[key], value) for key, value in first.items())


@pytest.mark.slow
def test_a_run_with_early_stopping_goes_on_as_if_it_had_not_been_stopped(validated, data, tmp_path):
    """Stopped before the validation that ends the first stage early, and started with --iterations each time."""
    stages = [
        {"name": name, "iterations": 20, "sources": ["streets"], "learning_rate": 1e-12, "freeze_norm": "all"}
        for name in ("one", "two")
    ]
    recipe = validated({"every": 2, "patience": 2}, stages=stages, ema_decay=None, checkpoint_every=100)
    run(recipe, data, tmp_path / "whole", iterations=60)
    for iteration in (6, 7):
        with interruptible(), pytest.raises(SystemExit):
            run(recipe, data, tmp_path / "stopped", iterations=60, loggers=[StopAt("learning_rate", iteration)])
    lines = run(recipe, data, tmp_path / "stopped", iterations=60)
    assert lines[0] == "Going on after iteration 7 of 36 (stage two)."
    assert losses(tmp_path / "whole") == losses(tmp_path / "stopped")
    again = run(recipe, data, tmp_path / "stopped", iterations=60)
    assert again[0].startswith("The run has done its 10 iterations") and again[1].startswith("Wrote")
    assert len(losses(tmp_path / "stopped")) == 10


@pytest.mark.slow
def test_a_stage_ends_early_and_the_run_can_go_on(validated, data, tmp_path):
    """A learning rate of almost zero: no validation is better than the first one."""
    stages = [
        {"name": name, "iterations": 20, "sources": ["streets"], "learning_rate": 1e-12, "freeze_norm": "all"}
        for name in ("one", "two")
    ]
    recipe = validated({"every": 2, "patience": 2}, stages=stages, ema_decay=None)
    lines = run(recipe, data, tmp_path / "run")
    early = [line for line in lines if "ends after iteration" in line]
    assert early[0].startswith("Stage one ends after iteration 6: 2 validations in a row were no better")
    assert early[1].startswith("Stage two ends after iteration 10")
    assert len(losses(tmp_path / "run")) == 10
    assert run(recipe, data, tmp_path / "run")[0].startswith("The run has done its 10 iterations")
    run(recipe, data, tmp_path / "run", iterations=12)
    assert len(losses(tmp_path / "run")) == 12


@pytest.mark.slow
def test_photos_that_are_held_back_are_scored_where_there_are_no_others(recipe_file, data, tmp_path):
    sources = {name: source | {"held_back": 0.4} for name, source in recipe_file.recipe["sources"].items()}
    (tmp_path / "held.yaml").write_text(yaml.safe_dump(recipe_file.recipe | {"sources": sources}))
    run(load_recipe(tmp_path / "held.yaml"), data, tmp_path / "run")
    assert [validation.iteration for validation in validations(tmp_path / "run")] == list(range(1, 11))
    assert set(validations(tmp_path / "run")[0].metrics) >= {"object.miou", "scene.top1", "texture.top1"}


@pytest.mark.slow
def test_mistakes_are_found_before_training(validated, recipe_file, data, tmp_path):
    for validation, message in (
        ({"metric": "object.iou"}, "is not LEVEL.METRIC with a metric among miou"),
        ({"metric": "part.miou"}, "no photo of split val is annotated at level part"),
        ({"metric": "sound.miou"}, "sound"),
        ({"split": "held_back"}, "no source has photos of split held_back"),
    ):
        with pytest.raises(UpernetError, match=message):
            run(validated(validation), data, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_finished_run_goes_on_for_longer(validated, data, tmp_path):
    recipe = validated({"every": 5})
    run(recipe, data, tmp_path / "run")
    before = losses(tmp_path / "run")
    lines = run(recipe, data, tmp_path / "run", iterations=14)
    assert lines[0] == "Going on after iteration 10 of 14 (stage texture)."
    assert losses(tmp_path / "run")[:10] == before and len(losses(tmp_path / "run")) == 14
    with pytest.raises(UpernetError, match="has done 14 iterations already"):
        run(recipe, data, tmp_path / "run", iterations=12)
    # A recipe with longer stages is the same run, too: its last stage has 7 iterations now, which are done.
    longer = recipe.training.model_copy(
        update={"stages": tuple(stage.model_copy(update={"iterations": 9}) for stage in recipe.training.stages)}
    )
    run(recipe.model_copy(update={"training": longer}), data, tmp_path / "run")
    assert len(losses(tmp_path / "run")) == 16
