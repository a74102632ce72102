"""What smoothing over time is worth in a video, with and without motion compensation: accuracy, steadiness, time.

    python -m benchmarks.video --data DIR [--frames N] [--json OUT]

The video is the `val` split of CamVid: every second frame of a drive that was filmed at 30 frames per second, all of
them annotated. `changed` is the share of pixels whose label differs from that of the frame before although the
annotation has the same label there; `mIoU` counts all frames. The model is `camvid`. Ways to smooth:

* in place: an exponential average of the logits
* motion: the average is moved by block matching first (`find_motion`)
* forget: the past counts less where the frame does not look like it (`likeness`)
* motion and forget: both, which is what `upernet parse --smooth` does
* TV-L1 and forget: the optical flow of scikit-image in the place of block matching
* probabilities: motion and forget, but probabilities are averaged
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from skimage.registration import optical_flow_tvl1
from torch import Tensor

from upernet.data.sources import open_source
from upernet.decoding import label_maps
from upernet.evaluation.confusion import ConfusionMatrix
from upernet.files import write_text
from upernet.inference import Parser, load
from upernet.inference.tiling import dense_logits
from upernet.inference.video.smoothing import find_motion, gray_cells, likeness, moved
from upernet.recipe import load_recipe
from upernet.taxonomy import IGNORE

MODEL = "camvid"
LEVEL = "object"
STEPS = {"every frame": 1, "every second frame": 2}
"""15 and 7.5 frames per second."""


class Way(NamedTuple):
    """A way to smooth."""

    name: str
    weight: float
    motion: str | None = None
    forget: bool = False
    probabilities: bool = False


WAYS = (
    Way("none", 0.0),
    Way("in place", 0.5),
    Way("in place", 0.7),
    Way("motion", 0.7, "blocks"),
    Way("forget", 0.7, None, True),
    Way("motion and forget", 0.5, "blocks", True),
    Way("motion and forget", 0.7, "blocks", True),
    Way("motion and forget", 0.85, "blocks", True),
    Way("TV-L1 and forget", 0.7, "tvl1", True),
    Way("probabilities", 0.7, "blocks", True, True),
)


class Frames(NamedTuple):
    """The frames of the drive: logits, gray levels of the cells, and annotations."""

    logits: list[Tensor]
    cells: list[Tensor]
    truth: list[np.ndarray]

    def every(self, step: int) -> Frames:
        """Return every `step`-th frame."""
        return Frames(self.logits[::step], self.cells[::step], self.truth[::step])


def read_frames(parser: Parser, data: Path, most: int | None) -> Frames:
    """Run the network on the frames."""
    source = open_source("camvid", load_recipe(MODEL).sources["camvid"], parser.model.taxonomy, data, "val")
    frames = Frames([], [], [])
    for index in range(min(len(source), most or len(source))):
        sample = source[index]
        pixels = np.ascontiguousarray(sample.image.numpy().transpose(1, 2, 0))
        logits = dense_logits(parser.model, pixels, [LEVEL])[LEVEL]
        cells = gray_cells(Image.fromarray(pixels))
        missing = 0, logits.shape[2] - cells.shape[1], 0, logits.shape[1] - cells.shape[0]
        frames.logits.append(logits.half())
        frames.cells.append(torch.nn.functional.pad(cells[None, None], missing, mode="replicate")[0, 0])
        frames.truth.append(sample.maps[LEVEL].as_subclass(torch.Tensor).numpy())
    return frames


def flow(cells: Tensor, before: Tensor) -> Tensor:
    """Return the motion as `find_motion` does, by TV-L1."""
    return torch.from_numpy(np.stack(optical_flow_tvl1(cells.numpy() / 255, before.numpy() / 255, attachment=30)))


def motions(frames: Frames) -> tuple[dict[str, list[Tensor]], dict[str, float]]:
    """Return the motion from each frame to the one before, and the milliseconds per frame, by method."""
    found: dict[str, list[Tensor]] = {}
    milliseconds: dict[str, float] = {}
    for name, method in {"blocks": find_motion, "tvl1": flow}.items():
        start = time.process_time()
        found[name] = [method(now, before) for before, now in zip(frames.cells, frames.cells[1:], strict=False)]
        milliseconds[name] = round(1000 * (time.process_time() - start) / max(1, len(found[name])), 1)
    return found, milliseconds


def smoothed(frames: Frames, way: Way, motion: Sequence[Tensor]) -> Iterator[Tensor]:
    """Yield the averaged logits of each frame."""
    average = before = None
    for index, (logits, cells) in enumerate(zip(frames.logits, frames.cells, strict=True)):
        values = logits.float().softmax(dim=0) if way.probabilities else logits.float()
        if average is not None and before is not None:
            if way.motion is not None:
                average, before = moved(average, motion[index - 1]), moved(before[None], motion[index - 1])[0]
            same = likeness(cells, before) if way.forget else torch.ones(())
            values = torch.lerp(values, average, way.weight * same)
        average, before = values, cells
        yield values.clamp(min=1e-8).log() if way.probabilities else values


def score(frames: Frames, way: Way, motion: Sequence[Tensor]) -> dict[str, float]:
    """Return mIoU and the share of labels that change for no reason."""
    confusion = ConfusionMatrix(frames.logits[0].shape[0])
    changed = steady = 0
    last: tuple[np.ndarray, np.ndarray] | None = None
    for logits, truth in zip(smoothed(frames, way, motion), frames.truth, strict=True):
        labels = label_maps({LEVEL: logits}, truth.shape, truth.shape)[LEVEL][0]
        confusion.update(torch.from_numpy(labels).long(), torch.from_numpy(truth).long())
        if last is not None:
            same = (truth == last[1]) & (truth != IGNORE)
            changed += int((labels != last[0])[same].sum())
            steady += int(same.sum())
        last = labels, truth
    present = torch.nonzero(confusion.support)[:, 0].tolist()
    return {"mIoU": round(confusion.mean_iou(present), 4), "changed": round(changed / max(1, steady), 4)}


def main() -> None:
    arguments = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    arguments.add_argument("--data", type=Path, required=True)
    arguments.add_argument("--frames", type=int, help="largest number of frames")
    arguments.add_argument("--json", type=Path)
    given = arguments.parse_args()
    torch.set_num_threads(1)
    frames = read_frames(load(MODEL), given.data, given.frames)
    results: dict[str, Any] = {"model": MODEL, "frames": len(frames.logits), "threads": 1}
    for name, step in STEPS.items():
        shown = frames.every(step)
        found, milliseconds = motions(shown)
        print(f"\n{name}: {milliseconds} ms per frame")
        rows: list[dict[str, Any]] = []
        for way in WAYS:
            row = {"way": way.name, "weight": way.weight, **score(shown, way, found.get(way.motion or "", []))}
            rows.append(row)
            print(f"{way.name:<20}{way.weight:>6}{row['mIoU']:>10.4f}{row['changed']:>10.4f}", flush=True)
        results[name] = {"milliseconds": milliseconds, "ways": rows}
    if given.json:
        write_text(given.json, json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
