"""Prepacked matrix products in Numba: weights are packed once, and sums stay in vector registers.

What PyTorch calls for float32 matrices (MKL) reaches less than half of the speed of some processors. oneDNN, which it
calls for convolutions, packs the weights again in each call. Here, a packed weight is a row of panels, each PANEL
outputs wide and K deep, that are read from start to end. A tile of the result, ROWS x PANEL, stays in registers while
the sum over K runs.

Weights may be bfloat16 where the processor multiplies it. Then so are the rows; sums and results are float32. They may
be int8, too. Then the rows are uint8, and sums and results int32. Numba sees pairs or quadruples of neighbors in K as
int32, which is what the instructions take.
"""

# pyright: reportCallIssue=false
# Numba calls an intrinsic with fewer arguments than its definition has.

from __future__ import annotations

from typing import Any, Protocol, cast

import numpy as np
import torch
import torch.nn.functional as F
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic
from torch import Tensor

from upernet.ops.runtime.memory import empty
from upernet.ops.runtime.simd import LANES, BFloat, Lanes
from upernet.ops.runtime.threads import jit, kernel, run, take

FEATURES = cast(Any, cpu_target.target_context).codegen().magic_tuple()[2].split(",")
"""Features of the processor that Numba compiles for: this one, unless NUMBA_CPU_FEATURES lists others."""
WIDE = "+avx512f" in FEATURES
HAS_BFLOAT16 = WIDE and "+avx512bf16" in FEATURES
DOT_PRODUCT = "llvm.x86.avx512bf16.dpbf16ps.512"
"""LLVM intrinsic that multiplies LANES pairs of bfloat16 and adds the sums to LANES float32."""
INT8_WIDTH = 512 if WIDE and "+avx512vnni" in FEATURES else 256
"""Bits of the vectors that int8 is multiplied in."""
HAS_VNNI = INT8_WIDTH == 512 or "+avxvnni" in FEATURES or {"+avx512vnni", "+avx512vl"} <= set(FEATURES)
"""Whether one instruction multiplies four pairs of int8 and adds the products to an int32."""
HAS_INT8 = HAS_VNNI or "+avx2" in FEATURES
MAX_INT8 = 127 if HAS_VNNI else 63
"""Largest magnitude of an int8 weight. AVX2 adds two products in int16, which holds 2 x 255 x 63."""
VECTORS = 2 if WIDE else 1
"""Vectors of LANES outputs in a panel. ROWS x VECTORS sums fill the registers: 32 of 16 floats, or 16 of 8."""
ROWS = 8 if WIDE else 6
FEW_ROWS = 4
PANEL = VECTORS * LANES
NEIGHBORS = {torch.bfloat16: 2, torch.int8: 4}
"""Neighbors in K that one instruction multiplies, for weights of these dtypes; 1 for others."""
PANELS_PER_UNIT = 4
ROWS_PER_UNIT = 256
"""Rows and panels that one thread multiplies before it fetches the next unit, so that both stay in its cache."""


def _add_int8_products(builder: Any, left: Any, right: Any, total: Any) -> Any:
    """Add to each int32 of `total` the four products of the uint8 in `left` and the int8 in `right`."""
    parts = [(left, right, total)]
    if INT8_WIDTH == 256:
        halves = [ir.Constant(ir.VectorType(ir.IntType(32), 8), list(range(8 * h, 8 * h + 8))) for h in range(2)]
        parts = [tuple(builder.shuffle_vector(each, each, half) for each in parts[0]) for half in halves]
    sums = [_add_int8_vector(builder, *part) for part in parts]
    if INT8_WIDTH == 512:
        return sums[0]
    return builder.shuffle_vector(*sums, ir.Constant(ir.VectorType(ir.IntType(32), 16), list(range(16))))


