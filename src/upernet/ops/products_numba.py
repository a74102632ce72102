"""Matrix products with weights that are packed once, for Numba: in registers of LANES numbers, without a library.

What PyTorch calls for float32 matrices (MKL) reaches less than half of some processors; oneDNN, which it calls for
convolutions, packs the weights anew in each call. Here, a packed weight is a row of panels, PANEL outputs wide and K
deep, that are read from start to end. A tile of the result, ROWS x PANEL, stays in registers while it is summed up.

Weights may be bfloat16 where the processor multiplies it. Then so are the rows; sums and the result are float32. Numba
sees pairs of neighbours in K as int32, which is what the instruction takes.
"""

# pyright: reportCallIssue=false
# Numba calls an intrinsic with fewer arguments than its definition has.

from __future__ import annotations

from typing import Any

import llvmlite.binding
import numpy as np
import torch
import torch.nn.functional as F
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from torch import Tensor

from upernet.ops.lanes import LANES, BFloat, Lanes
from upernet.ops.threads import in_team, jit, run, take

FEATURES = llvmlite.binding.get_host_cpu_features()
WIDE = bool(FEATURES.get("avx512f"))
HAS_BFLOAT16 = WIDE and bool(FEATURES.get("avx512bf16"))
DOT_PRODUCT = "llvm.x86.avx512bf16.dpbf16ps.512"
"""Of LANES pairs of bfloat16, added to LANES float32."""
VECTORS = 2 if WIDE else 1
"""Vectors of LANES outputs in a panel. With ROWS, what the registers hold: 32 of 16 floats, or 16 of 8."""
ROWS = 8 if WIDE else 6
FEW_ROWS = 4
PANEL = VECTORS * LANES
PANELS_PER_UNIT = 4
ROWS_PER_UNIT = 256
"""Whole tiles of ROWS. What one thread multiplies before it takes on the next, so that both stay in its cache."""


@intrinsic
def _tile(
    typing: Any,
    rows: Any,
    a: Any,
    a_at: Any,
    a_step: Any,
    b: Any,
    b_at: Any,
    depth: Any,
    base: Any,
    base_at: Any,
    c: Any,
    c_at: Any,
    c_step: Any,
) -> Any:
    """c[r, 0:PANEL] = base[0:PANEL] + sum over k of a[r, k] b[k, 0:PANEL], for r in 0 .. rows, which is a literal.

    Row r of a begins at a_at + r a_step, that of c at c_at + r c_step, row k of b at b_at + k PANEL.
    """
    if not isinstance(rows, types.IntegerLiteral):
        return None
    count = rows.literal_value

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _, a_array, a_first, a_stride, b_array, b_first, steps, base_array, base_first, c_array, c_first, c_stride = (
            args
        )
        vector = context.get_value_type(Lanes(c.dtype))
        width = c.dtype.bitwidth // 8
        in_pairs = a.dtype == types.int32
        factor = ir.VectorType(ir.IntType(32), LANES) if in_pairs else vector
        pairs = ir.VectorType(BFloat(), 2 * LANES)
        integer = a_first.type

        def data(array_type: Any, array: Any, first: Any) -> Any:
            return builder.gep(context.make_array(array_type)(context, builder, array).data, [first])

        def times(value: Any, factor: int) -> Any:
            return builder.mul(value, ir.Constant(integer, factor))

        def vectors(first: Any, kind: Any) -> list[Any]:
            steps = (ir.Constant(integer, v * LANES) for v in range(VECTORS))
            return [builder.bitcast(builder.gep(first, [step]), kind.as_pointer()) for step in steps]

        def loaded(first: Any, kind: Any) -> list[Any]:
            values = [builder.load(address) for address in vectors(first, kind)]
            for value in values:
                value.align = width
            return values

        def multiply_add(left: Any, right: Any, total: Any) -> Any:
            if not in_pairs:
                return builder.fadd(total, builder.fmul(left, right, flags=["contract"]), flags=["contract"])
            function = ir.FunctionType(vector, [vector, pairs, pairs])
            dot_product = cgutils.get_or_insert_function(builder.module, function, DOT_PRODUCT)
            return builder.call(dot_product, [total, builder.bitcast(left, pairs), builder.bitcast(right, pairs)])

        start = loaded(data(base, base_array, base_first), vector)
        row_of_a = [builder.gep(data(a, a_array, a_first), [times(a_stride, r)]) for r in range(count)]
        panel = data(b, b_array, b_first)
        entry = builder.block
        loop = builder.append_basic_block("sum")
        done = builder.append_basic_block("done")
        builder.branch(loop)
        builder.position_at_end(loop)
        k = builder.phi(integer)
        k.add_incoming(ir.Constant(integer, 0), entry)
        sums = [[builder.phi(vector) for _ in range(VECTORS)] for _ in range(count)]
        for row in sums:
            for phi, value in zip(row, start, strict=True):
                phi.add_incoming(value, entry)
        right = loaded(builder.gep(panel, [times(k, PANEL)]), factor)
        zeros = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
        undefined = ir.Constant(factor, ir.Undefined)
        for r in range(count):
            number = builder.load(builder.gep(row_of_a[r], [k]))
            number.align = width
            first = builder.insert_element(undefined, number, ir.Constant(ir.IntType(32), 0))
            left = builder.shuffle_vector(first, undefined, zeros)
            for v in range(VECTORS):
                sums[r][v].add_incoming(multiply_add(left, right[v], sums[r][v]), loop)
        following = builder.add(k, ir.Constant(integer, 1))
        k.add_incoming(following, loop)
        builder.cbranch(builder.icmp_signed("<", following, steps), loop, done)
        builder.position_at_end(done)
        target = data(c, c_array, c_first)
        for r in range(count):
            for phi, address in zip(sums[r], vectors(builder.gep(target, [times(c_stride, r)]), vector), strict=True):
                total = next(value for value, block in phi.incomings if block is loop)
                builder.store(total, address).align = width
        return context.get_dummy_value()

    index = types.intp
    return types.none(rows, a, index, index, b, index, index, base, index, c, index, index), generate


