"""Fitting of the statistics that tell how familiar a photo is; see `upernet.models.familiarity`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from upernet.data.sources import Source, SourceMissing, open_source
from upernet.errors import UpernetError
from upernet.evaluation.loop import PhotoProgress, chosen_photos, eval_mode
from upernet.inference.resizing import image_view
from upernet.inference.tiling import network_image
from upernet.models import UPerNet
from upernet.models.familiarity import Familiarity, compressed, photo_statistics
from upernet.recipe import FolderSpec, Recipe, Split

PHOTOS = 150
"""Largest number of photos per source and split, spread over all of them."""
COMPONENTS = 100
"""Largest number of components of the statistics; their covariances take most of the memory."""
POOLED_SHRINKAGE = 0.02
"""Weight of equal variances in the covariance of all sources."""
PRIOR_PHOTOS = 0.3
"""Weight of the covariance of all sources in that of one, in photos per component."""
DISTANCES = 512
"""Largest number of distances of familiar photos that a model keeps."""


def fit_familiarity(
    model: UPerNet,
    recipe: Recipe,
    data_dir: str | Path,
    device: str | torch.device = "cpu",
    progress: PhotoProgress | None = None,
) -> Familiarity:
    """Fit one Gaussian per source of `recipe.calibration.familiar` to its training photos, and set `model.familiarity`.

    The familiarity of a photo is the share of the held-back photos of these sources, all sources weighing the same,
    that are at least as improbable. So a share p of photos like them is less familiar than p.

    Args:
        model: The model; it is moved to `device`, and its training mode is restored afterwards.
        recipe: Recipe that lists the sources.
        data_dir: Folder that contains the folders of the sources.
        device: Device to compute on.
        progress: Called before each photo and after the last one of a source.

    Raises:
        UpernetError: A source is missing or has no training photos, none has photos that are held back, or a file is
            broken.
    """
    names = recipe.calibration.familiar
    reserved = [name for name in names if "held_back" in recipe.sources[name].split_names]
    train = [_statistics(model, recipe, data_dir, name, "train", device, progress) for name in names]
    held_back = [_statistics(model, recipe, data_dir, name, "held_back", device, progress) for name in reserved]
    held_back = [found for found in held_back if len(found)]
    if not held_back:
        raise UpernetError("calibration.familiar: none of the sources holds photos back; set `held_back` in some.")
    fitted = fit(train, held_back).to(device)
    model.familiarity = fitted
    return fitted


def fit(train: Sequence[Tensor], held_back: Sequence[Tensor]) -> Familiarity:
    """Fit Gaussians to the `photo_statistics` (n x D) of each source, and keep the distances of held-back photos."""
    sources = [found.double() for found in train]
    scale = torch.stack([found.abs().mean(0) for found in sources]).mean(0).clamp(min=1e-6)
    logarithms = [compressed(found, scale) for found in sources]
    pooled = torch.stack([_covariance(found) for found in logarithms]).mean(0)
    variances, axes = _eigen(_towards_equal(pooled))
    components = min(COMPONENTS, len(variances))
    projection = axes[:, -components:] * variances[-components:].rsqrt()
    fitted = Familiarity(len(scale), components, len(sources), 0)
    fitted.scale.copy_(scale)
    fitted.projection.copy_(projection.half())  # as a file in half precision keeps them
    for index, found in enumerate(logarithms):
        projected = found @ projection
        prior = PRIOR_PHOTOS * components / (PRIOR_PHOTOS * components + len(found))
        covariance = (1 - prior) * _covariance(projected) + prior * torch.eye(components, dtype=torch.float64)
        variances, axes = _eigen(covariance)
        fitted.centers[index] = projected.mean(0).half()
        fitted.whitening[index] = (axes * variances.rsqrt()).half()
        fitted.offsets[index] = variances.log().sum()
    distances = [np.sort(fitted.distance(found.float()).numpy()) for found in held_back]
    fitted.distances = torch.as_tensor(_quantiles(distances), dtype=torch.float32)
    return fitted


def _statistics(
    model: UPerNet,
    recipe: Recipe,
    data_dir: str | Path,
    name: str,
    split: Split,
    device: str | torch.device,
    progress: PhotoProgress | None,
) -> Tensor:
    """Return the statistics of photos of a source, as a `Parser` sees them: float32 n x D on the CPU."""
    try:
        source: Source = open_source(name, recipe.sources[name], model.taxonomy, data_dir, split, recipe.sources)
    except SourceMissing as error:
        raise UpernetError(f"calibration.familiar: {error}") from error
    if split == "train" and not source.photos:
        raise UpernetError(f"calibration.familiar: {source.problems()[0]}")
    found: list[Tensor] = []
    indices = chosen_photos(len(source.photos), PHOTOS)
    with eval_mode(model, device):
        for done, index in enumerate(indices):
            if progress:
                progress(name, done, len(indices))
            image = network_image(np.asarray(image_view(source.read_photo(source.photos[index]))), device)
            found.append(photo_statistics(model.backbone(model.preprocess(image)[None])).cpu())
    if progress:
        progress(name, len(indices), len(indices))
    return torch.cat(found) if found else torch.empty(0, 0)


def check_familiar(recipe: Recipe) -> None:
    """Check that the sources of `recipe.calibration.familiar` exist and have training photos.

    Raises:
        UpernetError: They do not.
    """
    for name in recipe.calibration.familiar:
        if not isinstance(recipe.sources.get(name), FolderSpec):
            known = ", ".join(key for key, spec in recipe.sources.items() if isinstance(spec, FolderSpec))
            raise UpernetError(f"calibration.familiar: there are no photos of a source {name!r}; name some of {known}.")
        if "train" not in recipe.sources[name].split_names:
            raise UpernetError(f"calibration.familiar: source {name} has no training photos; leave it out.")


def _covariance(values: Tensor) -> Tensor:
    centered = values - values.mean(0)
    return centered.T @ centered / len(values)


def _eigen(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Return the eigenvalues of a symmetric matrix, ascending, and its eigenvectors, as columns."""
    values, vectors = np.linalg.eigh(covariance.numpy())
    return torch.as_tensor(values), torch.as_tensor(vectors)


def _towards_equal(covariance: Tensor) -> Tensor:
    variance = covariance.diagonal().mean().clamp(min=1e-6)
    return (1 - POOLED_SHRINKAGE) * covariance + POOLED_SHRINKAGE * variance * torch.eye(len(covariance)).double()


def _quantiles(sources: Sequence[np.ndarray]) -> np.ndarray:
    """Return at most `DISTANCES` quantiles, ascending, of values of several sources that have equal weights."""
    values = np.concatenate(sources)
    weights = np.concatenate([np.full(len(found), 1 / (len(sources) * len(found))) for found in sources])
    order = np.argsort(values, kind="stable")
    count = min(DISTANCES, len(values))
    shares = (np.arange(count) + 0.5) / count
    return values[order][np.searchsorted(weights[order].cumsum(), shares).clip(max=len(values) - 1)]
