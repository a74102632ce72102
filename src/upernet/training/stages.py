"""The stages of a run, opened and checked before the first one starts, so that mistakes show at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from upernet.data.mixing import Mixer
from upernet.data.sampling import BatchSampler, check_batch_sizes
from upernet.data.sources import Source, SourceMissing, open_source
from upernet.distributed import World
from upernet.errors import UpernetError
from upernet.models import UPerNet
from upernet.recipe import FolderSpec, Recipe, SourceSpec, StageSpec, TrainingSpec
from upernet.training.available import photos_per_level
from upernet.training.losses import LevelLosses
from upernet.training.optimizer import trained_parameters
from upernet.training.seeds import sampling_seed


@dataclass(frozen=True)
class Stage:
    """A stage of the training schedule with its opened sources.

    Attributes:
        number: Number of the stage, from 0.
        spec: Settings of the stage.
        sources: Sources by name, with the augmentation of this stage.
        partners: Sources whose photos are mixed with those of `sources`, by name.
        sampler: Source and photos of every iteration.
        losses: Losses of a batch.
    """

    number: int
    spec: StageSpec
    sources: Mapping[str, Source]
    partners: Mapping[str, Source]
    sampler: BatchSampler
    losses: LevelLosses


def open_stages(recipe: Recipe, training: TrainingSpec, model: UPerNet, data_dir: Path, world: World) -> list[Stage]:
    """Open the sources of all stages and check that the model can be trained on them; the model stays as it is.

    A stage that is shorter than in the recipe, because fewer iterations were asked for, has a shorter warm-up as well.

    Args:
        recipe: The recipe.
        training: Its training, with the lengths that the stages will have.
        model: The model.
        data_dir: Folder that contains the folders of the sources.
        world: The processes that share each batch.

    Raises:
        UpernetError: A source is missing or has no photos, or the settings of a stage do not fit the sources, the
            taxonomy, the backbone or the number of processes.
    """
    assert recipe.training is not None
    planned = [stage.iterations for stage in recipe.training.stages]
    chosen = [stage.with_own_optimizer() for stage in training.stages]
    stages: list[Stage] = []
    for number, spec in enumerate(map(_with_warmup, chosen, planned)):
        sources = {name: _open_source(name, spec, recipe, model, data_dir) for name in spec.sources}
        partners = {
            partner: _open_source(partner, spec, recipe, model, data_dir)
            for source in sources.values()
            for partner in source.spec.augmentation.partners
        }
        for source in sources.values():
            Mixer(source, partners)  # raises if they do not go together
        _check_levels(spec, sources)
        _check_batch_norms(spec, sources)
        sampler = _sampler(spec, sources, sampling_seed(training.seed, number))
        check_batch_sizes(sampler, world.size)
        trained_parameters(model, spec)  # raises if there are none
        losses = LevelLosses(model.taxonomy, spec.loss or recipe.loss, world.device)
        stages.append(Stage(number, spec, sources, partners, sampler, losses))
    return stages


def _with_warmup(stage: StageSpec, planned: int) -> StageSpec:
    """Return the stage with the share of warm-up that it has with `planned` iterations, if it is shorter."""
    if stage.iterations >= planned:
        return stage
    warmup = -(-stage.warmup_iterations * stage.iterations // planned)
    return stage.model_copy(update={"warmup_iterations": warmup})


def _open_source(name: str, stage: StageSpec, recipe: Recipe, model: UPerNet, data_dir: Path) -> Source:
    spec = recipe.sources[name]
    spec = spec.model_copy(update={"augmentation": stage.augmentation.get(name, spec.augmentation)})
    try:
        return open_source(name, spec, model.taxonomy, data_dir, "train", recipe.sources)
    except SourceMissing as error:
        raise UpernetError(
            f"{error} Training needs every source of the recipe's stages.{_advice(spec, recipe, data_dir)}"
        ) from error


def _advice(missing: SourceSpec, recipe: Recipe, data_dir: Path) -> str:
    """Return how to train on the other sources, if they annotate other levels than the missing one."""
    left = photos_per_level(recipe, data_dir)
    if not left or not isinstance(missing, FolderSpec) or left.keys() & missing.annotated.keys():
        return ""
    return f" Without it: --set 'levels=[{', '.join(left)}]'."


def _check_levels(stage: StageSpec, sources: Mapping[str, Source]) -> None:
    """Check that every source has labels of the level that the stage trains."""
    for name, source in sources.items():
        if stage.trains != "all" and stage.trains not in source.levels:
            raise UpernetError(
                f"stage {stage.name} trains {stage.trains}, but source {name} has none; take it out of the stage."
            )


def _check_batch_norms(stage: StageSpec, sources: Mapping[str, Source]) -> None:
    """Check that no batch norm learns its statistics from single photos: after the PPM's 1x1 pool, from one value."""
    if stage.trains != "all" or stage.freeze_norm == "all":
        return
    for name, source in sources.items():
        if source.spec.batch_size < 2:
            raise UpernetError(
                f"sources.{name}.batch_size: batch norms need at least 2 photos; raise it or set freeze_norm: all."
            )


def _sampler(stage: StageSpec, sources: Mapping[str, Source], seed: int) -> BatchSampler:
    weights = stage.sources if isinstance(stage.sources, dict) else {}
    sampled = {
        name: (len(source), weights.get(name, source.spec.weight), source.spec.batch_size)
        for name, source in sources.items()
    }
    return BatchSampler(seed, sampled)
