"""Parsing of many photos: the next ones are decoded, and the last ones saved, while the network runs."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from upernet.errors import UpernetError
from upernet.inference.inputs import PhotoLike, check_several, read_photo
from upernet.inference.parse import Parse
from upernet.inference.render import check_alpha
from upernet.inference.saving import KINDS, check_kinds, remove_leftovers

if TYPE_CHECKING:
    from upernet.inference.parser import Parser

AHEAD = 2
"""Number of photos that are decoded before the network is ready for them."""
BEHIND = 2
"""Number of parses that wait to be saved while the network runs."""


@dataclass(frozen=True)
class Outcome:
    """What became of one photo."""

    photo: PhotoLike
    """The photo as it was given."""
    result: Parse | UpernetError
    """The parse, or why there is none, or why it could not be saved."""


def outcomes(
    parser: Parser,
    photos: Iterable[PhotoLike],
    levels: Iterable[str] | None = None,
    *,
    probabilities: bool = False,
    out: Path | None = None,
    kinds: Collection[str] = KINDS,
    alpha: float | None = None,
) -> Generator[Outcome, None, None]:
    """Parse photos one after another, and yield an outcome for each, in order.

    One thread decodes, one saves, and the network runs in the thread of the caller. At most `AHEAD + BEHIND + 2` photos
    are in memory. Photos are taken from `photos` as they are needed.

    Args:
        parser: The parser.
        photos: The photos.
        levels: Levels to parse. Default: all levels of the model.
        probabilities: As `Parser` takes it.
        out: Folder in which each parse is saved (see `Parse.save`). Default: nothing is saved.
        kinds: What is saved.
        alpha: How overlays are saved; see `Parse.save`.

    Raises:
        UpernetError: The model does not have one of the levels, `kinds` has an unknown name, `alpha` is not in 0..1, or
            `photos` is one photo.
    """
    wanted = parser.select_levels(levels)
    kinds = check_kinds(kinds)
    check_alpha(alpha)
    check_several(photos)
    if out is not None:
        remove_leftovers(out)
    waiting = iter(photos)
    decoded: deque[tuple[PhotoLike, Future[tuple[Image.Image, str | None]]]] = deque()
    parsed: deque[tuple[PhotoLike, Future[Parse]]] = deque()

    def decode_ahead() -> None:
        while len(decoded) < AHEAD:
            try:
                photo = next(waiting)
            except StopIteration:
                return
            decoded.append((photo, decoder.submit(read_photo, photo)))

    def save(parse: Parse) -> Parse:
        if out is not None:
            parse.save(out, kinds=kinds, alpha=alpha)
        return parse

    def parse_next() -> None:
        photo, image = decoded.popleft()
        decode_ahead()
        try:
            parse = parser.parse_decoded(*image.result(), wanted, probabilities)
        except UpernetError as error:
            failed: Future[Parse] = Future()
            failed.set_exception(error)
            parsed.append((photo, failed))
        else:
            parsed.append((photo, saver.submit(save, parse)))

    with ThreadPoolExecutor(1, "decode") as decoder, ThreadPoolExecutor(1, "save") as saver:
        try:
            decode_ahead()
            while decoded or parsed:
                if decoded:
                    parse_next()
                while parsed and (not decoded or len(parsed) > BEHIND or parsed[0][1].done()):
                    photo, future = parsed.popleft()
                    yield Outcome(photo, _result(future))
        finally:  # also where the caller stops early, or is interrupted
            for executor in (decoder, saver):
                executor.shutdown(wait=False, cancel_futures=True)


def _result(future: Future[Parse]) -> Parse | UpernetError:
    try:
        return future.result()
    except UpernetError as error:
        return error
