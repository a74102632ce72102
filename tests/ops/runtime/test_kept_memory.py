"""Tests of upernet.ops.runtime.memory: whose buffers are whose, how much is kept, and that it can be released."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F

from upernet.ops import release_memory, upsample_conv3x3
from upernet.ops.conv3x3 import packed_weights
from upernet.ops.conv3x3.packed_weights import PackedWeights
from upernet.ops.runtime import memory
from upernet.ops.runtime.memory import ScratchBuffer, empty, kept_bytes


@pytest.fixture(autouse=True)
def _nothing_kept() -> None:
    release_memory()


def test_two_owners_never_share_a_buffer() -> None:
    first, second = ScratchBuffer(), ScratchBuffer()
    a, b = first((8,), torch.float32), second((8,), torch.float32)
    a.fill_(1)
    b.fill_(2)
    assert a.eq(1).all() and b.eq(2).all()


def test_an_owner_gets_its_memory_again() -> None:
    owner = ScratchBuffer()
    a = owner((4, 5), torch.float32)
    assert owner((3, 2), torch.float32).data_ptr() == a.data_ptr()
    assert owner((20,), torch.float64).data_ptr() != a.data_ptr()
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(owner, (4, 5), torch.float32).result().data_ptr() != a.data_ptr()


def test_the_buffers_of_many_threads_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "MAX_SCRATCH_BYTES", 10_000)
    owner, ready = ScratchBuffer(), threading.Barrier(40)

    def use(number: int) -> bool:
        ready.wait()
        buffer = owner((250,), torch.float32)  # 1000 bytes
        buffer.fill_(number)
        ready.wait()
        return bool(buffer.eq(number).all())

    with ThreadPoolExecutor(40) as pool:
        assert all(pool.map(use, range(40)))
    assert 0 < kept_bytes() <= 10_000


def test_large_buffers_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "MAX_BUFFER_BYTES", 100)
    ScratchBuffer()((26,), torch.float32)
    assert kept_bytes() == 0


def test_nothing_is_kept_after_a_release() -> None:
    owner = ScratchBuffer()
    buffer = owner((1000,), torch.float32).fill_(3)
    large = empty(1200, 1000, dtype=torch.float32).fill_(4)
    part = large[:2]
    del large
    weight = torch.randn(16, 16, 3, 3)
    PackedWeights(weight).taps(range(16))
    assert kept_bytes() == 4000 and len(packed_weights._cache) >= 1
    release_memory()
    assert kept_bytes() == 0 and len(packed_weights._cache) == 0
    assert buffer.eq(3).all() and part.eq(4).all()
    del part
    assert kept_bytes() >= 4_800_000, "memory that became free after the release is kept until the next one"
    release_memory()
    assert kept_bytes() == 0


def test_results_are_right_while_another_thread_releases_memory() -> None:
    torch.manual_seed(0)
    maps = [torch.randn(1, 64, 40, 40), torch.randn(1, 64, 10, 10)]
    weight = torch.randn(64, 128, 3, 3)
    resized = torch.cat([maps[0], F.interpolate(maps[1], size=(40, 40), mode="bilinear")], dim=1)
    expected = F.conv2d(resized, weight, padding=1)
    done = threading.Event()

    def release() -> None:
        while not done.is_set():
            release_memory()

    with ThreadPoolExecutor(1) as pool, torch.no_grad():
        releasing = pool.submit(release)
        try:
            for _ in range(30):
                torch.testing.assert_close(upsample_conv3x3(maps, weight), expected, rtol=1e-4, atol=1e-3)
        finally:
            done.set()
        releasing.result()
