"""Tests of upernet.evaluation.familiarity and upernet.models.familiarity."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.color_checkpoint import color_model
from helpers.color_network import recipe, save
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from upernet.checkpoints import load_checkpoint, save_checkpoint
from upernet.checkpoints.reading import read_weights
from upernet.errors import UpernetError
from upernet.evaluation import fit_familiarity
from upernet.evaluation.calibration import check_calibration
from upernet.evaluation.familiarity import fit
from upernet.inference import Parser
from upernet.models import UPerNet
from upernet.models.familiarity import FAMILIARITY
from upernet.recipe import CalibrationSpec, Recipe


def source(name: str, **options: Any) -> dict[str, Any]:
    return {"kind": "label_folder", "path": name, "level": "scene", "held_back": 0.4} | options


def familiar(*names: str, **sources: Any) -> Recipe:
    return recipe(**sources).model_copy(update={"calibration": CalibrationSpec(familiar=names)})


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write photos of two sources: dark ones and bright ones, with some noise."""
    folder, random = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for name, brightness in (("dark", 60), ("bright", 180)):
        for number in range(40):
            noise = random.normal(0, 12, (32, 32, 3)) + random.normal(0, 12, 3)
            save(folder / name / "beach" / f"{number}.png", (brightness + noise).clip(0, 255).astype(np.uint8))
    return folder


@pytest.fixture(scope="module")
def model(data: Path) -> UPerNet:
    found = color_model()
    fit_familiarity(found, familiar("dark", "bright", dark=source("dark"), bright=source("bright")), data)
    return found


def flat(value: int) -> np.ndarray:
    random = np.random.default_rng(value)
    return (value + random.normal(0, 12, (32, 32, 3))).clip(0, 255).astype(np.uint8)


def test_photos_like_those_of_any_source_are_familiar(model: UPerNet) -> None:
    parser = Parser(model)
    for value in (60, 180):
        parse = parser(flat(value))
        assert parse.familiarity is not None and parse.familiarity > 0.05 and parse.is_familiar
        assert "unlike" not in parse.describe()


@pytest.mark.parametrize("picture", [flat(0), np.tile(np.array([[0, 255]], np.uint8)[..., None], (32, 16, 3))])
def test_other_pictures_are_not(model: UPerNet, picture: np.ndarray) -> None:
    parse = Parser(model)(picture)
    assert parse.familiarity == 0 and parse.is_familiar is False
    assert parse.describe().splitlines()[1] == "This photo is unlike the training photos, so expect mistakes."
    assert parse.to_dict()["familiarity"] == 0


def test_the_familiarity_is_the_same_with_all_levels_and_with_one(model: UPerNet) -> None:
    parser, photo = Parser(model), flat(60)
    values = {parser(photo, levels).familiarity for levels in (None, ["scene"], ["object"])}
    assert len(values) == 1


def test_without_statistics_it_is_not_known() -> None:
    model = color_model()
    parse = Parser(model)(flat(60))
    assert parse.familiarity is None and parse.is_familiar is None and parse.to_dict()["familiarity"] is None
    with pytest.raises(UpernetError, match="no level 'familiarity'"):
        model(torch.zeros(1, 3, 32, 32), [FAMILIARITY])


@pytest.mark.parametrize("half", [False, True])
def test_it_survives_the_file(model: UPerNet, tmp_path: Path, half: bool) -> None:
    save_checkpoint(tmp_path / "m.safetensors", model, {}, half=half)
    loaded, _ = load_checkpoint(tmp_path / "m.safetensors")
    for value in (0, 50, 60, 180, 200):
        assert Parser(loaded)(flat(value)).familiarity == pytest.approx(Parser(model)(flat(value)).familiarity, abs=0.1)


def test_a_file_with_other_sizes_is_refused(model: UPerNet, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "m.safetensors", model, {})
    metadata = {"upernet": str(read_weights(tmp_path / "m.safetensors").metadata["upernet"])}
    tensors = load_file(tmp_path / "m.safetensors")
    for key, shape in (("scale", (3,)), ("centers", ()), ("projection", (3, 2)), ("distances", (2, 2))):
        wrong = tensors | {f"{FAMILIARITY}.{key}": torch.zeros(shape)}
        save_file(wrong, tmp_path / "wrong.safetensors", metadata=metadata)
        with pytest.raises(UpernetError, match=f"(?s)do not fit.*{FAMILIARITY}"):
            load_checkpoint(tmp_path / "wrong.safetensors")


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 5), st.integers(2, 12), st.integers(0, 2**20))
def test_the_distances_are_those_of_held_back_photos(sources: int, photos: int, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    train, held_back = (
        [torch.randn(photos, 6, generator=random) * (index + 1) for index in range(sources)] for _ in range(2)
    )
    fitted = fit(train, held_back)
    distances = fitted.distance(torch.cat(held_back))
    assert torch.isfinite(distances).all() and (fitted.distances.diff() >= 0).all()
    # All sources have as many photos, so that the distances that are kept are those of all photos.
    assert fitted.distances.tolist() == pytest.approx(distances.sort().values.tolist(), rel=1e-4, abs=1e-3)


def test_mistakes_are_explained(data: Path) -> None:
    model = color_model()
    for names, sources, message in (
        (("bright",), {"dark": source("dark")}, "no photos of a source 'bright'; name some of dark"),
        (("dark",), {"dark": source("dark", splits={"test": "."}, held_back=0)}, "source dark has no training photos"),
    ):
        with pytest.raises(UpernetError, match=f"calibration.familiar: .*{message}"):
            check_calibration(model.taxonomy, familiar(*names, **sources))
    with pytest.raises(UpernetError, match="none of the sources holds photos back"):
        fit_familiarity(model, familiar("dark", dark=source("dark", held_back=0)), data)
    with pytest.raises(UpernetError, match=r"calibration\.familiar: .*no such folder"):
        fit_familiarity(model, familiar("grey", grey=source("grey")), data)
