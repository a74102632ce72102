"""SIMD intrinsics for Numba kernels: LANES numbers in one of LLVM's vector types.

Numba compiles scalar loops, and LLVM vectorizes those whose memory accesses provably do not overlap. Loops that gather
rows of a tensor by computed indices are not among them (measured: ten times slower than these intrinsics), so they use
vectors explicitly. Numba's cache of compiled code watches only the file of a kernel: clear it after a change here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, models, register_model

from upernet.ops.eligibility import LANES

MAGIC = 1.5 * 2**23
"""Adding this float32 rounds a number to an integer: between 2^23 and 2^24, the float32 numbers are the integers."""
EXP_COEFFICIENTS = [1 / 720, 1 / 120, 1 / 24, 1 / 6, 1 / 2, 1.0, 1.0]


class Lanes(types.Type):
    """Numba type of a vector of LANES numbers of one type."""

    def __init__(self, dtype: Any) -> None:
        self.dtype = dtype
        super().__init__(name=f"Lanes({dtype})")


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, lanes: Lanes) -> None:
        super().__init__(manager, lanes, ir.VectorType(manager.lookup(lanes.dtype).get_value_type(), LANES))


class BFloat(ir.Type):
    """LLVM's type bfloat, which llvmlite lacks. NumPy lacks it too, so bfloat16 arrays are passed as int16."""

    intrinsic_name = "bf16"

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BFloat)

    def __hash__(self) -> int:
        return hash(BFloat)


def _lane_numbers(numbers: list[int]) -> ir.Constant:
    return ir.Constant(ir.VectorType(ir.IntType(32), len(numbers)), numbers)


def _address(context: Any, builder: Any, array_type: Any, array: Any, index: Any, vector: Any) -> Any:
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), vector.as_pointer())


@intrinsic
def load(typing: Any, array: Any, index: Any) -> Any:
    """Return `array[index : index + LANES]` of a contiguous one-dimensional array."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        vector = context.get_value_type(Lanes(array.dtype))
        value = builder.load(_address(context, builder, array, args[0], args[1], vector))
        value.align = array.dtype.bitwidth // 8
        return value

    return Lanes(array.dtype)(array, types.intp), generate


@intrinsic
def store(typing: Any, array: Any, index: Any, lanes: Any) -> Any:
    """Assign `array[index : index + LANES] = lanes`.

    An int16 array receives the nearest bfloat16, ties to even. A uint8 array receives the nearest integer from 0 to
    255, ties upward.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        value = args[2]
        if array.dtype == types.int16:
            value = builder.fptrunc(value, ir.VectorType(BFloat(), LANES))
        elif array.dtype == types.uint8:
            zero, half, last = (ir.Constant(value.type, [number] * LANES) for number in (0.0, 0.5, 255.0))
            value = builder.select(builder.fcmp_ordered(">", value, zero), value, zero)  # NaN becomes 0
            value = builder.select(builder.fcmp_ordered("<", value, last), value, last)
            value = builder.fptoui(builder.fadd(value, half), ir.VectorType(ir.IntType(8), LANES))
        address = _address(context, builder, array, args[0], args[1], value.type)
        builder.store(value, address).align = array.dtype.bitwidth // 8
        return context.get_dummy_value()

    return types.none(array, types.intp, lanes), generate


@intrinsic
def fill(typing: Any, number: Any) -> Any:
    """Return a vector with the number in all lanes."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        vector = context.get_value_type(Lanes(number))
        first = builder.insert_element(ir.Constant(vector, ir.Undefined), args[0], ir.Constant(ir.IntType(32), 0))
        return builder.shuffle_vector(first, ir.Constant(vector, ir.Undefined), _lane_numbers([0] * LANES))

    return Lanes(number)(number), generate


@intrinsic
def multiply_add(typing: Any, a: Any, b: Any, c: Any) -> Any:
    """Return a b + c per lane, in one instruction where the processor has it."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.fadd(builder.fmul(args[0], args[1], flags=["contract"]), args[2], flags=["contract"])

    return c(a, b, c), generate


@intrinsic
def add(typing: Any, a: Any, b: Any) -> Any:
    """Return a + b per lane."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.fadd(args[0], args[1])

    return a(a, b), generate


@intrinsic
def multiply(typing: Any, a: Any, b: Any) -> Any:
    """Return a b per lane."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.fmul(args[0], args[1])

    return a(a, b), generate


