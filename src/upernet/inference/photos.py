"""Parsing of collections of photos: each result is saved and noted in a manifest, so that a run can go on later."""

from __future__ import annotations

import errno
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Collection, Generator, Iterable, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import torch

from upernet.errors import UpernetError, did_you_mean
from upernet.inference.exporting import CocoDataset
from upernet.inference.inputs import PhotoLike
from upernet.inference.manifest import MANIFEST_FILE, Manifest
from upernet.inference.parse import Parse
from upernet.inference.parser import Parser
from upernet.inference.planning import Finished, PhotoJob, Plan, ShardJob, photo_jobs
from upernet.inference.render import check_alpha
from upernet.inference.saved import read_result
from upernet.inference.saving import KINDS, refuse_address, remove_leftovers, save, write_file
from upernet.inference.streaming import run_jobs
from upernet.inference.summary import COCO_FILE, SUMMARY_FILE, summary_row, summary_table
from upernet.taxonomy import LEVEL_KINDS
from upernet.version import __version__

WHAT = (*KINDS, "coco")
"""What can be saved: the files of each parse, and one COCO data set of all."""
BATCH = 8
"""Number of photos that go through the network together on a GPU."""
FULL = (errno.ENOSPC, errno.EDQUOT)
"""Errors after which no other photo can be saved either."""

JobResult = tuple[PhotoJob, Finished | UpernetError]


@dataclass(frozen=True)
class Outcome:
    """What became of one photo."""

    name: str
    """Its path or address, as it was given; in a shard, followed by its path there."""
    result: Finished | UpernetError
    """What was found and where it is, or why the photo could not be parsed or saved."""

    def to_dict(self) -> dict[str, Any]:
        """Return what `Parse.to_dict` says of the photo, and the folder of its results, if it has been parsed.

        Raises:
            UpernetError: The results of an earlier run cannot be read.
        """
        if isinstance(self.result, UpernetError):
            raise self.result
        folder = self.result.folder
        if self.result.parse is not None:
            content = self.result.parse.to_dict()
        else:
            assert folder is not None
            content = read_result(folder) | {"path": self.name}
        return content | {"folder": None if folder is None else str(folder)}


@dataclass
class Work:
    """What is done with each photo of a run; the same in this process and on a cluster."""

    levels: Sequence[str]
    """Levels of the model, in its order."""
    out: Path | None
    """Folder of all results; None: nothing is saved."""
    kinds: Collection[str] = KINDS
    """What is saved of each parse."""
    alpha: float | None = None
    """How overlays are saved; see `Parse.save`."""
    batch: int | None = None
    """As `run_jobs` takes it; None: `BATCH`, on a CPU 1."""
    left_out: Counter[str] = field(default_factory=Counter[str])
    """Files of shards that are no photos, by kind."""
    settings: str = ""
    """As `Record` has it."""

    def run(self, parser: Parser, jobs: Iterable[PhotoJob | ShardJob]) -> Generator[JobResult, None, None]:
        """Parse and save photos, and yield what became of each, in order."""
        with closing(photo_jobs(jobs, self.out, self.left_out)) as photos:
            batch = self.batch or (1 if parser.device.type == "cpu" else BATCH)
            yield from run_jobs(parser, photos, self.levels, self._finish, batch=batch)

    def _finish(self, job: PhotoJob, parse: Parse) -> Finished:
        content = parse.to_dict()
        if self.out is not None and self.kinds:
            parse.folder = save(parse, self.out, job.folder, self.kinds, self.alpha, content)
        return Finished(parse.folder, summary_row(parse, content), parse)


Engine = Callable[[Work, Iterable[PhotoJob | ShardJob]], Generator[JobResult, None, None]]
"""Where photos are parsed: in this process, or on a cluster (`upernet.inference.cluster`)."""


def check_what(what: Iterable[str]) -> set[str]:
    """Return what is to be saved as a set: names of `WHAT`; nothing for "none".

    Raises:
        UpernetError: A name is unknown, or "none" is not alone.
    """
    asked = set(what)
    for name in asked - {"none"}:
        if name not in WHAT:
            raise UpernetError(
                f"{name!r} cannot be saved{did_you_mean(name, WHAT)}; choose from {', '.join(WHAT)}, or none."
            )
    if "none" in asked and len(asked) > 1:
        raise UpernetError("'none' saves nothing; leave it out, or leave the others out.")
    return asked - {"none"}


