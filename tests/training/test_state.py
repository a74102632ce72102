"""Tests of upernet.training.state: the saved state of a run and its folder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from upernet.errors import UpernetError
from upernet.training.optimizer import MovingAverage
from upernet.training.state import Position, SavedState, lock_folder, save_state


def test_a_state_restores_weights_moments_and_average(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3))
    optimizer, average = torch.optim.AdamW(model.parameters()), MovingAverage(model, 0.5)
    for _ in range(2):
        model(torch.randn(4, 2, 5, 5)).square().mean().backward()
        optimizer.step()
        average.update(model)
    save_state(tmp_path / "state.safetensors", "this run", Position(1, 7), model, optimizer, average)
    saved = SavedState(tmp_path / "state.safetensors", "this run")
    other = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3))
    other_optimizer, other_average = torch.optim.AdamW(other.parameters()), MovingAverage(other, 0.5)
    saved.restore_model(other, other_average)
    saved.restore_optimizer(other, other_optimizer)
    assert saved.position == Position(1, 7) and other_average.updates == 2
    for key, value in model.state_dict().items():
        assert torch.equal(other.state_dict()[key], value)
        assert torch.equal(other_average.state[key], average.state[key])
    for ours, theirs in zip(model.parameters(), other.parameters(), strict=True):
        for key, value in optimizer.state[ours].items():
            assert torch.equal(other_optimizer.state[theirs][key], value)


def test_the_state_of_another_run_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    save_state(path, "this run", Position(), nn.Linear(2, 2), None, None)
    with pytest.raises(UpernetError, match="another recipe, other data or another version"):
        SavedState(path, "another run")
    path.write_bytes(b"not safetensors")
    with pytest.raises(UpernetError, match="not the state of a training run; delete it"):
        SavedState(path, "this run")


def test_a_locked_folder_is_created_and_cleaned(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "one"
    with lock_folder(folder):
        (folder / ".state.safetensors").touch()
        with pytest.raises(UpernetError, match="another run is writing there"), lock_folder(folder):
            pass
    with lock_folder(folder):
        assert not (folder / ".state.safetensors").exists()
    (tmp_path / "file").touch()
    with pytest.raises(UpernetError, match="cannot be written"), lock_folder(tmp_path / "file" / "run"):
        pass
