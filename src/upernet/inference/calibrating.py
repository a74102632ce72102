"""Photos on which the ranges of numbers are observed, for networks in int8."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from upernet.errors import UpernetError
from upernet.inference.inputs import read_photo
from upernet.inference.resizing import reduced
from upernet.inference.sources import find_photos
from upernet.inference.tiling import PIXEL_BUDGET, network_image

PHOTOS = 8
"""Largest number of photos that a `Parser` observes."""


def images_for(precision: str, folder: str | os.PathLike[str] | None, short_side: int | None) -> list[Tensor]:
    """Return `calibration_images` for int8, and none for other precisions.

    Raises:
        upernet.UpernetError: int8 lacks a folder, another precision has one, or the photos cannot be read.
    """
    if precision == "int8" and folder is None:
        raise UpernetError("int8 needs photos to find the ranges of numbers; give a folder with --calibration.")
    if precision != "int8" and folder is not None:
        raise UpernetError(f"{precision} needs no photos; leave --calibration out, or choose --precision int8.")
    return [] if folder is None else calibration_images(folder, short_side, PHOTOS)


def digest(images: Sequence[Tensor]) -> str | None:
    """Return a hash of images; None: there are none."""
    found = hashlib.sha256()
    for image in images:
        found.update(image.numpy().tobytes())
    return found.hexdigest() if images else None


def calibration_images(folder: str | os.PathLike[str], short_side: int | None, most: int) -> list[Tensor]:
    """Return photos as a `Parser` gives them to the network: uint8 1 x 3 x H x W each.

    Args:
        folder: Folder with photos, also in folders below it.
        short_side: Longest short side in pixels; None: photos keep their size, up to the parser's budget.
        most: Largest number of photos; if there are more, those that are used are spread over all.

    Raises:
        upernet.UpernetError: There are no photos, or one cannot be read.
    """
    found = find_photos([Path(folder)])
    for _, problem in found.problems:
        raise problem
    step = max(1, len(found.photos) / most)
    chosen = [found.photos[int(index * step)] for index in range(min(most, len(found.photos)))]
    photos = (read_photo(path)[0] for path in chosen)
    views = (reduced(photo, short_side or max(photo.size), PIXEL_BUDGET) for photo in photos)
    return [network_image(np.asarray(view), "cpu")[None].contiguous() for view in views]
