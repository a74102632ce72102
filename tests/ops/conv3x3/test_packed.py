"""Tests of upernet.ops.conv3x3.packed, compared with the published way in float64."""

import pytest
import torch
from helpers.winograd import largest_error
from hypothesis import given, settings
from hypothesis import strategies as st

from upernet.ops import packed_conv3x3, recorded_decisions
from upernet.ops.conv3x3 import reference
from upernet.ops.runtime.availability import numba_unavailable

pytestmark = pytest.mark.skipif(bool(numba_unavailable("conv3x3.cpu")), reason=numba_unavailable("conv3x3.cpu"))


def panels_of(weight):
    from upernet.ops.conv3x3.winograd_weights_cpu import tap_panels

    return tap_panels(weight).panels


def weights(maps, outputs):
    """Return a weight, scale and shift for the maps."""
    channels = sum(x.shape[1] for x in maps)
    return torch.randn(outputs, channels, 3, 3) / (9 * channels) ** 0.5, torch.randn(outputs), torch.randn(outputs)


@settings(max_examples=40, deadline=None)
@given(
    images=st.integers(1, 2),
    outputs=st.sampled_from([16, 48, 64, 80]),
    sizes=st.lists(st.tuples(st.integers(1, 24), st.integers(1, 24)), min_size=1, max_size=4),
    channels=st.lists(st.sampled_from([16, 32, 48]), min_size=4, max_size=4),
    relu=st.booleans(),
    threads=st.integers(1, 3),
)
def test_as_in_float64(images, outputs, sizes, channels, relu, threads):
    torch.manual_seed(0)
    maps = [torch.randn(images, count, *size) for count, size in zip(channels, sizes, strict=False)]
    weight, scale, shift = weights(maps, outputs)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        found = packed_conv3x3(maps, panels_of(weight), scale, shift, relu)
    finally:
        torch.set_num_threads(before)
    doubles = [x.double() for x in maps]
    expected = reference.forward(doubles, weight.double(), scale.double(), shift.double(), relu)
    assert found.is_contiguous(memory_format=torch.channels_last) and found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=largest_error(*sizes[0], 5e-5))


def test_the_operator_is_one_for_torch():
    maps = [torch.randn(2, 16, 9, 8), torch.randn(2, 32, 3, 4)]
    weight, scale, shift = weights(maps, 48)
    torch.library.opcheck(
        torch.ops.upernet.packed_conv3x3,
        (maps, panels_of(weight), scale, shift, True),
        test_utils=("test_schema", "test_faketensor", "test_aot_dispatch_dynamic"),
    )


def test_the_decision_is_recorded():
    x = torch.randn(1, 16, 4, 4)
    weight, scale, shift = weights([x], 16)
    with recorded_decisions() as decisions:
        packed_conv3x3([x], panels_of(weight), scale, shift, relu=False)
    assert [(each.operator, each.kernel) for each in decisions] == [("upsample_conv3x3", "packed")]


def test_maps_must_fit_the_weight():
    x = torch.randn(1, 32, 4, 4)
    weight, scale, shift = weights([x], 16)
    for maps in ([x, x], [x[:, :16]], [x.double()]):
        with pytest.raises(ValueError, match=r"do not have 32 channels of torch\.float32"):
            packed_conv3x3(maps, panels_of(weight), scale, shift, relu=False)
    with pytest.raises(ValueError, match="not a multiple of 16"):
        packed_conv3x3([x[:, :24], x[:, 24:]], panels_of(weight), scale, shift, relu=False)


def test_the_weight_must_fit_the_processor():
    x = torch.randn(1, 16, 4, 4)
    weight, scale, shift = weights([x], 16)
    with pytest.raises(ValueError, match="another kind of processor"):
        packed_conv3x3([x], panels_of(weight)[..., :8], scale, shift, relu=False)
