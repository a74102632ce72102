"""One-dimensional transforms of Winograd's F(4, 3) and F(6, 3) (arXiv 1509.09308, section 4.1), LANES channels each.

A function reads vectors `at`, `at + step`, ... of `source`, and writes vectors `to`, `to + to_step`, ... of `target`. A
two-dimensional transform takes the columns first, and the rows of the result after that.
"""

# pyright: reportCallIssue=false
# Numba calls an intrinsic with fewer arguments than its definition has.

from __future__ import annotations

from upernet.ops.runtime.simd import add, fill, load, multiply, multiply_add, store
from upernet.ops.runtime.threads import inlined

# The interpolation points of F(4, 3) are 0, +-P, +-Q and infinity. P Q = 1 leaves fewer and smaller factors than the
# usual points 1 and 2, and a fifth of their rounding errors. Those of F(6, 3) are 0, +-1/2, +-1, +-2 and infinity.
P = 0.5**0.5
Q = 2.0**0.5
SUM = P**2 + Q**2


@inlined
def _forward_6(source, at, step, target, to, to_step):
    """Transform six inputs."""
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


@inlined
def _backward_6(source, at, step, target, to, to_step):
    """Transform six products to four outputs."""
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


@inlined
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


@inlined
def _kernel_6(source, at, step, target, to, to_step):
    """Transform three taps for six products: their polynomial at the points, over the divisors."""
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


@inlined
def kernel_gradient_axis(source, at, step, target, to, to_step):
    """Apply the adjoint of `kernel_axis` for six products: from their gradients to those of three taps."""
    kind = target.dtype.type
    p, q = fill(kind(1 / (2 * P**2 * (P**2 - Q**2)))), fill(kind(1 / (2 * Q**2 * (Q**2 - P**2))))
    pp, qq, minus = fill(kind(P**2)), fill(kind(Q**2)), fill(kind(-1))
    g1, g2 = load(source, at + step), load(source, at + 2 * step)
    g3, g4 = load(source, at + 3 * step), load(source, at + 4 * step)
    even_p, odd_p = multiply(p, add(g1, g2)), multiply(p, multiply_add(minus, g2, g1))
    even_q, odd_q = multiply(q, add(g3, g4)), multiply(q, multiply_add(minus, g4, g3))
    store(target, to, add(load(source, at), add(even_p, even_q)))
    store(target, to + to_step, multiply_add(fill(kind(P)), odd_p, multiply(fill(kind(Q)), odd_q)))
    last = multiply_add(pp, even_p, multiply_add(qq, even_q, load(source, at + 5 * step)))
    store(target, to + 2 * to_step, last)


@inlined
def _pair(source, at, step, point, target, to, to_step):
    """Transform eight inputs for the points `point` and -`point` of F(6, 3), one of 1/2, 1 and 2."""
    kind = source.dtype.type
    rest = 5.25 - point * point  # the sum of the squares of the other two; their product is 1 / point^2
    minus_sum, product = fill(kind(-rest)), fill(kind(1 / (point * point)))
    d1, d2, d3 = load(source, at + step), load(source, at + 2 * step), load(source, at + 3 * step)
    d4, d5, d6 = load(source, at + 4 * step), load(source, at + 5 * step), load(source, at + 6 * step)
    even = multiply_add(product, d2, multiply_add(minus_sum, d4, d6))
    odd = multiply(fill(kind(point)), multiply_add(product, d1, multiply_add(minus_sum, d3, d5)))
    store(target, to, add(even, odd))
    store(target, to + to_step, multiply_add(fill(kind(-1)), odd, even))


