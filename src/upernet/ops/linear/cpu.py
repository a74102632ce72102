"""Products of matrices with any strides on a CPU with Numba: linear layers whose weight changes, and their gradients.

A unit of work is a block of the result. What it needs of a left factor whose neighbors in K are not neighbors in
memory, or of a right factor whose rows are not, is copied to a buffer of the thread, CHUNK terms at a time.
"""

# pyright: reportCallIssue=false
# Numba calls an intrinsic with fewer arguments than its definition has.

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from upernet.ops.runtime.matmul import PANEL, ROWS, as_numpy, memory_of, multiply_panel
from upernet.ops.runtime.simd import LANES, load, store
from upernet.ops.runtime.threads import jit, kernel, run, take

CHUNK = 256
"""Terms of the sums that are multiplied at a time: a panel of them fits into the first cache."""
MAX_ROWS = 2048
"""Rows of a block, at most."""
MIN_COPIED_ROWS, MAX_COPIED_ROWS = 32, 128
"""The same if they are copied: with fewer, the copy takes longer than it saves; more would not stay in the cache."""
UNITS_PER_THREAD = 4
"""Blocks per thread, at least, so that all threads finish at about the same time."""


@jit
def _copy_rows(a, at, by_row, by_term, rows, terms, target, block):
    """Copy `terms` columns of `rows` rows to target terms x block."""
    whole = rows // LANES * LANES if by_row == 1 else 0
    for k in range(terms):
        for r in range(0, whole, LANES):
            store(target, k * block + r, load(a, at + k * by_term + r))
        for r in range(whole, rows):
            target[k * block + r] = a[at + k * by_term + r * by_row]


@jit
def _copy_panel(b, at, by_output, by_term, outputs, terms, target):
    """Copy `terms` columns of `outputs` rows to target terms x PANEL; outputs that are missing are 0."""
    for lane in range(PANEL):
        for k in range(terms):
            value = b.dtype.type(0)
            if lane < outputs:
                value = b[at + lane * by_output + k * by_term]
            target[k * PANEL + lane] = value


@kernel
def _multiply_strided(counter, a, a_strides, b, b_strides, bias, out, rows, depth, outputs, block, group):
    """Multiply a R x K by b D x K in blocks of `block` rows and `group` panels: out R x D."""
    by_row, by_term = a_strides
    by_output, b_by_term = b_strides
    blocks, panels = -(-rows // block), -(-outputs // PANEL)
    groups = -(-panels // group)
    chunk = min(CHUNK, depth)
    panel, copied = np.empty(chunk * PANEL, a.dtype), np.empty(0 if by_term == 1 else chunk * block, a.dtype)
    edge = np.empty(block * PANEL, a.dtype)
    while True:
        unit = take(counter)
        if unit >= blocks * groups:
            return
        first, start = unit // groups * block, unit % groups * group
        count, stop = min(block, rows - first), min(start + group, panels)
        for k in range(0, depth, CHUNK):
            terms = min(CHUNK, depth - k)
            left, at, step, following = a, first * by_row + k * by_term, by_row, by_term
            if by_term != 1:
                _copy_rows(a, at, by_row, by_term, count, terms, copied, block)
                left, at, step, following = copied, 0, 1, block
            for p in range(start, stop):
                d = p * PANEL
                d_at, width = d * by_output + k * b_by_term, min(PANEL, outputs - d)
                right, right_at, right_step = b, d_at, b_by_term
                if by_output != 1 or width < PANEL:
                    _copy_panel(b, d_at, by_output, b_by_term, width, terms, panel)
                    right, right_at, right_step = panel, 0, PANEL
                target, to, to_step = out, first * outputs + d, outputs
                if width < PANEL:
                    target, to, to_step = edge, 0, PANEL
                base, base_at, base_step = target, to, to_step
                if k == 0:
                    base, base_at, base_step = bias, d, 0
                multiply_panel(
                    *(count, left, at, step, following, right, right_at, right_step, terms),
                    *(base, base_at, base_step, target, to, to_step),
                )
        if stop == panels and outputs % PANEL:
            d = (panels - 1) * PANEL
            for r in range(count):
                for lane in range(outputs - d):
                    out[(first + r) * outputs + d + lane] = edge[r * PANEL + lane]


def _divide(rows: int, panels: int, copied: bool) -> tuple[int, int]:
    """Return how many rows and panels of the result one unit of work computes."""
    units = UNITS_PER_THREAD * torch.get_num_threads()
    if not copied:
        block = -(-rows // max(1, units // panels))
        return min(MAX_ROWS, -(-block // ROWS) * ROWS), 1
    block = max(MIN_COPIED_ROWS, min(MAX_COPIED_ROWS, rows * panels // units // LANES * LANES))
    blocks = -(-rows // block)
    return block, max(1, panels // max(1, -(-units // blocks)))


def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Compute `upernet.ops.linear` without gradients, in float32 or float64, with any strides."""
    x, weight = x.detach(), weight.detach()
    rows = x.reshape(-1, x.shape[-1])
    (count, depth), outputs = rows.shape, weight.shape[0]
    out, panels = x.new_empty(*x.shape[:-1], outputs), -(-outputs // PANEL)
    base = x.new_zeros(panels * PANEL)
    if bias is not None:
        base[:outputs] = bias.detach()
    if not rows.numel() or not outputs:
        return out.copy_(base[:outputs])
    block, group = _divide(count, panels, copied=rows.stride(1) != 1)
    run(
        _multiply_strided,
        -(-count // block) * -(-panels // group),
        *(memory_of(rows), rows.stride(), memory_of(weight), weight.stride(), as_numpy(base)),
        *(as_numpy(out), count, depth, outputs, block, group),
    )
    return out


def warm_up() -> None:
    """Compile the kernel, or load it from Numba's cache, and run it on one number."""
    one = torch.zeros(1, 1, dtype=torch.float32)
    forward(one, one, None)
