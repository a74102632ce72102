"""Tests of upernet.ops.runtime.heap: freed memory stays in the process, and goes back to the system afterwards."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest
import torch

from upernet.ops.runtime import heap
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
    monkeypatch.setattr(heap._Settings, "outside", heap.USUAL)  # other tests have prepared networks
    with kept_heap():
        pass


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


PARTLY_KEPT = """
import ctypes, resource
from pathlib import Path
import torch
from upernet.models import prepare_for_inference
from upernet.ops import release_memory
from upernet.ops.runtime.heap import kept_heap

library = ctypes.CDLL(None)
library.malloc.restype = ctypes.c_void_p

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() // 2**20

def resident_after_freeing(count, size):
    blocks = [library.malloc(ctypes.c_size_t(size)) for _ in range(count)]
    for block in blocks:
        ctypes.memset(block, 1, size)
    for block in reversed(blocks):
        library.free(ctypes.c_void_p(block))
    return resident()

prepare_for_inference(torch.nn.Conv2d(1, 1, 1))
with kept_heap():
    pass
before = resident()
print(resident_after_freeing(1, 2**26) - before, resident_after_freeing(12, 2**24) - before)
release_memory()
print(resident() - before)
"""


@pytest.mark.process
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="GNU's malloc")
def test_part_of_the_heap_is_kept_for_inference():
    done = subprocess.run([sys.executable, "-c", PARTLY_KEPT], capture_output=True, text=True, check=True)
    large, small, released = map(int, done.stdout.split())
    assert large < 32, "64 MiB of a single block go back at once"
    assert small > 160, "192 MiB of small ones stay"
    assert released < 32, "until memory is released"


GROWN = """
import resource
from pathlib import Path
import torch
from upernet.ops.runtime.heap import HeapTrimmer, kept_heap

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() // 2**20

trim, blocks, small = HeapTrimmer(growth=64 * 2**20), [], []
print(resident())
with kept_heap():  # so that malloc maps none of the blocks by itself
    for _ in range(128):
        blocks.append(torch.ones(2**20, dtype=torch.uint8))
        small.append(torch.ones(64))
    blocks.clear()
    print(resident())
    trim()
    print(resident())
    again = [torch.ones(2**20, dtype=torch.uint8) for _ in range(32)]
    trim()
    print(resident())
"""


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="GNU's malloc")
def test_a_heap_that_has_grown_is_trimmed():
    """Small blocks between large ones keep the end of the heap in use, as answers do in a server.

    It runs in a process of its own: one that has free memory already does not grow.
    """
    done = subprocess.run([sys.executable, "-c", GROWN], capture_output=True, text=True, check=True)
    before, grown, trimmed, again = map(int, done.stdout.split())
    assert grown > before + 100, "malloc has returned the blocks by itself"
    assert trimmed < before + 64
    assert again > trimmed + 16, "what has grown by less stays"
