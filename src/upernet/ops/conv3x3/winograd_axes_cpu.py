"""The one-dimensional transforms of Winograd's F(4, 3) (arXiv 1509.09308, section 4.1), LANES channels at a time.

A function reads vectors `at`, `at + step`, ... of `source`, and writes vectors `to`, `to + to_step`, ... of `target`. A
two-dimensional transform takes the columns first, and the rows of the result after that.
"""

# pyright: reportCallIssue=false
# Numba calls an intrinsic with fewer arguments than its definition has.

from __future__ import annotations

from upernet.ops.runtime.simd import add, fill, load, multiply, multiply_add, store
from upernet.ops.runtime.threads import jit

# The interpolation points are 0, +-P, +-Q and infinity. P Q = 1 leaves fewer and smaller factors than the usual points
# 1 and 2, and a fifth of their rounding errors.
P = 0.5**0.5
Q = 2.0**0.5
SUM = P**2 + Q**2


@jit
def forward_axis(source, at, step, target, to, to_step):
    """Transform the six inputs of a row or column of a tile."""
    kind = source.dtype.type
    p, q = fill(kind(P)), fill(kind(Q))
    minus_p, minus_q = fill(kind(-P)), fill(kind(-Q))
    minus_pp, minus_qq = fill(kind(-P * P)), fill(kind(-Q * Q))
    minus_sum, minus = fill(kind(-SUM)), fill(kind(-1))
    d0, d1, d2 = load(source, at), load(source, at + step), load(source, at + 2 * step)
    d3, d4, d5 = load(source, at + 3 * step), load(source, at + 4 * step), load(source, at + 5 * step)
    even, odd = multiply_add(minus_qq, d2, d4), multiply_add(minus_q, d1, multiply_add(p, d3, fill(kind(0))))
    store(target, to, multiply_add(minus_sum, d2, add(d0, d4)))
    store(target, to + to_step, add(even, odd))
    store(target, to + 2 * to_step, multiply_add(minus, odd, even))
    even, odd = multiply_add(minus_pp, d2, d4), multiply_add(minus_p, d1, multiply_add(q, d3, fill(kind(0))))
    store(target, to + 3 * to_step, add(even, odd))
    store(target, to + 4 * to_step, multiply_add(minus, odd, even))
    store(target, to + 5 * to_step, multiply_add(minus_sum, d3, add(d1, d5)))


@jit
def backward_axis(source, at, step, target, to, to_step):
    """Transform the six products of a row or column of a tile to four outputs."""
    kind = target.dtype.type
    p, q, pp, qq = fill(kind(P)), fill(kind(Q)), fill(kind(P**2)), fill(kind(Q**2))
    ppp, qqq, minus, zero = fill(kind(P**3)), fill(kind(Q**3)), fill(kind(-1)), fill(kind(0))
    m1, m2 = load(source, at + step), load(source, at + 2 * step)
    m3, m4 = load(source, at + 3 * step), load(source, at + 4 * step)
    even_p, odd_p, even_q, odd_q = add(m1, m2), multiply_add(minus, m2, m1), add(m3, m4), multiply_add(minus, m4, m3)
    store(target, to, add(load(source, at), add(even_p, even_q)))
    store(target, to + to_step, multiply_add(p, odd_p, multiply_add(q, odd_q, zero)))
    store(target, to + 2 * to_step, multiply_add(pp, even_p, multiply_add(qq, even_q, zero)))
    last = multiply_add(qqq, odd_q, load(source, at + 5 * step))
    store(target, to + 3 * to_step, multiply_add(ppp, odd_p, last))


@jit
def gradient_axis(source, at, step, target, to, to_step):
    """Apply the adjoint of `backward_axis`: from the gradients of four outputs to those of six products."""
    kind = target.dtype.type
    p, q, pp, qq = fill(kind(P)), fill(kind(Q)), fill(kind(P**2)), fill(kind(Q**2))
    ppp, qqq, minus, zero = fill(kind(P**3)), fill(kind(Q**3)), fill(kind(-1)), fill(kind(0))
    g0, g1, g2, g3 = load(source, at), load(source, at + step), load(source, at + 2 * step), load(source, at + 3 * step)
    even, odd = multiply_add(pp, g2, g0), multiply_add(ppp, g3, multiply_add(p, g1, zero))
    store(target, to, g0)
    store(target, to + to_step, add(even, odd))
    store(target, to + 2 * to_step, multiply_add(minus, odd, even))
    even, odd = multiply_add(qq, g2, g0), multiply_add(qqq, g3, multiply_add(q, g1, zero))
    store(target, to + 3 * to_step, add(even, odd))
    store(target, to + 4 * to_step, multiply_add(minus, odd, even))
    store(target, to + 5 * to_step, g3)


@jit
def kernel_axis(source, at, step, target, to, to_step):
    """Transform the three taps of a row or column of a kernel: their polynomial at the points, over the divisors."""
    kind = target.dtype.type
    p, q = fill(kind(1 / (2 * P**2 * (P**2 - Q**2)))), fill(kind(1 / (2 * Q**2 * (Q**2 - P**2))))
    pp, qq, minus = fill(kind(P**2)), fill(kind(Q**2)), fill(kind(-1))
    t0, t1, t2 = load(source, at), load(source, at + step), load(source, at + 2 * step)
    store(target, to, t0)
    even, odd = multiply(p, multiply_add(pp, t2, t0)), multiply(multiply(p, fill(kind(P))), t1)
    store(target, to + to_step, add(even, odd))
    store(target, to + 2 * to_step, multiply_add(minus, odd, even))
    even, odd = multiply(q, multiply_add(qq, t2, t0)), multiply(multiply(q, fill(kind(Q))), t1)
    store(target, to + 3 * to_step, add(even, odd))
    store(target, to + 4 * to_step, multiply_add(minus, odd, even))
    store(target, to + 5 * to_step, t2)
