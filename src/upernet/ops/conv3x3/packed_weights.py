"""Packed forms of the weights of 3x3 convolutions, cached as long as the weights stay the same.

State of this module: `_cache`, from weight tensors (held weakly) to their packed forms. `release_memory` empties it.
"""

# pyright: reportCallIssue=false
# Numba calls an intrinsic with fewer arguments than its definition has.

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from upernet.ops.conv3x3.winograd_weights_cpu import TapPanels, tap_panels, transform_panels
from upernet.ops.runtime.matmul import PANEL, PackedMatmul, RowProduct, as_numpy
from upernet.ops.runtime.memory import on_release
from upernet.ops.runtime.threads import kernel, run, take

WORDS = 2**16
"""32-bit words that one thread hashes at a time."""
LINES = 64
"""Independent states per block."""
PIECE = 128
"""Input channels of bfloat16 weights that are transformed at a time, in float32."""
PRIME = np.uint32(0x9E3779B1)


@kernel
def _hash(counter, words, states):
    """Hash every 64th word of each block of WORDS into one of 64 states; no step loses a bit of the state or the word.

    A product carries bits upward only, so the high bits are shifted down again; otherwise, two sign bits would cancel.
    """
    while True:
        block = take(counter)
        if block >= states.shape[0]:
            return
        state = states[block]
        for i in range(LINES):
            state[i] = np.uint32(2166136261)
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


def fingerprint(x: Tensor) -> bytes:
    """Return a hash that changes with any single change of `x`, and with several but for a chance of about 2^-32."""
    words = as_numpy(x.contiguous()).view(np.uint32)
    states = np.empty((-(-words.size // WORDS), LINES), np.uint32)
    run(_hash, len(states), words, states)
    return states.tobytes()


class _Forms:
    def __init__(self, fingerprint: bytes):
        self.fingerprint = fingerprint
        self.matmuls: dict[tuple[object, ...], Any] = {}


_cache = WeakTensorKeyDictionary()


def _forget() -> None:
    global _cache
    _cache = WeakTensorKeyDictionary()


on_release(_forget)


class PackedWeights:
    """The packed forms of one weight tensor D x C x 3 x 3.

    Neither the version nor the address of a tensor tells whether it has changed: inference tensors have no version, and
    writing through `.data` or NumPy leaves it alone. The content is hashed instead, once per call, which takes about a
    hundredth of the convolution's time.
    """

    def __init__(self, weight: Tensor):
        self.weight = weight.detach()
        content = fingerprint(self.weight)
        forms = _cache.get(weight)
        if forms is None or forms.fingerprint != content:
            forms = _Forms(content)
            _cache[weight] = forms
        self._matmuls = forms.matmuls

    def winograd(self, channels: Sequence[range]) -> PackedMatmul | TapPanels:
        """Return the products per tile for the input channels in these ranges."""
        if self.weight.dtype != torch.bfloat16:
            return self._panels().winograd(channels)
        return self._packed(("winograd", *channels), lambda: _winograd(self.weight, channels))

    def taps(self, channels: range) -> RowProduct:
        """Return the product per pixel with the nine taps for these input channels."""
        if self.weight.dtype != torch.bfloat16:
            return self._panels().taps(channels)
        return self._packed(("taps", channels), lambda: PackedMatmul(_taps(self.weight, channels)))

    def _panels(self) -> TapPanels:
        return self._packed(("panels",), lambda: tap_panels(self.weight))

    def _packed(self, key: tuple[object, ...], pack: Callable[[], Any]) -> Any:
        matmul = self._matmuls.get(key)
        if matmul is None:
            matmul = self._matmuls[key] = pack()
        return matmul


def _winograd(weight: Tensor, channels: Sequence[range]) -> PackedMatmul:
    """Return the 36 products per tile with a bfloat16 weight."""
    outputs, depth = weight.shape[0], sum(map(len, channels))
    panels = weight.new_empty(36, -(-outputs // PANEL), depth // 2, PANEL, 2)
    first = 0
    for chosen in channels:
        for c in range(chosen.start, chosen.stop, PIECE):
            values = transform_panels(tap_panels(weight[:, c : min(c + PIECE, chosen.stop)].float()))
            last = first + values.shape[2]
            panels[:, :, first // 2 : last // 2] = values.unflatten(2, (-1, 2)).transpose(3, 4)
            first = last
    return PackedMatmul.from_panels(panels, outputs)


def _taps(weight: Tensor, channels: range) -> Tensor:
    """Return a bfloat16 weight as the matrix 1 x (9 D) x C."""
    return weight[:, channels.start : channels.stop].permute(2, 3, 0, 1).flatten(0, 2)[None].contiguous()
