"""Initialization of parameters."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn


def initialize(network: nn.Module, initialize_one: Callable[[nn.Module], None]) -> None:
    """Call `network.apply(initialize_one)` unless the network is on the meta device.

    A network on the meta device has no values, and torch would import its compiler, which takes a second, to draw them.
    """
    if not any(parameter.is_meta for parameter in network.parameters()):
        network.apply(initialize_one)
