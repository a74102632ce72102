"""Tests of upernet.ops.conv3x3.gpu and upernet.ops.lateral.gpu: results under Triton's interpreter, and compilation."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch._subclasses import FakeTensorMode

from upernet.ops import (
    choose_dcnv3,
    choose_lateral,
    choose_upsample_conv3x3,
    lateral,
    upsample_conv3x3,
    use_kernel,
)

INTERPRETED = """
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from upernet.ops import lateral, upsample_conv3x3, use_kernel
from upernet.ops.conv3x3.taps import upsample_taps

TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 2e-2}
TYPES = st.sampled_from(list(TOLERANCE))
SIDES = st.tuples(st.integers(1, 4), st.integers(1, 4))
few = settings(max_examples=6, deadline=None)
add_resized = torch.ops.upernet.add_resized


def resize(x, size):
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


def agree(ours, theirs):
    assert ours.shape == theirs.shape and ours.isfinite().all()
    assert (ours.double() - theirs).abs().max() <= TOLERANCE[ours.dtype] * max(theirs.abs().max(), 1)


@few
@given(SIDES, st.lists(SIDES, min_size=1, max_size=2), st.integers(1, 2), st.integers(1, 18), TYPES)
def taps(size, coarse, n, width, dtype):
    # the products of each tap are resized and pass through a convolution with that tap alone
    torch.manual_seed(0)
    products = [torch.randn(n, *each, 9 * width).to(dtype).requires_grad_() for each in coarse]
    exact = [x.detach().double().requires_grad_() for x in products]
    one = torch.eye(9, dtype=torch.float64).view(1, 9, 3, 3)
    expected = 0
    for x in exact:
        maps = resize(x.permute(0, 3, 1, 2), size).unflatten(1, (9, width)).transpose(1, 2).flatten(0, 1)
        expected = expected + F.conv2d(maps, one, padding=1).unflatten(0, (n, width)).squeeze(2).permute(0, 2, 3, 1)
    with use_kernel(upsample_taps="triton"):
        y = upsample_taps(products, *size)
        into = torch.randn(y.shape).to(dtype)
        gradients = torch.autograd.grad(y, products, into)
        again = torch.ops.upernet.upsample_taps_gradient(into.transpose(1, 2).contiguous().transpose(1, 2), *coarse[0])
    agree(y, expected)
    assert torch.equal(again, gradients[0])
    for ours, theirs in zip(gradients, torch.autograd.grad(expected, exact, into.double())):
        agree(ours, theirs)


@few
@given(SIDES, SIDES, st.integers(1, 2), st.integers(1, 18), TYPES, st.booleans())
def sums(size, coarse, n, channels, dtype, last):
    torch.manual_seed(0)
    x, y = (torch.randn(n, channels, *each).to(dtype) for each in (size, coarse))
    scale, shift = torch.randn(2, channels)
    if last:
        x = x.contiguous(memory_format=torch.channels_last)
    ours = add_resized(x, scale, shift, y)
    assert ours.dtype == dtype and ours.stride() == x.stride()
    scale, shift = (each.double().view(-1, 1, 1) for each in (scale, shift))
    agree(ours, (x.double() * scale + shift).relu() + resize(y.double(), size))


def convolution():
    # as on a GPU: some maps by convolutions, others by products; with gradients and without; autocast with mixed types
    torch.manual_seed(0)
    sizes = ((3, (4, 3)), (2, (4, 3)), (5, (3, 2)), (4, (1, 2)))
    for autocast in (False, True):
        dtype = torch.bfloat16 if autocast else torch.float64
        maps = [torch.randn(1, channels, *size).to(dtype).requires_grad_() for channels, size in sizes]
        weight = torch.randn(20, 14, 3, 3).div(11).to(dtype).requires_grad_()
        exact = [x.detach().double().requires_grad_() for x in (*maps, weight)]
        expected = F.conv2d(torch.cat([resize(x, (4, 3)) for x in exact[:-1]], dim=1), exact[-1], padding=1)
        into = torch.randn(expected.shape).to(dtype)
        inputs = [maps[0].float(), *maps[1:], weight.float()] if autocast else [*maps, weight]
        with use_kernel(upsample_conv3x3="direct", upsample_taps="triton"):
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                y = upsample_conv3x3(inputs[:-1], inputs[-1])
                with torch.no_grad():
                    assert torch.equal(upsample_conv3x3(inputs[:-1], inputs[-1]), y)
            gradients = torch.autograd.grad(y, [*maps, weight], into)
        assert y.dtype == dtype
        agree(y, expected)
        for ours, theirs in zip(gradients, torch.autograd.grad(expected, exact, into.double())):
            agree(ours, theirs)


