"""Tests of upernet.ops.cross_entropy, compared with torch's functions in float64."""

from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from upernet.ops import choose_resized_cross_entropy, resized_cross_entropy, use_kernel
from upernet.ops.cross_entropy import reference


def arguments(images, classes, coarse, size, sets=0, spread=1.0, channels_last=True) -> Any:
    torch.manual_seed(0)
    logits = spread * torch.randn(images, classes, *coarse)
    logits = logits.contiguous(memory_format=torch.channels_last) if channels_last else logits
    target = torch.randint(-1 - sets, classes, (images, *size))
    tables = (torch.rand(sets, classes) > 0.5, torch.rand(sets)) if sets else (None, None)
    return logits.requires_grad_(), target, torch.rand(classes), *tables


def both_ways(logits, target, *tables):
    """Return [loss, gradient] of the kernel, and of the reference in float64."""
    with use_kernel(resized_cross_entropy="numba"):
        ours = resized_cross_entropy(logits, target, *tables)
    exact = logits.detach().double().requires_grad_()
    doubled = [table.double() if table is not None and table.is_floating_point() else table for table in tables]
    theirs = reference.forward(exact, target, *doubled)
    return [ours, *torch.autograd.grad(3 * ours, logits)], [theirs, *torch.autograd.grad(3 * theirs, exact)]


@settings(max_examples=60, deadline=None)
@given(
    images=st.integers(1, 3),
    classes=st.integers(1, 50),
    coarse=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    size=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    sets=st.integers(0, 3),
    spread=st.sampled_from([0.0, 1.0, 20.0]),
    channels_last=st.booleans(),
    threads=st.integers(1, 3),
)
def test_as_in_float64_with_gradients(images, classes, coarse, size, sets, spread, channels_last, threads):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        ours, exact = both_ways(*arguments(images, classes, coarse, size, sets, spread, channels_last))
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(ours[0].double(), exact[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours[1].double(), exact[1], rtol=1e-3, atol=1e-4)


def test_the_reference_is_what_torch_computes_for_every_pixel():
    logits, target, weights, members, set_weights = arguments(2, 7, (3, 4), (6, 9), sets=2)
    likelihood = F.interpolate(logits, size=(6, 9), mode="bilinear").softmax(dim=1)
    expected = torch.zeros(())
    for image, row, column in torch.ones(2, 6, 9).nonzero():
        label, pixel = int(target[image, row, column]), likelihood[image, :, row, column]
        if label >= 0:
            expected = expected - weights[label] * pixel[label].log()
        elif label < -1 and members[-2 - label].any():
            expected = expected - set_weights[-2 - label] * pixel[members[-2 - label]].sum().log()
    torch.testing.assert_close(reference.forward(logits, target, weights, members, set_weights), expected)


def test_every_image_and_row_is_its_own():
    logits, target, *_ = arguments(3, 20, (4, 5), (8, 10))
    target[0], target[1, 4:] = -1, -1
    loss = resized_cross_entropy(logits, target)
    (grad,) = torch.autograd.grad(loss, logits)
    assert grad[0].abs().max() == 0 and grad[1, :, 3].abs().max() == 0 and (grad[2].abs().amax(dim=0) > 0).all()
    torch.testing.assert_close(
        loss, sum(resized_cross_entropy(logits[i : i + 1], target[i : i + 1]) for i in range(3)), rtol=1e-6, atol=1e-6
    )


def test_sets_that_nothing_belongs_to_count_nothing():
    logits, target, weights, members, set_weights = arguments(1, 20, (4, 5), (8, 10), sets=2)
    members[1] = False
    ours, exact = both_ways(logits, target, weights, members, set_weights)
    torch.testing.assert_close(ours[1].double(), exact[1], rtol=1e-4, atol=1e-5)
    without = torch.where(target == -3, -1, target)
    torch.testing.assert_close(ours[0], resized_cross_entropy(logits, without, weights, members, set_weights))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_is_not_finite_shows(value):
    logits, target, *_ = arguments(1, 20, (4, 5), (8, 10))
    with torch.no_grad():
        logits[0, 3, 2, 2] = value
    assert not resized_cross_entropy(logits, target).isfinite()


def test_nothing_is_written_beside_the_gradient():
    logits, target, *_ = arguments(2, 7, (3, 4), (6, 9))
    before = logits.detach().clone(), target.clone()
    around = torch.full((2, 3, 4, 7 + 32), 7.0)
    view = around[..., 16:23].permute(0, 3, 1, 2).copy_(logits.detach()).requires_grad_()
    (grad,) = torch.autograd.grad(resized_cross_entropy(view, target), view)
    (expected,) = torch.autograd.grad(resized_cross_entropy(logits, target), logits)
    torch.testing.assert_close(grad, expected)
    assert (around[..., :16] == 7).all() and (around[..., 23:] == 7).all()
    assert torch.equal(logits, before[0]) and torch.equal(target, before[1])


def test_other_types_take_torchs_own():
    logits, target, weights, *_ = arguments(1, 5, (2, 2), (4, 4))
    assert choose_resized_cross_entropy(logits).kernel == "numba"
    assert choose_resized_cross_entropy(logits.double()).kernel == "torch"
    assert choose_resized_cross_entropy(logits[:0]).kernel == "torch"
    torch.testing.assert_close(
        resized_cross_entropy(logits.double(), target, weights.double()).float(),
        resized_cross_entropy(logits, target, weights),
    )
    with use_kernel(resized_cross_entropy="other"), pytest.raises(ValueError, match="torch, numba"):
        resized_cross_entropy(logits, target)
    with pytest.raises(ValueError, match="takes float32"):
        torch.ops.upernet.resized_cross_entropy(logits.double(), target, None, None, None, False)


def test_arguments_that_do_not_fit():
    logits, target, weights, members, set_weights = arguments(1, 5, (2, 2), (4, 4), sets=1)
    for wrong, match in (
        ((logits[0], target), "N x K x h x w"),
        ((logits, target[:, 0]), "N x H x W"),
        ((logits, target.int()), "torch.int64"),
        ((logits, target, weights[1:]), "4.*weights"),
        ((logits, target, None, members), "belong together"),
        ((logits, target, None, members[:, 1:], set_weights), "bool 1 x 5"),
        ((logits, target + 9), "do not fit 5 classes and 0 sets"),
        ((logits, target.clamp(max=-2) - 1, None, members, set_weights), "from -3 .* 1 sets"),
    ):
        with pytest.raises(ValueError, match=match):
            resized_cross_entropy(*cast(Any, wrong))


def test_the_operator_is_registered_as_torch_wants_it():
    logits, target, weights, members, set_weights = arguments(1, 5, (2, 2), (4, 4), sets=1)
    operator = torch.ops.upernet.resized_cross_entropy.default
    for with_gradient in (False, True):
        inputs = (logits.detach(), target, weights, members, set_weights, with_gradient)
        torch.library.opcheck(operator, inputs, test_utils=("test_schema", "test_faketensor"))
    torch.library.opcheck(operator, (logits, target.clamp(min=-1), None, None, None, True))
    loss = resized_cross_entropy(logits, target, weights, members, set_weights)
    (grad,) = torch.autograd.grad(loss, logits, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiated again"):
        torch.autograd.grad(grad.sum(), logits)
    compiled = torch.compile(lambda x: resized_cross_entropy(x, target.clamp(min=-1), weights), backend="aot_eager")
    torch.testing.assert_close(compiled(logits), resized_cross_entropy(logits, target.clamp(min=-1), weights))
