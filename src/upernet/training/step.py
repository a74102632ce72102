"""Updates of the model in one stage."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from upernet.data.sample import Batch
from upernet.distributed import World, sum_over_processes
from upernet.errors import UpernetError
from upernet.models import UPerNet
from upernet.recipe import TrainingSpec
from upernet.training.losses import Ratio
from upernet.training.optimizer import create_optimizer, select_trained, set_modes, set_norm_momentum
from upernet.training.seeds import dropout_seed
from upernet.training.stages import Stage


@dataclass(frozen=True)
class StepResult:
    """The report of one update.

    Attributes:
        losses: Losses by name, over the labels of all processes; empty if no pixel or photo had a label.
        total: Weighted sum of the losses.
    """

    losses: dict[str, float]
    total: float


class Diverged(UpernetError):  # noqa: N818 (what has happened)
    """A loss or gradient is not finite."""


class StageTrainer:
    """Trains the model in one stage: `step` does one iteration.

    Args:
        model: The model; which of its parameters learn, and its training mode, are set for the stage.
        stage: The stage.
        training: Settings of all stages.
        world: This process among all processes, which share every batch.
    """

    def __init__(self, model: UPerNet, stage: Stage, training: TrainingSpec, world: World) -> None:
        self.model, self.stage, self.training, self.world = model, stage, training, world
        select_trained(model, stage.spec)
        self.optimizer = create_optimizer(model, stage.spec)
        self.network: nn.Module = model
        if world.size > 1:
            self.network = DistributedDataParallel(model, find_unused_parameters=True, broadcast_buffers=False)
        set_modes(model, stage.spec)

    def step(self, batch: Batch, iteration: int, rate: float) -> StepResult:
        """Update the model on this process's share of a batch; a batch without any label changes nothing.

        Args:
            batch: Photos and labels of this process.
            iteration: Number of the iteration in the stage, from 0.
            rate: Learning rate of the decoder and heads.

        Raises:
            Diverged: A loss or the gradient is not finite.
        """
        if self.stage.number == 0:
            set_norm_momentum(self.model, iteration)
        torch.manual_seed(dropout_seed(self.training.seed, self.stage.number, iteration, self.world.rank))
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        batch = batch.to(self.world.device)
        logits = self._forward(batch)
        ratios = self.stage.losses(logits, batch, self.stage.sources[batch.source].spec.supervision_by_level)
        sums = self._sum_ratios(ratios)
        losses = {name: numerator / denominator for name, (numerator, denominator) in sums.items() if denominator > 0}
        if bad := [name for name, loss in losses.items() if not math.isfinite(loss)]:
            raise _diverged(f"loss {', '.join(bad)}", batch.source)
        weights = {name: self.stage.losses.weight(name, batch.implied) for name in losses}
        if losses:
            denominators = {name: sums[name][1] for name in losses}
            self._descend(self._objective(logits, ratios, denominators, weights), batch.source)
        return StepResult(losses, sum(loss * weights[name] for name, loss in losses.items()))

    def _forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return the logits of the levels that the batch annotates and the stage trains."""
        images = self.model.preprocess(batch.images).contiguous(memory_format=torch.channels_last)
        levels = [level for level in self.model.levels if level in batch.maps or level in batch.labels]
        if self.stage.spec.trains != "all":
            levels = [self.stage.spec.trains]
        with torch.autocast(self.world.device.type, torch.bfloat16, enabled=self.training.precision == "bf16"):
            return self.network(images, levels)

    def _sum_ratios(self, ratios: Mapping[str, Ratio]) -> dict[str, tuple[float, float]]:
        """Return the numerator and denominator of every loss, summed over all processes.

        All processes reduce the same vector, whichever losses their share of the batch has.
        """
        zero = torch.zeros((), device=self.world.device)
        absent = Ratio(zero, zero)
        found = [ratios.get(name, absent) for name in self.stage.losses.names]
        sums = torch.stack([torch.stack([ratio.numerator, ratio.denominator]) for ratio in found]).detach()
        sum_over_processes(sums)
        return {
            name: (numerator, denominator)
            for name, (numerator, denominator) in zip(self.stage.losses.names, sums.tolist(), strict=True)
        }

    def _objective(
        self,
        logits: Mapping[str, Tensor],
        ratios: Mapping[str, Ratio],
        denominators: Mapping[str, float],
        weights: Mapping[str, float],
    ) -> Tensor:
        """Return the weighted sum of this process's losses, over the denominators of all processes.

        DDP averages gradients over processes; the factor `world.size` makes that a sum. Every output takes part, since
        DDP would wait for the gradients of one that does not.
        """
        total = 0 * torch.stack([value.float().sum() for value in logits.values()]).sum()
        for name, denominator in denominators.items():
            if name in ratios:
                total = total + weights[name] * self.world.size / denominator * ratios[name].numerator
        return total

    def _descend(self, objective: Tensor, source: str) -> None:
        """Clip the gradient of `objective` and update the parameters."""
        self.optimizer.zero_grad(set_to_none=True)
        objective.backward()
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        norm = nn.utils.clip_grad_norm_(parameters, self.training.gradient_clipping or math.inf)
        if not math.isfinite(norm):
            raise _diverged("gradient", source)
        self.optimizer.step()


def _diverged(what: str, source: str) -> Diverged:
    return Diverged(
        f"the {what} on source {source} is not finite: lower the learning rate, or check the labels with "
        "`upernet data check`; the last saved state is intact."
    )