@inlined
def _forward_8(source, at, step, target, to, to_step):
    """Transform eight inputs."""
    kind = source.dtype.type
    factor, minus_factor, minus = fill(kind(5.25)), fill(kind(-5.25)), fill(kind(-1))
    d0, d2, d4, d6 = (
        load(source, at),
        load(source, at + 2 * step),
        load(source, at + 4 * step),
        load(source, at + 6 * step),
    )
    store(target, to, multiply_add(factor, d4, multiply_add(minus_factor, d2, multiply_add(minus, d6, d0))))
    _pair(source, at, step, 0.5, target, to + to_step, to_step)
    _pair(source, at, step, 1.0, target, to + 3 * to_step, to_step)
    _pair(source, at, step, 2.0, target, to + 5 * to_step, to_step)
    d1, d3 = load(source, at + step), load(source, at + 3 * step)
    d5, d7 = load(source, at + 5 * step), load(source, at + 7 * step)
    store(
        target, to + 7 * to_step, multiply_add(minus_factor, d5, multiply_add(factor, d3, multiply_add(minus, d1, d7)))
    )


@inlined
def _backward_8(source, at, step, target, to, to_step):
    """Transform eight products to six outputs."""
    kind = target.dtype.type
    minus, two, half = fill(kind(-1)), fill(kind(2)), fill(kind(0.5))
    m1, m2 = load(source, at + step), load(source, at + 2 * step)
    m3, m4 = load(source, at + 3 * step), load(source, at + 4 * step)
    m5, m6 = load(source, at + 5 * step), load(source, at + 6 * step)
    even_half, odd_half = add(m1, m2), multiply(half, multiply_add(minus, m2, m1))
    even_one, odd_one = add(m3, m4), multiply_add(minus, m4, m3)
    even_two, odd_two = add(m5, m6), multiply(two, multiply_add(minus, m6, m5))
    store(target, to, add(add(load(source, at), even_one), add(even_half, even_two)))
    store(target, to + to_step, add(odd_one, add(odd_half, odd_two)))
    quarter, four = fill(kind(0.25)), fill(kind(4))
    store(target, to + 2 * to_step, multiply_add(four, even_two, multiply_add(quarter, even_half, even_one)))
    store(target, to + 3 * to_step, multiply_add(four, odd_two, multiply_add(quarter, odd_half, odd_one)))
    sixteenth, sixteen = fill(kind(0.0625)), fill(kind(16))
    store(target, to + 4 * to_step, multiply_add(sixteen, even_two, multiply_add(sixteenth, even_half, even_one)))
    last = multiply_add(sixteen, odd_two, multiply_add(sixteenth, odd_half, odd_one))
    store(target, to + 5 * to_step, add(last, load(source, at + 7 * step)))


@inlined
def _kernel_8(source, at, step, target, to, to_step):
    """Transform three taps for eight products."""
    kind = target.dtype.type
    minus = fill(kind(-1))
    t0, t1, t2 = load(source, at), load(source, at + step), load(source, at + 2 * step)
    store(target, to, t0)
    place = to + to_step
    for point in (0.5, 1.0, 2.0):
        square = point * point
        over = fill(kind(1 / (2 * square * (square * square - (5.25 - square) * square + 1 / square))))
        even = multiply(over, multiply_add(fill(kind(square)), t2, t0))
        odd = multiply(multiply(over, fill(kind(point))), t1)
        store(target, place, add(even, odd))
        store(target, place + to_step, multiply_add(minus, odd, even))
        place += 2 * to_step
    store(target, to + 7 * to_step, t2)


@inlined
def forward_axis(size, source, at, step, target, to, to_step):
    """Transform `size` inputs of a row or column of a tile: six or eight."""
    if size == 6:
        _forward_6(source, at, step, target, to, to_step)
    else:
        _forward_8(source, at, step, target, to, to_step)


@inlined
def backward_axis(size, source, at, step, target, to, to_step):
    """Transform `size` products of a row or column of a tile to `size` - 2 outputs."""
    if size == 6:
        _backward_6(source, at, step, target, to, to_step)
    else:
        _backward_8(source, at, step, target, to, to_step)


@inlined
def kernel_axis(size, source, at, step, target, to, to_step):
    """Transform the three taps of a row or column of a kernel for `size` products."""
    if size == 6:
        _kernel_6(source, at, step, target, to, to_step)
    else:
        _kernel_8(source, at, step, target, to, to_step)