def _add_int8_vector(builder: Any, left: Any, right: Any, total: Any) -> Any:
    """Compute `_add_int8_products` for one vector register."""

    def call(name: str, result: Any, *values: Any) -> Any:
        function = ir.FunctionType(result, [value.type for value in values])
        return builder.call(cgutils.get_or_insert_function(builder.module, function, name), values)

    if HAS_VNNI:
        return call(f"llvm.x86.avx512.vpdpbusd.{INT8_WIDTH}", total.type, total, left, right)
    bytes_, words = ir.VectorType(ir.IntType(8), 32), ir.VectorType(ir.IntType(16), 16)
    pairs = call("llvm.x86.avx2.pmadd.ub.sw", words, builder.bitcast(left, bytes_), builder.bitcast(right, bytes_))
    ones = ir.Constant(words, [1] * 16)
    return builder.add(total, call("llvm.x86.avx2.pmadd.wd", total.type, pairs, ones))


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
    """Compute c[r, :PANEL] = base[r, :PANEL] + sum over k of a[r, k] b[k, :PANEL], for r in range(rows).

    `rows` is a literal, so that all sums are registers. For AVX-512 (ROWS = 8, VECTORS = 2), one step of the loop is::

                             b[k]:  | LANES outputs | LANES outputs |      2 registers, loaded
        a[0, k] in all lanes   x    |   sum[0][0]   |   sum[0][1]   |
        a[1, k] in all lanes   x    |   sum[1][0]   |   sum[1][1]   |     16 registers, += a b
             ...                    |      ...      |      ...      |
        a[7, k] in all lanes   x    |   sum[7][0]   |   sum[7][1]   |

    Row r of `a` begins at a_at + r a_step, and its number k lies k a_next further on; rows of `base` and `c` lie
    likewise, and row k of `b` begins at b_at + k b_next. `c` may be `base`.
    """
    if not isinstance(rows, types.IntegerLiteral):
        return None
    count = rows.literal_value

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _, a_array, a_first, a_stride, a_stride_k, b_array, b_first, b_stride, steps, *sums_and_result = args
        base_array, base_first, base_stride, c_array, c_first, c_stride = sums_and_result
        vector = context.get_value_type(Lanes(c.dtype))
        width = c.dtype.bitwidth // 8
        in_quadruples = c.dtype == types.int32
        in_pairs = a.dtype == types.int32 and not in_quadruples
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
            if in_quadruples:
                return _add_int8_products(builder, left, right, total)
            if not in_pairs:
                return builder.fadd(total, builder.fmul(left, right, flags=["contract"]), flags=["contract"])
            function = ir.FunctionType(vector, [vector, pairs, pairs])
            dot_product = cgutils.get_or_insert_function(builder.module, function, DOT_PRODUCT)
            return builder.call(dot_product, [total, builder.bitcast(left, pairs), builder.bitcast(right, pairs)])

        first_of_base = data(base, base_array, base_first)
        start = [loaded(builder.gep(first_of_base, [times(base_stride, r)]), vector) for r in range(count)]
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
        right = loaded(builder.gep(panel, [b_k]), factor)
        zeros = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
        undefined = ir.Constant(factor, ir.Undefined)
        for r in range(count):
            number = builder.load(builder.gep(row_of_a[r], [a_k]))
            number.align = width
            first = builder.insert_element(undefined, number, ir.Constant(ir.IntType(32), 0))
            left = builder.shuffle_vector(first, undefined, zeros)
            for v in range(VECTORS):
                sums[r][v].add_incoming(multiply_add(left, right[v], sums[r][v]), loop)
        following = builder.add(k, ir.Constant(integer, 1))
        k.add_incoming(following, loop)
        a_k.add_incoming(builder.add(a_k, a_stride_k), loop)
        b_k.add_incoming(builder.add(b_k, b_stride), loop)
        builder.cbranch(builder.icmp_signed("<", following, steps), loop, done)
        builder.position_at_end(done)
        target = data(c, c_array, c_first)
        for r in range(count):
            for phi, address in zip(sums[r], vectors(builder.gep(target, [times(c_stride, r)]), vector), strict=True):
                total = next(value for value, block in phi.incomings if block is loop)
                builder.store(total, address).align = width
        return context.get_dummy_value()

    index = types.intp
    left_and_right = (a, index, index, index, b, index, index, index)
    return types.none(rows, *left_and_right, base, index, index, c, index, index), generate


@jit
def multiply_panel(rows, a, a_at, a_step, a_next, b, b_at, b_next, depth, base, base_at, base_step, c, c_at, c_step):
    """Multiply any number of rows by a panel of the weight; `_tile` describes the arguments.

    The last rows may be computed twice, unless `base` differs by row, as it does where `c` is `base`.
    """
    whole = rows // ROWS * ROWS
    for r in range(0, whole, ROWS):
        left, start, to = a_at + r * a_step, base_at + r * base_step, c_at + r * c_step
        _tile(ROWS, a, left, a_step, a_next, b, b_at, b_next, depth, base, start, base_step, c, to, c_step)
    r = whole
    while r < rows:
        if base_step == 0 and FEW_ROWS <= rows < r + FEW_ROWS:
            r = rows - FEW_ROWS  # one row alone takes half as long as eight
        left, start, to = a_at + r * a_step, base_at + r * base_step, c_at + r * c_step
        if r + FEW_ROWS <= rows:
            _tile(FEW_ROWS, a, left, a_step, a_next, b, b_at, b_next, depth, base, start, base_step, c, to, c_step)
            r += FEW_ROWS
        else:
            _tile(1, a, left, a_step, a_next, b, b_at, b_next, depth, base, start, base_step, c, to, c_step)
            r += 1


