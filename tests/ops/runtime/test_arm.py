"""Tests of the code that the kernels become on Arm: LLVM's own, for a processor that need not be there.

Kernels are compiled for a processor without any extension, so that they hold no instruction of x86, and what LLVM makes
of them for a Neoverse N1 is read.
"""

import os
import re
import subprocess
import sys

import pytest

KERNELS = r"""
import re
import llvmlite.binding as llvm
import torch
from upernet.models.internimage import DCNv3, InternImageSpec
from upernet.models.internimage_blocks import Block, Mlp
from upernet.models.packed_block import PackedBlock
from upernet.ops import dcnv3, grouped_softmax, lateral, linear, upsample_conv3x3, use_kernel
from upernet.ops.conv3x3 import taps_cpu, winograd_tiles_cpu
from upernet.ops.dcnv3 import cpu as dcnv3_cpu
from upernet.ops.packed import block_cpu, linear_cpu
from upernet.ops.packed.linear import PackedLinear, PackedMlp
from upernet.ops.runtime import bilinear_cpu, matmul
from upernet.ops.softmax import cpu as softmax_cpu

torch.set_num_threads(1)
x, coarse, weight, one = torch.randn(1, 32, 9, 9), torch.randn(1, 32, 4, 4), torch.randn(32, 64, 3, 3), torch.ones(32)
with torch.no_grad(), use_kernel(upsample_conv3x3="winograd", lateral="numba", linear="numba", grouped_softmax="numba"):
    upsample_conv3x3([x, coarse], weight, one, one, True)
    lateral(x, weight[:, :32, :1, :1].contiguous(), one, one, coarse)
    grouped_softmax(torch.randn(4, 18), 2)
    rows = torch.randn(1, 9, 9, 32)
    dcnv3(rows, torch.randn(1, 9, 9, 36), torch.rand(1, 9, 9, 18), (3, 3), padding=(1, 1), groups=2)
    first, second = torch.randn(64, 32), torch.randn(32, 64)
    PackedLinear(first, None, torch.float32)(rows)
    PackedMlp(first, torch.zeros(64), second, None, (torch.float32, torch.float32))(rows)
    spec = InternImageSpec(channels=32, depths=(1, 1, 1, 1), groups=(2, 2, 2, 2))
    PackedBlock(Block(32, DCNv3(32, 2), Mlp(32, 64), spec, 0.0), lambda _: torch.float32)(rows)

llvm.initialize_all_targets()
llvm.initialize_all_asmprinters()
machine = llvm.Target.from_triple("aarch64-linux-gnu").create_target_machine(cpu="neoverse-n1", opt=3)
for kernel in (
    matmul._multiply, winograd_tiles_cpu._input_transform,
    winograd_tiles_cpu._multiply_taps, taps_cpu._interpolate_columns, taps_cpu._interpolate_rows,
    bilinear_cpu._upsample, dcnv3_cpu._forward, softmax_cpu._forward, linear_cpu._linear, linear_cpu._mlp,
    block_cpu._block,
):
    for signature, code in kernel.inspect_llvm().items():
        code = "\n".join(line for line in code.splitlines() if not line.startswith("target "))
        # LLVM has turned "was that the last reference?" into an intrinsic of x86.
        code = re.sub(
            r"(%\S+) = (?:tail )?call i8 @llvm.x86.atomic.sub.cc.i64\(ptr(?: nonnull)? (%\S+), i64 1, i32 4\)",
            lambda found: (
                f"%old{found.start()} = atomicrmw sub ptr {found[2]}, i64 1 monotonic\n"
                f"%last{found.start()} = icmp eq i64 %old{found.start()}, 1\n"
                f"{found[1]} = zext i1 %last{found.start()} to i8"
            ),
            code,
        )
        module = llvm.parse_assembly('target triple = "aarch64-linux-gnu"\n' + code)
        print("KERNEL", kernel.py_func.__name__)
        print(machine.emit_assembly(module))
"""
EXPECTED = {
    "_multiply": "fmla",
    "_input_transform": "fmla",
    "_multiply_taps": "fmla",
    "_interpolate_columns": "fmla",
    "_interpolate_rows": "fmla",
    "_upsample": "fmla",
    "_forward": "fmla",
    "_linear": "fmla",
    "_mlp": "fmla",
    "_block": "fmla",
}
"""Kernel -> the instruction for vectors that it is made for: a multiplication and an addition in four lanes."""


@pytest.mark.process
@pytest.mark.slow
def test_kernels_multiply_vectors_on_arm(tmp_path):
    environment = os.environ | {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": "", "NUMBA_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", KERNELS], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found: dict[str, list[str]] = {}
    for part in done.stdout.split("KERNEL ")[1:]:
        name, code = part.split("\n", 1)
        found.setdefault(name, []).append(code)
    assert set(EXPECTED) <= set(found)
    for name, instruction in EXPECTED.items():
        for code in found[name]:
            vectors = re.findall(rf"\b{instruction}\s+v\d+\.4s", code)
            scalars = re.findall(r"\b(?:fmadd|fmla)\s+s\d+", code)
            assert len(vectors) >= 8, f"{name}: {len(vectors)} vectors"
            assert len(vectors) > 2 * len(scalars), f"{name}: {len(vectors)} vectors, {len(scalars)} scalars"
    # The loop of the product keeps its sums in registers: no vector is stored to the stack in it.
    (product, *_) = found["_multiply"]
    loops = re.findall(r"\n\.LBB\d+_\d+:[^\n]*\n((?:(?!\n\.L).)*?\bb\.\w+\s+\.LBB\d+_\d+)", product, re.DOTALL)
    inner = max(loops, key=lambda loop: len(re.findall(r"\bfmla\s+v\d+\.4s", loop)))
    assert len(re.findall(r"\bfmla\s+v\d+\.4s", inner)) >= 16
    assert not re.findall(r"\bstr\s+q\d+, \[sp", inner)