def parse_photos(
    parser: Parser,
    photos: Sequence[PhotoLike],
    levels: Sequence[str],
    folder: Path | None,
    what: Collection[str] = WHAT,
    alpha: float | None = None,
    *,
    several: bool = True,
    again: bool = False,
    batch: int | None = None,
    left_out: Counter[str] | None = None,
    engine: Engine | None = None,
) -> Generator[Outcome, None, None]:
    """Parse photos, and save each parse, and files about all of them; a photo that fails does not stop the others.

    With several photos, the folder also gets a manifest. By it, a later run with the same settings leaves out the
    photos that are done and have not changed; those that failed are tried again.

    Args:
        parser: The parser.
        photos: The photos, or what `find_photos` found.
        levels: The levels to parse.
        folder: Folder of the results; None: nothing is saved.
        what: What is saved, names of `WHAT`.
        alpha: How overlays are saved; see `Parse.save`.
        several: Whether there can be more than one photo; a single one gets neither a manifest nor summary.csv.
        again: Whether photos are parsed again that are done. They always are for a COCO data set, which is not saved
            photo by photo.
        batch: As `Work` has it.
        left_out: Counts the files of shards that are no photos, by kind.
        engine: Where the photos are parsed. Default: in this process.

    Yields:
        One outcome per photo; in this process, in order. The files about all photos are written at the end, also if the
        generator is closed before.

    Raises:
        UpernetError: A COCO data set is asked for without a dense level, another process is writing to the folder, the
            disk is full, or the files about all cannot be written.
    """
    coco = CocoDataset() if folder is not None and "coco" in what else None
    if coco and not any(LEVEL_KINDS[level].dense for level in levels):
        raise UpernetError(f"coco needs regions, and {', '.join(levels)} has none; add the level object.")
    check_alpha(alpha)
    kinds = set(what) - {"coco"}
    if coco and engine is not None:
        raise UpernetError("coco is one file of all regions, which a cluster does not make; parse in one process.")
    work = Work(levels, folder, kinds, alpha, batch, Counter() if left_out is None else left_out)
    work.settings = settings_hash(parser, work)
    keys: list[tuple[int, str]] = []
    with ExitStack() as stack:
        manifest = None
        if folder is not None:
            if several or (folder / MANIFEST_FILE).exists():
                folder.mkdir(parents=True, exist_ok=True)
                manifest = stack.enter_context(Manifest(folder))
            remove_leftovers(folder)
        plan = Plan(photos, folder, manifest, work.settings, again or not several or not kinds or coco is not None)
        run = work.run(parser, plan) if engine is None else engine(work, plan)
        with _at_end(lambda: _write_summaries(folder, coco, manifest if several else None, keys)), closing(run):
            for job, result in run:
                if (problem := full_disk(result)) is not None:
                    raise problem
                if manifest is not None:
                    if not (isinstance(result, Finished) and result.earlier):
                        manifest.add(job.record(work.settings, result))
                    keys.append((job.group, job.key))
                if coco is not None and isinstance(result, Finished) and result.parse is not None:
                    coco.add(result.parse)
                yield Outcome(job.name, result)


def settings_hash(parser: Parser, work: Work) -> str:
    """Return a hash of what decides on the results of a photo besides the photo: the model and the options."""
    digest = hashlib.sha256()
    options = [__version__, parser.settings(), list(work.levels), sorted(work.kinds), work.alpha]
    digest.update(json.dumps(options, sort_keys=True, default=str).encode())
    for name, values in sorted(parser.model.state_dict().items()):
        digest.update(name.encode())
        digest.update(values.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def _write_summaries(
    folder: Path | None, coco: CocoDataset | None, manifest: Manifest | None, keys: Sequence[tuple[int, str]]
) -> None:
    if folder is not None and coco is not None:
        write_file(folder / COCO_FILE, json.dumps(coco.to_dict(), allow_nan=False) + "\n")
    if folder is not None and manifest is not None:
        in_order = [key for _, key in sorted(keys, key=lambda pair: pair[0])]  # a cluster mixes the groups
        write_file(folder / SUMMARY_FILE, summary_table(lambda: manifest.rows(in_order)))


@contextmanager
def _at_end(write: Callable[[], None]) -> Generator[None, None, None]:
    """Call `write` after the block, whatever happens in it; the first error is the one that is raised."""
    try:
        yield
    except UpernetError:
        with suppress(UpernetError):
            write()
        raise
    except BaseException:
        write()
        raise
    write()


def full_disk(result: Finished | UpernetError) -> UpernetError | None:
    """Return why the run cannot go on, if a photo could not be saved because the disk is full."""
    cause = result.__cause__ if isinstance(result, UpernetError) else None
    if not isinstance(cause, OSError) or cause.errno not in FULL:
        return None
    return UpernetError(f"the disk is full ({str(result).rstrip('.')}); make room, and run the command again to go on.")


def make_output_folder(folder: Path) -> None:
    """Create the folder and check that it can be written, so that a mistake is reported before any photo is parsed.

    Raises:
        UpernetError: The folder cannot be created or written, or is an address.
    """
    refuse_address(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=folder).close()
    except OSError as error:
        raise UpernetError(
            f"{folder}: cannot be written ({error.strerror}); choose a folder you may write to with --out."
        ) from None
