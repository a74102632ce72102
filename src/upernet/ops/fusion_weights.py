"""Weights of 3x3 convolutions in the forms that the fast kernels multiply with, kept as long as the weights stay."""

# pyright: reportCallIssue=false
# Numba calls an intrinsic with fewer arguments than its definition has.

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from upernet.ops.products_numba import PANEL, Products, as_numpy
from upernet.ops.threads import in_team, jit, run, take
from upernet.ops.winograd_weights_numba import kernel_transform

WORDS = 2**16
"""Words of 32 bits that are hashed by one thread at a time."""
LINES = 64
PIECE = 128
"""Input channels of a weight that are transformed at a time, because bfloat16 goes through float32."""
PRIME = np.uint32(0x9E3779B1)


@jit
def _hash(counter, words, states):
    """Every 64th word into one of 64 states, for each block of WORDS; no step forgets a bit of state or word.

    A product carries bits upwards only, so the high ones are brought down again: else two sign bits would cancel.
    """
    while True:
        block = take(counter)
        if block >= states.shape[0]:
            return
        state = states[block]
        state[:] = np.uint32(2166136261)
        stop = min((block + 1) * WORDS, words.size)
        whole = block * WORDS + (stop - block * WORDS) // LINES * LINES
        for start in range(block * WORDS, whole, LINES):
            line = words[start : start + LINES]
            for i in range(LINES):
                mixed = (state[i] ^ line[i]) * PRIME
                state[i] = mixed ^ (mixed >> np.uint32(15))
        for i in range(whole, stop):
            mixed = (state[i - whole] ^ words[i]) * PRIME
            state[i - whole] = mixed ^ (mixed >> np.uint32(15))


@jit
def _hash_team(openmp, threads, args):
    in_team(openmp, threads, _hash, args)


def fingerprint(x: Tensor) -> bytes:
    """Differs if any bit of `x` differs (for a single change surely, for several but for a chance of about 2^-32)."""
    words = as_numpy(x.contiguous()).view(np.uint32)
    states = np.empty((-(-words.size // WORDS), LINES), np.uint32)
    run(_hash, _hash_team, len(states), words, states)
    return states.tobytes()


class _Prepared:
    def __init__(self, of: bytes):
        self.of = of
        self.forms: dict[tuple[object, ...], Products] = {}


_prepared = WeakTensorKeyDictionary()


class Forms:
    """The prepared forms of one weight tensor D x C x 3 x 3.

    Versions and addresses do not tell whether a weight is still what it was: inference tensors have no version, and
    what is written through `.data` or NumPy leaves none. So its content does: it is read once per call, which takes
    about a hundredth of the convolution's time.
    """

    def __init__(self, weight: Tensor):
        self.weight = weight.detach()
        content = fingerprint(self.weight)
        prepared = _prepared.get(weight)
        if prepared is None or prepared.of != content:
            prepared = _Prepared(content)
            _prepared[weight] = prepared
        self._forms = prepared.forms

    def winograd(self, channels: list[range]) -> Products:
        """36 products per tile, for the input channels in these ranges, transformed in float64."""
        return self._form(("winograd", *channels), lambda: _winograd(self.weight, channels))

    def taps(self, channels: range) -> Products:
        """One product per pixel, with the nine taps for these input channels."""
        return self._form(("taps", channels), lambda: Products(_taps(self.weight, channels)))

    def _form(self, key: tuple[object, ...], make: Callable[[], Products]) -> Products:
        form = self._forms.get(key)
        if form is None:
            form = self._forms[key] = make()
        return form


def _winograd(weight: Tensor, channels: list[range]) -> Products:
    outputs, depth = weight.shape[0], sum(map(len, channels))
    pair = 2 if weight.dtype == torch.bfloat16 else 1
    panels = weight.new_empty(36, -(-outputs // PANEL), depth // pair, PANEL, pair)
    first = 0
    for chosen in channels:
        for c in range(chosen.start, chosen.stop, PIECE):
            piece = weight[:, c : min(c + PIECE, chosen.stop)]
            last = first + piece.shape[1]
            if pair == 1:
                kernel_transform(piece, False, panels[..., 0], first)
            else:
                values = torch.empty(*panels.shape[:2], piece.shape[1], PANEL, dtype=torch.float32)
                kernel_transform(piece.float(), False, values, 0)
                panels[:, :, first // 2 : last // 2] = values.unflatten(2, (-1, 2)).transpose(3, 4)
            first = last
    return Products.of_panels(panels, outputs)


def _taps(weight: Tensor, channels: range) -> Tensor:
    """1 x (9 D) x C."""
    return weight[:, channels.start : channels.stop].permute(2, 3, 0, 1).flatten(0, 2)[None].contiguous()
