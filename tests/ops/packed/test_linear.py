"""Tests of upernet.ops.packed.linear, compared with plain torch in float64, and in int8 with integers."""

import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from helpers.threads import on_threads
from hypothesis import given, settings
from hypothesis import strategies as st

from upernet.ops import bfloat16_unavailable, int8_unavailable
from upernet.ops.packed.linear import PackedLinear, PackedMlp
from upernet.ops.packed.linear_cpu import ROWS_PER_UNIT, row_units, rows_of_unit
from upernet.ops.packed.ranges import Range
from upernet.ops.runtime.matmul import MAX_INT8, PackedMatmul
from upernet.ops.runtime.matmul import ROWS as TILE
from upernet.ops.runtime.simd import LANES

pytestmark = pytest.mark.skipif(bool(int8_unavailable()), reason=f"int8: {int8_unavailable()}")
NUMBERS = ["float32", "bfloat16", "int8"] if not bfloat16_unavailable() else ["float32", "int8"]
ROUNDING = {"float32": 1e-6, "bfloat16": 1e-2, "int8": 3e-2 * 127 / MAX_INT8}
"""Largest mean error of one product, in the spread of the results."""
ROWS = [1, 5, ROWS_PER_UNIT - 1, ROWS_PER_UNIT, 2 * ROWS_PER_UNIT + 9]


def range_of(x):
    found = Range()
    found.observe(x)
    return found


def products(numbers, x):
    return range_of(x) if numbers == "int8" else getattr(torch, numbers)


def assert_near(found, expected, rounding):
    assert found.shape == expected.shape and found.dtype == torch.float32
    error = (found.double() - expected.double()).square().mean().sqrt() / expected.double().square().mean().sqrt()
    assert error < rounding, f"{error:.2e} of the spread"


@settings(max_examples=40, deadline=None)
@given(
    rows=st.sampled_from(ROWS),
    inputs=st.integers(1, 70),
    outputs=st.integers(1, 70),
    low=st.sampled_from([-3.0, -0.5, 0.0]),
    threads=st.integers(1, 3),
)
def test_int8_is_that_of_integers(rows, inputs, outputs, low, threads):
    torch.manual_seed(0)
    x, weight, bias = torch.empty(rows, inputs).uniform_(low, 2), torch.randn(outputs, inputs), torch.randn(outputs)
    found = range_of(x)
    surrounded = torch.full((rows * outputs + 64,), 7.0)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        PackedLinear(weight, bias, found)(x, surrounded[32:-32].view(rows, outputs))
    finally:
        torch.set_num_threads(before)
    integers = torch.floor(x / found.step + found.zero + 0.5).clamp(0, 255).double() - found.zero
    steps = weight.abs().amax(1, keepdim=True) / MAX_INT8
    expected = integers @ (weight / steps).round().double().T * (steps[:, 0] * found.step) + bias
    # A number in the middle between two integers may become either.
    tolerance = 1.01 * found.step * float(weight.abs().max())
    y = surrounded[32:-32].view(rows, outputs).double()
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=tolerance)
    assert (surrounded[:32] == 7).all() and (surrounded[-32:] == 7).all(), "written outside"


@settings(max_examples=30, deadline=None)
@given(
    rows=st.integers(1, 40),
    batch=st.integers(1, 4),
    quarter=st.integers(1, 12),
    outputs=st.integers(1, 90),
    biased=st.booleans(),
)
def test_products_of_int8_are_exact(rows, batch, quarter, outputs, biased):
    torch.manual_seed(0)
    x = torch.randint(0, 256, (rows, batch, 4 * quarter), dtype=torch.uint8)
    weight = torch.randint(-MAX_INT8, MAX_INT8 + 1, (batch, outputs, 4 * quarter), dtype=torch.int8)
    x[0], weight[:, 0] = 255, MAX_INT8
    bias = torch.randint(-1000, 1000, (batch, outputs), dtype=torch.int32) if biased else None
    surrounded = torch.full((rows * batch * outputs + 64,), 7, dtype=torch.int32)
    out = surrounded[32:-32].view(rows, batch, outputs)
    PackedMatmul(weight, bias)(x, out)
    expected = torch.einsum("rgk,gdk->rgd", x.double(), weight.double())
    assert torch.equal(out.double(), expected if bias is None else expected + bias)
    assert (surrounded[:32] == 7).all() and (surrounded[-32:] == 7).all(), "written outside"


@pytest.mark.parametrize("numbers", NUMBERS)
@settings(max_examples=12, deadline=None)
@given(rows=st.sampled_from(ROWS), inputs=st.integers(1, 40), outputs=st.integers(1, 90), biased=st.booleans())
def test_linear_layers(numbers, rows, inputs, outputs, biased):
    torch.manual_seed(0)
    x, weight = torch.randn(2, rows, 2 * inputs), torch.randn(outputs, 2 * inputs)
    bias = torch.randn(outputs) if biased else None
    found = PackedLinear(weight, bias, products(numbers, x))(x)
    expected = F.linear(x.double(), weight.double(), None if bias is None else bias.double())
    assert_near(found, expected, ROUNDING[numbers])


