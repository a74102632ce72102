"""Tests of upernet.training.result: thresholds that are calibrated after training, and again."""

from __future__ import annotations

import pytest
import yaml

from upernet.checkpoints import load_checkpoint
from upernet.errors import UpernetError
from upernet.recipe import load_recipe
from upernet.training import train


@pytest.fixture
def calibrated(recipe_file, tmp_path):
    """Return a function that writes the tiny recipe with target precisions."""

    def write(held_back: float, **targets):
        sources = {name: source | {"held_back": held_back} for name, source in recipe_file.recipe["sources"].items()}
        content = recipe_file.recipe | {"sources": sources, "calibration": {"target_precision": targets}}
        (tmp_path / "calibrated.yaml").write_text(yaml.safe_dump(content))
        return load_recipe(tmp_path / "calibrated.yaml")

    return write


def run(recipe, data, folder):
    return train(recipe, data, folder, device="cpu", quiet=True, log=lambda line: None)


@pytest.mark.slow
def test_target_precisions_without_held_back_photos_are_refused_before_training(calibrated, data, tmp_path):
    with pytest.raises(UpernetError, match=r"target_precision\.object: no source holds photos back"):
        run(calibrated(0.0, object=0.5), data, tmp_path / "run")
    with pytest.raises(UpernetError, match=r"target_precision\.part"):
        run(calibrated(0.4, part=0.5), data, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_finished_run_is_calibrated_again(calibrated, data, tmp_path):
    path = run(calibrated(0.4), data, tmp_path / "run")
    model, card = load_checkpoint(path)
    assert card.thresholds == {}
    run(calibrated(0.4, object=0.5), data, tmp_path / "run")
    again, card = load_checkpoint(path)
    assert set(card.thresholds) == {"object"}
    for key, value in model.state_dict().items():
        assert value.equal(again.state_dict()[key])


@pytest.mark.slow
def test_photos_can_be_held_back_after_training(calibrated, data, tmp_path):
    """For the thresholds of a run that held none back; an unfinished run is another one with other photos."""
    path = run(calibrated(0.0), data, tmp_path / "run")
    run(calibrated(0.4, object=0.5), data, tmp_path / "run")
    assert set(load_checkpoint(path)[1].thresholds) == {"object"}


@pytest.mark.slow
def test_a_model_outlives_a_calibration_that_fails(calibrated, data, tmp_path):
    recipe = calibrated(0.4, object=0.5)
    photo = next(
        photo
        for photo in sorted((data / "streets" / "train" / "images").iterdir())
        if not _is_trained(recipe, data, photo.stem)
    )
    content = photo.read_bytes()
    recipe = recipe.model_copy(update={"training": recipe.training.model_copy(update={"validation": None})})
    photo.write_bytes(content[:100])
    with pytest.raises(UpernetError, match=photo.name):
        run(recipe, data, tmp_path / "run")
    assert load_checkpoint(tmp_path / "run" / "model.safetensors")[1].thresholds == {}
    photo.write_bytes(content)
    assert load_checkpoint(run(recipe, data, tmp_path / "run"))[1].thresholds.keys() == {"object"}


def _is_trained(recipe, data, stem: str) -> bool:
    from upernet.data.sources import open_source
    from upernet.taxonomy import load_taxonomy

    source = open_source("streets", recipe.sources["streets"], load_taxonomy(recipe.taxonomy), data, "train")
    return stem in {photo.path.stem for photo in source.photos}
