"""`Parser`: a model that turns photos into a `Parse` each."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast, overload

import numpy as np
import torch
from PIL import Image

from upernet.checkpoints import ModelCard, check_card, exported_suffix, find_checkpoint
from upernet.checkpoints import UPerNet as LoadedUPerNet
from upernet.checkpoints.loading import load_named
from upernet.devices import usable_device
from upernet.errors import UpernetError, printable, shorten
from upernet.inference.calibrating import digest, images_for
from upernet.inference.inputs import PhotoLike, check_several, is_batch, read_photo
from upernet.inference.parse import Parse
from upernet.inference.predictor import Prediction, Predictor
from upernet.inference.render import check_alpha
from upernet.inference.runtimes import ExportedNetwork, load_exported
from upernet.inference.saving import KINDS, check_kinds, remove_leftovers
from upernet.inference.streaming import Job, run_jobs
from upernet.inference.translating import translate
from upernet.inference.video.parsing import ParsedFrame, VideoParse
from upernet.inference.video.saving import VIDEO_KINDS, LabelForm, SavedVideo
from upernet.inference.video.smoothing import Smoother
from upernet.models import Precision, UPerNet
from upernet.recipe import PublishedTesting
from upernet.taxonomy import Taxonomy, TaxonomyMapping, load_taxonomy, map_taxonomies
from upernet.taxonomy.mapping import Table

Scales = Literal["published"]


class Parser:
    """Parses photos with one model.

    Args:
        model: The model, or an exported one; it is put into eval mode and moved to `device`. What runs may be a copy
            with folded batch norms, which does not follow later changes of the weights.
        card: The card of the checkpoint, or its keys; None: `card` of the model, if it has one. `name`, `short_side`,
            `thresholds`, `class_thresholds` (the probabilities below which a label is unsure) and `temperatures` are
            used.
        device: A device name of torch: "cpu", "cuda", "cuda:1", "mps".
        short_side: Photos with a longer short side, in pixels, are resized to it before they go through the network,
            because a network recognizes things best at the size that they had in training. None: photos keep their
            size, and large ones are tiled. "card": what the card says. Label maps always have the size of the photo.
        precision: "bf16" multiplies in bfloat16 inside InternImage and the decoder, which is faster on CPUs that
            support it, and slightly less exact. "int8" multiplies there in int8, on any x86 processor with AVX2: faster
            again, and less exact again.
        calibration: For int8, a folder with photos like those to be parsed, at least a few; the ranges of numbers are
            observed on up to 8 of them.
        scales: "published": as the published scores of the model were measured, at several sizes of each photo, whose
            probabilities are averaged; the labels are those of the network, without following the edges of the photo.
            None: one size.

    Raises:
        UpernetError: The card is not valid or names classes that the model does not have, the device is unavailable or
            does not support `precision`, `short_side` is less than 1, or no scales are published for the model. An
            exported model returns labels instead of logits, or another device or precision than its own is given.
            int8 lacks `calibration`, another precision has it, or its photos cannot be read.
    """

    def __init__(
        self,
        model: UPerNet | ExportedNetwork,
        card: ModelCard | Mapping[str, object] | None = None,
        *,
        device: str | torch.device = "cpu",
        short_side: int | Literal["card"] | None = "card",
        precision: Precision = "fp32",
        calibration: str | os.PathLike[str] | None = None,
        scales: Scales | None = None,
    ):
        has_card = isinstance(model, (LoadedUPerNet, ExportedNetwork))
        self.card = model.card if card is None and has_card else check_card(card)
        reduce = self.card.short_side if short_side == "card" else short_side
        if reduce is not None and reduce < 1:
            raise UpernetError(f"short side {reduce}: give a number of pixels, 1 or more.")
        testing = None if scales is None else _published_testing(self.card, scales)
        if testing is not None and short_side != "card":
            raise UpernetError("short side: published scales set the size of each photo; leave one of the two out.")
        usable = usable_device(device)
        if isinstance(model, ExportedNetwork):
            model.check_use(usable, precision)
        images = images_for(precision, calibration, reduce)
        self._precision, self._calibration = precision, digest(images)
        self._predictor = Predictor(model, self.card, usable, reduce, precision, images, testing)
        self.mapping: TaxonomyMapping | None = None
        """How parses are shown in another taxonomy; `show_as` sets it. None: they have the classes of the model."""

    @property
    def model(self) -> UPerNet | ExportedNetwork:
        """The model, in eval mode on `device`."""
        return self._predictor.model

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        return self._predictor.device

    @property
    def short_side(self) -> int | None:
        """The short side in pixels to which larger photos are resized; None: they keep their size."""
        return self._predictor.short_side

    @property
    def thresholds(self) -> dict[str, float]:
        """Level -> probability below which a label is unsure. Changes hold for further parses."""
        return self._predictor.thresholds

    @property
    def class_thresholds(self) -> dict[str, dict[str, float]]:
        """Level -> class -> the same, in place of the threshold of the level. Changes hold for further parses."""
        return self._predictor.class_thresholds

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
            image: A photo: a path, an address (http, https, or of an object store such as s3), the bytes of an image
                file, a file that is open for binary reading, a PIL image, an RGB array H x W x 3, or an RGB tensor
                3 x H x W (uint8, or floats from 0 to 1). A list or tuple of photos, an array N x H x W x 3, or a tensor
                N x 3 x H x W gives a list of parses; see `stream` for many photos.
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
        batch: int = 1,
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
            batch: Largest number of photos of like size that go through the network together;
                2 * `batch` photos are decoded ahead. It can change the last digits of probabilities.

        Raises:
            UpernetError: As `__call__` and `Parse.save` raise it.

        Example:
            >>> import glob, upernet
            >>> parser = upernet.load("everyday")
            >>> for parse in parser.stream(glob.glob("holiday/*.jpg"), out="parses", on_error=print):
            ...     print(parse.path, parse.scene[0])
        """
        wanted, kinds = self.select_levels(levels), check_kinds(kinds)
        check_alpha(alpha)
        check_several(photos)
        folder = None if out is None else Path(out)
        if folder is not None:
            remove_leftovers(folder)

        def finish(job: Job[Parse], parse: Parse) -> Parse:
            if folder is not None:
                parse.save(folder, kinds=kinds, alpha=alpha)
            return parse

        jobs = (Job[Parse](photo) for photo in photos)
        with closing(run_jobs(self, jobs, wanted, finish, probabilities=probabilities, batch=batch)) as done:
            for job, result in done:
                if isinstance(result, Parse):
                    yield result
                elif on_error is None:
                    raise result
                else:
                    on_error(job.photo, result)

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
        if self._predictor.testing is not None:
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
        (parse,) = self.parse_batch([(photo, path)], levels, probabilities, smoother)
        if isinstance(parse, UpernetError):
            raise parse
        return parse

    def parse_batch(
        self,
        photos: Sequence[tuple[Image.Image, str | None]],
        levels: Sequence[str],
        probabilities: bool = False,
        smoother: Smoother | None = None,
    ) -> list[Parse | UpernetError]:
        """Parse upright RGB images whose `sizes_for` are equal, in as few passes through the network as possible.

        Args:
            photos: Images, and where each comes from.
            levels: Levels of the model, in its order.
            probabilities: As `__call__` takes it.
            smoother: Averages the logits with those of the frames before, if the images are frames of a video.

        Returns:
            For each photo its parse, or why there is none.
        """
        return [finish() for finish in self.run_network(photos, levels, probabilities, smoother)]

    def run_network(
        self,
        photos: Sequence[tuple[Image.Image, str | None]],
        levels: Sequence[str],
        probabilities: bool = False,
        smoother: Smoother | None = None,
    ) -> list[Callable[[], Parse | UpernetError]]:
        """Run images through the network, and return for each a function that does the rest of `parse_batch`."""
        try:
            found = self._predictor.run_network([photo for photo, _ in photos], levels, probabilities, smoother)
        except (torch.OutOfMemoryError, MemoryError):
            if len(photos) > 1:
                return [self.run_network([photo], levels, probabilities, smoother)[0] for photo in photos]
            return [partial(self._too_large, *photos[0])]
        return [partial(self._parse, *named, levels, rest) for named, rest in zip(photos, found, strict=True)]

    def sizes_for(self, photo: Image.Image) -> tuple[object, ...]:
        """Return the sizes in which the network gets a photo; photos with equal ones can be parsed in one batch."""
        return self._predictor.sizes_for(photo)

    def _parse(
        self, photo: Image.Image, path: str | None, levels: Sequence[str], predict: Callable[[], Prediction]
    ) -> Parse | UpernetError:
        try:
            found = predict()
        except (torch.OutOfMemoryError, MemoryError):
            return self._too_large(photo, path)
        if not found.is_finite:
            return UpernetError(
                f"{_named(path)}: the model computes numbers that are not finite; use precision fp32, or check its "
                "weights."
            )
        parse = Parse(
            photo,
            found.maps,
            found.rankings,
            thresholds={level: value for level, value in self.thresholds.items() if level in levels},
            class_thresholds={level: value for level, value in self.class_thresholds.items() if level in levels},
            part_groups=self.model.taxonomy.part_groups,
            familiarity=found.familiarity,
            model=self.card.name,
            path=path,
        )
        return parse if self.mapping is None else translate(parse, self.mapping)

    def _too_large(self, photo: Image.Image, path: str | None) -> UpernetError:
        return UpernetError(
            f"{_named(path)}: {photo.width} x {photo.height} pixels do not fit into the memory of {self.device}; set a "
            "smaller short side."
        )

    def settings(self) -> dict[str, object]:
        """Return what decides on the parse of a photo besides the weights, as values that JSON can hold."""
        return {
            "card": self.card.model_dump(mode="json"),
            "short_side": self.short_side,
            "precision": self._precision,
            "calibration": self._calibration,
            "published": self._predictor.testing is not None,
            "thresholds": [self.thresholds, self.class_thresholds],
            "taxonomy": self.model.taxonomy.to_dict(),
            "shown_as": None if self.mapping is None else [self.mapping.target.to_dict(), self.mapping.to_table()],
        }

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


