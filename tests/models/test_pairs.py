"""Tests of upernet.models.pairs: what is folded, and above all what is not."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from upernet.models.backbones import as_backbone, build_backbone
from upernet.models.efficientnet_lite import VARIANTS
from upernet.models.fold import fold
from upernet.models.pairs import find_pairs


class Sum(nn.ModuleList):
    def forward(self, images: Tensor) -> Tensor:
        return self[0](images) + self[1](images)


class Block(nn.Module):
    """A convolution and a norm under names that no library uses, called by a `forward` of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.second = nn.BatchNorm2d(4)
        self.first = nn.Conv2d(3, 4, 3, stride=2, padding=1, groups=1)

    def forward(self, images: Tensor) -> Tensor:
        return F.relu(self.second(self.first(images)))


class ReadTwice(Block):
    def forward(self, images: Tensor) -> Tensor:
        x = self.first(images)
        return self.second(x) + x


class ViewedTwice(Block):
    def forward(self, images: Tensor) -> Tensor:
        x = self.first(images)
        return self.second(x) + x.flatten(1).mean()


class ChangedBetween(Block):
    def forward(self, images: Tensor) -> Tensor:
        return self.second(self.first(images).relu_())


class AlsoReturned(Block):
    def forward(self, images: Tensor) -> list[Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x = self.first(images)
        return [x, self.second(x)]


class CalledTwice(Block):
    def forward(self, images: Tensor) -> Tensor:
        return self.second(self.first(images)) + self.second(self.first(images.flip(-1)))


class WeightReadTwice(Block):
    def forward(self, images: Tensor) -> Tensor:
        return self.second(self.first(images)) * self.first.weight.sum()


class Standardized(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        weight = self.weight / self.weight.flatten(1).std(1)[:, None, None, None]
        return F.conv2d(input, weight, self.bias)


class Doubled(nn.BatchNorm2d):
    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


class WithActivation(nn.BatchNorm2d):
    def __init__(self, channels: int):
        super().__init__(channels)
        self.drop, self.activation = nn.Identity(), nn.ReLU(inplace=True)

    def forward(self, input: Tensor) -> Tensor:
        return self.activation(self.drop(super().forward(input)))


def hooked() -> nn.Module:
    block = Block()
    block.second.register_forward_hook(lambda module, inputs, output: output + inputs[0])
    return block


def shared() -> nn.Module:
    conv = nn.Conv2d(3, 3, 1)
    return nn.Sequential(nn.Sequential(conv, nn.BatchNorm2d(3)), nn.Sequential(conv, nn.BatchNorm2d(3)))


def folded(network: nn.Module) -> tuple[int, float]:
    """Return how many pairs are folded and the largest difference of the outputs, in float64."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.get_buffer("running_var"), 0.5, 1.5)
    network = network.double().eval()
    changed = copy.deepcopy(network)
    pairs = find_pairs(changed, torch.zeros(1, 3, 8, 8, dtype=torch.float64))
    fold(changed, pairs)
    images = torch.randn(2, 3, 10, 12, dtype=torch.float64)
    with torch.inference_mode():
        outputs = [output if isinstance(output, list) else [output] for output in (network(images), changed(images))]
    difference = max(float((a - b).abs().max()) for a, b in zip(*outputs, strict=True))
    return len(pairs), difference


@pytest.mark.parametrize(
    "network",
    [
        Block(),
        nn.Sequential(Block(), nn.Identity()),
        nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), WithActivation(4)),
    ],
    ids=["own forward", "nested", "norm with activation"],
)
def test_pairs_are_folded_whatever_their_classes_and_names(network: nn.Module) -> None:
    pairs, difference = folded(network)
    assert pairs == 1 and difference < 1e-12


@pytest.mark.parametrize(
    "network",
    [
        nn.Sequential(Sum([nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)])),
        nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 3, 1)), nn.BatchNorm2d(3)),
        nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, track_running_stats=False)),
        nn.Sequential(Standardized(3, 4, 1), nn.BatchNorm2d(4)),
        nn.Sequential(nn.Conv2d(3, 4, 1), Doubled(4)),
        nn.Sequential(nn.Conv2d(3, 4, 1), nn.Identity(), nn.ReLU(), nn.BatchNorm2d(4)),
        shared(),
        hooked(),
        ReadTwice(),
        ViewedTwice(),
        ChangedBetween(),
        AlsoReturned(),
        CalledTwice(),
        WeightReadTwice(),
    ],
    ids=lambda network: type(network).__name__,
)
def test_norms_that_a_convolution_cannot_absorb_stay(network: nn.Module) -> None:
    assert folded(network) == (0, 0.0)


def test_a_norm_without_weights_is_folded() -> None:
    network: nn.Sequential = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, affine=False)).double().eval()
    nn.init.uniform_(network[1].get_buffer("running_mean"), -0.5, 0.5)
    images = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    with torch.inference_mode():
        expected = network(images)
        fold(network, find_pairs(network, images))
        assert isinstance(network[1], nn.Sequential) and not list(network[1].children())
        torch.testing.assert_close(network(images), expected, rtol=1e-12, atol=1e-12)


def test_the_search_leaves_no_trace() -> None:
    network = Block().eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    find_pairs(network, torch.randn(1, 3, 8, 8))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(parameter.requires_grad for parameter in network.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_the_pairs_that_efficientnet_lite_lists_are_those_of_a_run(name: str) -> None:
    backbone = build_backbone(name).eval()
    listed = {(conv, norm) for conv, norm, _ in as_backbone(backbone).foldable_pairs()}
    found = {(conv, norm) for conv, norm, after in find_pairs(backbone, torch.zeros(1, 3, 64, 64)) if not after}
    assert listed == found
    assert len(listed) == sum(isinstance(module, nn.BatchNorm2d) for module in backbone.modules())
