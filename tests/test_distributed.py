"""Tests of upernet.distributed: batch norms that use the statistics of the batches of all processes."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

from upernet import distributed
from upernet.distributed import sum_over_processes, synchronize_batch_norms

CASES = {"typical": (0.0, 1.0), "large mean, small variance": (1000.0, 0.01)}
"""Mean and standard deviation of the first channel; the other channels are standard normal."""
SHARES = (3, 1)
"""Photos per process."""


def batch(mean: float, deviation: float) -> tuple[Tensor, Tensor]:
    """Return a batch of all processes, whose halves differ in their means, and a gradient of the output."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(sum(SHARES), 3, 6, 5, generator=generator)
    x[SHARES[0] :] += 0.5
    x[:, 0] = x[:, 0] * deviation + mean
    return x, torch.randn(x.shape, generator=generator)


def norm_layer(kind: str) -> nn.Module:
    norm = nn.BatchNorm2d(3) if kind == "torch" else BatchNormAct2d(3, act_layer=nn.SiLU, inplace=False)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([0.5, 1.0, 2.0]))
        norm.bias.copy_(torch.tensor([-1.0, 0.0, 1.0]))
    return norm


def run(norm: nn.Module, x: Tensor, gradient: Tensor) -> dict[str, Tensor]:
    """Return the output, the gradients and the running statistics after a forward and backward pass."""
    x = x.detach().requires_grad_()
    y = norm(x)
    y.backward(gradient)
    gradients = {f"d{name}": parameter.grad for name, parameter in norm.named_parameters()}
    return {"y": y.detach(), "dx": x.grad, **gradients, **dict(norm.named_buffers())}  # type: ignore[dict-item]


def process(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2, timeout=timedelta(minutes=5)
    )
    share = slice(0, SHARES[0]) if rank == 0 else slice(SHARES[0], None)
    results = {}
    for case, (mean, deviation) in CASES.items():
        x, gradient = batch(mean, deviation)
        for kind in ("torch", "timm"):
            norm = norm_layer(kind)
            synchronize_batch_norms(norm)
            results[case, kind] = run(norm, x[share], gradient[share])
            norm.eval()
            results[case, kind]["eval"] = norm(x[share]).detach()
    total = torch.tensor([rank + 1])
    sum_over_processes(total)
    results["total"] = total
    results["world"] = (distributed.rank(), distributed.world_size())
    torch.save(results, Path(folder, f"{rank}.pt"))
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    folder = tmp_path_factory.mktemp("processes")
    torch.multiprocessing.spawn(process, (str(folder),), nprocs=2)  # type: ignore[attr-defined]
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in (0, 1)]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["torch", "timm"])
@pytest.mark.parametrize("case", CASES)
def test_batch_norm_of_two_processes_equals_one_in_float64(results: list[dict], case: str, kind: str) -> None:
    """The shares of the batch differ in size and mean."""
    first, second = (result[case, kind] for result in results)
    x, gradient = batch(*CASES[case])
    norm = norm_layer(kind).double()
    expected = run(norm, x.double(), gradient.double())
    # Rounding of the inputs is no error of the norm: both sides see the same float32 values.
    for name in ("y", "dx"):
        found = torch.cat([first[name], second[name]]).double()
        for channel in range(3):
            scale = expected[name][:, channel].abs().max()
            error = (found[:, channel] - expected[name][:, channel]).abs().max() / scale
            assert error < 1e-5, (name, channel, float(error))
    for name in ("dweight", "dbias"):
        torch.testing.assert_close((first[name] + second[name]).double(), expected[name], rtol=1e-4, atol=1e-4)
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name].double(), expected[name].double(), rtol=1e-6, atol=1e-7)
    assert first["eval"].shape == first["y"].shape


@pytest.mark.slow
def test_running_variance_of_a_large_mean_is_not_lost(results: list[dict]) -> None:
    x, _ = batch(*CASES["large mean, small variance"])
    norm = nn.BatchNorm2d(3, momentum=1.0).double()
    norm(x.double())
    variance = (results[0]["large mean, small variance", "torch"]["running_var"][0].double() - 0.9) / 0.1
    assert variance == pytest.approx(float(norm.running_var[0]), abs=2e-6)  # type: ignore[index]


def test_sums_and_ranks(results: list[dict]) -> None:
    assert [result["world"] for result in results] == [(0, 2), (1, 2)]
    assert all(result["total"].item() == 3 for result in results)
    assert (distributed.rank(), distributed.world_size()) == (0, 1)
    alone = torch.tensor([5])
    sum_over_processes(alone)
    assert alone.item() == 5