@intrinsic
def to_floats(typing: Any, lanes: Any) -> Any:
    """Return int32 lanes as the nearest float32; floating-point lanes stay as they are."""
    floats = Lanes(types.float32) if lanes.dtype == types.int32 else lanes

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.sitofp(args[0], context.get_value_type(floats)) if floats != lanes else args[0]

    return floats(lanes), generate


@intrinsic
def rectify(typing: Any, lanes: Any) -> Any:
    """Return 0 for each lane below 0, and the lane otherwise (NaN stays)."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        zero = ir.Constant(args[0].type, None)
        return builder.select(builder.fcmp_ordered("<", args[0], zero), zero, args[0])

    return lanes(lanes), generate


@intrinsic
def maximum(typing: Any, a: Any, b: Any) -> Any:
    """Return the larger number per lane; a NaN in `b` stays."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.select(builder.fcmp_ordered(">", args[0], args[1]), args[0], args[1])

    return a(a, b), generate


@intrinsic
def select_larger(typing: Any, a: Any, b: Any, if_larger: Any, otherwise: Any) -> Any:
    """Return `if_larger` in the lanes in which a > b, and `otherwise` in the others."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.select(builder.fcmp_ordered(">", args[0], args[1]), args[2], args[3])

    return otherwise(a, b, if_larger, otherwise), generate


@intrinsic
def largest(typing: Any, lanes: Any) -> Any:
    """Return the largest of the lanes, compared by halves."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        value, half = args[0], LANES // 2
        while half:
            low = builder.shuffle_vector(value, value, _lane_numbers(list(range(half))))
            high = builder.shuffle_vector(value, value, _lane_numbers(list(range(half, 2 * half))))
            value, half = builder.select(builder.fcmp_ordered(">", low, high), low, high), half // 2
        return builder.extract_element(value, ir.Constant(ir.IntType(32), 0))

    return lanes.dtype(lanes), generate


@intrinsic
def total(typing: Any, lanes: Any) -> Any:
    """Return the sum of the lanes, added by halves."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        value, half = args[0], LANES // 2
        while half:
            low = builder.shuffle_vector(value, value, _lane_numbers(list(range(half))))
            high = builder.shuffle_vector(value, value, _lane_numbers(list(range(half, 2 * half))))
            value, half = builder.fadd(low, high), half // 2
        return builder.extract_element(value, ir.Constant(ir.IntType(32), 0))

    return lanes.dtype(lanes), generate


@intrinsic
def exp(typing: Any, lanes: Any) -> Any:
    """Return e^x for float32 x <= 0, accurate except for the last bits; values below -87 count as -87.

    This is 2^n times the Taylor series in the remainder r, |r| <= ln(2) / 2, of which seven terms suffice.
    """
    if lanes.dtype != types.float32:
        return None

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        floats, integers = args[0].type, ir.VectorType(ir.IntType(32), LANES)

        def number(value: float) -> ir.Constant:
            return ir.Constant(floats, [float(np.float32(value))] * LANES)

        def step(a: Any, b: Any, c: Any) -> Any:
            return builder.fadd(builder.fmul(a, b, flags=["contract"]), c, flags=["contract"])

        x = builder.select(builder.fcmp_ordered("<", args[0], number(-87)), number(-87), args[0])  # NaN stays
        shifted = step(x, number(1 / np.log(2)), number(MAGIC))  # its low bits are the nearest integer n
        n = builder.fsub(shifted, number(MAGIC))
        high = float(np.float32(round(np.log(2) * 2**12) / 2**12))  # n times it is exact
        r = step(n, number(-(np.log(2) - high)), step(n, number(-high), x))
        polynomial = number(EXP_COEFFICIENTS[0])
        for coefficient in EXP_COEFFICIENTS[1:]:
            polynomial = step(polynomial, r, number(coefficient))
        bits = builder.add(builder.bitcast(shifted, integers), ir.Constant(integers, [127] * LANES))
        power = builder.bitcast(builder.shl(bits, ir.Constant(integers, [23] * LANES)), floats)
        return builder.fmul(polynomial, power)

    return lanes(lanes), generate
