"""Tests of upernet.ops.runtime.openmp: threads that compute alone."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import torch

from upernet.ops.runtime.openmp import compute_alone, computes_alone, openmp


def test_a_thread_computes_alone_and_the_others_as_before() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with ThreadPoolExecutor(1, initializer=compute_alone) as alone, ThreadPoolExecutor(1) as other:
            assert alone.submit(torch.get_num_threads).result() == (3 if openmp() is None else 1)
            assert alone.submit(computes_alone).result()
            assert other.submit(torch.get_num_threads).result() == torch.get_num_threads() == 3
            assert not computes_alone() and not other.submit(computes_alone).result()
    finally:
        torch.set_num_threads(before)
