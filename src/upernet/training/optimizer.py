"""What learns in a stage, how fast, and the moving average of the weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from upernet.errors import UpernetError
from upernet.models import UPerNet
from upernet.models.backbones import feature_info
from upernet.models.internimage import InternImage
from upernet.recipe import StageSpec

WARMUP_START = 1e-6
"""Factor of the learning rate at the first iteration of a warm-up, as published for ADE20K."""


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
    """Training mode, but for batch norms that keep their running statistics: those that do not learn, too."""
    model.train(stage.trains == "all")
    if stage.trains != "all":
        model.heads[stage.trains].train()
    frozen = set({"none": [], "backbone": model.backbone.modules(), "all": model.modules()}[stage.freeze_norm])
    for module in model.modules():
        if isinstance(module, _BatchNorm) and (module in frozen or not module.weight.requires_grad):
            module.eval()


def create_optimizer(model: UPerNet, stage: StageSpec) -> torch.optim.Optimizer:
    """SGD with momentum 0.9 or AdamW over the parameters that learn.

    No weight decay on norms, biases, scales of residual branches and tables of relative positions.

    Raises:
        UpernetError: `layer_decay` for a backbone that is no InternImage.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            factor = 1.0
            if name.startswith("backbone."):
                layers = _layers_above(model.backbone, name.removeprefix("backbone.")) if stage.layer_decay < 1 else 0
                factor = stage.backbone_learning_rate_factor * stage.layer_decay**layers
            decayed = parameter.ndim > 1 and "relative_position" not in name
            groups.setdefault((factor, stage.weight_decay if decayed else 0.0), []).append(parameter)
    options = [
        {"params": parameters, "lr": factor * stage.learning_rate, "weight_decay": decay, "factor": factor}
        for (factor, decay), parameters in groups.items()
    ]
    if stage.optimizer == "sgd":
        return torch.optim.SGD(options, lr=stage.learning_rate, momentum=0.9)
    return torch.optim.AdamW(options, lr=stage.learning_rate)


def learning_rate(stage: StageSpec, iteration: int) -> float:
    """Polynomial decay to zero, times a linear warm-up from `WARMUP_START`, at `iteration` (from 0) of the stage."""
    decayed = stage.learning_rate * (1 - iteration / stage.iterations) ** stage.power
    if iteration < stage.warmup_iterations:
        return decayed * (1 - (1 - iteration / stage.warmup_iterations) * (1 - WARMUP_START))
    return decayed


class MovingAverage:
    """Exponential moving average of a state dict; the decay grows from 0.1 to `decay` over the first updates."""

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.updates = 0
        self.state: dict[str, Tensor] = {key: value.detach().clone() for key, value in model.state_dict().items()}

    def restart(self, model: nn.Module) -> None:
        """Take the weights as they are now."""
        self.state = {key: value.detach().clone() for key, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        for key, value in model.state_dict().items():
            if value.is_floating_point():
                self.state[key].lerp_(value, 1 - decay)
            else:
                self.state[key].copy_(value)


def _layers_above(backbone: nn.Module, name: str) -> int:
    """Layers between the parameter `name` of the backbone and the decoder, which counts as one."""
    if not isinstance(backbone, InternImage):
        raise UpernetError("layer_decay: only InternImage backbones say which layer a parameter is in; leave it out.")
    return sum(backbone.spec.depths) + 1 - backbone.layer_of(name)


def _shallow_parameters(backbone: nn.Module, stages: int) -> list[nn.Parameter]:
    """Parameters up to and including those of feature number `stages` (0: none), in order of definition."""
    if stages == 0:
        return []
    modules = feature_info(backbone).module_name()
    if stages > len(modules):
        raise UpernetError(f"frozen_backbone_stages: {stages} is more than the backbone's {len(modules)} features.")
    prefixes = tuple(f"{modules[stages - 1].replace('.', separator)}." for separator in "._")
    named = list(backbone.named_parameters())
    last = max((index for index, (name, _) in enumerate(named) if name.startswith(prefixes)), default=None)
    if last is None:
        raise UpernetError(
            "frozen_backbone_stages: this backbone does not tell which layers make a feature; set it to 0."
        )
    return [parameter for _, parameter in named[: last + 1]]
