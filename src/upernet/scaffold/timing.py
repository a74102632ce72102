"""How long a training takes on this machine."""

from __future__ import annotations

import time

import torch

from upernet.models import build_model
from upernet.recipe import Recipe


def seconds_per_iteration(recipe: Recipe) -> float:
    """Return the seconds of one iteration of the recipe's first stage, from one pass forward and backward."""
    assert recipe.training is not None
    (source,) = recipe.sources.values()
    height, width = source.augmentation.crop
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = build_model(recipe.model_copy(update={"model": recipe.model.model_copy(update={"backbone_weights": None})}))
    model.to(device).train()
    count = min(source.batch_size, 2)

    def run() -> float:
        images = torch.rand(count, 3, height, width, device=device)
        start = time.perf_counter()
        total = sum(logits.float().mean() for logits in model(images).values())
        assert isinstance(total, torch.Tensor)
        total.backward()
        total.item()
        return time.perf_counter() - start

    run()  # compiles kernels, takes memory
    return min(run(), run()) * source.batch_size / count
