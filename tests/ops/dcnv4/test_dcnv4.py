"""Tests of upernet.ops.dcnv4: every CPU kernel against plain loops, and its use as an operator."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers.plain_dcnv4 import plain_dcnv4
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from upernet.ops import dcnv3, dcnv4, recorded_decisions, use_kernel

KERNELS = ("torch", "embedding_bag", "numba")


def tensors(
    n: int = 1, size: tuple[int, int] = (6, 7), channels: int = 32, numbers: int = 56, spread: float = 2.0
) -> tuple[Tensor, Tensor]:
    """Return x and offset_mask in float64, for a result of the size of x; two groups of 3x3 points use 54 numbers."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, *size, channels, generator=generator, dtype=torch.float64)
    return x, spread * torch.randn(n, *size, numbers, generator=generator, dtype=torch.float64)


def results(kernel: str, x: Tensor, offset_mask: Tensor, **geometry: Any) -> list[Tensor]:
    """Return the output and both gradients for a fixed gradient of the output."""
    leaves = [t.detach().requires_grad_() for t in (x, offset_mask)]
    with use_kernel(dcnv3=kernel):
        return with_gradients(dcnv4(leaves[0], leaves[1], **geometry), leaves)


def with_gradients(out: Tensor, leaves: list[Tensor]) -> list[Tensor]:
    weight = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view(out.shape)
    return [out.detach(), *torch.autograd.grad(out, leaves, weight, materialize_grads=True)]


