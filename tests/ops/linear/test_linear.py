"""Tests of upernet.ops.linear and upernet.ops.runtime.matmul, compared with float64."""

import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from helpers.threads import on_threads
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from upernet.ops import choose_linear, conv1x1, grouped_softmax, lateral, linear, upsample_conv3x3, use_kernel
from upernet.ops.linear.cpu import CHUNK, MAX_COPIED_ROWS
from upernet.ops.runtime.matmul import FEW_ROWS, HAS_BFLOAT16, PANEL, ROWS, ROWS_PER_UNIT, PackedMatmul

KERNELS = ["torch", "convolution", "numba"]
AROUND = [0, 1, FEW_ROWS, ROWS - 1, ROWS, 2 * ROWS + FEW_ROWS + 1, ROWS_PER_UNIT - 1, ROWS_PER_UNIT + 5]


@settings(max_examples=60, deadline=None)
@given(
    rows=st.sampled_from(AROUND) | st.integers(0, 40),
    batch=st.integers(1, 5),
    depth=st.integers(1, 40),
    outputs=st.sampled_from([PANEL - 1, PANEL, PANEL + 1, 5 * PANEL]) | st.integers(1, 150),
    biased=st.booleans(),
    threads=st.integers(1, 3),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_products(rows, batch, depth, outputs, biased, threads, dtype):
    torch.manual_seed(0)
    x, weight = torch.randn(rows, batch, depth, dtype=dtype), torch.randn(batch, outputs, depth, dtype=dtype)
    bias = torch.randn(batch, outputs, dtype=dtype) if biased else None
    surrounded = torch.full((rows * batch * outputs + 64,), 7, dtype=dtype)
    out = surrounded[32:-32].view(rows, batch, outputs)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        PackedMatmul(weight, bias)(x, out)
    finally:
        torch.set_num_threads(before)
    expected = torch.einsum("rgk,gdk->rgd", x.double(), weight.double())
    expected = expected if bias is None else expected + bias.double()
    rtol, atol = (1e-5, 5e-5) if dtype == torch.float32 else (1e-7, 1e-7)
    torch.testing.assert_close(out, expected.to(dtype), rtol=rtol, atol=atol)
    assert (surrounded[:32] == 7).all() and (surrounded[-32:] == 7).all(), "written outside"


@pytest.mark.parametrize("kernel", KERNELS)
@settings(max_examples=25, deadline=None)
@given(
    shape=st.lists(st.integers(1, 9), min_size=0, max_size=3),
    depth=st.integers(1, 40),
    outputs=st.integers(1, 70),
    biased=st.booleans(),
    swapped=st.booleans(),
)
def test_as_in_float64(kernel, shape, depth, outputs, biased, swapped):
    torch.manual_seed(0)
    x, weight = torch.randn(*shape, depth), torch.randn(outputs, depth)
    if swapped and len(shape) > 1:
        x = x.transpose(0, 1)
    bias = torch.randn(outputs) if biased else None
    with use_kernel(linear=kernel), torch.no_grad():
        y = linear(x, weight, bias)
    expected = F.linear(x.double(), weight.double(), None if bias is None else bias.double())
    assert y.is_contiguous()
    torch.testing.assert_close(y.double(), expected, rtol=1e-5, atol=5e-5)


@settings(max_examples=80, deadline=None)
@given(
    rows=st.sampled_from([0, MAX_COPIED_ROWS + 3, 300]) | st.integers(1, 40),
    depth=st.sampled_from([CHUNK - 1, CHUNK, 2 * CHUNK + 1]) | st.integers(1, 40),
    outputs=st.sampled_from([PANEL - 1, PANEL, PANEL + 1, 5 * PANEL]) | st.integers(1, 150),
    biased=st.booleans(),
    strides=st.tuples(*3 * [st.sampled_from(["contiguous", "transposed", "sliced"])]),
    threads=st.integers(1, 3),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_products_of_matrices_with_any_strides(rows, depth, outputs, biased, strides, threads, dtype):
    torch.manual_seed(0)

    def random(shape, strides):
        if strides == "sliced":
            return torch.randn(shape[0] + 2, 2 * shape[1], dtype=dtype)[1:-1, ::2]
        values = torch.randn(shape[::-1] if strides == "transposed" else shape, dtype=dtype)
        return values.t() if strides == "transposed" else values

    x, weight = random((rows, depth), strides[0]), random((outputs, depth), strides[1])
    bias = random((outputs, 1), strides[2])[:, 0] if biased else None
    y = on_threads(threads, lambda: torch.ops.upernet.linear(x, weight, bias))
    expected = F.linear(x.double(), weight.double(), None if bias is None else bias.double())
    assert y.is_contiguous()
    rtol, atol = (1e-5, 2e-4) if dtype == torch.float32 else (1e-7, 1e-7)
    torch.testing.assert_close(y, expected.to(dtype), rtol=rtol, atol=atol)
    assert torch.equal(y, on_threads(4, lambda: torch.ops.upernet.linear(x, weight, bias)))


def test_nothing_outside_of_a_matrix_is_read_or_written():
    def surrounded(*shape):
        memory = torch.full((3, *shape), torch.nan)
        memory[1] = 1
        return memory[1]

    for x, weight in (
        (surrounded(37, 50), surrounded(75, 50)),
        (surrounded(50, 37).t(), surrounded(50, 75).t()),
        (torch.full((39, 60), torch.nan)[1:-1, 3:53].fill_(1), surrounded(75, 50)),
    ):
        assert (torch.ops.upernet.linear(x, weight, None) == 50).all()


def test_gradients_agree_with_finite_differences():
    torch.manual_seed(0)
    inputs = [torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in ((2, 3, 4), (5, 4), (5,))]
    for wanted in ((True, True, True), (True, False, False), (False, True, False), (False, False, True)):
        for x, is_wanted in zip(inputs, wanted, strict=True):
            x.requires_grad_(is_wanted)
        assert torch.autograd.gradcheck(torch.ops.upernet.linear, inputs)
        assert torch.autograd.gradgradcheck(torch.ops.upernet.linear, inputs)


@pytest.mark.parametrize("outputs", [32, 9])
def test_gradients_are_torchs_own(outputs):
    torch.manual_seed(0)
    inputs = [torch.randn(*shape, requires_grad=True) for shape in ((2, 5, 4, 24), (outputs, 24), (outputs,))]
    assert choose_linear(*inputs).kernel == "numba"
    y = linear(*inputs)
    expected = F.linear(*inputs)
    torch.testing.assert_close(y, expected)
    into = torch.randn_like(y)
    for ours, theirs in zip(
        torch.autograd.grad(y, inputs, into), torch.autograd.grad(expected, inputs, into), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_the_kernel_is_chosen_from_the_arguments():
    x, wide, odd = torch.randn(7, 8), torch.randn(32, 8), torch.randn(9, 8)
    assert choose_linear(x, wide).kernel == "convolution"
    assert choose_linear(x, wide.bfloat16()).kernel == choose_linear(x, odd.bfloat16()).kernel == "bfloat16"
    assert linear(x, odd.bfloat16(), odd[:, 0]).dtype == torch.float32
    assert linear(x.bfloat16(), odd.bfloat16()).dtype == torch.bfloat16
    assert choose_linear(x, odd).kernel == "convolution"
    assert choose_linear(x, wide.clone().requires_grad_()).kernel == "numba"
    assert choose_linear(x, odd, odd[:, 0].clone().requires_grad_()).kernel == "numba"
    assert choose_linear(x.double(), wide.double()).kernel == "torch"
    assert choose_linear(x.to("meta"), odd.to("meta")).kernel == "torch"
    assert choose_linear(x[:0], wide).kernel == "torch"
    with torch.backends.mkldnn.flags(enabled=False):
        assert choose_linear(x, wide).kernel == "torch"
    with torch.autocast("cpu", torch.bfloat16):
        assert choose_linear(x, odd.clone().requires_grad_()).kernel == "convolution"
        assert linear(x, wide).dtype == linear(x, odd).dtype == torch.bfloat16
    with use_kernel(linear="other"), pytest.raises(ValueError, match="torch, convolution, numba, bfloat16"):
        linear(x, wide)


def test_a_convolution_of_one_pixel():
    x, weight, bias = torch.randn(2, 24, 5, 7), torch.randn(9, 24, 1, 1), torch.randn(9)
    for each in (x, x.contiguous(memory_format=torch.channels_last), x.transpose(2, 3)):
        torch.testing.assert_close(conv1x1(each, weight, bias), F.conv2d(each, weight, bias), rtol=1e-5, atol=1e-5)


def test_the_operator_is_registered_as_torch_wants_it():
    x, weight, bias = torch.randn(3, 5, 8), torch.randn(9, 8), torch.randn(9)
    torch.library.opcheck(torch.ops.upernet.linear.default, (x, weight, bias))
    differentiated = tuple(each.clone().requires_grad_() for each in (x, weight, bias))
    torch.library.opcheck(torch.ops.upernet.linear.default, differentiated)
    torch.library.opcheck(torch.ops.upernet.linear.default, (x, weight, None))
    for kernel in KERNELS:
        with use_kernel(linear=kernel), FlopCounterMode(display=False) as counter:
            linear(x, weight, bias)
        assert counter.get_total_flops() == 2 * 15 * 8 * 9
    for other in (weight.double(), weight.bfloat16()):
        with pytest.raises(ValueError, match="float32 or float64"):
            torch.ops.upernet.linear(x, other, None)
    with pytest.raises(ValueError, match="does not fit"):
        torch.ops.upernet.linear(x, weight[:, :7], None)


@pytest.mark.skipif(not HAS_BFLOAT16, reason="this processor does not multiply bfloat16")
@settings(max_examples=40, deadline=None)
@given(
    rows=st.sampled_from(AROUND) | st.integers(0, 40),
    batch=st.integers(1, 4),
    pairs=st.integers(1, 30),
    outputs=st.sampled_from([PANEL - 1, PANEL, PANEL + 1, 5 * PANEL]) | st.integers(1, 150),
    biased=st.booleans(),
)
def test_products_of_bfloat16_are_summed_in_float32(rows, batch, pairs, outputs, biased):
    torch.manual_seed(0)
    x, weight = (torch.randn(*shape, batch, 2 * pairs).bfloat16() for shape in ((rows,), (outputs,)))
    weight = weight.transpose(0, 1).contiguous()
    bias = torch.randn(batch, outputs) if biased else None
    out = torch.empty(rows, batch, outputs)
    PackedMatmul(weight, bias)(x, out)
    expected = torch.einsum("rgk,gdk->rgd", x.double(), weight.double())
    expected = expected if bias is None else expected + bias.double()
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=5e-5)


FOR_ANY_PROCESSOR = """
import torch
import torch.nn.functional as F
from upernet.ops import linear, upsample_conv3x3, use_kernel
from upernet.ops import bfloat16_unavailable
from upernet.ops.linear.cpu import CHUNK, MAX_COPIED_ROWS
from upernet.ops.runtime.matmul import PANEL, WIDE

torch.manual_seed(0)
x, weight, maps = torch.randn(301, 40), torch.randn(75, 40), torch.randn(1, 64, 30, 21)
kernel = torch.randn(48, 64, 3, 3)
assert not WIDE and PANEL == 16 and bfloat16_unavailable()
with use_kernel(linear="numba", upsample_conv3x3="winograd"):
    torch.testing.assert_close(linear(x, weight), F.linear(x, weight), rtol=1e-4, atol=1e-4)
    expected = F.conv2d(maps, kernel, padding=1)
    torch.testing.assert_close(upsample_conv3x3([maps], kernel), expected, rtol=1e-4, atol=1e-3)
"""


@pytest.mark.process
@pytest.mark.slow
def test_products_on_a_processor_with_few_registers(tmp_path):
    environment = os.environ | {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": "", "NUMBA_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", FOR_ANY_PROCESSOR], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_results_do_not_depend_on_threads():
    torch.manual_seed(0)
    x, weight, coarse = torch.randn(2, 48, 30, 21), torch.randn(48, 48, 3, 3), torch.randn(2, 48, 9, 7)
    found = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            with use_kernel(linear="numba", upsample_conv3x3="winograd"), torch.no_grad():
                found.append(
                    [
                        linear(x, torch.ones(50, 21), None),
                        grouped_softmax(x.flatten(1), 6),
                        lateral(x, weight[..., :1, :1], weight[:, 0, 0, 0], weight[0, :, 0, 0], coarse),
                        upsample_conv3x3([x, coarse], weight.repeat(1, 2, 1, 1)),
                    ]
                )
    finally:
        torch.set_num_threads(before)
    for others in found[1:]:
        assert all(torch.equal(one, other) for one, other in zip(found[0], others, strict=True))
