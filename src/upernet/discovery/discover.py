"""Counting of relations over a collection of parses."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeAlias

from upernet.discovery.counts import count
from upernet.discovery.intervals import bootstrap
from upernet.discovery.relations import Discovery, Relation, relation, sorted_relations
from upernet.discovery.store import Store, StoredPhoto, open_store
from upernet.discovery.totals import Example, best_first, total
from upernet.errors import UpernetError
from upernet.inference.parse import Parse
from upernet.inference.photos import make_output_folder
from upernet.inference.saved import ParsedPhoto, find_saved, parsed_photo, read_saved
from upernet.inference.saving import RESULT_FILE

COUNTS_FILE = "counts.sqlite"
"""File in the output folder with the counts of each photo."""
MIN_SUPPORT = 3
MIN_AREA = 0.001
RESAMPLES = 1000
EXAMPLES = 3

Parses: TypeAlias = str | os.PathLike[str] | Iterable[Parse | str | os.PathLike[str]]


def discover(
    parses: Parses,
    out: str | os.PathLike[str] | None = None,
    *,
    min_support: int = MIN_SUPPORT,
    min_area: float = MIN_AREA,
    resamples: int = RESAMPLES,
    seed: int = 0,
    examples: int = EXAMPLES,
    on_error: Callable[[str, UpernetError], object] | None = None,
    progress: Callable[[int], object] = lambda done: None,
) -> Discovery:
    """Find which classes of different levels go together in a collection of photos; no model is needed.

    Photos are counted one after another, and their counts go to a file, so the memory does not depend on their number.
    The result depends neither on the order of the photos nor on earlier runs.

    Args:
        parses: A folder with saved parses (all below it are read), or an iterable of `Parse`s and such folders.
        out: Folder for the counts of each photo, so that a later run, also after an interruption, reads only saved
            parses that are new or have changed. Default: a temporary file. `Discovery.save` writes the results.
        min_support: Number of photos from which on a relation is reported.
        min_area: Share of a photo from which on a class, or the overlap of two, counts as being in it.
        resamples: Number of bootstrap samples behind the intervals of shares and lifts.
        seed: Seed of the bootstrap.
        examples: Number of example photos for each relation.
        on_error: Called with each saved parse that cannot be counted, and the error; the parse is left out, and listed
            in `failures`. Default: the error is raised.
        progress: Called with the number of parses looked at so far.

    Raises:
        UpernetError: There is no parse, one cannot be read, an argument is out of range, or `out` cannot be written.

    Example:
        >>> import upernet
        >>> found = upernet.discover("parses")
        >>> for relation in found.of("scene-material"):
        ...     print(relation.a, relation.b, relation.area_share, relation.area_lift)
        >>> found.save("relations")
    """
    for name, value, least, most in (
        ("min_support", min_support, 1, 2**53),
        ("min_area", min_area, 0, 1),
        ("resamples", resamples, 100, 100_000),
        ("examples", examples, 0, 100),
    ):
        if not least <= value <= most:
            raise UpernetError(f"{name} {value}: give a number from {least} to {most:,}.")
    place = None if out is None else Path(out)
    if place is not None:
        make_output_folder(place)
    with open_store(None if place is None else place / COUNTS_FILE) as store:
        failures = _count(store, parses, on_error, progress)
        if not len(store):
            raise UpernetError(_nothing(failures))
        totals = total(store, min_area, examples)
        found: list[Relation] = []
        best: dict[tuple[str, str, str], tuple[Example, ...]] = {}
        for pair, sums in totals.items():
            chosen = sorted(classes for classes, joint in sums.joint.items() if joint.photos >= min_support)
            ratios = bootstrap(store, pair, chosen, min_area, resamples, seed)
            for classes in chosen:
                found.append(relation(pair, classes, sums, ratios[classes]))
                best[(pair, *classes)] = tuple(best_first(sums.examples[classes]))
        return Discovery(
            relations=sorted_relations(found),
            photos={pair: sums.photos for pair, sums in totals.items()},
            settings={"min_support": min_support, "min_area": min_area, "resamples": resamples, "seed": seed},
            counted=len(store),
            models=store.models(),
            failures=tuple(failures),
            examples=best,
        )


class _Item(NamedTuple):
    """A parse that waits to be counted."""

    key: str
    stamp: str
    """What changes if the parse is written again; "" where it is in memory."""
    name: str
    """How errors name it."""
    read: Callable[[], ParsedPhoto]


def _count(
    store: Store,
    parses: Parses,
    on_error: Callable[[str, UpernetError], object] | None,
    progress: Callable[[int], object],
) -> list[tuple[str, str]]:
    """Count all parses that the store does not have yet, and return those that cannot be counted, with the reason."""
    failures: list[tuple[str, str]] = []
    try:
        for done, item in enumerate(_items(parses), 1):
            try:
                _add(store, item)
            except UpernetError as error:
                if on_error is None:
                    raise
                failures.append((item.name, str(error)))
                on_error(item.name, error)
            progress(done)
        store.forget_others()
    finally:
        store.flush()
    return failures


def _add(store: Store, item: _Item) -> None:
    """Add the counts of a parse, which is only read if it is new or has changed."""
    known = store.find(item.stamp) if item.stamp else None
    if known is not None:
        path, seen = known
        if not seen:
            _refuse_twin(store, item, path)
            store.keep(item.key, item.stamp)
        return
    photo = item.read()
    _refuse_twin(store, item, photo.photo)
    folder = None if photo.folder is None else os.path.abspath(photo.folder)
    store.add(StoredPhoto(item.key, folder, photo.photo, photo.model, count(photo)), item.stamp)


def _refuse_twin(store: Store, item: _Item, photo: str | None) -> None:
    if photo is not None and (twin := store.twin(photo)) is not None:
        raise UpernetError(
            f"{item.name}: is another parse of the photo of {twin}, and each photo counts once; remove one of them."
        )


def _items(parses: Parses) -> Iterator[_Item]:
    if isinstance(parses, str | os.PathLike):
        yield from _saved(Path(parses), "")
        return
    for position, parse in enumerate(parses):
        if isinstance(parse, Parse):
            key = parse.path or f"photo {position:09}"
            yield _Item(key, "", key, lambda parse=parse: parsed_photo(parse))
        else:
            yield from _saved(Path(parse), f"{Path(parse).as_posix()}/")


def _saved(root: Path, prefix: str) -> Iterator[_Item]:
    for folder in find_saved(root):
        key = prefix + folder.relative_to(root).as_posix()
        try:
            status = (folder / RESULT_FILE).stat()
            stamp = f"{os.path.realpath(folder)} {status.st_mtime_ns} {status.st_size}"
        except OSError:  # it has just been removed, or is a broken link; reading it says so
            stamp = ""
        yield _Item(key, stamp, str(folder), lambda folder=folder: read_saved(folder))


def _nothing(failures: list[tuple[str, str]]) -> str:
    if failures:
        return f"none of the {len(failures)} parses can be counted; parse the photos again with --save labels."
    return "there is no saved parse (a folder with a parse.json); give the --out folder of `upernet parse`."
