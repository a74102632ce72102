"""Tests of `upernet.devices`."""

from __future__ import annotations

import pytest
import torch

from upernet.devices import default_device, usable_device
from upernet.distributed import join_world
from upernet.errors import UpernetError


def test_a_usable_device_is_returned() -> None:
    assert usable_device("cpu") == usable_device(torch.device("cpu")) == torch.device("cpu")


@pytest.mark.parametrize("device", ["quantum", "cuda:99", "meta"])
def test_an_unusable_device_is_refused(device: str) -> None:
    for choose in (usable_device, join_world):
        with pytest.raises(UpernetError, match=f"device '{device}' cannot be used .*; use 'cpu'"):
            choose(device)


def test_the_default_is_a_gpu_if_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for available, expected in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda available=available: available)
        assert default_device() == torch.device(expected)
