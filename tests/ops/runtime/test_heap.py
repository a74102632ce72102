"""Tests of upernet.ops.runtime.heap: freed memory stays in the process, and goes back to the system afterwards."""

from __future__ import annotations

import resource
import sys

import pytest
import torch

from upernet.ops.runtime.heap import kept_heap

NUMBERS = 2**24
"""Numbers of a tensor of 64 MiB, which malloc would map by itself."""


def faults() -> int:
    """Return how many pages the system has mapped for this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def faults_of_a_tensor() -> int:
    """Return how many pages are mapped for a tensor that fits where another one was."""
    torch.ones(NUMBERS)
    before = faults()
    torch.ones(NUMBERS - 2**16)
    return faults() - before


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GLIBC_TUNABLES", "MALLOC_ARENA_MAX"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="GNU's malloc")
def test_freed_memory_is_used_again_while_the_context_lasts():
    usual = faults_of_a_tensor()
    if usual < 16:
        pytest.skip("this malloc keeps its memory by itself, or maps huge pages")
    with kept_heap():
        assert faults_of_a_tensor() < usual / 4
    assert faults_of_a_tensor() > usual / 2


def test_settings_of_the_user_are_left_alone(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MALLOC_ARENA_MAX", "2")
    before = faults_of_a_tensor()
    with kept_heap():
        assert (faults_of_a_tensor() < 16) == (before < 16)
