"""The parameters that a stage trains, their optimizer and learning rates, and the moving average of the weights."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]

from upernet.errors import UpernetError
from upernet.models import UPerNet
from upernet.models.backbones import Backbone, as_backbone, feature_info
from upernet.recipe import StageSpec

WARMUP_START = 1e-6
"""Factor of the learning rate at the first iteration of the warm-up, as published for ADE20K."""
MOMENTUM = 0.9
"""Momentum of SGD."""
EMA_WARMUP = 10
"""The decay of the moving average is at most (1 + updates) / (EMA_WARMUP + updates), as in TensorFlow."""


def trained_parameters(model: UPerNet, stage: StageSpec) -> list[nn.Parameter]:
    """Return the parameters that `stage` trains, without changing the model.

    Raises:
        UpernetError: The stage trains a level that the taxonomy lacks, or freezes features that the backbone lacks.
    """
    if stage.trains != "all":
        if stage.trains not in model.heads:
            raise UpernetError(
                f"stage {stage.name} trains level {stage.trains}, which the taxonomy does not have; "
                f"choose all or one of {', '.join(model.heads)}."
            )
        return list(model.heads[stage.trains].parameters())
    frozen = {id(parameter) for parameter in _shallow_parameters(model.backbone, stage.frozen_backbone_stages)}
    return [parameter for parameter in model.parameters() if id(parameter) not in frozen]


def select_trained(model: UPerNet, stage: StageSpec) -> None:
    """Set `requires_grad` of every parameter: whether `stage` trains it."""
    model.requires_grad_(False)
    for parameter in trained_parameters(model, stage):
        parameter.requires_grad_(True)


def set_modes(model: UPerNet, stage: StageSpec) -> None:
    """Set training mode, except in batch norms whose statistics are frozen (also those with frozen weights)."""
    model.train(stage.trains == "all")
    if stage.trains != "all":
        model.heads[stage.trains].train()
    frozen = set({"none": [], "backbone": model.backbone.modules(), "all": model.modules()}[stage.freeze_norm])
    for module in model.modules():
        if isinstance(module, _BatchNorm) and (module in frozen or not module.weight.requires_grad):
            module.eval()


def set_norm_momentum(model: UPerNet, iteration: int) -> None:
    """Let batch norms average evenly over the first iterations, if the model has a `norm_momentum`.

    The values that the running averages start from then weigh as much as one iteration, as in the released code of
    Unified Perceptual Parsing. Otherwise, the random decoder would keep a share of them for thousands of iterations.

    Args:
        model: The model.
        iteration: Number of the iteration in the run, from 0.
    """
    momentum = model.spec.norm_momentum
    if momentum is None:
        return
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.momentum = momentum / (1 - (1 - momentum) ** (iteration + 2))


def create_optimizer(model: UPerNet, stage: StageSpec) -> torch.optim.Optimizer:
    """Return SGD with momentum or AdamW over the parameters that require gradients.

    Norms, biases, scales of residual branches and tables of relative positions have no weight decay. With
    `stage.layer_decay`, the learning rate falls by that factor per layer from the decoder to the image.

    Raises:
        UpernetError: `layer_decay`, and the backbone does not tell which layer a parameter is in.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            key = _learning_rate_factor(as_backbone(model.backbone), name, stage), _weight_decay(name, parameter, stage)
            groups.setdefault(key, []).append(parameter)
    options = [
        {"params": parameters, "lr": factor * stage.learning_rate, "weight_decay": decay, "factor": factor}
        for (factor, decay), parameters in groups.items()
    ]
    if stage.optimizer == "sgd":
        return torch.optim.SGD(options, lr=stage.learning_rate, momentum=MOMENTUM)
    return torch.optim.AdamW(options, lr=stage.learning_rate)


def learning_rate(stage: StageSpec, iteration: int) -> float:
    """Return the learning rate at `iteration` (from 0) of the stage.

    It decays polynomially to zero, multiplied by a linear warm-up from `WARMUP_START`.
    """
    decayed = stage.learning_rate * (1 - iteration / stage.iterations) ** stage.power
    if iteration < stage.warmup_iterations:
        return decayed * (1 - (1 - iteration / stage.warmup_iterations) * (1 - WARMUP_START))
    return decayed


class MovingAverage:
    """Exponential moving average of a state dict.

    The decay grows from 1 / `EMA_WARMUP` to `decay` over the first updates. Integer buffers are copied.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.updates = 0
        self.state: dict[str, Tensor] = {key: value.detach().clone() for key, value in model.state_dict().items()}

    def restart(self, model: nn.Module) -> None:
        """Replace the average by the current weights."""
        self.state = {key: value.detach().clone() for key, value in model.state_dict().items()}

    @contextmanager
    def applied(self, model: nn.Module) -> Generator[None, None, None]:
        """Give the model the averaged weights while the context lasts."""
        own = {key: value.detach().clone() for key, value in model.state_dict().items()}
        model.load_state_dict(self.state)
        try:
            yield
        finally:
            model.load_state_dict(own)

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the average toward the current weights."""
        decay = min(self.decay, (1 + self.updates) / (EMA_WARMUP + self.updates))
        self.updates += 1
        for key, value in model.state_dict().items():
            if value.is_floating_point():
                self.state[key].lerp_(value, 1 - decay)
            else:
                self.state[key].copy_(value)


def _learning_rate_factor(backbone: Backbone, name: str, stage: StageSpec) -> float:
    """Return what the stage's learning rate is multiplied by for the model's parameter `name`."""
    prefix, _, parameter = name.partition(".")
    if prefix != "backbone":
        return 1.0
    if stage.layer_decay == 1:
        return stage.backbone_learning_rate_factor
    layers_to_decoder = backbone.num_layers - backbone.layer_of(parameter)
    return stage.backbone_learning_rate_factor * stage.layer_decay**layers_to_decoder


def _weight_decay(name: str, parameter: Tensor, stage: StageSpec) -> float:
    return stage.weight_decay if parameter.ndim > 1 and "relative_position" not in name else 0.0


def _shallow_parameters(backbone: nn.Module, stages: int) -> list[nn.Parameter]:
    """Return the parameters up to and including those of feature number `stages` (0: none), in order of definition."""
    if stages == 0:
        return []
    modules = feature_info(backbone).module_name()
    if stages > len(modules):
        raise UpernetError(
            f"frozen_backbone_stages: {stages} is more than the backbone's {len(modules)} features; lower it."
        )
    named = list(backbone.named_parameters())
    prefix = f"{modules[stages - 1]}."
    last = max((index for index, (name, _) in enumerate(named) if name.startswith(prefix)), default=None)
    if last is None:
        raise UpernetError(
            "frozen_backbone_stages: this backbone does not tell which layers make a feature; set it to 0."
        )
    return [parameter for _, parameter in named[: last + 1]]
