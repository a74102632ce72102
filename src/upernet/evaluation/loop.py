"""Score a model on every source of a recipe."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from upernet.data.sample import Sample
from upernet.data.sources import Source, SourceMissing, open_source
from upernet.errors import UpernetError
from upernet.evaluation.metrics import Scores
from upernet.evaluation.passes import Passes, photo_outputs
from upernet.models import UPerNet
from upernet.recipe import Recipe, Split

Progress = Callable[[str, int, int], None]
"""Called as (source, photos done, photos in all), by each process for its own share."""
ONCE = Passes()


def evaluate(
    model: UPerNet,
    recipe: Recipe,
    data_dir: str | Path,
    split: Split = "test",
    device: str | torch.device = "cpu",
    progress: Progress | None = None,
    passes: Passes = ONCE,
) -> dict[str, Any]:
    """Score `model` on the photos of `split` of every source, one photo at a time.

    A photo is brought to its source's `test_resize`; its logits are brought to the size of the network's input and then
    to that of the label map, bilinearly. With several `passes` their probabilities are averaged there.
    Where torch.distributed is initialised, the processes share the photos and all return the same result.
    The model is moved to `device`; its training mode is left as it was.

    Returns:
        What JSON can hold; shares are floats in 0..1, None where there was nothing to score::

            {level: {metric: value}}     # annotated labels of the sources with `scored: true`, pooled
            "sources": {source: {level: {metric: value}}}
            "weak": {source: {level: {metric: value}}}     # implied labels
            "split": str, "photos": {source: int}, "skipped": [source]
            "testing": {"scales": [float], "flip": bool, "window": int | None, "stride": int | None}

        `skipped` are sources without a folder below `data_dir`, or without this split.

    Raises:
        UpernetError: every source is skipped, or a file is broken.
    """
    total = Scores(model.taxonomy)
    sources, skipped = open_sources(model, recipe, data_dir, split)
    per_source: dict[str, Any] = {}
    weak: dict[str, Any] = {}
    with inference(model, device):
        for name, source in sources.items():
            annotated = Scores(model.taxonomy, source.spec.supervision)
            implied = Scores(model.taxonomy, source.spec.supervision)
            for sample in share(source, progress):
                logits, through = photo_outputs(model, sample, source.spec, device, passes)
                annotated.update(logits, sample, through=through)
                implied.update(logits, sample, weak=True, through=through)
            annotated.reduce()
            implied.reduce()
            if source.spec.scored:
                total += annotated
            per_source[name] = annotated.result()
            if implied_result := implied.result():
                weak[name] = implied_result
    return {
        **total.result(),
        "sources": per_source,
        "weak": weak,
        "split": split,
        "photos": {name: len(source) for name, source in sources.items()},
        "skipped": skipped,
        "testing": passes.to_dict(),
    }


def open_sources(
    model: UPerNet, recipe: Recipe, data_dir: str | Path, split: Split
) -> tuple[dict[str, Source], list[str]]:
    """The sources of `recipe` that have photos in `split`, and the names of those that have not.

    Raises:
        UpernetError: none has.
    """
    sources: dict[str, Source] = {}
    skipped: list[str] = []
    for name, spec in recipe.sources.items():
        try:
            sources[name] = open_source(name, spec, model.taxonomy, data_dir, split)
        except SourceMissing:
            skipped.append(name)
    if not sources:
        wanted = ", ".join(spec.path for spec in recipe.sources.values()) or "none"
        raise UpernetError(
            f"{data_dir}: no photos of split {split!r} for recipe {recipe.name!r}: "
            f"give the folder that holds its sources ({wanted})."
        )
    return sources, skipped


@contextmanager
def inference(model: UPerNet, device: str | torch.device) -> Iterator[None]:
    """Eval mode on `device` without autograd; afterwards the training mode is what it was."""
    was_training = model.training
    model.to(device).eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(was_training)


def share(source: Source, progress: Progress | None = None) -> Iterator[Sample]:
    """This process's share of the samples of `source`: every world-size-th one."""
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    rank = torch.distributed.get_rank() if distributed else 0
    world = torch.distributed.get_world_size() if distributed else 1
    indices = range(rank, len(source), world)
    for done, index in enumerate(indices):
        if progress:
            progress(source.name, done, len(indices))
        yield source[index]
    if progress:
        progress(source.name, len(indices), len(indices))
