"""Evaluation of a model on every source of a recipe."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import torch

from upernet import distributed
from upernet.data.sample import Sample
from upernet.data.sources import Source, SourceMissing, open_source
from upernet.errors import UpernetError
from upernet.evaluation.photo_counts import Photo, PhotoCounter
from upernet.evaluation.results import EvaluationResult, LevelMetrics
from upernet.evaluation.scores import Scores
from upernet.evaluation.tta import NO_AUGMENTATION, TestTimeAugmentation, photo_outputs
from upernet.models import UPerNet, prepare_for_inference
from upernet.recipe import FolderSpec, MetricRules, Recipe, Split
from upernet.taxonomy import Taxonomy

PhotoProgress = Callable[[str, int, int], None]
"""Callback with the source, the number of photos done, and the number of photos of this process."""


def evaluate(
    model: UPerNet,
    recipe: Recipe,
    data_dir: str | Path,
    split: Split = "test",
    device: str | torch.device = "cpu",
    progress: PhotoProgress | None = None,
    tta: TestTimeAugmentation = NO_AUGMENTATION,
    photos: int | None = None,
    rules: MetricRules = "standard",
) -> EvaluationResult:
    """Score a model on the photos of every source, one photo at a time.

    A photo is resized to its source's `test_resize`. The logits are resized bilinearly to the size of the network's
    input and from there to the size of the label map; with test-time augmentation, probabilities are averaged there.

    If torch.distributed is initialized, the processes divide the photos among them, and all return the same result.

    Args:
        model: The model; it is moved to `device`, and its training mode is restored afterwards.
        recipe: Recipe that lists the sources.
        data_dir: Folder that contains the folders of the sources.
        split: Which photos are scored.
        device: Device to compute on.
        progress: Called before each photo and after the last one.
        tta: Scales, mirrored passes and sliding windows.
        photos: Largest number of photos per source, spread over all of them; None: all.
        rules: How scores follow from what was counted. `published`: as in the released code of Unified Perceptual
            Parsing.

    Returns:
        Metrics per level, and per source and level, and what was counted in each photo. Implied labels are scored
        separately.

    Raises:
        UpernetError: No source has photos of this split, or a file is broken.
    """
    sources, skipped = open_sources(model, recipe, data_dir, split)
    total, counter = Scores(model.taxonomy, rules=rules), PhotoCounter()
    per_source: dict[str, dict[str, LevelMetrics]] = {}
    implied_per_source: dict[str, dict[str, LevelMetrics]] = {}
    with eval_mode(model, device):
        network = prepare_for_inference(model)
        for name, source in sources.items():
            annotated = Scores(model.taxonomy, source, rules)
            implied = Scores(model.taxonomy, source, rules)
            for index, sample in samples_of_rank(source, progress, photos):
                outputs, via_sizes = photo_outputs(network, sample, source.spec, device, tta)
                photo = Scores(model.taxonomy, source, rules)
                photo.update(outputs, sample, via_sizes=via_sizes, probabilities=tta.averages)
                counter.add(Photo(name, index, sample.key, source.spec.scored), photo.confusions())
                annotated += photo
                implied.update(outputs, sample, implied=True, via_sizes=via_sizes, probabilities=tta.averages)
            annotated.reduce()
            implied.reduce()
            if source.spec.scored:
                total += annotated
            per_source[name] = annotated.result()
            if implied_metrics := implied.result():
                implied_per_source[name] = implied_metrics
    return EvaluationResult(
        levels=total.result(),
        sources=per_source,
        implied=implied_per_source,
        split=split,
        photos={name: len(chosen_photos(len(source), photos)) for name, source in sources.items()},
        skipped=tuple(skipped),
        testing=tta,
        rules=rules,
        counts=counter.result(),
    )


def open_sources(
    model: UPerNet, recipe: Recipe, data_dir: str | Path, split: Split
) -> tuple[dict[str, Source], list[str]]:
    """Open the sources of `recipe` that have photos of `split`; return them, and the names of the others.

    Raises:
        UpernetError: No source has any.
    """
    sources: dict[str, Source] = {}
    skipped: list[str] = []
    for name, spec in recipe.sources.items():
        try:
            sources[name] = open_source(name, spec, model.taxonomy, data_dir, split, recipe.sources)
        except SourceMissing:
            skipped.append(name)
    if not sources:
        wanted = ", ".join(spec.path for spec in recipe.sources.values() if isinstance(spec, FolderSpec)) or "none"
        raise UpernetError(
            f"{data_dir}: no photos of split {split!r} for recipe {recipe.name!r}; "
            f"give the folder that contains its sources ({wanted})."
        )
    return sources, skipped


@contextmanager
def eval_mode(model: UPerNet, device: str | torch.device) -> Generator[None, None, None]:
    """Move `model` to `device`, and put it into eval mode without autograd while the context lasts."""
    was_training = model.training
    model.to(device).eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(was_training)


def samples_of_rank(
    source: Source, progress: PhotoProgress | None = None, photos: int | None = None
) -> Iterator[tuple[int, Sample]]:
    """Yield the samples of `source` that this process scores, and their indices: every `world_size()`-th one.

    A thread reads the next sample while the caller works on one.
    """
    indices = chosen_photos(len(source), photos)[distributed.rank() :: distributed.world_size()]
    with ThreadPoolExecutor(1, thread_name_prefix="upernet-read") as reader:
        upcoming = deque(reader.submit(source.__getitem__, index) for index in indices[:1])
        for done, index in enumerate(indices):
            if progress:
                progress(source.name, done, len(indices))
            sample = upcoming.popleft().result()
            upcoming.extend(reader.submit(source.__getitem__, index) for index in indices[done + 1 : done + 2])
            yield index, sample
    if progress:
        progress(source.name, len(indices), len(indices))


def chosen_photos(count: int, limit: int | None) -> Sequence[int]:
    """Return at most `limit` of the indices of `count` photos, at equal distances."""
    if limit is None or count <= limit:
        return range(count)
    return [number * count // limit for number in range(limit)]


def default_split(taxonomy: Taxonomy, recipe: Recipe, data_dir: str | Path) -> Split:
    """Return the split that is scored if none is named: `test` if a source has photos of it, otherwise `val`."""
    for name, spec in recipe.sources.items():
        try:
            open_source(name, spec, taxonomy, data_dir, "test", recipe.sources)
        except SourceMissing:
            continue
        return "test"
    return "val"