@kernel
def _multiply(counter, x, weight, base, out, rows, batch, depth, outputs, steps):
    """Multiply x R x G x K by weight G x panels x K x PANEL, add base G x (panels PANEL), write out R x G x D.

    `steps` lead from one R of x to the next, from one G of x to the next, to the first number of the weight, and from
    one G and one panel of the weight to the next.
    """
    by_row, by_factor, origin, by_weight, by_panel = steps
    panels = -(-outputs // PANEL)
    row_blocks = -(-rows // ROWS_PER_UNIT)
    panel_blocks = -(-panels // PANELS_PER_UNIT)
    edge = np.empty(ROWS_PER_UNIT * PANEL, out.dtype)
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
            a, b = r * by_row + g * by_factor, origin + g * by_weight + panel * by_panel
            c, c_step = (r * batch + g) * outputs + panel * PANEL, batch * outputs
            target, t, t_step = (out, c, c_step) if valid == PANEL else (edge, 0, PANEL)
            multiply_panel(count, x, a, by_row, 1, weight, b, PANEL, depth, base, at, 0, target, t, t_step)
            if valid < PANEL:
                for i in range(count):
                    for j in range(valid):
                        out[c + i * c_step + j] = edge[i * PANEL + j]


@kernel
def _multiply_transposed(counter, a, b, base, c, batch, depth, rows, outputs, accumulate):
    """Compute c = a^T b + base: a G x T x R, b G x T x D, c G x R x D; `base` is c to accumulate, or zeros."""
    panels = outputs // PANEL
    row_blocks = -(-rows // ROWS_PER_UNIT)
    while True:
        unit = take(counter)
        if unit >= batch * row_blocks * panels:
            return
        g, first, panel = unit // (row_blocks * panels), unit // panels % row_blocks * ROWS_PER_UNIT, unit % panels
        left, right = g * depth * rows + first, g * depth * outputs + panel * PANEL
        to = (g * rows + first) * outputs + panel * PANEL
        base_at, base_step = (to, outputs) if accumulate else (0, 0)
        count = min(ROWS_PER_UNIT, rows - first)
        multiply_panel(count, a, left, 1, rows, b, right, outputs, depth, base, base_at, base_step, c, to, outputs)


class RowProduct(Protocol):
    """Something that multiplies rows by a packed weight, such as a `PackedMatmul` with G = 1."""

    outputs: int
    dtype: torch.dtype
    """Dtype of the rows."""

    def __call__(self, x: Tensor, out: Tensor) -> Tensor:
        """Multiply x R x 1 x K into `out` R x 1 x D, both contiguous; return `out`."""
        ...


class PackedMatmul:
    """Matrix products with G weights, G x D x K, that are copied into panels, plus an optional bias G x D.

    Raises:
        ValueError: the weights are bfloat16 or int8, and K is not a multiple of 2 or 4, or the processor does not
            multiply them.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None):
        pair = NEIGHBORS.get(weight.dtype, 1)
        supported = {torch.bfloat16: HAS_BFLOAT16, torch.int8: HAS_INT8}.get(weight.dtype, True)
        if weight.shape[2] % pair or not supported:
            name = str(weight.dtype).removeprefix("torch.")
            raise ValueError(f"{name} products with {weight.shape[2]} terms are not supported here: use float32")
        padded = F.pad(weight.detach(), (0, 0, 0, -weight.shape[1] % PANEL))
        panels = padded.unflatten(1, (-1, PANEL)).unflatten(3, (-1, pair)).transpose(2, 3)
        # Large pages save most of the search for the addresses of a weight that exceeds the cache.
        self._keep(empty(*panels.shape, dtype=panels.dtype).copy_(panels), weight.shape[1], bias)

    @classmethod
    def from_panels(cls, panels: Tensor, outputs: int) -> PackedMatmul:
        """Use weights that are already panels: G x P x (K / n) x PANEL x n, n = 2 for bfloat16, 4 for int8, or 1.

        The values of the last panel beyond `outputs` are ignored.
        """
        matmul = cls.__new__(cls)
        matmul._keep(panels, outputs, None)
        return matmul

    def _keep(self, panels: Tensor, outputs: int, bias: Tensor | None) -> None:
        self.panels, self.outputs = panels, outputs
        self.batch, count, rows, _, self.pair = panels.shape
        self.depth = rows * self.pair
        self.dtype = torch.uint8 if panels.dtype == torch.int8 else panels.dtype
        """Dtype of the rows."""
        self.result_dtype = {torch.bfloat16: torch.float32, torch.int8: torch.int32}.get(panels.dtype, panels.dtype)
        base = panels.new_zeros(self.batch, outputs) if bias is None else bias.detach()
        self.base = F.pad(base.to(self.result_dtype), (0, count * PANEL - outputs))
        self.factors = panels.new_empty(0, dtype=torch.float64 if self.dtype == torch.float64 else torch.float32)
        """What int32 results are multiplied by, G x (P PANEL); empty for weights of other dtypes."""
        self.inverse: Tensor | None = None
        """What rows are multiplied by before they are rounded to uint8, G."""

    def __call__(self, x: Tensor, out: Tensor) -> Tensor:
        """Multiply x R x G x K into `out` R x G x D of `result_dtype`, both contiguous; return `out`.

        Raises:
            ValueError: a shape or dtype does not fit.
        """
        expected = (self.batch, self.depth), (self.batch, self.outputs)
        if (tuple(x.shape[1:]), tuple(out.shape[1:])) != expected or len(x) != len(out):
            raise ValueError(f"PackedMatmul: {tuple(x.shape)} and {tuple(out.shape)} do not fit {expected}")
        if (x.dtype, out.dtype) != (self.dtype, self.result_dtype):
            raise ValueError(
                f"PackedMatmul multiplies {self.dtype} into {self.result_dtype}, not {x.dtype} into {out.dtype}"
            )
        depth, panels = self.depth // self.pair, self.panels.shape[1]
        flat = (as_numpy(each, self.pair) for each in (x.detach(), self.panels))
        sums = (as_numpy(each) for each in (self.base, out.detach()))
        steps = (self.batch * depth, depth, 0, panels * depth * PANEL, depth * PANEL)
        multiply_panels(*flat, *sums, (len(x), self.batch, depth, self.outputs), steps)
        return out


def multiply_panels(
    x: np.ndarray,
    weight: np.ndarray,
    base: np.ndarray,
    out: np.ndarray,
    sizes: tuple[int, int, int, int],
    steps: tuple[int, int, int, int, int],
) -> None:
    """Multiply rows by panels, as `_multiply` does, on all threads; `sizes` are R, G, K and D."""
    rows, batch, _, outputs = sizes
    units = batch * -(-outputs // (PANEL * PANELS_PER_UNIT)) * -(-rows // ROWS_PER_UNIT)
    run(_multiply, units, x, weight, base, out, *sizes, steps)


def transposed_matmul(a: Tensor, b: Tensor, out: Tensor, accumulate: bool) -> None:
    """Compute out[g] = a[g]^T b[g], or add it to out[g] if `accumulate`, for each g, in float32 or float64.

    Args:
        a, b: G x T x R and G x T x D, with D a multiple of PANEL.
        out: G x R x D.
        accumulate: whether to add to what `out` holds. All tensors are contiguous.
    """
    batch, rows, outputs = out.shape
    left, right, sums = as_numpy(a), as_numpy(b), as_numpy(out)
    base = sums if accumulate else np.zeros(PANEL, sums.dtype)
    units = batch * (outputs // PANEL) * -(-rows // ROWS_PER_UNIT)
    sizes = (batch, a.shape[1], rows, outputs, accumulate)
    run(_multiply_transposed, units, left, right, base, sums, *sizes)


def as_numpy(x: Tensor, pair: int = 1) -> np.ndarray:
    """Flatten a contiguous tensor to NumPy; bfloat16 becomes int16, or int32 that hold `pair` numbers each."""
    flat = x.reshape(-1)
    if pair > 1:
        return flat.view(torch.int32).numpy()
    return flat.view(torch.int16).numpy() if x.dtype == torch.bfloat16 else flat.numpy()


def memory_of(x: Tensor) -> np.ndarray:
    """Return all numbers from the first of `x` to its last, in the order of memory."""
    last = sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True))
    return as_numpy(x.as_strided((last + 1,), (1,)))


def warm_up() -> None:
    """Compile the kernel, or load it from Numba's cache, and run it on one number."""
    one = torch.zeros(1, 1, 1, dtype=torch.float32)
    PackedMatmul(one)(one, one.clone())