@jit
def _multiply(counter, x, weight, base, out, rows, batch, depth, outputs):
    """x R x G x K, weight G x panels x K x PANEL, base G x (panels PANEL), out R x G x D."""
    panels = -(-outputs // PANEL)
    row_blocks = -(-rows // ROWS_PER_UNIT)
    panel_blocks = -(-panels // PANELS_PER_UNIT)
    edge = np.empty(ROWS * PANEL, out.dtype)
    while True:
        unit = take(counter)
        if unit >= batch * panel_blocks * row_blocks:
            return
        g = unit // (panel_blocks * row_blocks)
        first = unit // row_blocks % panel_blocks * PANELS_PER_UNIT
        r0 = unit % row_blocks * ROWS_PER_UNIT
        stop = min(r0 + ROWS_PER_UNIT, rows)
        for panel in range(first, min(first + PANELS_PER_UNIT, panels)):
            at = (g * panels + panel) * PANEL
            valid = min(PANEL, outputs - panel * PANEL)
            r = r0
            while r < stop:
                a, a_step = (r * batch + g) * depth, batch * depth
                c, c_step = (r * batch + g) * outputs + panel * PANEL, batch * outputs
                target, t, t_step = (out, c, c_step) if valid == PANEL else (edge, 0, PANEL)
                if r + ROWS <= stop:
                    count = ROWS
                    _tile(ROWS, x, a, a_step, weight, at * depth, depth, base, at, target, t, t_step)
                elif r + FEW_ROWS <= stop:
                    count = FEW_ROWS
                    _tile(FEW_ROWS, x, a, a_step, weight, at * depth, depth, base, at, target, t, t_step)
                else:
                    count = 1
                    _tile(1, x, a, a_step, weight, at * depth, depth, base, at, target, t, t_step)
                if valid < PANEL:
                    for i in range(count):
                        for j in range(valid):
                            out[c + i * c_step + j] = edge[i * PANEL + j]
                r += count


@jit
def _multiply_team(openmp, threads, args):
    in_team(openmp, threads, _multiply, args)


class Products:
    """Products of rows with each of G weights G x D x K, which are copied into panels, plus a bias G x D.

    Raises:
        ValueError: weights are bfloat16, and K is odd or the processor does not multiply it.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None):
        self.batch, self.outputs, self.depth = weight.shape
        self.dtype = weight.dtype
        """Of the rows."""
        pair = 2 if self.dtype == torch.bfloat16 else 1
        if pair == 2 and (self.depth % 2 or not HAS_BFLOAT16):
            raise ValueError(f"there are no bfloat16 products here with {self.depth} terms: use float32")
        missing = -self.outputs % PANEL
        padded = F.pad(weight.detach(), (0, 0, 0, missing))
        panels = padded.unflatten(1, (-1, PANEL)).unflatten(3, (-1, pair))
        self.panels = panels.transpose(2, 3).contiguous()
        self.result_dtype = torch.float32 if pair == 2 else self.dtype
        base = torch.zeros(self.batch, self.outputs) if bias is None else bias.detach()
        self.base = F.pad(base.to(self.result_dtype), (0, missing))
        self.pair = pair

    def __call__(self, x: Tensor, out: Tensor) -> Tensor:
        """x R x G x K, written to out R x G x D of `result_dtype`, both contiguous."""
        units = self.batch * -(-self.outputs // (PANEL * PANELS_PER_UNIT)) * -(-len(x) // ROWS_PER_UNIT)
        flat = (as_numpy(each, self.pair) for each in (x.detach(), self.panels))
        sums = (as_numpy(each) for each in (self.base, out.detach()))
        run(_multiply, _multiply_team, units, *flat, *sums, len(x), self.batch, self.depth // self.pair, self.outputs)
        return out


def as_numpy(x: Tensor, pair: int = 1) -> np.ndarray:
    """The numbers of a contiguous tensor in a row; those of bfloat16 as int16, or int32 that hold a `pair` of 2."""
    flat = x.reshape(-1)
    if x.dtype != torch.bfloat16:
        return flat.numpy()
    return flat.view(torch.int32 if pair == 2 else torch.int16).numpy()


def try_one_pixel() -> None:
    """Compile, or load, the kernel, and run it."""
    Products(torch.zeros(1, 1, 1))(torch.zeros(1, 1, 1), torch.zeros(1, 1, 1))
