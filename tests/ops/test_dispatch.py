"""Tests of upernet.ops.dispatch and of how registration.py keeps its overrides for the backward pass."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from upernet.ops import choose_dcnv3, dcnv3, linear, recorded_decisions, use_kernel


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    x, mask = torch.randn(1, 4, 5, 16, requires_grad=True), torch.rand(1, 4, 5, 9)
    return x, torch.randn(1, 4, 5, 18), mask


def test_an_override_does_not_reach_other_threads() -> None:
    x, *_ = inputs()
    with ThreadPoolExecutor(1) as pool, use_kernel(dcnv3="torch"):
        assert choose_dcnv3(x).kernel == "torch"
        assert pool.submit(choose_dcnv3, x).result().kernel == "numba"


def test_blocks_in_two_threads_do_not_disturb_each_other() -> None:
    x, *_ = inputs()
    with ThreadPoolExecutor(1) as pool:
        block = use_kernel(dcnv3="embedding_bag")
        pool.submit(block.__enter__).result()
        with use_kernel(dcnv3="torch"):
            assert pool.submit(choose_dcnv3, x).result().kernel == "embedding_bag"
            pool.submit(block.__exit__, None, None, None).result()
            assert choose_dcnv3(x).kernel == "torch"
        assert pool.submit(choose_dcnv3, x).result().kernel == choose_dcnv3(x).kernel == "numba"


def test_decisions_of_other_threads_are_not_recorded() -> None:
    with recorded_decisions() as outer, ThreadPoolExecutor(1) as pool:
        pool.submit(dcnv3, *inputs()).result()
        assert outer == []
        with recorded_decisions() as inner:
            dcnv3(*inputs())
    assert [decision.operator for decision in inner] == [decision.operator for decision in outer] == ["dcnv3"]


@pytest.mark.parametrize("in_another_thread", [False, True])
def test_the_backward_pass_uses_the_kernels_of_the_forward_pass(in_another_thread: bool) -> None:
    x, offset, mask = inputs()
    with use_kernel(dcnv3="torch"):
        y = dcnv3(x, offset, mask)

    def backward() -> list[tuple[str, str]]:
        with recorded_decisions() as decisions:
            y.sum().backward()
        return [(decision.operator, decision.kernel) for decision in decisions]

    if in_another_thread:
        with ThreadPoolExecutor(1) as pool:
            found = pool.submit(backward).result()
    else:
        found = backward()
    assert found == [("dcnv3_backward", "torch")]


def test_a_block_around_the_backward_pass_counts_for_graphs_made_outside() -> None:
    x, offset, mask = inputs()
    y = dcnv3(x, offset, mask)
    with use_kernel(dcnv3="torch"), recorded_decisions() as decisions:
        y.sum().backward()
    assert [decision.kernel for decision in decisions] == ["torch"]


def test_an_error_ends_the_block() -> None:
    x, *_ = inputs()
    with pytest.raises(ZeroDivisionError), use_kernel(dcnv3="torch"):
        raise ZeroDivisionError
    assert choose_dcnv3(x).kernel == "numba"


def test_overrides_are_seen_by_compiled_code() -> None:
    weight = torch.randn(16, 8)
    x = torch.randn(3, 8)
    with use_kernel(linear="other"), pytest.raises(Exception, match="linear has no kernel other"):
        torch.compile(linear, backend="eager", fullgraph=True)(x, weight)
    torch.compiler.reset()


def test_operators_that_do_not_exist_are_refused():
    with pytest.raises(ValueError, match="no operator conv3x3; they are dcnv3"), use_kernel(conv3x3="torch"):
        pass
