"""Tests of upernet.training.state: the saved state of a run and its folder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from upernet.errors import UpernetError
from upernet.training.history import Validation
from upernet.training.optimizer import MovingAverage
from upernet.training.plan import Position
from upernet.training.run_folder import lock_folder
from upernet.training.state import FORMAT, Progress, SavedState, save_state

THIS = {
    "format": FORMAT,
    "photos": {"streets": 8},
    "recipe": {"sources": {"streets": {"held_back": 0.1}}},
    "initial": "None",
}


def test_a_state_restores_weights_moments_and_average(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3))
    optimizer, average = torch.optim.AdamW(model.parameters()), MovingAverage(model, 0.5)
    for _ in range(2):
        model(torch.randn(4, 2, 5, 5)).square().mean().backward()
        optimizer.step()
        average.update(model)
    progress = Progress(Position(1, 7), (9, 8), (9, 8), [Validation(9, "all", {"object.miou": 0.5})], 9, 1, "zoo")
    save_state(tmp_path / "state.safetensors", THIS, progress, model, optimizer, average)
    saved = SavedState(tmp_path / "state.safetensors")
    saved.check(THIS)
    other = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3))
    other_optimizer, other_average = torch.optim.AdamW(other.parameters()), MovingAverage(other, 0.5)
    saved.restore_model(other, other_average)
    saved.restore_optimizer(other, other_optimizer)
    assert saved.progress == progress and other_average.updates == 2
    for key, value in model.state_dict().items():
        assert torch.equal(other.state_dict()[key], value)
        assert torch.equal(other_average.state[key], average.state[key])
    for ours, theirs in zip(model.parameters(), other.parameters(), strict=True):
        for key, value in optimizer.state[ours].items():
            assert torch.equal(other_optimizer.state[theirs][key], value)


def test_the_state_of_another_run_is_refused(tmp_path: Path) -> None:
    path, model = tmp_path / "state.safetensors", nn.Linear(2, 2)
    save_state(path, THIS, Progress(Position(), (1,), (1,)), model, torch.optim.SGD(model.parameters()), None)
    with pytest.raises(UpernetError, match="another recipe, other data or another version"):
        SavedState(path).check(THIS | {"initial": "another"})
    other_photos = THIS | {"photos": {"streets": 9}}
    with pytest.raises(UpernetError, match="another recipe, other data"):
        SavedState(path).check(other_photos, finished=True)
    held_back = other_photos | {"recipe": {"sources": {"streets": {"held_back": 0.2}}}}
    SavedState(path).check(held_back, finished=True)
    with pytest.raises(UpernetError, match="another recipe, other data"):
        SavedState(path).check(held_back)
    save_state(
        path,
        THIS | {"format": 1},
        Progress(Position(), (1,), (1,)),
        model,
        torch.optim.SGD([*model.parameters()]),
        None,
    )
    with pytest.raises(UpernetError, match="another version"):
        SavedState(path)
    path.write_bytes(b"not safetensors")
    with pytest.raises(UpernetError, match="not the state of a training run; delete it"):
        SavedState(path)


def test_a_locked_folder_is_created_and_cleaned(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "one"
    with lock_folder(folder):
        (folder / ".state.safetensors").touch()
        (folder / ".curves-ab12.png").touch()
        with pytest.raises(UpernetError, match="another run is writing there"), lock_folder(folder):
            pass
    with lock_folder(folder):
        assert [path.name for path in folder.iterdir()] == [".lock"]
    (tmp_path / "file").touch()
    with pytest.raises(UpernetError, match="cannot be written"), lock_folder(tmp_path / "file" / "run"):
        pass
