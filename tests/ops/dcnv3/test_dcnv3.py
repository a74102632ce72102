"""Tests of upernet.ops.dcnv3: every CPU kernel against golden values and the reference, and its use as an operator."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from helpers import golden_dcnv3 as golden
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from upernet.ops import choose_dcnv3, dcnv3, use_kernel

KERNELS = ("torch", "embedding_bag", "numba")


def tensors(
    n: int = 1, size: tuple[int, int] = (6, 7), channels: int = 32, points: int = 18, spread: float = 2.0, seed: int = 0
) -> list[Tensor]:
    """x, offset and mask in float64, for a result of the size of x."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, *size, channels, generator=generator, dtype=torch.float64)
    offset = spread * torch.randn(n, *size, 2 * points, generator=generator, dtype=torch.float64)
    return [x, offset, torch.rand(n, *size, points, generator=generator, dtype=torch.float64)]


def results(kernel: str, inputs: list[Tensor], **geometry: Any) -> list[Tensor]:
    """Return the output and the three gradients for a fixed gradient of the output."""
    x, offset, mask = leaves = [t.detach().requires_grad_() for t in inputs]
    with use_kernel(dcnv3=kernel):
        out = dcnv3(x, offset, mask, **geometry)
        weight = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view(out.shape)
        return [out.detach(), *torch.autograd.grad(out, leaves, weight)]


def relative_error(a: Tensor, b: Tensor) -> float:
    return ((a - b).abs().max() / b.abs().max().clamp(min=1e-3)).item()


@pytest.mark.golden
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("name", golden.CONFIGURATIONS)
def test_golden(name: str, kernel: str) -> None:
    inputs, geometry, facts = golden.read(name)
    for t in inputs:
        t.requires_grad_()
    with use_kernel(dcnv3=kernel):
        x, offset, mask = inputs
        out = dcnv3(x, offset, mask, **geometry)
        gradients = torch.autograd.grad(out, inputs, facts["grad_out"])
    torch.testing.assert_close(out, facts["out"], rtol=1e-9, atol=1e-9)
    for key, gradient in zip(("g_input", "g_offset", "g_mask"), gradients, strict=True):
        if key in facts:
            torch.testing.assert_close(gradient, facts[key], rtol=1e-9, atol=1e-9)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_kernels_agree(data: st.DataObject) -> None:
    def pair(low: int, high: int) -> tuple[int, int]:
        return data.draw(st.integers(low, high)), data.draw(st.integers(low, high))

    kernel_size, stride, padding, dilation = pair(1, 4), pair(1, 3), pair(0, 3), pair(1, 2)
    remove_center = kernel_size[0] == kernel_size[1] == 3 and data.draw(st.booleans())
    extent = [d * (k - 1) + 1 - 2 * p for k, d, p in zip(kernel_size, dilation, padding, strict=True)]
    size = [data.draw(st.integers(max(1, smallest), max(1, smallest) + 9)) for smallest in extent]
    h, w = ((side - e) // s + 1 for side, e, s in zip(size, extent, stride, strict=True))
    n, groups = data.draw(st.integers(1, 2)), data.draw(st.integers(1, 3))
    channels = groups * data.draw(st.sampled_from([1, 3, 16, 17, 32]))
    points = groups * (kernel_size[0] * kernel_size[1] - remove_center)
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**32)))
    dtype = data.draw(st.sampled_from([torch.float32, torch.float64]))

    def random(*shape: int) -> Tensor:  # with the dimensions in another order in memory
        t = torch.randn(*shape[::-1], generator=generator, dtype=torch.float64).to(dtype)
        return t.permute(3, 2, 1, 0) if data.draw(st.booleans()) else t.permute(3, 2, 1, 0).contiguous()

    spread = data.draw(st.sampled_from([0.3, 4.0, 1e4]))
    inputs = [random(n, *size, channels), spread * random(n, h, w, 2 * points), random(n, h, w, points)]
    geometry = dict(kernel_size=kernel_size, stride=stride, padding=padding, dilation=dilation, groups=groups)
    geometry |= dict(offset_scale=data.draw(st.sampled_from([0.5, 1.0, 2.0])), remove_center=remove_center)

    expected = results("torch", [t.double() for t in inputs], **geometry)
    for kernel in ("embedding_bag", "numba"):
        for ours, reference in zip(results(kernel, inputs, **geometry), expected, strict=True):
            assert ours.dtype == dtype and ours.is_contiguous()
            # at 1e4 pixels float32 knows places to a thousandth of a pixel, or to the wrong side of one
            if dtype == torch.float64 or spread < 1e4:
                assert relative_error(ours.double(), reference) < (1e-9 if dtype == torch.float64 else 2e-4)