def _times_and_parses(frames: Generator[ParsedFrame, None, None]) -> Iterator[tuple[float, Parse]]:
    with closing(frames):
        for parsed in frames:
            yield parsed.frame.time, parsed.parse


def _named(path: str | None) -> str:
    return "the photo" if path is None else path


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
    calibration: str | os.PathLike[str] | None = None,
    scales: Scales | None = None,
) -> Parser:
    """Return a `Parser` with a model by name, or with the weights of a checkpoint.

    Args:
        name_or_path: name of a model whose weights are shipped or published (these are downloaded at first use), a
            checkpoint of any format that `load_checkpoint` reads, a folder with one, such as that of a training run,
            `hf://OWNER/NAME[/FILE][@REVISION]`, or a file that `upernet.export` wrote.
        device: as `Parser` takes it.
        short_side: as `Parser` takes it.
        precision: as `Parser` takes it.
        calibration: as `Parser` takes it.
        scales: as `Parser` takes it.

    Raises:
        UpernetError: there is no such model or file, it cannot be found or read, or the device is unavailable or lacks
            `precision`.

    Example:
        >>> parser = load("everyday")
        >>> parser.levels
        ('scene', 'object', 'part', 'material', 'texture')
    """
    if exported_suffix(name_or_path):
        model = load_exported(name_or_path)
    else:
        model = load_named(find_checkpoint(name_or_path), name_or_path)
    return Parser(
        model, device=device, short_side=short_side, precision=precision, calibration=calibration, scales=scales
    )