@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(st.data())
def test_kernels_agree_with_plain_loops(data: st.DataObject) -> None:
    def pair(low: int, high: int) -> tuple[int, int]:
        return data.draw(st.integers(low, high)), data.draw(st.integers(low, high))

    kernel_size, stride, padding, dilation = pair(1, 3), pair(1, 2), pair(0, 2), pair(1, 2)
    remove_center = kernel_size == (3, 3) and data.draw(st.booleans())
    extent = [d * (k - 1) + 1 - 2 * p for k, d, p in zip(kernel_size, dilation, padding, strict=True)]
    size = [data.draw(st.integers(max(1, smallest), max(1, smallest) + 2)) for smallest in extent]
    h, w = ((side - e) // s + 1 for side, e, s in zip(size, extent, stride, strict=True))
    n, groups = data.draw(st.integers(1, 2)), data.draw(st.integers(1, 3))
    channels = groups * data.draw(st.sampled_from([1, 3, 16, 17]))
    numbers = 3 * groups * (kernel_size[0] * kernel_size[1] - remove_center)
    numbers += data.draw(st.sampled_from([0, 1, -numbers % 8]))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**32)))
    dtype = data.draw(st.sampled_from([torch.float32, torch.float64]))

    def random(*shape: int) -> Tensor:  # perhaps with the dimensions in another order in memory
        t = torch.randn(*shape[::-1], generator=generator, dtype=torch.float64).to(dtype)
        return t.permute(3, 2, 1, 0) if data.draw(st.booleans()) else t.permute(3, 2, 1, 0).contiguous()

    x, offset_mask = random(n, *size, channels), data.draw(st.sampled_from([0.3, 2.0])) * random(n, h, w, numbers)
    geometry: dict[str, Any] = dict(kernel_size=kernel_size, stride=stride, padding=padding, dilation=dilation)
    geometry |= dict(groups=groups, offset_scale=data.draw(st.sampled_from([0.5, 1.0, 2.0])))
    geometry |= dict(remove_center=remove_center)

    exact = [t.double().requires_grad_() for t in (x, offset_mask)]
    expected = with_gradients(plain_dcnv4(exact[0], exact[1], **geometry), exact)
    tolerance = 1e-9 if dtype == torch.float64 else 2e-4
    for kernel in KERNELS:
        for ours, reference in zip(results(kernel, x, offset_mask, **geometry), expected, strict=True):
            assert ours.dtype == dtype
            difference = (ours.double() - reference).abs().max()
            assert difference < tolerance * reference.abs().max().clamp(min=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("kernel", KERNELS)
def test_gradients_by_finite_differences(kernel: str) -> None:
    x, offset_mask = (t.requires_grad_() for t in tensors(size=(3, 4), channels=2, numbers=32, spread=3.0))
    with use_kernel(dcnv3=kernel):
        assert torch.autograd.gradcheck(dcnv4, (x, offset_mask))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_dcnv3_of_the_same_offsets_and_masks(kernel: str, dtype: torch.dtype) -> None:
    x, offset_mask = (t.to(dtype) for t in tensors(n=2))
    numbers = offset_mask[..., :54].unflatten(-1, (2, 27))
    offset, mask = numbers[..., :18].flatten(-2).contiguous(), numbers[..., 18:].flatten(-2).contiguous()
    leaves = [t.detach().requires_grad_() for t in (x, offset, mask)]
    with use_kernel(dcnv3=kernel):
        out = dcnv3(leaves[0], leaves[1], leaves[2], groups=2)
        out, g_x, g_offset, g_mask = with_gradients(out, leaves)
    ours = results(kernel, x, offset_mask, groups=2)
    parts = torch.cat([g_offset.unflatten(-1, (2, 18)), g_mask.unflatten(-1, (2, 9))], -1).flatten(-2)
    assert torch.equal(ours[0], out) and torch.equal(ours[1], g_x) and torch.equal(ours[2][..., :54], parts)
    assert not ours[2][..., 54:].any()  # nothing depends on the numbers at the end


@pytest.mark.parametrize("groups", [1, 2])
def test_nothing_is_read_outside_the_tensors(groups: int) -> None:
    x, offset_mask = tensors(n=2, numbers=29 * groups, spread=1e3)
    offset_mask[:, ::2] /= 1e3
    expected = results("numba", x, offset_mask, groups=groups)

    def guarded(t: Tensor) -> Tensor:
        buffer = torch.full((3 * t.numel(),), torch.nan, dtype=t.dtype)
        buffer[t.numel() : -t.numel()] = t.flatten()
        return buffer[t.numel() : -t.numel()].view(t.shape)

    numbers = guarded(offset_mask)
    numbers[..., 27 * groups :] = torch.nan  # between the pixels
    ours = results("numba", guarded(x), numbers, groups=groups)
    for a, b in zip(ours, expected, strict=True):
        assert torch.equal(a, b)


def test_threads_do_not_change_a_bit() -> None:
    x, offset_mask = (t.float() for t in tensors(n=2, size=(9, 11), channels=48, numbers=88))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        expected = results("numba", x, offset_mask, groups=3)
        for threads in (2, 3, 5):
            torch.set_num_threads(threads)
            for a, b in zip(results("numba", x, offset_mask, groups=3), expected, strict=True):
                assert torch.equal(a, b)
    finally:
        torch.set_num_threads(before)


def test_autocast_and_half_precision() -> None:
    x, offset_mask = (t.float() for t in tensors())
    layer = torch.nn.Linear(32, 32)
    with torch.autocast("cpu", torch.bfloat16):
        out = dcnv4(layer(x), offset_mask.bfloat16(), groups=2)
        out.sum().backward()
    assert out.dtype == torch.bfloat16
    assert layer.weight.grad is not None and layer.weight.grad.dtype == torch.float32
    half = dcnv4(x.half(), offset_mask.half(), groups=2)
    assert torch.equal(half, dcnv4(x.half().float(), offset_mask.half().float(), groups=2).half())


def test_empty_batch() -> None:
    x, offset_mask = (t[:0].requires_grad_() for t in tensors())
    out = dcnv4(x, offset_mask, groups=2)
    assert out.shape == x.shape
    assert torch.autograd.grad(out.sum(), offset_mask)[0].shape == offset_mask.shape


@pytest.mark.slow
def test_the_operator_takes_offsets_and_masks_of_one_tensor() -> None:
    x, offset_mask = tensors()
    offset, mask = offset_mask[..., :54].unflatten(-1, (2, 27)).split([18, 9], -1)
    geometry = ((3, 3), (1, 1), (1, 1), (1, 1), 2, 1.0, False)
    leaves = [t.detach().requires_grad_() for t in (x, offset, mask)]
    torch.library.opcheck(torch.ops.upernet.dcnv3.default, (*leaves, *geometry))
    torch.library.opcheck(torch.ops.upernet.dcnv3_backward.default, (x.clone(), x, offset, mask, *geometry))


@pytest.mark.slow
@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles(dynamic: bool) -> None:
    x, offset_mask = (t.requires_grad_() for t in tensors())
    compiled = torch.compile(
        lambda *a: dcnv4(*a, groups=2).relu(), fullgraph=True, backend="aot_eager", dynamic=dynamic
    )
    ours, plain = compiled(x, offset_mask), dcnv4(x, offset_mask, groups=2).relu()
    assert torch.equal(ours, plain)
    gradients = [torch.autograd.grad(out.sum(), (x, offset_mask)) for out in (ours, plain)]
    for a, b in zip(*gradients, strict=True):
        assert torch.equal(a, b)


def test_exports_to_the_operator() -> None:
    class Layer(torch.nn.Module):
        def forward(self, x: Tensor, offset_mask: Tensor) -> Tensor:
            return dcnv4(x, offset_mask, groups=2)

    inputs = tensors()
    program = torch.export.export(Layer(), inputs)
    assert torch.ops.upernet.dcnv3.default in [node.target for node in program.graph.nodes]
    assert torch.equal(program.module()(*inputs), Layer()(*inputs))


def test_counts_five_multiply_adds_per_point_and_channel() -> None:
    x, offset_mask = (t.to("meta") for t in tensors(n=2))
    with FlopCounterMode(display=False) as counter:
        dcnv4(x, offset_mask, groups=2)
    assert counter.get_total_flops() == 2 * 5 * (2 * 6 * 7) * 9 * 32


def test_the_kernel_is_chosen_and_recorded_as_that_of_dcnv3() -> None:
    x, offset_mask = tensors()
    with recorded_decisions() as decisions:
        dcnv4(x, offset_mask, groups=2)
        with use_kernel(dcnv3="torch"):
            dcnv4(x, offset_mask, groups=2)
    assert [(decision.operator, decision.kernel) for decision in decisions] == [("dcnv3", "numba"), ("dcnv3", "torch")]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": (1, 6, 7)}, "dcnv4: x and offset_mask must have 4 dimensions"),
        ({"groups": 3}, "dcnv4: the 32 channels of x cannot be divided into 3 groups"),
        ({"offset_mask": (1, 6, 7, 53)}, r"shape \(1, 6, 7\) and 54 or more channels, not \(1, 6, 7, 53\)"),
        ({"offset_mask": (1, 5, 7, 56)}, r"shape \(1, 6, 7\) and 54 or more channels, not \(1, 5, 7, 56\)"),
        ({"padding": (0, 0)}, r"offset_mask must have shape \(1, 4, 5\)"),
        ({"kernel_size": (2, 2), "remove_center": True}, "dcnv4: remove_center needs an odd square kernel"),
        ({"stride": (0, 1)}, "dcnv4: kernel_size .* must be positive"),
    ],
)
def test_arguments_that_do_not_fit(changes: dict[str, Any], message: str) -> None:
    shapes = {"x": (1, 6, 7, 32), "offset_mask": (1, 6, 7, 56)}
    shapes |= {key: value for key, value in changes.items() if key in shapes}
    geometry: dict[str, Any] = {"groups": 2} | {key: value for key, value in changes.items() if key not in shapes}
    x, offset_mask = (torch.zeros(shape) for shape in shapes.values())
    with pytest.raises(ValueError, match=message):
        dcnv4(x, offset_mask, **geometry)


def test_integers_are_refused() -> None:
    x, offset_mask = tensors()
    with pytest.raises(ValueError, match=r"dcnv4: x and offset_mask must be float, not torch.float64 and torch.int64"):
        dcnv4(x, offset_mask.long(), groups=2)
