"""`Parser`: a model that turns photos into a `Parse` each."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast, overload

import numpy as np
import torch
from PIL import Image

from upernet.checkpoints import ModelCard, check_card, find_checkpoint
from upernet.checkpoints import UPerNet as LoadedUPerNet
from upernet.checkpoints.loading import load_named
from upernet.decoding import LabelsAndConfidence, Logits, Size, class_probabilities, label_maps
from upernet.devices import usable_device
from upernet.errors import UpernetError, printable, shorten
from upernet.inference.edges import follow_edges
from upernet.inference.inputs import PhotoLike, is_batch, read_photo
from upernet.inference.islands import merge_islands
from upernet.inference.label_map import UNSURE, LabelMap
from upernet.inference.parse import Parse
from upernet.inference.published import published_passes
from upernet.inference.resizing import image_view, reduced
from upernet.inference.saving import KINDS
from upernet.inference.streaming import outcomes
from upernet.inference.tiling import dense_logits, image_logits
from upernet.inference.translating import translate
from upernet.inference.video.parsing import ParsedFrame, VideoParse
from upernet.inference.video.saving import VIDEO_KINDS, LabelForm, SavedVideo
from upernet.inference.video.smoothing import Smoother
from upernet.models import Precision, UPerNet, prepare_for_inference
from upernet.models.familiarity import FAMILIARITY
from upernet.recipe import PublishedTesting
from upernet.taxonomy import LEVEL_KINDS, Taxonomy, TaxonomyMapping, load_taxonomy, map_taxonomies
from upernet.taxonomy.mapping import Table

Scales = Literal["published"]


class Parser:
    """Parses photos with one model.

    Args:
        model: The model; it is put into eval mode and moved to `device`. What runs may be a copy with folded batch
            norms, which does not follow later changes of the weights.
        card: The card of the checkpoint, or its keys; None: `card` of the model, if it has one. `name`, `short_side`,
            `thresholds`, `class_thresholds` (the probabilities below which a label is unsure) and `temperatures` are
            used.
        device: A device name of torch: "cpu", "cuda", "cuda:1", "mps".
        short_side: Photos with a longer short side, in pixels, are resized to it before they go through the network,
            because a network recognizes things best at the size that they had in training. None: photos keep their
            size, and large ones are tiled. "card": what the card says. Label maps always have the size of the photo.
        precision: "bf16" multiplies in bfloat16 inside InternImage and the decoder, which is faster on CPUs that
            support it, and slightly less exact.
        scales: "published": as the published scores of the model were measured, at several sizes of each photo, whose
            probabilities are averaged; the labels are those of the network, without following the edges of the photo.
            None: one size.

    Raises:
        UpernetError: The card is not valid or names classes that the model does not have, the device is unavailable or
            does not support `precision`, `short_side` is less than 1, or no scales are published for the model.
    """

    def __init__(
        self,
        model: UPerNet,
        card: ModelCard | Mapping[str, object] | None = None,
        *,
        device: str | torch.device = "cpu",
        short_side: int | Literal["card"] | None = "card",
        precision: Precision = "fp32",
        scales: Scales | None = None,
    ):
        self.card = model.card if card is None and isinstance(model, LoadedUPerNet) else check_card(card)
        self.short_side: int | None = self.card.short_side if short_side == "card" else short_side
        if self.short_side is not None and self.short_side < 1:
            raise UpernetError(f"short side {self.short_side}: give a number of pixels, 1 or more.")
        self._testing = None if scales is None else _published_testing(self.card, scales)
        if self._testing is not None and short_side != "card":
            raise UpernetError("short side: published scales set the size of each photo; leave one of the two out.")
        self.device = usable_device(device)
        self.model = model.eval().to(self.device)
        self._network = prepare_for_inference(self.model, precision)
        self.thresholds: dict[str, float] = dict(self.card.thresholds)
        self.class_thresholds: dict[str, dict[str, float]] = {
            level: dict(thresholds) for level, thresholds in self.card.class_thresholds.items()
        }
        self.mapping: TaxonomyMapping | None = None
        """How parses are shown in another taxonomy; `show_as` sets it. None: they have the classes of the model."""
        for level in self.levels:
            self._thresholds_of(level)

    def show_as(self, taxonomy: Taxonomy | str | os.PathLike[str], table: Table | None = None) -> Parser:
        """Show all further parses in another taxonomy, where the model's classes have a counterpart there.

        Args:
            taxonomy: A taxonomy, the name of a bundled one, or the path of a .yaml file.
            table: Counterparts of classes that differ from what `map_taxonomies` finds.

        Returns:
            The parser itself.

        Raises:
            UpernetError: There is no such taxonomy, the table does not fit, or no class has a counterpart.

        Example:
            >>> import upernet
            >>> upernet.load("everyday").show_as("ade20k150")("street.jpg").object.shares()
            {'road': 0.41, 'building': 0.28, ...}
        """
        target = taxonomy if isinstance(taxonomy, Taxonomy) else load_taxonomy(os.fspath(taxonomy))
        mapping = map_taxonomies(self.model.taxonomy, target, table)
        if not mapping.levels:
            raise UpernetError(
                f"no class of this model has a counterpart in the taxonomy {target.name}; write some into a table: "
                "upernet taxonomy map --out."
            )
        self.mapping = mapping
        return self

    @property
    def levels(self) -> tuple[str, ...]:
        """The levels of the model."""
        return tuple(self.model.taxonomy.levels)

    @overload
    def __call__(
        self,
        image: str | os.PathLike[str] | bytes | BinaryIO | Image.Image,
        levels: Iterable[str] | None = None,
        *,
        probabilities: bool = False,
    ) -> Parse: ...

    @overload
    def __call__(
        self,
        image: list[PhotoLike] | tuple[PhotoLike, ...],
        levels: Iterable[str] | None = None,
        *,
        probabilities: bool = False,
    ) -> list[Parse]: ...

    @overload
    def __call__(
        self,
        image: np.ndarray | torch.Tensor,
        levels: Iterable[str] | None = None,
        *,
        probabilities: bool = False,
    ) -> Any: ...

    def __call__(
        self,
        image: PhotoLike | Sequence[PhotoLike],
        levels: Iterable[str] | None = None,
        *,
        probabilities: bool = False,
    ) -> Parse | list[Parse]:
        """Parse one photo, or several.

        Args:
            image: A photo: a path, an http or https address, the bytes of an image file, a file that is open for binary
                reading, a PIL image, an RGB array H x W x 3, or an RGB tensor 3 x H x W (uint8, or floats from 0 to 1).
                A list or tuple of photos, an array N x H x W x 3, or a tensor N x 3 x H x W gives a list of parses; see
                `stream` for many photos.
            levels: The levels to parse. Default: all levels of the model.
            probabilities: Whether to keep the logits, so that `LabelMap.probabilities` can be read. They take 1/4 byte
                per class and pixel of the photo that goes through the network (after `short_side`).

        Returns:
            A `Parse`, or a list with one for each photo.

        Raises:
            UpernetError: A photo cannot be read, the array has another shape or dtype, the model does not have one of
                the levels or computes numbers that are not finite, or the device has too little memory.

        Example:
            >>> import numpy as np, upernet
            >>> parse = upernet.load("everyday")(np.zeros((300, 400, 3), np.uint8), levels=["object"])
            >>> parse.object.labels.shape
            (300, 400)
        """
        wanted = self.select_levels(levels)
        if is_batch(image):
            return [self.parse_decoded(*read_photo(photo), wanted, probabilities) for photo in image]
        return self.parse_decoded(*read_photo(cast(PhotoLike, image)), wanted, probabilities)

    def stream(
        self,
        photos: Iterable[PhotoLike],
        levels: Iterable[str] | None = None,
        *,
        probabilities: bool = False,
        out: str | os.PathLike[str] | None = None,
        kinds: Collection[str] = KINDS,
        alpha: float | None = None,
        on_error: Callable[[PhotoLike, UpernetError], object] | None = None,
    ) -> Iterator[Parse]:
        """Parse many photos, and yield their parses in order.

        While the network runs, other threads decode the next photos and save the last parses. `photos` may be a
        generator; only a few photos are in memory at a time.

        Args:
            photos: Photos, as `__call__` takes one.
            levels: The levels to parse. Default: all levels of the model.
            probabilities: As `__call__` takes it.
            out: Folder in which each parse is saved, as by `Parse.save`; `parse.folder` says where. Default: nothing is
                saved.
            kinds: What is saved; see `Parse.save`.
            alpha: How overlays are saved; see `Parse.save`.
            on_error: Called with each photo that cannot be parsed or saved, and the error; the photo is left out, and
                the others go on. Default: the error is raised in the place of the parse.

        Raises:
            UpernetError: As `__call__` and `Parse.save` raise it.

        Example:
            >>> import glob, upernet
            >>> parser = upernet.load("everyday")
            >>> for parse in parser.stream(glob.glob("holiday/*.jpg"), out="parses", on_error=print):
            ...     print(parse.path, parse.scene[0])
        """
        folder = None if out is None else Path(out)
        found = outcomes(self, photos, levels, probabilities=probabilities, out=folder, kinds=kinds, alpha=alpha)
        with closing(found):
            for outcome in found:
                if isinstance(outcome.result, Parse):
                    yield outcome.result
                elif on_error is None:
                    raise outcome.result
                else:
                    on_error(outcome.photo, outcome.result)

    def video(
        self,
        source: str | os.PathLike[str],
        levels: Iterable[str] | None = None,
        *,
        every: int = 1,
        smooth: float = 0.0,
        seconds: float | None = None,
        out: str | os.PathLike[str] | None = None,
        kinds: Collection[str] = VIDEO_KINDS,
        labels: LabelForm = "video",
        alpha: float | None = None,
    ) -> Iterator[tuple[float, Parse]]:
        """Parse a video, and yield the time in seconds and the parse of each frame, in order.

        While the network runs, other threads decode the next frames and write the last ones; a few frames are in memory
        at a time. Frames of a live source (a camera, rtsp, ...) that come too fast for the network are left out.
        Needs PyAV (`pip install 'upernet[video]'`).

        Args:
            source: The path of a video file, an http, https, rtsp, rtmp, udp or srt address, or `camera:NUMBER`.
            levels: The levels to parse. Default: all levels of the model.
            every: Every how many frames one is parsed.
            smooth: Weight of the past, from 0 (each frame for itself) to below 1, in an average of the logits over time
                that follows the motion and leaves out what has changed; see docs/video.md.
            seconds: Length of the beginning that is parsed. Default: all.
            out: Folder in which the folder of the video is created; see `upernet.inference.video.SavedVideo` for its
                files. Default: nothing is saved.
            kinds: What is saved: "overlay", "labels", "json".
            labels: Form of the saved label maps: "video" or "png".
            alpha: How overlays are saved; see `Parse.overlay`.

        Raises:
            UpernetError: An argument is out of range, the video cannot be opened, or a file cannot be written; and
                after the last frame, if frames are damaged or missing.

        Example:
            >>> import upernet
            >>> for time, parse in upernet.load("everyday").video("clip.mp4", smooth=0.7, out="parses"):
            ...     print(f"{time:.2f} s", parse.object.shares())
        """
        video = VideoParse(self, source, levels, every=every, smooth=smooth, seconds=seconds, sound=out is not None)
        frames = iter(video) if out is None else iter(SavedVideo(video, out, kinds, labels, alpha))
        return _times_and_parses(frames)

    def check_smoothing(self) -> None:
        """Raise UpernetError if this parser cannot average the logits of frames over time."""
        if self._testing is not None:
            raise UpernetError("smooth: published scales average over sizes, not over time; leave one of the two out.")

    def parse_decoded(
        self,
        photo: Image.Image,
        path: str | None,
        levels: Sequence[str],
        probabilities: bool = False,
        smoother: Smoother | None = None,
    ) -> Parse:
        """Parse one upright RGB image.

        Args:
            photo: The image.
            path: Where it comes from, as results and errors name it.
            levels: Levels of the model, in its order.
            probabilities: As `__call__` takes it.
            smoother: Averages the logits with those of the frames before, if the image is a frame of a video.
        """
        name = "the photo" if path is None else path
        try:
            dense = [level for level in levels if LEVEL_KINDS[level].dense]
            image_levels = [level for level in levels if level not in dense]
            if self._testing is None:
                rankings, familiarity = self._image_labels(photo, image_levels, smoother)
                maps = self._maps(photo, dense, probabilities, smoother) if dense else {}
            else:
                rankings, maps = self._published_results(photo, image_levels, dense, self._testing, probabilities)
                familiarity = self._image_labels(photo, ())[1]
        except (torch.OutOfMemoryError, MemoryError):
            raise UpernetError(
                f"{name}: {photo.width} x {photo.height} pixels do not fit into the memory of "
                f"{self.device}; set a smaller short side."
            ) from None
        finite = all(math.isfinite(probability) for ranking in rankings.values() for _, probability in ranking)
        if not finite or not all(np.isfinite(label_map.confidence).all() for label_map in maps.values()):
            raise UpernetError(
                f"{name}: the model computes numbers that are not finite; use precision fp32, or check its weights."
            )
        parse = Parse(
            photo,
            maps,
            rankings,
            thresholds={level: value for level, value in self.thresholds.items() if level in levels},
            class_thresholds={level: value for level, value in self.class_thresholds.items() if level in levels},
            part_groups=self.model.taxonomy.part_groups,
            familiarity=familiarity,
            model=self.card.name,
            path=path,
        )
        return parse if self.mapping is None else translate(parse, self.mapping)

    def __repr__(self) -> str:
        side = "" if self.short_side is None else f", short side {self.short_side}"
        return (
            f"<Parser {printable(self.card.name) or 'without a name'} on {self.device}{side}: {', '.join(self.levels)}>"
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

    def _image_labels(
        self, photo: Image.Image, levels: Sequence[str], smoother: Smoother | None = None
    ) -> tuple[dict[str, list[tuple[str, float]]], float | None]:
        """Return the ranked classes of the levels with one label per photo, and the familiarity of the photo."""
        judged = [] if self.model.familiarity is None else [FAMILIARITY]
        if not levels and not judged:
            return {}, None
        view = image_view(photo) if self.card.published_testing is None else self._view(photo)
        outputs = image_logits(self._network, np.asarray(view), [*levels, *judged], self.device)
        if smoother is not None:
            outputs |= smoother.image_labels({level: outputs[level] for level in levels}, view)
        rankings = {
            level: self._ranking(level, (outputs[level] / self.card.temperatures.get(level, 1)).softmax(dim=0))
            for level in levels
        }
        return rankings, float(outputs[FAMILIARITY]) if judged else None

    def _ranking(self, level: str, probabilities: torch.Tensor) -> list[tuple[str, float]]:
        named = zip(self.model.taxonomy.levels[level].names, map(float, probabilities.unbind()), strict=True)
        return sorted(named, key=lambda pair: -pair[1])

    def _view(self, photo: Image.Image) -> Image.Image:
        """Return the photo at the size at which it goes through the network."""
        return photo if self.short_side is None else reduced(photo, self.short_side)

    def _maps(
        self, photo: Image.Image, levels: list[str], probabilities: bool, smoother: Smoother | None
    ) -> dict[str, LabelMap]:
        taxonomy = self.model.taxonomy
        view = self._view(photo)
        logits = dense_logits(self._network, np.asarray(view), _with_owners(levels), self.device)
        if smoother is not None:
            logits = smoother.dense(logits, view)
        for level, temperature in self.card.temperatures.items():
            if level in logits:
                logits[level] = logits[level] / temperature
        sizes = (view.height, view.width), (photo.height, photo.width)
        found = label_maps(logits, *sizes, taxonomy.part_groups)
        follow_edges(found, logits, photo, view, taxonomy.part_groups)
        self._hide_unsure(found)
        merge_islands(found, logits, sizes[0], taxonomy.part_groups)
        return self._label_maps(photo, levels, found, logits if probabilities else None, sizes)

    def _published_results(
        self,
        photo: Image.Image,
        image_levels: Sequence[str],
        dense: Sequence[str],
        testing: PublishedTesting,
        probabilities: bool,
    ) -> tuple[dict[str, list[tuple[str, float]]], dict[str, LabelMap]]:
        """Return the ranked classes and the label maps by the published testing."""
        wanted = [*image_levels, *_with_owners(dense)]
        passes = published_passes(self._network, np.asarray(photo), wanted, testing, self.device)
        for level, temperature in self.card.temperatures.items():
            if level in passes:
                passes[level] /= temperature
        rankings = {level: self._ranking(level, passes.pop(level).log_mean().exp()) for level in image_levels}
        if not dense:
            return rankings, {}
        size = photo.height, photo.width
        found = label_maps(passes, size, size, self.model.taxonomy.part_groups)
        self._hide_unsure(found)
        return rankings, self._label_maps(photo, dense, found, passes if probabilities else None, (size, size))

    def _label_maps(
        self,
        photo: Image.Image,
        levels: Sequence[str],
        found: Mapping[str, LabelsAndConfidence],
        logits: Mapping[str, Logits] | None,
        sizes: tuple[Size, Size],
    ) -> dict[str, LabelMap]:
        """Return the maps of a `Parse`, which compute probabilities from `logits`, if there are any."""
        taxonomy = self.model.taxonomy
        maps: dict[str, LabelMap] = {}
        for name in levels:
            level = taxonomy.levels[name]
            compute = None
            if logits is not None:
                read = {key: logits[key] for key in (name, LEVEL_KINDS[name].owned_by) if key}
                compute = partial(class_probabilities, name, len(level.names), read, *sizes, taxonomy.part_groups)
            maps[name] = LabelMap(name, *found[name], level.names, level.colors, level.background, photo, compute)
        return maps

    def _hide_unsure(self, found: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> None:
        """Set labels below their threshold to -1, and with an unsure object its parts.

        At a level with a known background, they become background: such a level shows only what it is sure of.
        """
        taxonomy = self.model.taxonomy
        owners = [group.owner for group in taxonomy.part_groups]
        for level, (labels, confidence) in found.items():
            below = confidence < self._thresholds_of(level)[labels]
            if taxonomy.levels[level].known_background:
                labels[below] = 0
                continue
            if owner_level := LEVEL_KINDS[level].owned_by:
                below &= np.isin(found[owner_level][0], owners)
            labels[below] = UNSURE
        for level, (labels, _) in found.items():
            if owner_level := LEVEL_KINDS[level].owned_by:
                labels[found[owner_level][0] == UNSURE] = UNSURE

    def _thresholds_of(self, level: str) -> np.ndarray:
        """Return the threshold of each label of a level: float32 K."""
        classes = self.model.taxonomy.levels[level]
        thresholds = np.full(classes.num_classes, self.thresholds.get(level, 0), np.float32)
        for name, value in self.class_thresholds.get(level, {}).items():
            thresholds[classes.index(name)] = value
        return thresholds


def _times_and_parses(frames: Generator[ParsedFrame, None, None]) -> Iterator[tuple[float, Parse]]:
    with closing(frames):
        for parsed in frames:
            yield parsed.frame.time, parsed.parse


def _with_owners(levels: Sequence[str]) -> list[str]:
    """Return the levels, and those that own them."""
    owners = (LEVEL_KINDS[level].owned_by for level in levels)
    return [*levels, *(owner for owner in owners if owner and owner not in levels)]


def _published_testing(card: ModelCard, scales: str) -> PublishedTesting:
    """Return the published testing of a model.

    Raises:
        UpernetError: There is none, or `scales` is not "published".
    """
    if scales != "published":
        raise UpernetError(f"scales {shorten(scales)}: give published, or leave it out for one scale.")
    if card.published_testing is None:
        raise UpernetError(f"{printable(card.name) or 'this model'} has no published scales; leave scales out.")
    return card.published_testing


def load(
    name_or_path: str | os.PathLike[str],
    device: str | torch.device = "cpu",
    *,
    short_side: int | Literal["card"] | None = "card",
    precision: Precision = "fp32",
    scales: Scales | None = None,
) -> Parser:
    """Return a `Parser` with a model by name, or with the weights of a checkpoint.

    Args:
        name_or_path: name of a model whose weights are shipped or published (these are downloaded at first use), a
            checkpoint of any format that `load_checkpoint` reads, a folder with one, such as that of a training run, or
            `hf://OWNER/NAME[/FILE][@REVISION]`.
        device: as `Parser` takes it.
        short_side: as `Parser` takes it.
        precision: as `Parser` takes it.
        scales: as `Parser` takes it.

    Raises:
        UpernetError: there is no such model or file, it cannot be found or read, or the device is unavailable or lacks
            `precision`.

    Example:
        >>> parser = load("everyday")
        >>> parser.levels
        ('scene', 'object', 'part', 'material', 'texture')
    """
    model = load_named(find_checkpoint(name_or_path), name_or_path)
    return Parser(model, device=device, short_side=short_side, precision=precision, scales=scales)
