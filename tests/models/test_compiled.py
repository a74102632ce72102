"""Tests of whole networks under torch's compiler and exporter: one graph, the same logits."""

from __future__ import annotations

import pytest
import torch

from upernet.models import Precision, UPerNet, prepare_for_inference
from upernet.ops import bfloat16_unavailable
from upernet.recipe import ModelSpec
from upernet.taxonomy import load_taxonomy

IMAGES = torch.randn(1, 3, 96, 128, generator=torch.Generator().manual_seed(0))


def network() -> UPerNet:
    torch.manual_seed(0)
    options = {"channels": 16, "depths": (1, 1, 2, 1), "groups": (1, 2, 4, 8)}
    spec = ModelSpec(backbone="internimage_t", backbone_options=options, decoder_channels=64)
    return UPerNet(spec, load_taxonomy("camvid")).eval()


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_inference(precision: Precision) -> None:
    if precision == "bf16" and (fault := bfloat16_unavailable()):
        pytest.skip(fault)
    model = prepare_for_inference(network(), precision)
    torch.compiler.reset()
    with torch.no_grad():
        expected = model(IMAGES)["object"]
        compiled = torch.compile(model, backend="aot_eager", fullgraph=True)(IMAGES)["object"]
        exported = torch.export.export(model, (IMAGES,)).module()(IMAGES)["object"]
    # The decoder's operators leave products in bfloat16 to the compiler.
    tolerance = 1e-4 if precision == "fp32" else 0.1 * float(expected.std())
    torch.testing.assert_close(compiled, expected, rtol=1e-4, atol=tolerance)
    torch.testing.assert_close(exported, expected, rtol=1e-4, atol=tolerance)


@pytest.mark.slow
def test_training() -> None:
    model = network()
    torch.compiler.reset()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    gradients = []
    for run in (model, compiled):
        model.zero_grad()
        run(IMAGES)["object"].square().mean().backward()
        gradients.append([parameter.grad for parameter in model.parameters() if parameter.grad is not None])
    assert len(gradients[0]) == len(gradients[1]) > 50
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)
