"""Choice of the device to compute on."""

from __future__ import annotations

import torch

from upernet.errors import UpernetError


def default_device() -> torch.device:
    """Return the CUDA device if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def usable_device(device: str | torch.device | None) -> torch.device:
    """Return `device` as a `torch.device` after allocating a tensor on it.

    Args:
        device: Device in torch's notation: "cpu", "cuda", "cuda:1", "mps"; None: that of `default_device`.

    Raises:
        UpernetError: The device does not exist, is unavailable, or computes nothing ("meta").
    """
    if device is None:
        return default_device()
    try:
        if torch.zeros(1, device=device).is_meta:
            raise RuntimeError("it computes nothing")
        return torch.device(device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise UpernetError(f"device {str(device)!r} cannot be used ({reason}); use 'cpu'.") from None
