"""Tests of upernet.ops.runtime.heap: freed memory stays in the process, and goes back to the system afterwards."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import pytest
import torch

from upernet.ops.runtime.heap import HeapTrimmer, kept_heap

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


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="GNU's malloc")
def test_a_heap_that_has_grown_is_trimmed():
    """Small blocks between large ones keep the end of the heap in use, as answers do in a server."""
    large, small = 2**20, []
    trim = HeapTrimmer(growth=64 * large)
    before, blocks = resident(), []
    with kept_heap():  # so that malloc maps none of the blocks by itself
        for _ in range(128):
            blocks.append(torch.ones(large, dtype=torch.uint8))
            small.append(torch.ones(64))
        blocks.clear()
        assert resident() > before + 100 * large, "malloc has returned the blocks by itself"
        trim()
        assert resident() < before + 64 * large
        again = [torch.ones(large, dtype=torch.uint8) for _ in range(32)]
        trim()
        assert resident() > before + 16 * large, "less than the growth stays"
        del again