def tiles():
    # more pixels and channels than one holds, and the edges of the last ones
    ops, product, fine = torch.ops.upernet, torch.randn(1, 5, 4, 9 * 144), torch.randn(1, 144, 12, 13)
    for name, operator, arguments in (
        ("upsample_taps", ops.upsample_taps, ([product], 6, 4)),
        ("upsample_taps", ops.upsample_taps_gradient, (torch.randn(1, 6, 4, 144), 5, 4)),
        ("lateral", lateral, (fine, torch.randn(32, 144, 1, 1), *torch.randn(2, 32), fine[:, :32, ::2, 1::2])),
    ):
        found = []
        for kernel in ("triton", "numba"):
            with use_kernel(**{name: kernel}):
                found.append(operator(*arguments))
        torch.testing.assert_close(*found, rtol=1e-4, atol=1e-4)


def not_a_number():
    x = torch.tensor([torch.nan, -torch.inf, torch.inf, -1]).view(1, 1, 2, 2)
    y = add_resized(x, torch.ones(1), torch.zeros(1), torch.ones(1, 1, 1, 1))
    torch.testing.assert_close(y.flatten(), torch.tensor([torch.nan, 1, torch.inf, 1]), equal_nan=True)


for check in (not_a_number, convolution, tiles, sums, taps):
    check()
