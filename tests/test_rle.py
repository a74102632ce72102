"""Tests of upernet.rle: COCO run-length encoding of masks."""

from __future__ import annotations

import itertools
import json
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from upernet import rle
from upernet.errors import UpernetError

MASKS = arrays.arrays(bool, arrays.array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=40))


def literal_encoding(mask: np.ndarray) -> str:
    """Encode pixel by pixel and count by count, as rleEncode and rleToString of cocoapi's maskApi.c do."""
    counts, value = [], False
    pixels = [bool(mask[y, x]) for x in range(mask.shape[1]) for y in range(mask.shape[0])]
    for key, run in itertools.groupby(pixels):
        if key != value:
            counts.append(0)
        counts.append(len(list(run)))
        value = not key
    text = ""
    for i, count in enumerate(counts):
        x = count - counts[i - 2] if i > 2 else count
        more = True
        while more:
            c = x & 0x1F
            x >>= 5
            more = x != -1 if c & 0x10 else x != 0
            text += chr((c | 0x20 if more else c) + 48)
    return text


@given(MASKS)
def test_a_mask_survives_encoding_and_decoding(mask):
    encoded = json.loads(json.dumps(rle.encode(mask)))
    decoded = rle.decode(encoded)
    assert encoded["size"] == [*mask.shape]
    assert decoded.dtype == bool
    np.testing.assert_array_equal(decoded, mask)


@given(MASKS)
def test_the_encoding_is_the_one_of_cocoapi(mask):
    assert rle.encode(mask)["counts"] == literal_encoding(mask)


@given(MASKS, st.tuples(*[st.integers(0, 3)] * 4))
def test_a_part_of_an_image_is_encoded_like_the_whole(mask, margins):
    top, bottom, left, right = margins
    whole = np.pad(mask, ((top, bottom), (left, right)))
    assert rle.encode(mask, whole.shape, (left, top)) == rle.encode(whole)


@pytest.mark.parametrize("offset", [(-1, 0), (0, -1), (2, 0), (0, 2)])
def test_a_part_must_be_inside_the_image(offset):
    with pytest.raises(UpernetError, match="reaches beyond an image of 3 x 3"):
        rle.encode(np.ones((2, 2), bool), (3, 3), offset)


@given(MASKS)
def test_uncompressed_counts_and_bytes_are_read(mask):
    counts = rle.run_lengths(mask)
    np.testing.assert_array_equal(rle.decode({"size": mask.shape, "counts": counts.tolist()}), mask)
    np.testing.assert_array_equal(rle.decode({"size": mask.shape, "counts": rle.compressed(counts).encode()}), mask)


@given(st.lists(st.integers(0, 2**40), max_size=30))
def test_large_counts_survive_compression(counts):
    assert rle.uncompressed(rle.compressed(np.array(counts, np.int64))).tolist() == counts


def test_a_published_annotation_is_read():
    """Check the example of pycocotools' documentation: 4 x 4 with the 2 x 2 block in the middle."""
    mask = np.zeros((4, 4), bool)
    mask[1:3, 1:3] = True
    assert rle.run_lengths(mask).tolist() == [5, 2, 2, 2, 5]
    assert rle.encode(mask) == {"size": [4, 4], "counts": "52203"}


def test_large_masks_need_no_loop_over_pixels():
    mask = np.random.default_rng(0).random((1000, 2000)) > 0.5
    np.testing.assert_array_equal(rle.decode(rle.encode(mask)), mask)


@given(st.one_of(st.text(max_size=30), st.binary(max_size=30)), st.integers(0, 6), st.integers(0, 6))
def test_any_counts_give_a_mask_or_an_error(counts, height, width):
    with suppress(UpernetError):
        assert rle.decode({"size": [height, width], "counts": counts}).shape == (height, width)


@pytest.mark.parametrize(
    "damaged",
    [
        {},
        {"size": [2, 2]},
        {"counts": "22"},
        {"size": [2], "counts": "22"},
        {"size": [2, "2"], "counts": "22"},
        {"size": [-2, -2], "counts": "22"},
        {"size": None, "counts": "22"},
        {"size": [2, 2], "counts": "23"},
        {"size": [2, 2], "counts": None},
        {"size": [2, 2], "counts": [1.5, 2.5]},
        {"size": [2, 2], "counts": [[2, 2]]},
        {"size": [2, 2], "counts": [6, -2]},
        {"size": [2, 2], "counts": [2**63 - 1, 2**63 - 1, 6]},
        {"size": [2, 2], "counts": [2**70]},
        {"size": [2, 2], "counts": "o" * 20 + "0"},
        {"size": [10**9, 10**9], "counts": "22"},
    ],
)
def test_damaged_annotations_are_one_sentence(damaged):
    with pytest.raises(UpernetError, match=r"^run-length encoded mask: .*; export the annotation again\.$"):
        rle.decode(damaged)


def test_a_mask_needs_two_dimensions():
    with pytest.raises(UpernetError, match="pass an array of H x W"):
        rle.encode(np.zeros((2, 2, 3)))
