"""Tests of upernet.ops.dcnv3.gpu: results under Triton's interpreter, and compilation for a GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import golden_dcnv3 as golden

TESTS = Path(__file__).parents[2]
triton = pytest.importorskip("triton")

INTERPRETED = """
import torch
from helpers import golden_dcnv3 as golden
from upernet.ops import dcnv3, use_kernel

for name in golden.CONFIGURATIONS:
    inputs, geometry, facts = golden.read(name)
    # the interpreter runs one program after the other and is slow: one image, one group except in one configuration
    share = 1 if name == "k3_s2" else 1 / geometry["groups"]
    part = lambda t: t[:1, ..., : round(t.shape[-1] * share)]
    inputs = [part(t).requires_grad_() for t in inputs]
    geometry["groups"] = round(geometry["groups"] * share)
    with use_kernel(dcnv3="triton"):
        out = dcnv3(*inputs, **geometry)
        gradients = torch.autograd.grad(out, inputs, part(facts["grad_out"]))
    torch.testing.assert_close(out, part(facts["out"]), rtol=1e-9, atol=1e-9)
    for key, gradient in zip(("g_input", "g_offset", "g_mask"), gradients):
        if key in facts:
            torch.testing.assert_close(gradient, part(facts[key]), rtol=1e-9, atol=1e-9)

for dtype in (torch.float32, torch.bfloat16):
    x = torch.randn(2, 4, 5, 6).to(dtype).permute(0, 2, 1, 3).requires_grad_()
    offset, mask = 3 * torch.randn(2, 5, 4, 36), torch.rand(2, 5, 4, 18)
    offset[0, 0, 0, :8] = torch.tensor([torch.nan, torch.inf, -torch.inf, 1e30, -1e30, 3e38, 1e10, -(2.0**31)])
    offset = offset.to(dtype).requires_grad_()
    found = []
    for kernel in ("triton", "numba"):
        with use_kernel(dcnv3=kernel):
            out = dcnv3(x, offset, mask, groups=2)
            found.append([out, *torch.autograd.grad(out.float().sum(), (x, offset))])
    for a, b in zip(*found):
        assert a.dtype == b.dtype == dtype
        error = (a - b).abs().max() / b.abs().max()
        assert error < (1e-5 if dtype == torch.float32 else 0.02), error
"""


@pytest.mark.golden
@pytest.mark.process
@pytest.mark.slow
def test_interpreted_kernels_meet_the_golden_facts() -> None:
    golden.read("k3_base")  # skips without the facts
    environment = os.environ | {
        "TRITON_INTERPRET": "1",
        "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")]),
    }
    done = subprocess.run(
        [sys.executable, "-c", INTERPRETED], capture_output=True, text=True, timeout=300, env=environment
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.skipif("TRITON_INTERPRET" in os.environ, reason="the interpreter compiles nothing")
@pytest.mark.parametrize(("dtype", "remove_center"), [("fp32", False), ("bf16", True), ("fp64", True)])
def test_kernels_compile_for_a_gpu(
    dtype: str, remove_center: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from upernet.ops.dcnv3 import gpu

    working = "fp64" if dtype == "fp64" else "fp32"
    constants = dict(KERNEL_Y=3, KERNEL_X=3, DILATION_Y=1, DILATION_X=1, STRIDE_Y=1, STRIDE_X=1, ORIGIN_Y=0, ORIGIN_X=0)
    constants |= dict(
        SCALE=1.0, REMOVE_CENTER=remove_center, POINTS=9 - remove_center, PER_GROUP=12, LANES=16, BLOCK=64
    )
    constants |= dict(SUM=triton.language.float64 if dtype == "fp64" else triton.language.float32)
    for kernel in (gpu._forward, gpu._backward):
        signature = dict.fromkeys(kernel.arg_names, "i32")
        for name in ("grad", "x", "offset", "mask", "out", "g_x", "g_offset", "g_mask"):
            if name in signature:
                signature[name] = "*" + (working if name == "g_x" else dtype)
        signature |= dict.fromkeys(constants, "constexpr")
        compiled = triton.compile(ASTSource(kernel, signature, constants), target=GPUTarget("cuda", 80, 32))
        assert compiled.asm["ptx"]