"""


@pytest.mark.process
@pytest.mark.slow
def test_interpreted_kernels_as_plain_torch_in_float64() -> None:
    pytest.importorskip("triton")
    done = subprocess.run(
        [sys.executable, "-c", INTERPRETED],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"TRITON_INTERPRET": "1"},
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.skipif("TRITON_INTERPRET" in os.environ, reason="the interpreter compiles nothing")
@pytest.mark.parametrize("dtype", ["fp32", "fp64", "bf16"])
def test_kernels_compile_for_a_gpu(dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    triton = pytest.importorskip("triton")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from upernet.ops.conv3x3 import gpu
    from upernet.ops.lateral import gpu as lateral_gpu

    working = "fp64" if dtype == "fp64" else "fp32"
    constants = dict(
        PIXELS=16, CHANNELS=128, SUM=triton.language.float64 if dtype == "fp64" else triton.language.float32
    )
    for kernel, more in (
        (gpu._upsample_taps, dict(ADD=True)),
        (gpu._upsample_taps_gradient, {}),
        (lateral_gpu._add_resized, dict(LAST=True)),
        (lateral_gpu._add_resized, dict(LAST=False)),
    ):
        signature = dict.fromkeys(kernel.arg_names, "i32")
        for name in ("product", "base", "grad", "x", "coarse", "scale", "shift", "out"):
            if name in signature:
                signature[name] = "*" + (working if name in ("base", "scale", "shift") else dtype)
        signature |= dict.fromkeys(constants | more, "constexpr")
        compiled = triton.compile(ASTSource(kernel, signature, constants | more), target=GPUTarget("cuda", 80, 32))
        assert compiled.asm["ptx"]


def maps_on(device: str, dtype: torch.dtype = torch.float32) -> tuple[list[torch.Tensor], torch.Tensor]:
    maps = [torch.empty(2, 24, *size, device=device, dtype=dtype) for size in ((9, 7), (9, 7), (5, 4))]
    return maps, torch.empty(20, 72, 3, 3, device=device, dtype=dtype, requires_grad=True)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_chosen_on_gpus_by_users_who_opt_in(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    monkeypatch.setenv("UPERNET_TRITON", "1")
    with FakeTensorMode():  # of the shapes and devices alone: no GPU is needed
        maps, weight = maps_on("cuda", dtype)
        for gradients in (True, False):
            with torch.set_grad_enabled(gradients):
                assert choose_upsample_conv3x3(maps, weight).kernel == "direct"
                assert choose_upsample_conv3x3(maps[:2], weight).kernel == "torch"
                y = upsample_conv3x3(maps, weight)
            assert (y.shape, y.dtype, y.device.type) == ((2, 20, 9, 7), dtype, "cuda")
        enter = torch.empty(24, 24, 1, 1, device="cuda", dtype=dtype)
        assert choose_lateral(maps[0], enter, maps[2]).kernel == "triton"
        factors = torch.empty(2, 24, device="cuda")
        assert lateral(maps[0], enter, *factors, maps[2]).dtype == dtype
        assert choose_lateral(maps[0].requires_grad_(), enter, maps[2]).kernel == "torch"


@pytest.mark.parametrize("value", [None, "", "0", "false"])
def test_torch_is_the_default_on_gpus(value: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UPERNET_TRITON", raising=False)
    if value is not None:
        monkeypatch.setenv("UPERNET_TRITON", value)
    with FakeTensorMode(), torch.no_grad():
        maps, weight = maps_on("cuda")
        enter, factors = torch.empty(24, 24, 1, 1, device="cuda"), torch.empty(2, 24, device="cuda")
        choices = [
            choose_upsample_conv3x3(maps, weight),
            choose_lateral(maps[0], enter, maps[2]),
            choose_dcnv3(maps[0]),
        ]
        assert {choice.kernel for choice in choices} == {"torch"}
        assert all("UPERNET_TRITON=1" in choice.reason for choice in choices)
        assert upsample_conv3x3(maps, weight, *torch.empty(2, 20, device="cuda"), relu=True).shape == (2, 20, 9, 7)
        assert lateral(maps[0], enter, *factors, maps[2]).shape == (2, 24, 9, 7)


def test_not_chosen_where_it_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    monkeypatch.setenv("UPERNET_TRITON", "1")
    with FakeTensorMode():
        maps, weight = maps_on("cuda")
        half = [maps[0], *(x.half() for x in maps[1:])]
        reasons = [
            choose_upsample_conv3x3(half, weight),
            choose_upsample_conv3x3(maps, weight.half()),
            choose_upsample_conv3x3([x[:0] for x in maps], weight),
            choose_upsample_conv3x3([maps[0].new_empty(1, 24, 1, 2**15 + 1), *maps[1:]], weight),
            choose_upsample_conv3x3([x.to(torch.float8_e5m2) for x in maps], weight.to(torch.float8_e5m2)),
            choose_lateral(maps[0], torch.empty(24, 24, 1, 1, device="cuda"), maps[2].half()),
        ]
        assert {choice.kernel for choice in reasons} == {"torch"}
        texts = ["differ in dtype", "differ in dtype", "empty", "longer than", "float8", "differ in dtype"]
        assert all(text in choice.reason for text, choice in zip(texts, reasons, strict=True)), reasons
        torch.set_autocast_enabled("cuda", True)
        try:
            assert choose_upsample_conv3x3(half, weight).kernel == "direct"
            assert choose_upsample_conv3x3([maps[0].double(), *maps[1:]], weight).kernel == "torch"
        finally:
            torch.set_autocast_enabled("cuda", False)
    with use_kernel(upsample_taps="other"), pytest.raises(ValueError, match="choose from numba, triton"):
        torch.ops.upernet.upsample_taps([torch.empty(1, 2, 2, 144)], 3, 3)


WITHOUT_TRITON = """
import os, sys
os.environ["UPERNET_TRITON"] = "1"
sys.modules["triton"] = None
import torch
from torch._subclasses import FakeTensorMode
from upernet.ops import choose_upsample_conv3x3, choose_lateral
with FakeTensorMode():
    maps = [torch.empty(1, 4, *size, device="cuda") for size in ((8, 8), (4, 4))]
    enter = torch.empty(4, 4, 1, 1, device="cuda")
    for choice in (
        choose_upsample_conv3x3(maps, torch.empty(8, 8, 3, 3, device="cuda")),
        choose_lateral(maps[0], enter, maps[1]),
    ):
        assert choice == ("torch", "Triton is not installed"), choice
"""


@pytest.mark.process
@pytest.mark.slow
def test_without_triton() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_TRITON], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
