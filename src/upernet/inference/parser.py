"""`Parser`: a model that turns photos into a `Parse` each."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Iterable, Mapping
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageOps

from upernet.checkpoints import ModelCard, check_card, find_checkpoint, load_checkpoint, recipe_of
from upernet.data.images import read_image
from upernet.decoding import label_maps
from upernet.devices import usable_device
from upernet.errors import UpernetError
from upernet.inference.label_map import UNSURE, LabelMap
from upernet.inference.parse import Parse
from upernet.inference.tiling import PIXEL_BUDGET, dense_logits, image_logits
from upernet.models import Precision, UPerNet, prepare_for_inference
from upernet.taxonomy import LEVEL_KINDS

IMAGE_LABEL_SHORT_SIDE = 256
"""Longest short side, in pixels, of the photo that image labels (the scene) are read from, as in training."""

PhotoLike = str | os.PathLike[str] | Image.Image | np.ndarray
"""A photo as callers have it: the path of a file, an image, or a uint8 RGB array H x W x 3."""


class Parser:
    """Parses photos with one model.

    Args:
        model: The model; it is put into eval mode and moved to `device`. What runs may be a copy with folded batch
            norms, which does not follow later changes of the weights.
        card: The card of the checkpoint, or its keys. `name`, `short_side` and `thresholds` (level -> probability below
            which a label is unsure) are used.
        device: A device name of torch: "cpu", "cuda", "cuda:1", "mps".
        short_side: Photos with a longer short side, in pixels, are resized to it before they go through the network,
            because a network recognizes things best at the size that they had in training. None: photos keep their
            size, and large ones are tiled. "card": what the card says. Label maps always have the size of the photo.
        precision: "bf16" multiplies in bfloat16 inside InternImage and the decoder, which is faster on CPUs that
            support it, and slightly less exact.

    Raises:
        UpernetError: The card is not valid, the device is unavailable or does not support `precision`, or `short_side`
            is less than 1.
    """

    def __init__(
        self,
        model: UPerNet,
        card: ModelCard | Mapping[str, object] | None = None,
        *,
        device: str | torch.device = "cpu",
        short_side: int | Literal["card"] | None = "card",
        precision: Precision = "fp32",
    ):
        self.card = check_card(card)
        self.short_side: int | None = self.card.short_side if short_side == "card" else short_side
        if self.short_side is not None and self.short_side < 1:
            raise UpernetError(f"short side {self.short_side}: give a number of pixels, 1 or more.")
        self.device = usable_device(device)
        self.model = model.eval().to(self.device)
        self._network = prepare_for_inference(self.model, precision)
        self.thresholds: dict[str, float] = dict(self.card.thresholds)

    @property
    def levels(self) -> tuple[str, ...]:
        """The levels of the model."""
        return tuple(self.model.taxonomy.levels)

    def __call__(self, image: PhotoLike, levels: Iterable[str] | None = None) -> Parse:
        """Parse one photo.

        Args:
            image: The path of an image file, a PIL image, or a uint8 RGB array H x W x 3.
            levels: The levels to parse. Default: all levels of the model.

        Raises:
            UpernetError: The image cannot be read, the array has another shape or dtype, the model does not have one of
                the levels, or the device has too little memory.

        Example:
            >>> import numpy as np, upernet
            >>> parse = upernet.load("everyday")(np.zeros((300, 400, 3), np.uint8), levels=["object"])
            >>> parse.object.labels.shape
            (300, 400)
        """
        wanted = self.select_levels(levels)
        photo, path = _read_photo(image)
        try:
            rankings = {level: self._ranking(photo, level) for level in wanted if not LEVEL_KINDS[level].dense}
            dense = [level for level in wanted if LEVEL_KINDS[level].dense]
            maps = self._maps(photo, dense) if dense else {}
        except (torch.OutOfMemoryError, MemoryError):
            raise UpernetError(
                f"{path or 'the photo'}: {photo.width} x {photo.height} pixels do not fit into the memory of "
                f"{self.device}; set a smaller short side."
            ) from None
        return Parse(
            photo,
            maps,
            rankings,
            thresholds={level: value for level, value in self.thresholds.items() if level in wanted},
            part_groups=self.model.taxonomy.part_groups,
            model=self.card.name,
            path=path,
        )

    def select_levels(self, levels: Iterable[str] | None) -> list[str]:
        """Return the requested levels in the order of the model; None: all.

        Raises:
            UpernetError: No level is requested, or one that the model does not have.
        """
        asked = self.levels if levels is None else [levels] if isinstance(levels, str) else list(levels)
        asked = [level.strip() for level in asked]
        if not asked:
            raise UpernetError(f"no level is asked for; choose from {', '.join(self.levels)}.")
        for level in asked:
            if level not in self.levels:
                raise UpernetError(f"this model has no level {level!r}; it has {', '.join(self.levels)}.")
        return [level for level in self.levels if level in asked]

    def _ranking(self, photo: Image.Image, level: str) -> list[tuple[str, float]]:
        view = _reduced(photo, IMAGE_LABEL_SHORT_SIDE, PIXEL_BUDGET)
        logits = image_logits(self._network, np.asarray(view), level, self.device)
        probabilities = [float(value) for value in logits.softmax(dim=0).unbind()]
        names = self.model.taxonomy.levels[level].names
        return sorted(zip(names, probabilities, strict=True), key=lambda pair: -pair[1])

    def _maps(self, photo: Image.Image, levels: list[str]) -> dict[str, LabelMap]:
        taxonomy = self.model.taxonomy
        owners = (LEVEL_KINDS[level].owned_by for level in levels)
        needed = [*levels, *(owner for owner in owners if owner and owner not in levels)]
        view = photo if self.short_side is None else _reduced(photo, self.short_side)
        logits = dense_logits(self._network, np.asarray(view), needed, self.device)
        found = label_maps(logits, (view.height, view.width), (photo.height, photo.width), taxonomy.part_groups)
        self._hide_unsure(found)
        return {
            name: LabelMap(name, *found[name], level.names, level.colors, level.background)
            for name in levels
            for level in [taxonomy.levels[name]]
        }

    def _hide_unsure(self, found: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> None:
        """Set labels below the threshold of their level to -1, and with an unsure object its parts."""
        owners = [group.owner for group in self.model.taxonomy.part_groups]
        for level, (labels, confidence) in found.items():
            below = confidence < self.thresholds.get(level, 0)
            if owner_level := LEVEL_KINDS[level].owned_by:
                below &= np.isin(found[owner_level][0], owners)
            labels[below] = UNSURE
        for level, (labels, _) in found.items():
            if owner_level := LEVEL_KINDS[level].owned_by:
                labels[found[owner_level][0] == UNSURE] = UNSURE


def load(
    name_or_path: str | os.PathLike[str],
    device: str | torch.device = "cpu",
    *,
    short_side: int | Literal["card"] | None = "card",
    precision: Precision = "fp32",
) -> Parser:
    """Return a `Parser` with a model by name, or with the weights of a checkpoint.

    Args:
        name_or_path: name of a model whose weights are shipped or published (these are downloaded at first use), a
            checkpoint of any format that `load_checkpoint` reads, a folder with one, such as that of a training run, or
            `hf://OWNER/NAME[/FILE][@REVISION]`.
        device: as `Parser` takes it.
        short_side: as `Parser` takes it.
        precision: as `Parser` takes it.

    Raises:
        UpernetError: there is no such model or file, it cannot be found or read, or the device is unavailable or lacks
            `precision`.

    Example:
        >>> parser = load("everyday")
        >>> parser.levels
        ('scene', 'object', 'part', 'material', 'texture')
    """
    path = find_checkpoint(name_or_path)
    model, card = load_checkpoint(path, recipe_of(name_or_path))
    card = card.with_default_name(path.stem)
    return Parser(model, card, device=device, short_side=short_side, precision=precision)


def _read_photo(image: PhotoLike) -> tuple[Image.Image, str | None]:
    """Return the photo as an upright RGB image, and its path if it has one."""
    if isinstance(image, (str, os.PathLike)):
        return read_image(image), os.fspath(image)
    if isinstance(image, Image.Image):
        return _upright_rgb(image), None
    if not isinstance(image, np.ndarray):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise UpernetError(f"a photo must be a path, a PIL image or a numpy array, not {type(image).__name__}.")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        shape = " x ".join(map(str, image.shape)) or "no dimensions"
        raise UpernetError(f"array of {image.dtype}, {shape}: {_array_fix(image)}.")
    return Image.fromarray(np.ascontiguousarray(image)), None


def _upright_rgb(image: Image.Image) -> Image.Image:
    if 0 in image.size:
        raise UpernetError(f"image of {image.width} x {image.height}: a photo must have at least one pixel.")
    try:
        upright = ImageOps.exif_transpose(image)
        if upright.mode == "RGB":
            return upright
        if upright.mode not in ("1", "L", "LA", "P", "RGBA", "I", "I;16", "F"):
            return upright.convert("RGB")
        # Palettes, alpha and 16 bits: `read_image` is the one place that knows what becomes of them.
        file = io.BytesIO()
        if upright.mode in ("I", "F"):  # PNG has no such pixels
            upright.save(file, "TIFF")
        else:
            upright.save(file, "PNG", compress_level=0)
    except (OSError, ValueError, SyntaxError) as error:
        raise UpernetError(f"the image cannot be decoded ({error}); open its file again.") from error
    file.seek(0)
    return read_image(file)


def _array_fix(image: np.ndarray) -> str:
    if 0 in image.shape:
        return "a photo must have at least one pixel"
    if image.dtype != np.uint8:
        scale = "(255 * array).round()" if image.dtype.kind == "f" and image.max() <= 1 else "array.clip(0, 255)"
        return f"a photo must be uint8 H x W x 3 (RGB, 0 to 255); pass {scale}.astype(numpy.uint8)"
    if image.ndim == 2:
        return "a photo must be H x W x 3 (RGB); pass numpy.stack([array] * 3, axis=-1) for a gray one"
    if image.ndim == 3 and image.shape[2] == 4:
        return "a photo must be H x W x 3 (RGB); pass array[..., :3]"
    if image.ndim == 3 and image.shape[0] == 3:
        return "a photo must be H x W x 3 (RGB); pass array.transpose(1, 2, 0)"
    return "a photo must be H x W x 3 (RGB), one photo at a time"


def _reduced(photo: Image.Image, short_side: int, pixels: float = math.inf) -> Image.Image:
    """Shrink the photo if its short side or its number of pixels exceeds the limit."""
    factor = min(1.0, short_side / min(photo.size), math.sqrt(pixels / (photo.width * photo.height)))
    if factor == 1:
        return photo
    width, height = (max(1, round(side * factor)) for side in photo.size)
    return photo.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=3.0)