@pytest.mark.slow
@pytest.mark.parametrize("kernel", KERNELS)
def test_equals_the_sum_over_all_pixels(kernel: str) -> None:
    """Bilinear sampling written as a sum over the whole image; places on the border and far outside it included."""
    height, width = 4, 5
    places = torch.tensor([-9.0, -1.5, -1.0, -0.5, 0.0, 0.25, 1.0, 3.0, 3.5, 4.0, 4.5, 5.0, 7.0], dtype=torch.float64)
    py, px = torch.meshgrid(places, places, indexing="ij")
    x = tensors(size=(height, width), channels=16)[0]
    y0, x0 = torch.meshgrid(torch.arange(4.0), torch.arange(5.0), indexing="ij")
    weight_y = (1 - (py[..., None] - torch.arange(height)).abs()).clamp(min=0)
    weight_x = (1 - (px[..., None] - torch.arange(width)).abs()).clamp(min=0)
    expected = torch.einsum("abi,abj,ijc->abc", weight_y, weight_x, x[0])
    for a in range(len(places)):
        for b in range(len(places)):
            offset = torch.stack([px[a, b] - x0, py[a, b] - y0], -1)[None].double()
            with use_kernel(dcnv3=kernel):
                out = dcnv3(x, offset, torch.ones(1, height, width, 1, dtype=x.dtype), (1, 1), padding=(0, 0))
            torch.testing.assert_close(out, expected[a, b].expand_as(out), rtol=1e-9, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("kernel", KERNELS)
def test_gradients_by_finite_differences(kernel: str) -> None:
    x, offset, mask = (t.requires_grad_() for t in tensors(size=(3, 4), channels=2, points=9, spread=3.0))
    with use_kernel(dcnv3=kernel):
        assert torch.autograd.gradcheck(dcnv3, (x, offset, mask))


@pytest.mark.parametrize("kernel", KERNELS)
def test_places_that_are_no_numbers_count_as_outside(kernel: str) -> None:
    x, offset, mask = (t.float() for t in tensors(channels=32))
    far = offset.clone()
    wild = torch.tensor([torch.nan, torch.inf, -torch.inf, 3e38, -3e38, 1e10, -1e10, 2.0**31, -(2.0**31)])
    offset[0, 2, 3, : len(wild)] = wild
    offset[0, 4, :, 5] = torch.nan
    far[0, 2, 3, : len(wild) + 1] = 1e6  # its partner coordinate (dy of the last) too
    offset[0, 2, 3, len(wild)] = 1e6
    far[0, 4, :, 5] = 1e6
    ours, expected = results(kernel, [x, offset, mask], groups=2), results(kernel, [x, far, mask], groups=2)
    for a, b in zip(ours, expected, strict=True):
        assert torch.equal(a, b)
    assert not ours[2][0, 4, :, 4:6].any()  # their offsets get no gradient


def test_nothing_is_read_outside_x() -> None:
    x, offset, mask = tensors(n=2, spread=1e3)
    offset[:, ::2] /= 1e3
    guard = torch.full((3 * x.numel(),), torch.nan, dtype=x.dtype)
    guard[x.numel() : -x.numel()] = x.flatten()
    inside = guard[x.numel() : -x.numel()].view(x.shape)
    ours, expected = results("numba", [inside, offset, mask], groups=2), results("numba", [x, offset, mask], groups=2)
    for a, b in zip(ours, expected, strict=True):
        assert torch.equal(a, b)


def test_threads_do_not_change_a_bit() -> None:
    inputs = [t.float() for t in tensors(n=2, size=(9, 11), channels=48, points=27)]
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        expected = results("numba", inputs, groups=3)
        for threads in (2, 3, 5):
            torch.set_num_threads(threads)
            for a, b in zip(results("numba", inputs, groups=3), expected, strict=True):
                assert torch.equal(a, b)
    finally:
        torch.set_num_threads(before)


def test_python_threads_may_call_at_once() -> None:
    inputs = [tensors(n=2, seed=seed) for seed in range(4)]
    expected = [results("numba", each, groups=2) for each in inputs]
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with use_kernel(dcnv3="numba"), ThreadPoolExecutor(4) as pool:
            for _ in range(25):
                for ours, theirs in zip(pool.map(lambda x: dcnv3(*x, groups=2), inputs), expected, strict=True):
                    assert torch.equal(ours, theirs[0])
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_summed_in_float32(kernel: str, dtype: torch.dtype) -> None:
    x, offset, mask = tensors()
    half = [x.to(dtype), offset.to(dtype), mask.float()]  # a softmax under autocast leaves float32
    ours, exact = results(kernel, half, groups=2), results(kernel, [t.float() for t in half], groups=2)
    assert [t.dtype for t in ours] == [dtype, dtype, dtype, torch.float32]
    assert torch.equal(ours[0], exact[0].to(dtype))
    assert relative_error(ours[1].float(), exact[1]) < 0.01


def test_autocast() -> None:
    x, offset, mask = (t.float() for t in tensors(channels=32))
    layer = torch.nn.Linear(32, 32)
    with torch.autocast("cpu", torch.bfloat16):
        out = dcnv3(layer(x), offset, mask.softmax(-1), groups=2)
        out.sum().backward()
    assert out.dtype == torch.bfloat16
    assert layer.weight.grad is not None and layer.weight.grad.dtype == torch.float32


def test_empty_batch() -> None:
    x, offset, mask = (t[:0].requires_grad_() for t in tensors())
    out = dcnv3(x, offset, mask, groups=2)
    assert out.shape == x.shape
    assert torch.autograd.grad(out.sum(), x)[0].shape == x.shape


@pytest.mark.slow
def test_is_a_proper_operator() -> None:
    x, offset, mask = tensors()
    geometry = ((3, 3), (1, 1), (1, 1), (1, 1), 2, 1.0, False)
    leaves = [t.requires_grad_() for t in (x.clone(), offset.clone(), mask.clone())]
    torch.library.opcheck(torch.ops.upernet.dcnv3.default, (*leaves, *geometry))
    torch.library.opcheck(torch.ops.upernet.dcnv3_backward.default, (x.clone(), x, offset, mask, *geometry))


@pytest.mark.slow
@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_to_one_node(dynamic: bool) -> None:
    x, offset, mask = (t.requires_grad_() for t in tensors())
    compiled = torch.compile(
        lambda *a: dcnv3(*a, groups=2).relu(), fullgraph=True, backend="aot_eager", dynamic=dynamic
    )
    ours, plain = compiled(x, offset, mask), dcnv3(x, offset, mask, groups=2).relu()
    assert torch.equal(ours, plain)
    for a, b in zip(
        torch.autograd.grad(ours.sum(), (x, offset, mask)),
        torch.autograd.grad(plain.sum(), (x, offset, mask)),
        strict=True,
    ):
        assert torch.equal(a, b)


def test_exports_to_one_node() -> None:
    class Layer(torch.nn.Module):
        def forward(self, x: Tensor, offset: Tensor, mask: Tensor) -> Tensor:
            return dcnv3(x, offset, mask, groups=2)

    inputs = tuple(tensors())
    program = torch.export.export(Layer(), inputs)
    nodes = [node.target for node in program.graph.nodes if node.op == "call_function"]
    assert nodes == [torch.ops.upernet.dcnv3.default]
    assert torch.equal(program.module()(*inputs), Layer()(*inputs))


def test_counts_multiply_adds_as_published() -> None:
    x, offset, mask = (t.to("meta").requires_grad_() for t in tensors(n=2))
    with FlopCounterMode(display=False) as forward:
        out = dcnv3(x, offset, mask, groups=2)
    assert forward.get_total_flops() == 2 * 5 * (2 * 6 * 7) * 9 * 32
    with FlopCounterMode(display=False) as backward:
        out.sum().backward()
    assert backward.get_total_flops() == 2 * forward.get_total_flops()


def test_runs_in_inference_mode() -> None:
    x, offset, mask = tensors()
    expected = dcnv3(x, offset, mask, groups=2)
    with torch.inference_mode():
        assert torch.equal(dcnv3(x, offset, mask, groups=2), expected)


def test_choice_of_kernel() -> None:
    x = torch.zeros(1, 2, 2, 4)
    assert choose_dcnv3(x).kernel == "numba"
    with use_kernel(dcnv3="torch"):
        assert choose_dcnv3(x).kernel == "torch"
        with use_kernel(dcnv3="embedding_bag"):
            assert choose_dcnv3(x).kernel == "embedding_bag"
        assert choose_dcnv3(x).kernel == "torch"
    assert choose_dcnv3(x) == ("numba", "x is on the CPU")
    assert choose_dcnv3(x.to("meta")).kernel == "torch"
    with use_kernel(dcnv3="cuda"), pytest.raises(ValueError, match="no kernel cuda: choose from"):
        dcnv3(x, torch.zeros(1, 2, 2, 18), torch.zeros(1, 2, 2, 9))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": (1, 6, 7)}, "4 dimensions"),
        ({"groups": 3}, "32 channels of x cannot be divided into 3 groups"),
        ({"offset": (1, 6, 7, 18)}, r"offset must have shape \(1, 6, 7, 36\), not \(1, 6, 7, 18\)"),
        ({"mask": (1, 5, 7, 18)}, r"mask must have shape \(1, 6, 7, 18\), not \(1, 5, 7, 18\)"),
        ({"padding": (0, 0)}, r"offset must have shape \(1, 4, 5, 36\)"),
        ({"kernel_size": (9, 9)}, "would be 0 x 1"),
        ({"stride": (0, 1)}, "must be positive"),
        ({"padding": (-1, 1)}, "must not be negative"),
        ({"kernel_size": (3, 5), "remove_center": True}, "odd square kernel"),
        ({"kernel_size": (2, 2), "remove_center": True}, "odd square kernel"),
    ],
)
def test_arguments_that_do_not_fit(changes: dict[str, Any], message: str) -> None:
    shapes = {"x": (1, 6, 7, 32), "offset": (1, 6, 7, 36), "mask": (1, 6, 7, 18)}
    shapes |= {key: value for key, value in changes.items() if key in shapes}
    geometry: dict[str, Any] = {"groups": 2} | {key: value for key, value in changes.items() if key not in shapes}
    x, offset, mask = (torch.zeros(shape) for shape in shapes.values())
    with pytest.raises(ValueError, match=message):
        dcnv3(x, offset, mask, **geometry)


def test_integers_are_refused() -> None:
    x, offset, mask = tensors()
    with pytest.raises(ValueError, match="must be float"):
        dcnv3(x.long(), offset, mask, groups=2)


WITHOUT_NUMBA = """
import sys, warnings
sys.modules["numba"] = None
import torch
from upernet.ops import choose_dcnv3, dcnv3, use_kernel
x, offset, mask = torch.randn(1, 4, 4, 8, requires_grad=True), torch.randn(1, 4, 4, 18), torch.rand(1, 4, 4, 9)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    ours = dcnv3(x, offset, mask)
    ours.sum().backward()
    dcnv3(x, offset, mask)
assert [str(w.message) for w in caught if "dcnv3" in str(w.message)][1:] == [], caught
assert "several times slower" in str(caught[0].message), caught
assert choose_dcnv3(x).kernel == "embedding_bag" and "Numba does not run here" in choose_dcnv3(x).reason
with use_kernel(dcnv3="torch"):
    torch.testing.assert_close(ours, dcnv3(x, offset, mask))
"""


@pytest.mark.process
@pytest.mark.slow
def test_without_numba() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_NUMBA], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
