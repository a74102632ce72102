"""A training step of a network like `everyday` with 80 kinds of objects: published operators, and fast ones.

    python -m benchmarks.everyday_step [--threads 2] [--repeats 5] [--json OUT]

Labels are made up. A step is what `upernet train` does with a batch, apart from reading it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import patch

import torch
import torch.nn.functional as F
import yaml
from torch import Tensor

from benchmarks.side_by_side import Run, command_line, compare_steps, save, show
from upernet.data.sample import Batch
from upernet.distributed import World
from upernet.models import UPerNet, efficientnet_lite
from upernet.ops import use_kernel
from upernet.ops.runtime.heap import kept_heap
from upernet.recipe import LossSpec, ModelSpec, StageSpec, TrainingSpec
from upernet.taxonomy import Taxonomy, load_taxonomy
from upernet.training.losses import LevelLosses
from upernet.training.optimizer import MovingAverage
from upernet.training.stages import Stage
from upernet.training.step import StageTrainer

CLASSES = {"scene": 34, "object": 80, "part": 20, "material": 12}


def taxonomy() -> Taxonomy:
    """Return made-up classes; the first two objects have parts."""
    levels: dict[str, Any] = {
        level: {"classes": [f"{level} {number}" for number in range(count)]} for level, count in CLASSES.items()
    }
    parts = levels["part"]["classes"]
    levels["part"]["of"] = {"object 0": parts[:14], "object 1": parts[14:]}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "many.yaml")
        path.write_text(yaml.safe_dump({"levels": levels}), encoding="utf-8")
        return load_taxonomy(path)


def batch(levels: tuple[str, ...], photos: int, height: int, width: int) -> Batch:
    """Return noise with labels in blocks of 16 x 16 pixels; where parts are labeled, all objects have parts."""

    def blocks(classes: int) -> Tensor:
        small = torch.randint(-1, classes, (photos, 1, -(-height // 16), -(-width // 16))).float()
        return F.interpolate(small, size=(height, width))[:, 0].long()

    maps = {level: blocks(2 if level == "object" and "part" in levels else CLASSES[level]) for level in levels}
    return Batch(torch.randint(0, 256, (photos, 3, height, width), dtype=torch.uint8), maps, source="made up")


def trainer(freeze_norm: Any) -> StageTrainer:
    """Return what trains a new model, as in the recipe `everyday`."""
    spec = ModelSpec(backbone="tf_efficientnet_lite2", decoder_channels=96, auxiliary_channels=64)
    model = UPerNet(spec, taxonomy())
    stage = StageSpec(
        name="all",
        iterations=1000,
        sources=("made up",),
        learning_rate=1e-5,
        freeze_norm=freeze_norm,
        frozen_backbone_stages=1,
    )
    source = SimpleNamespace(spec=SimpleNamespace(supervision_by_level={}))
    opened = SimpleNamespace(
        number=0, spec=stage, sources={"made up": source}, losses=LevelLosses(model.taxonomy, LossSpec(stride=2))
    )
    return StageTrainer(model, cast(Stage, opened), TrainingSpec(stages=(stage,)), World(0, 1, torch.device("cpu")))


@contextmanager
def published() -> Iterator[None]:
    """Use torch's operators, batch norms by themselves, and the memory that the C library keeps by itself."""
    kernels = {"resized_cross_entropy": "torch", "depthwise_conv2d": "torch", "upsample_conv3x3": "direct"}
    separate: Callable[..., Tensor] = lambda conv, norm, x: norm(conv(x))  # noqa: E731
    with use_kernel(**kernels), patch.object(efficientnet_lite, "normalized", separate):
        yield


def step(trained: StageTrainer, shown: Batch) -> Run:
    """Return what a step of training does with a batch."""
    average = MovingAverage(trained.model, 0.998)

    def run() -> None:
        trained.step(shown, 0, 1e-5)
        average.update(trained.model)

    return run


def main() -> None:
    arguments = command_line(__doc__)
    photos, sizes = (2, [(32, 48)]) if arguments.quick else (8, [(240, 320), (288, 384)])
    rows: dict[str, Any] = {}
    for height, width in sizes:
        for freeze_norm, levels in (
            ("backbone", ("object",)),
            ("all", ("object",)),
            ("backbone", ("object", "part", "material")),
        ):
            frozen = "all batch norms frozen" if freeze_norm == "all" else "those of the backbone frozen"
            name = f"{photos} photos of {width} x {height}, {', '.join(levels)}, {frozen}"
            run = step(trainer(freeze_norm), batch(levels, photos, height, width))
            rows[name] = compare_steps(run, {"published": published, "fast": kept_heap}, arguments.repeats)
            show(name, rows[name])
    save(arguments, rows=rows)


if __name__ == "__main__":
    main()