@pytest.mark.parametrize("numbers", NUMBERS)
@settings(max_examples=12, deadline=None)
@given(
    rows=st.sampled_from(ROWS),
    vectors=st.integers(1, 3),
    hidden=st.integers(1, 5),
    outputs=st.integers(1, 50),
)
def test_multilayer_perceptrons(numbers, rows, vectors, hidden, outputs):
    torch.manual_seed(0)
    channels, width = LANES * vectors, LANES * hidden
    inputs = torch.randn(rows, channels)
    weights = torch.randn(width, channels) / channels**0.5, torch.randn(width), torch.randn(outputs, width)
    bias = torch.randn(outputs)
    between = F.gelu(F.linear(inputs.double(), weights[0].double(), weights[1].double()))
    expected = F.linear(between, weights[2].double(), bias.double())
    found = PackedMlp(*weights, bias, (products(numbers, inputs), products(numbers, between)))(inputs)
    assert_near(found, expected, 2 * ROUNDING[numbers])


def test_gelu_is_that_of_torch():
    """An identity before and after shows the GELU alone."""
    x = torch.linspace(-12, 12, 1600).view(-1, LANES)
    one, zero = torch.eye(LANES), torch.zeros(LANES)
    found = PackedMlp(one, zero, one, None, (torch.float32, torch.float32))(x)
    torch.testing.assert_close(found, F.gelu(x.double()).float(), rtol=0, atol=1e-6)


def test_a_range_holds_zero_and_what_is_beyond_it_becomes_its_end():
    found = range_of(torch.tensor([2.0, 5.0]))
    assert (found.low, found.high, found.zero) == (0, 5, 0)
    layer = PackedLinear(torch.ones(1, 1), None, found)
    torch.testing.assert_close(layer(torch.tensor([[-1.0], [5.0], [9.0]])), torch.tensor([[0.0], [5.0], [5.0]]))
    assert range_of(torch.zeros(3)).step == 1


def test_weights_of_zero():
    x = torch.randn(5, 8)
    assert torch.equal(PackedLinear(torch.zeros(3, 8), torch.ones(3), range_of(x))(x), torch.ones(5, 3))


def test_bfloat16_needs_pairs():
    with pytest.raises(ValueError, match="bfloat16 products with 3 terms"):
        PackedLinear(torch.zeros(4, 3), None, torch.bfloat16)


def test_results_do_not_depend_on_threads():
    torch.manual_seed(0)
    x, weights = torch.randn(500, 32), (torch.randn(64, 32), torch.randn(64), torch.randn(40, 64))
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            for numbers in NUMBERS:
                chosen = products(numbers, x), products(numbers, 10 * x)
                found.append(PackedMlp(*weights, None, chosen)(x))
    finally:
        torch.set_num_threads(before)
    for index, each in enumerate(found):
        assert torch.equal(each, found[index % len(NUMBERS)])


ON_AVX2 = """
import torch
from upernet.ops.packed.linear import PackedLinear
from upernet.ops.packed.ranges import Range
from upernet.ops.runtime import matmul

torch.manual_seed(0)
assert (matmul.HAS_VNNI, matmul.WIDE, matmul.HAS_INT8) == ({vnni}, False, True)
x = torch.randint(0, 256, (37, 2, 64), dtype=torch.uint8)
weight = torch.randint(-matmul.MAX_INT8, matmul.MAX_INT8 + 1, (2, 50, 64), dtype=torch.int8)
x[0], weight[:, 0] = 255, matmul.MAX_INT8
out = torch.empty(37, 2, 50, dtype=torch.int32)
matmul.PackedMatmul(weight)(x, out)
assert torch.equal(out.double(), torch.einsum("rgk,gdk->rgd", x.double(), weight.double()))
x, weight, found = torch.rand(100, 80), torch.randn(70, 80), Range()
found.observe(x)
error = (PackedLinear(weight, None, found)(x) - x @ weight.T).abs().max() / (x @ weight.T).std()
assert error < 0.1, error
"""


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "features", "vnni"), [("haswell", "+avx2,+fma", False), ("alderlake", "+avx2,+fma,+avxvnni", True)]
)
def test_products_of_int8_without_avx512(name, features, vnni, tmp_path):
    from upernet.ops.runtime.matmul import FEATURES

    if not {feature.strip() for feature in features.split(",")} <= set(FEATURES):
        pytest.skip(f"this processor lacks {features}")
    environment = os.environ | {
        "NUMBA_CPU_NAME": name,
        "NUMBA_CPU_FEATURES": features,
        "NUMBA_CACHE_DIR": str(tmp_path),
    }
    program = ON_AVX2.format(vnni=vnni)
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@given(rows=st.integers(0, 5000), threads=st.integers(1, 16))
def test_units_are_all_rows_in_turn_and_equal_for_all_threads(rows, threads):
    units, whole, part = on_threads(threads, lambda: row_units(rows))
    found = [rows_of_unit(unit, whole, part, rows) for unit in range(units)]
    assert [row for first, count in found for row in range(first, first + count)] == list(range(rows))
    assert all(0 < count <= ROWS_PER_UNIT for _, count in found)
    assert whole % threads == 0 and units - whole <= threads
    assert all(count <= -(-rows // threads) + TILE for _, count in found[whole:])
