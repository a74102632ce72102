"""Parser: a photo in, a `Parse` out."""

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
from upernet.inference.level_map import UNSURE, LevelMap
from upernet.inference.parse import Parse
from upernet.inference.tiling import PIXEL_BUDGET, dense_logits, image_logits
from upernet.models import Precision, UPerNet, prepare_for_inference

SCENE_SHORT_SIDE = 256
"""Most pixels on the short side of the view of the whole photo that the scene is read from: as in training photos."""

Photo = str | os.PathLike[str] | Image.Image | np.ndarray


class Parser:
    """Parses photos with one model.

    Args:
        model: put into eval mode and moved to `device`. What runs may be a copy with batch norms folded, which does not
            see what becomes of the weights later.
        card: card of the checkpoint, or its keys; `name`, `short_side` and `thresholds` (level -> probability below
            which a label is unsure) are used.
        device: as torch writes it: "cpu", "cuda", "cuda:1", "mps".
        short_side: photos with a longer short side are reduced to it, in pixels, before they go through the network; a
            network knows things at the size that its training photos had. None: every photo at its own size, in tiles
            where it is large. "card": what the checkpoint's card says. Label maps have the photo's size in any case.
        precision: "bf16" multiplies in bfloat16 inside InternImage and the decoder: on CPUs that can, faster and a
            little less exact.

    Raises:
        UpernetError: the card is not valid, the device is unavailable or cannot compute in `precision`, or `short_side`
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
        """The levels that the model has."""
        return tuple(self.model.taxonomy.levels)

    def __call__(self, image: Photo, levels: Iterable[str] | None = None) -> Parse:
        """Parse one photo.

        Args:
            image: path of an image file, PIL image, or uint8 RGB array H x W x 3.
            levels: which levels; default: all that the model has.

        Raises:
            UpernetError: the image cannot be read or is an array of another kind, a level is unknown, or the device has
                too little memory.

        Example:
            >>> import numpy as np, upernet
            >>> parse = upernet.load("everyday")(np.zeros((300, 400, 3), np.uint8), levels=["object"])
            >>> parse.object.labels.shape
            (300, 400)
        """
        wanted = self.select_levels(levels)
        photo, path = _read_photo(image)
        try:
            scene = self._scene(photo) if "scene" in wanted else None
            dense = [level for level in wanted if level != "scene"]
            maps = self._maps(photo, dense) if dense else {}
        except (torch.OutOfMemoryError, MemoryError):
            raise UpernetError(
                f"{path or 'the photo'}: {photo.width} x {photo.height} pixels do not fit into the memory of "
                f"{self.device}; set a smaller short side."
            ) from None
        return Parse(
            photo,
            maps,
            scene,
            thresholds={level: value for level, value in self.thresholds.items() if level in wanted},
            part_groups=self.model.taxonomy.part_groups,
            model=self.card.name,
            path=path,
        )

    def select_levels(self, levels: Iterable[str] | None) -> list[str]:
        """The levels asked for, in the model's order; None: all.

        Raises:
            UpernetError: none is asked for, or one that the model does not have.
        """
        asked = self.levels if levels is None else [levels] if isinstance(levels, str) else list(levels)
        asked = [level.strip() for level in asked]
        if not asked:
            raise UpernetError(f"no level is asked for; choose from {', '.join(self.levels)}.")
        for level in asked:
            if level not in self.levels:
                raise UpernetError(f"this model has no level {level!r}; it has {', '.join(self.levels)}.")
        return [level for level in self.levels if level in asked]

    def _scene(self, photo: Image.Image) -> list[tuple[str, float]]:
        view = _reduced(photo, SCENE_SHORT_SIDE, PIXEL_BUDGET)
        logits = image_logits(self._network, np.asarray(view), "scene", self.device)
        probabilities = logits.softmax(dim=0).tolist()
        names = self.model.taxonomy.levels["scene"].names
        return sorted(zip(names, probabilities, strict=True), key=lambda pair: -pair[1])

    def _maps(self, photo: Image.Image, levels: list[str]) -> dict[str, LevelMap]:
        taxonomy = self.model.taxonomy
        needed = [*levels, "object"] if "part" in levels and "object" not in levels else levels
        view = photo if self.short_side is None else _reduced(photo, self.short_side)
        logits = dense_logits(self._network, np.asarray(view), needed, self.device)
        found = label_maps(logits, (view.height, view.width), (photo.height, photo.width), taxonomy.part_groups)
        self._hide_unsure(found)
        return {
            name: LevelMap(name, *found[name], level.names, level.colors, level.background)
            for name in levels
            for level in [taxonomy.levels[name]]
        }

    def _hide_unsure(self, found: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> None:
        """Labels below their level's threshold become -1; so do the parts of what is an unsure object."""
        owners = [group.owner for group in self.model.taxonomy.part_groups]
        owned = np.isin(found["object"][0], owners) if "part" in found else None
        for level, (labels, confidence) in found.items():
            below = confidence < self.thresholds.get(level, 0)
            labels[below & owned if level == "part" and owned is not None else below] = UNSURE
        if "part" in found:
            found["part"][0][found["object"][0] == UNSURE] = UNSURE


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
            `hf://OWNER/NAME[/FILE]`.
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


def _read_photo(image: Photo) -> tuple[Image.Image, str | None]:
    """The photo as an upright RGB image, and its path if it has one."""
    if isinstance(image, (str, os.PathLike)):
        return read_image(image), os.fspath(image)
    if isinstance(image, Image.Image):
        return _upright_rgb(image), None
    if not isinstance(image, np.ndarray):
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
        return "a photo must be H x W x 3 (RGB); pass numpy.stack([array] * 3, axis=-1) for a grey one"
    if image.ndim == 3 and image.shape[2] == 4:
        return "a photo must be H x W x 3 (RGB); pass array[..., :3]"
    if image.ndim == 3 and image.shape[0] == 3:
        return "a photo must be H x W x 3 (RGB); pass array.transpose(1, 2, 0)"
    return "a photo must be H x W x 3 (RGB), one photo at a time"


def _reduced(photo: Image.Image, short_side: int, pixels: float = math.inf) -> Image.Image:
    """The photo, made smaller if its short side or its number of pixels is above the limit."""
    factor = min(1.0, short_side / min(photo.size), math.sqrt(pixels / (photo.width * photo.height)))
    if factor == 1:
        return photo
    width, height = (max(1, round(side * factor)) for side in photo.size)
    return photo.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=3.0)
