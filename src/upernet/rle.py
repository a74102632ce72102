"""Run-length encoding of masks, as COCO's annotation files hold them.

A mask is read down its columns, from left to right. Its *counts* are the lengths of the runs, starting with a run of
background, which may be empty. The compressed form stores counts as characters of 5 bits each; from the fourth count
on, it stores the difference to the count before the previous one (`maskApi.c` of github.com/cocodataset/cocoapi).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict, cast

import numpy as np
import numpy.typing as npt

from upernet.errors import UpernetError

BoolMask = npt.NDArray[np.bool_]
Counts = npt.NDArray[np.int64]

FIRST_CHARACTER = 48
DATA_BITS = 5
MORE = 1 << DATA_BITS
"""Bit of a character that another one of the same count follows."""
SIGN = 1 << (DATA_BITS - 1)
"""Bit of the last character of a negative number."""
MOST_CHARACTERS = 12
"""Largest number of characters of one count; 12 x 5 bits fit into an int64."""


class RunLengths(TypedDict):
    """A run-length encoded mask: the `segmentation` of a COCO annotation."""

    size: list[int]
    """Height and width."""
    counts: str
    """The compressed counts."""


def encode(mask: npt.ArrayLike, size: tuple[int, int] | None = None, offset: tuple[int, int] = (0, 0)) -> RunLengths:
    """Encode a mask as compressed COCO run lengths.

    Args:
        mask: H x W, bool, or numbers that are nonzero inside the mask.
        size: Height and width of the image, if `mask` is only a part of it; everything around is background.
        offset: Column and row of the part in the image.

    Returns:
        `{"size": [H, W], "counts": str}`, which JSON can hold and `pycocotools.mask.decode` reads.

    Raises:
        UpernetError: The mask has not two dimensions, or reaches beyond the image.

    Example:
        >>> encode([[0, 1], [0, 1]])
        {'size': [2, 2], 'counts': '22'}
        >>> encode([[1], [1]], size=(2, 2), offset=(1, 0))
        {'size': [2, 2], 'counts': '22'}
    """
    array = np.asarray(mask)
    if array.ndim != 2:
        raise UpernetError(f"a mask of {array.ndim} dimensions cannot be encoded; pass an array of H x W.")
    height, width = array.shape if size is None else size
    x, y = offset
    if not (0 <= y <= height - array.shape[0] and 0 <= x <= width - array.shape[1]):
        raise UpernetError(
            f"a mask of {array.shape[0]} x {array.shape[1]} at column {x} and row {y} reaches beyond an image of "
            f"{height} x {width}; give the size of the image."
        )
    return {"size": [height, width], "counts": compressed(run_lengths(array, (height, width), offset))}


def decode(rle: Mapping[str, Any]) -> BoolMask:
    """Decode COCO run lengths, compressed or not.

    The counts are checked before memory for the mask is taken. `size` alone decides how much this is: compare it with
    the size of the photo first where the file is not trusted.

    Args:
        rle: `{"size": [H, W], "counts": ...}`; counts are a string or bytes (compressed), or a list of numbers.

    Returns:
        The bool mask H x W.

    Raises:
        UpernetError: A key is missing, or the counts are damaged or do not add up to H x W.

    Example:
        >>> decode({"size": [2, 2], "counts": [2, 2]}).tolist()
        [[False, True], [False, True]]
    """
    try:
        height, width = (_side(side) for side in rle["size"])
        counts = _counts(rle["counts"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise UpernetError(f"run-length encoded mask: damaged ({reason}); export the annotation again.") from None
    # Bounded before they are added up, so that no sum overflows.
    pixels = height * width
    if (counts < 0).any() or (counts > pixels).any() or sum(counts.tolist()) != pixels:
        raise UpernetError(
            f"run-length encoded mask: the counts do not add up to {height} x {width} pixels; export the annotation "
            "again."
        )
    values = np.zeros(len(counts), bool)
    values[1::2] = True
    return np.repeat(values, counts).reshape(width, height).T


def run_lengths(
    mask: npt.NDArray[Any], size: tuple[int, int] | None = None, offset: tuple[int, int] = (0, 0)
) -> Counts:
    """Return the uncompressed counts of a mask H x W, or of an image of `size` with the mask at `offset` (x, y)."""
    height, width = mask.shape if size is None else size
    columns = np.pad(mask.T != 0, ((0, 0), (1, 1)))
    column, row = np.nonzero(columns[:, 1:] != columns[:, :-1])
    edges = (column + offset[0]) * height + row + offset[1]  # of each run in turn: its start, and the end after it
    if len(edges):
        # A run that reaches the bottom of the image goes on at the top of the next column.
        touching = np.flatnonzero(edges[1:-1:2] == edges[2::2]) * 2 + 1
        edges = np.delete(edges, [touching, touching + 1])
    counts = np.diff(np.concatenate(([0], edges, [height * width])))
    return counts if counts[-1] else counts[:-1]


def compressed(counts: Counts) -> str:
    """Return the characters of the counts."""
    values = counts.astype(np.int64)
    values[3:] -= counts[1:-2]
    characters: list[npt.NDArray[np.uint8]] = []
    used: list[BoolMask] = []
    unfinished = np.ones(len(values), bool)
    while unfinished.any():
        digit = values & (MORE - 1)
        values >>= DATA_BITS
        more = np.where(digit & SIGN, values != -1, values != 0)
        characters.append((digit + MORE * more + FIRST_CHARACTER).astype(np.uint8))
        used.append(unfinished)
        unfinished = unfinished & more
    if not characters:
        return ""
    return np.stack(characters, axis=1)[np.stack(used, axis=1)].tobytes().decode("ascii")


def uncompressed(characters: str | bytes) -> Counts:
    """Return the counts that the characters stand for.

    Raises:
        ValueError: A character is not one of the code, or the last count is cut off.
    """
    code = characters.encode("ascii", "replace") if isinstance(characters, str) else characters
    digits = np.frombuffer(code, np.uint8).astype(np.int64) - FIRST_CHARACTER
    if not len(digits):
        return np.zeros(0, np.int64)
    if (digits < 0).any() or (digits >= 2 * MORE).any():
        raise ValueError("the counts hold a character that is none of the code")
    last = np.flatnonzero(digits < MORE)
    if not len(last) or last[-1] != len(digits) - 1:
        raise ValueError("the counts are cut off")
    first = np.concatenate(([0], last[:-1] + 1))
    lengths = last - first + 1
    if lengths.max() > MOST_CHARACTERS:
        raise ValueError("a count is too large")
    position = np.arange(len(digits)) - np.repeat(first, lengths)
    values = np.add.reduceat((digits & (MORE - 1)) << (DATA_BITS * position), first)
    values -= np.where(digits[last] & SIGN, np.int64(1) << (DATA_BITS * lengths), 0)
    # Counts 3, 5, ... were stored as differences to 1, 3, ..., and counts 4, 6, ... to 2, 4, ...; count 0 stands alone.
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values


def _side(side: object) -> int:
    if isinstance(side, bool) or not isinstance(side, (int, np.integer)) or side < 0:
        raise ValueError(f"size {side!r:.40}")
    return int(side)


def _counts(counts: object) -> Counts:
    if isinstance(counts, (str, bytes)):
        return uncompressed(counts)
    if not isinstance(counts, (list, tuple, np.ndarray)):
        raise TypeError("the counts are neither a string nor a list")
    numbers = np.asarray(cast("list[int]", counts))
    if numbers.size and (numbers.ndim != 1 or numbers.dtype.kind not in "iu"):
        raise ValueError("the counts are not whole numbers")
    return numbers.astype(np.int64)
