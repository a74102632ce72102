"""Tests of upernet.ops.packed.block, compared with the block in float64 and plain torch."""

import copy
import gc

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from upernet.models.internimage import DCNv3, InternImageSpec
from upernet.models.internimage_blocks import Block, Mlp
from upernet.models.packed_block import PackedBlock
from upernet.ops import PLAIN, bfloat16_unavailable, int8_unavailable, internimage_block, use_kernel
from upernet.ops.packed.block import _prepared as prepared_blocks
from upernet.ops.packed.linear_cpu import ROWS_PER_UNIT

pytestmark = pytest.mark.skipif(bool(int8_unavailable()), reason=f"Numba: {int8_unavailable()}")


def block(channels=32, groups=2, side=3, offset_scale=1.0, **options):
    """Return a block whose offsets reach over the edges of small maps."""
    torch.manual_seed(0)
    spec = InternImageSpec(channels=channels, depths=(1, 1, 1, 1), groups=(groups, groups, groups, groups), **options)
    made = Block(
        channels,
        DCNv3(channels, groups, offset_scale, side),
        Mlp(channels, 48),
        spec,
        0.0,
        options.get("res_post_norm", False),
    )
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=parameter[0].numel() ** -0.5)
            else:
                parameter.normal_(mean=float("norm" in name and name.endswith("weight")), std=0.3)
    return made.eval()


def expected_of(made, x):
    with torch.no_grad(), use_kernel(**PLAIN):
        return copy.deepcopy(made).double()(x.double())


def packed(made, dtype=torch.float32):
    return PackedBlock(made, lambda _: dtype)


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 3),
    size=st.tuples(st.integers(1, 20), st.integers(1, 20)) | st.just((2, ROWS_PER_UNIT + 3)),
    groups=st.integers(1, 3),
    vectors=st.integers(1, 2),
    side=st.sampled_from([1, 3, 5]),
    offset_scale=st.sampled_from([0.5, 1.0, 7.0]),
    post_norm=st.booleans(),
    threads=st.integers(1, 3),
)
def test_as_in_float64(n, size, groups, vectors, side, offset_scale, post_norm, threads):
    made = block(16 * groups * vectors, groups, side, offset_scale, post_norm=post_norm)
    x = torch.randn(n, *size, 16 * groups * vectors)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        with torch.no_grad():
            found = packed(made)(x)
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(found.double(), expected_of(made, x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "options", [{"layer_scale": None}, {"layer_scale": None, "res_post_norm": True}, {"res_post_norm": True}, {}]
)
def test_norms_and_scales(options):
    made, x = block(**options), torch.randn(1, 9, 7, 32)
    with torch.no_grad():
        torch.testing.assert_close(packed(made)(x).double(), expected_of(made, x), rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(bool(bfloat16_unavailable()), reason=f"bfloat16: {bfloat16_unavailable()}")
def test_bfloat16_rounds_the_factors_of_products():
    made, x = block(), torch.randn(2, 9, 7, 32)
    with torch.no_grad():
        found, expected = packed(made, torch.bfloat16)(x), expected_of(made, x)
    assert 1e-4 < float((found - expected).square().mean().sqrt() / expected.std()) < 0.02


def test_results_do_not_depend_on_threads():
    made, x = block(), torch.randn(2, 13, 11, 32)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            with torch.no_grad():
                found.append(packed(made)(x))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


def test_maps_in_other_layouts_and_inputs_stay_as_they_are():
    made, x = block(), torch.randn(1, 32, 8, 5)
    rows = x.permute(0, 2, 3, 1)
    before = rows.clone()
    with torch.no_grad():
        torch.testing.assert_close(packed(made)(rows), packed(made)(before), rtol=0, atol=0)
    assert torch.equal(rows, before)


def test_samples_outside_the_map_are_zero_and_infinite_offsets_do_no_harm():
    made, x = block(), torch.randn(1, 6, 6, 32)
    with torch.no_grad():
        nn.init.constant_(made.get_parameter("dcn.offset.bias"), torch.inf)
        found = packed(made)(x)
    assert found.isfinite().all()


@pytest.mark.parametrize("options", [{}, {"layer_scale": None}, {"post_norm": True}])
def test_the_operator_is_one_for_torch(options):
    weights = packed(block(**options)).weights
    torch.library.opcheck(
        torch.ops.upernet.internimage_block,
        (torch.randn(2, 5, 7, 32), *weights),
        test_utils=("test_schema", "test_faketensor", "test_aot_dispatch_dynamic"),
    )


def test_maps_must_fit_the_weights():
    weights = packed(block()).weights
    for x in (torch.randn(1, 4, 4, 16), torch.randn(4, 4, 32), torch.randn(1, 4, 4, 32).double()):
        with pytest.raises(ValueError, match="are not float32 N x H x W x 32"):
            internimage_block(x, weights)


def test_weights_must_fit_the_processor():
    weights = packed(block()).weights
    halves = [each[..., :8, :] if each.dim() == 5 else each for each in weights.layers]
    with pytest.raises(ValueError, match="another kind of processor"):
        internimage_block(torch.randn(1, 4, 4, 32), weights._replace(layers=halves))


def test_a_block_with_other_norms_or_other_numbers_is_another_one():
    weights, x = packed(block()).weights, torch.randn(1, 4, 4, 32)
    norms = [each.clone() for each in weights.norms]
    for other in (weights._replace(norms=norms), weights._replace(epsilons=[1.0] * 5)):
        copied = other._replace(layers=[each.clone() for each in other.layers])
        first = internimage_block(x, weights)
        torch.testing.assert_close(internimage_block(x, other), internimage_block(x, copied), rtol=0, atol=0)
        norms[0].mul_(2)
        assert not torch.equal(internimage_block(x, other), first)
        torch.testing.assert_close(internimage_block(x, other), internimage_block(x, copied), rtol=0, atol=0)


def test_a_block_that_is_gone_leaves_nothing_behind():
    before = len(prepared_blocks)
    made = packed(block())
    made(torch.randn(1, 4, 4, 32))
    assert len(prepared_blocks) == before + 1
    del made
    gc.collect()
    assert len(prepared_blocks) == before
