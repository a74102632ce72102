"""Matrix products with weights that are packed once, for Numba: in registers of LANES numbers, without a library.

What PyTorch calls for float32 matrices (MKL) reaches less than half of some processors; oneDNN, which it calls for
convolutions, packs the weights anew in each call. Here, a packed weight is a row of panels, PANEL outputs wide and K
deep, that are read from start to end. A tile of the result, ROWS x PANEL, stays in registers while it is summed up.
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
from numba.extending import intrinsic
from torch import Tensor

from upernet.ops.lanes import LANES, Lanes
from upernet.ops.threads import in_team, jit, run, take

WIDE = bool(llvmlite.binding.get_host_cpu_features().get("avx512f"))
VECTORS = 2 if WIDE else 1
"""Vectors of LANES outputs in a panel. With ROWS, what the registers hold: 32 of 16 floats, or 16 of 8."""
ROWS = 12 if WIDE else 6
FEW_ROWS = 4
PANEL = VECTORS * LANES
PANELS_PER_UNIT = 4
ROWS_PER_UNIT = 252
"""Whole tiles of ROWS. What one thread multiplies before it takes on the next, so that both stay in its cache."""


@intrinsic
def _tile(
    typing: Any,
    rows: Any,
    a: Any,
    a_at: Any,
    a_step: Any,
    a_next: Any,
    b: Any,
    b_at: Any,
    b_next: Any,
    depth: Any,
    base: Any,
    base_at: Any,
    base_step: Any,
    c: Any,
    c_at: Any,
    c_step: Any,
) -> Any:
    """c[r, 0:PANEL] = base[r, 0:PANEL] + sum over k of a[r, k] b[k, 0:PANEL], for r in 0 .. rows, which is a literal.

    Row r of a begins at a_at + r a_step, those of base and c likewise, and row k of b at b_at + k b_next; number k of
    a row of a lies at k a_next. c may be base.
    """
    if not isinstance(rows, types.IntegerLiteral):
        return None
    count = rows.literal_value

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _, a_array, a_first, a_stride, a_stride_k, b_array, b_first, b_stride, steps, *sums_and_result = args
        base_array, base_first, base_stride, c_array, c_first, c_stride = sums_and_result
        vector = context.get_value_type(Lanes(a.dtype))
        width = a.dtype.bitwidth // 8
        integer = a_first.type

        def data(array_type: Any, array: Any, first: Any) -> Any:
            return builder.gep(context.make_array(array_type)(context, builder, array).data, [first])

        def times(value: Any, factor: int) -> Any:
            return builder.mul(value, ir.Constant(integer, factor))

        def vectors(first: Any) -> list[Any]:
            steps = (ir.Constant(integer, v * LANES) for v in range(VECTORS))
            return [builder.bitcast(builder.gep(first, [step]), vector.as_pointer()) for step in steps]

        def loaded(first: Any) -> list[Any]:
            values = [builder.load(address) for address in vectors(first)]
            for value in values:
                value.align = width
            return values

        first_of_base = data(base, base_array, base_first)
        start = [loaded(builder.gep(first_of_base, [times(base_stride, r)])) for r in range(count)]
        row_of_a = [builder.gep(data(a, a_array, a_first), [times(a_stride, r)]) for r in range(count)]
        panel = data(b, b_array, b_first)
        entry = builder.block
        loop = builder.append_basic_block("sum")
        done = builder.append_basic_block("done")
        builder.branch(loop)
        builder.position_at_end(loop)
        k = builder.phi(integer)
        a_k = builder.phi(integer)
        b_k = builder.phi(integer)
        for phi in (k, a_k, b_k):
            phi.add_incoming(ir.Constant(integer, 0), entry)
        sums = [[builder.phi(vector) for _ in range(VECTORS)] for _ in range(count)]
        for row, values in zip(sums, start, strict=True):
            for phi, value in zip(row, values, strict=True):
                phi.add_incoming(value, entry)
        right = loaded(builder.gep(panel, [b_k]))
        zeros = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
        undefined = ir.Constant(vector, ir.Undefined)
        for r in range(count):
            number = builder.load(builder.gep(row_of_a[r], [a_k]))
            first = builder.insert_element(undefined, number, ir.Constant(ir.IntType(32), 0))
            left = builder.shuffle_vector(first, undefined, zeros)
            for v in range(VECTORS):
                product = builder.fmul(left, right[v], flags=["contract"])
                sums[r][v].add_incoming(builder.fadd(sums[r][v], product, flags=["contract"]), loop)
        following = builder.add(k, ir.Constant(integer, 1))
        k.add_incoming(following, loop)
        a_k.add_incoming(builder.add(a_k, a_stride_k), loop)
        b_k.add_incoming(builder.add(b_k, b_stride), loop)
        builder.cbranch(builder.icmp_signed("<", following, steps), loop, done)
        builder.position_at_end(done)
        target = data(c, c_array, c_first)
        for r in range(count):
            for phi, address in zip(sums[r], vectors(builder.gep(target, [times(c_stride, r)])), strict=True):
                total = next(value for value, block in phi.incomings if block is loop)
                builder.store(total, address).align = width
        return context.get_dummy_value()

    index = types.intp
    left_and_right = (a, index, index, index, b, index, index, index)
    return types.none(rows, *left_and_right, base, index, index, c, index, index), generate


@jit
def _column(rows, a, a_at, a_step, a_next, b, b_at, b_next, depth, base, base_at, base_step, c, c_at, c_step):
    """As `_tile`, for any number of rows."""
    r = 0
    while r < rows:
        left, start, to = a_at + r * a_step, base_at + r * base_step, c_at + r * c_step
        if r + ROWS <= rows:
            _tile(ROWS, a, left, a_step, a_next, b, b_at, b_next, depth, base, start, base_step, c, to, c_step)
            r += ROWS
        elif r + FEW_ROWS <= rows:
            _tile(FEW_ROWS, a, left, a_step, a_next, b, b_at, b_next, depth, base, start, base_step, c, to, c_step)
            r += FEW_ROWS
        else:
            _tile(1, a, left, a_step, a_next, b, b_at, b_next, depth, base, start, base_step, c, to, c_step)
            r += 1


@jit
def _multiply(counter, x, weight, base, out, rows, batch, depth, outputs):
    """x R x G x K, weight G x panels x K x PANEL, base G x (panels PANEL), out R x G x D."""
    panels = -(-outputs // PANEL)
    row_blocks = -(-rows // ROWS_PER_UNIT)
    panel_blocks = -(-panels // PANELS_PER_UNIT)
    edge = np.empty(ROWS_PER_UNIT * PANEL, x.dtype)
    while True:
        unit = take(counter)
        if unit >= batch * panel_blocks * row_blocks:
            return
        g = unit // (panel_blocks * row_blocks)
        first = unit // row_blocks % panel_blocks * PANELS_PER_UNIT
        r = unit % row_blocks * ROWS_PER_UNIT
        count = min(ROWS_PER_UNIT, rows - r)
        for panel in range(first, min(first + PANELS_PER_UNIT, panels)):
            at = (g * panels + panel) * PANEL
            valid = min(PANEL, outputs - panel * PANEL)
            a, a_step = (r * batch + g) * depth, batch * depth
            c, c_step = (r * batch + g) * outputs + panel * PANEL, batch * outputs
            target, t, t_step = (out, c, c_step) if valid == PANEL else (edge, 0, PANEL)
            _column(count, x, a, a_step, 1, weight, at * depth, PANEL, depth, base, at, 0, target, t, t_step)
            if valid < PANEL:
                for i in range(count):
                    for j in range(valid):
                        out[c + i * c_step + j] = edge[i * PANEL + j]


@jit
def _multiply_transposed(counter, a, b, base, c, batch, depth, rows, outputs, onto):
    """a G x T x R, b G x T x D, c G x R x D, which `base` is too if `onto`, else zeros."""
    panels = outputs // PANEL
    row_blocks = -(-rows // ROWS_PER_UNIT)
    while True:
        unit = take(counter)
        if unit >= batch * row_blocks * panels:
            return
        g, first, panel = unit // (row_blocks * panels), unit // panels % row_blocks * ROWS_PER_UNIT, unit % panels
        left, right = g * depth * rows + first, g * depth * outputs + panel * PANEL
        to = (g * rows + first) * outputs + panel * PANEL
        base_at, base_step = (to, outputs) if onto else (0, 0)
        count = min(ROWS_PER_UNIT, rows - first)
        _column(count, a, left, 1, rows, b, right, outputs, depth, base, base_at, base_step, c, to, outputs)


@jit
def _multiply_transposed_team(openmp, threads, args):
    in_team(openmp, threads, _multiply_transposed, args)


@jit
def _multiply_team(openmp, threads, args):
    in_team(openmp, threads, _multiply, args)


class Products:
    """Products of rows with each of G weights G x D x K, which are copied into panels, plus a bias G x D."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None):
        self.batch, self.outputs, self.depth = weight.shape
        missing = -self.outputs % PANEL
        padded = F.pad(weight.detach(), (0, 0, 0, missing))
        self.panels = padded.unflatten(1, (-1, PANEL)).transpose(2, 3).contiguous()
        self.base = weight.new_zeros(padded.shape[:2]) if bias is None else F.pad(bias.detach(), (0, missing))

    @classmethod
    def of_panels(cls, panels: Tensor, outputs: int) -> Products:
        """With weights that are panels already: G x P x K x PANEL, any numbers beyond the outputs."""
        products = cls.__new__(cls)
        products.batch, _, products.depth, _ = panels.shape
        products.outputs, products.panels = outputs, panels
        products.base = panels.new_zeros(panels.shape[0], panels.shape[1] * PANEL)
        return products

    def __call__(self, x: Tensor, out: Tensor) -> Tensor:
        """x R x G x K, written to out R x G x D, both contiguous."""
        units = self.batch * -(-self.outputs // (PANEL * PANELS_PER_UNIT)) * -(-len(x) // ROWS_PER_UNIT)
        flat = (each.detach().numpy().reshape(-1) for each in (x, self.panels, self.base, out))
        run(_multiply, _multiply_team, units, *flat, len(x), self.batch, self.depth, self.outputs)
        return out


def transposed_product(a: Tensor, b: Tensor, out: Tensor, onto: bool) -> None:
    """out[g] = a[g]^T b[g] [+ out[g] if `onto`] for each g.

    Args:
        a, b: G x T x R and G x T x D, D a multiple of PANEL.
        out: G x R x D; all contiguous.
    """
    batch, rows, outputs = out.shape
    flat = [each.numpy().reshape(-1) for each in (a, b, out)]
    base = flat[2] if onto else np.zeros(PANEL, flat[2].dtype)
    units = batch * (outputs // PANEL) * -(-rows // ROWS_PER_UNIT)
    sizes = (batch, a.shape[1], rows, outputs, onto)
    run(_multiply_transposed, _multiply_transposed_team, units, *flat[:2], base, flat[2], *sizes)


def try_one_pixel() -> None:
    """Compile, or load, the kernel, and run it."""
    Products(torch.zeros(1, 1, 1))(torch.zeros(1, 1, 1), torch.zeros(1, 1, 1))
