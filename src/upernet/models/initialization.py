"""First values of parameters."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn


def initialize(network: nn.Module, initialize_one: Callable[[nn.Module], None]) -> None:
    """`network.apply(initialize_one)`, but not on the meta device.

    There are no values there, and torch imports its compiler, which takes a second, to draw none.
    """
    if not any(parameter.is_meta for parameter in network.parameters()):
        network.apply(initialize_one)
