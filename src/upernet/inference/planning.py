"""What a run does with each photo: where its results go, and whether they are there already."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from upernet.errors import UpernetError
from upernet.inference import storage
from upernet.inference.inputs import NamedBytes, PhotoLike
from upernet.inference.manifest import MANIFEST_FILE, Known, Manifest, Record, Row
from upernet.inference.parse import Parse
from upernet.inference.saving import RESULT_FILE, may_be_written, relative, stem_of
from upernet.inference.shards import Member, is_shard, read_shard, split_name
from upernet.inference.streaming import Job
from upernet.inference.summary import FILES
from upernet.inference.web import is_address

DOWNLOADS = 8
"""Number of photos that are downloaded at the same time."""
GROUP = 16
"""Number of photos that a cluster parses at one place."""
DOWNLOADED = 16
"""Number of downloaded photos that wait to be decoded."""


@dataclass(frozen=True)
class Finished:
    """What became of a photo that has been parsed, now or earlier."""

    folder: Path | None
    """Where its results are; None: they were not saved."""
    row: Row | None
    """Its row of summary.csv; None: the manifest has it."""
    parse: Parse | None = None
    """The parse; None: it was parsed earlier, or by another process."""
    earlier: bool = False
    """Whether an earlier run has parsed it."""


@dataclass
class PhotoJob(Job[Finished]):
    """A photo of a collection."""

    name: str = ""
    """Its path or address, as it was given; in a shard, followed by its path there."""
    key: str = ""
    """Its name in the manifest."""
    folder: str | None = None
    """Its folder in that of all results; None: `Parse.save` chooses it."""
    version: str = ""
    """As `storage.version_of` returns it."""
    shard: str | None = None
    """The name of its shard in the manifest."""
    previous: str | None = None
    """The version that the results have that are there; None: there are none, or they are not to be kept."""

    def record(self, settings: str, result: Finished | UpernetError) -> Record:
        """Return the record of what became of the photo."""
        failed = isinstance(result, UpernetError)
        row: Row | None = {"path": self.name, "error": str(result)} if failed else result.row
        error = str(result) if failed else None
        return Record(self.key, self.folder or "", self.version, settings, error, self.shard, row)


@dataclass(frozen=True)
class ShardJob:
    """A shard: a job for each of its photos, which only reading it shows."""

    name: str
    """Its path or address, as it was given."""
    key: str
    """Its name in the manifest."""
    folder: str
    """The folder of its photos in that of all results; "" if nothing is saved."""
    version: str
    done: frozenset[str]
    """Keys of its photos whose results are there."""
    group: int = 0
    """As `Job` has it: that of all its photos, and of no others."""


class Plan:
    """The jobs of a run.

    Args:
        photos: What `find_photos` found, or photos in memory.
        out: Folder of all results; None: nothing is saved.
        manifest: The manifest there; None: there is none, so `Parse.save` chooses the folders.
        settings: As `Record` has it.
        again: Whether photos are parsed again whose results are there.
    """

    def __init__(
        self, photos: Iterable[PhotoLike], out: Path | None, manifest: Manifest | None, settings: str, again: bool
    ):
        self._photos, self._out, self._manifest = photos, out, manifest
        self._settings, self._again = settings, again
        self._taken = {name.casefold() for name in (*FILES, MANIFEST_FILE)}
        self._numbers: Counter[str] = Counter()
        self._shards: dict[str, str] = {}
        self._done: dict[str, dict[str, str]] = {}
        for photo, known in () if manifest is None else manifest.known().items():
            self._remember(photo, known)

    def __iter__(self) -> Iterator[PhotoJob | ShardJob]:
        """Yield a job for each photo and each shard, in order."""
        group = members = 0
        for photo in self._photos:
            shard = isinstance(photo, (str, Path)) and is_shard(str(photo))
            if shard or members == GROUP:
                group, members = group + 1, 0
            if shard:
                yield replace(self._shard(str(photo)), group=group)
                group += 1
                continue
            members += 1
            if isinstance(photo, (str, Path)):
                yield replace(self._job(str(photo), photo), group=group)
            else:
                yield PhotoJob(photo, group=group, name=getattr(photo, "name", "the photo"))

    def _remember(self, photo: str, known: Known) -> None:
        self._taken.add(known.folder.casefold())
        if known.shard is None or not known.folder:
            return
        key = split_name(photo[len(known.shard) + 1 :])[0]
        folder = known.folder.removesuffix(f"/{key}")
        self._shards[known.shard] = folder
        self._taken.add(folder.casefold())
        if known.done and known.settings == self._settings:
            self._done.setdefault(known.shard, {})[key] = known.version

    def _job(self, name: str, photo: PhotoLike) -> PhotoJob:
        if self._out is None or self._manifest is None:
            return PhotoJob(photo, name=name)
        key = relative(name, self._out)
        known = self._manifest.known().get(key)
        folder = known.folder if known is not None and known.folder else self._free_folder(name)
        current = known is not None and known.done and known.settings == self._settings
        previous = known.version if known and current and not self._again and self._exists(folder) else None
        return PhotoJob(photo, name=name, key=key, folder=folder, previous=previous)

    def _shard(self, name: str) -> ShardJob:
        if self._out is None or self._manifest is None:
            return ShardJob(name, name, "", "", frozenset())
        key = relative(name, self._out)
        folder = self._shards.get(key) or self._free_folder(name)
        self._shards[key] = folder
        version = _version(name)
        versions = {} if self._again else self._done.get(key, {})
        done = {member for member, known in versions.items() if known == version and self._exists(f"{folder}/{member}")}
        return ShardJob(name, key, folder, version, frozenset(done))

    def _exists(self, folder: str) -> bool:
        return self._out is not None and (self._out / folder / RESULT_FILE).is_file()

    def _free_folder(self, name: str) -> str:
        """Return a folder for a photo that no other photo has: the stem of its name, with a number if necessary."""
        assert self._out is not None
        stem = stem_of(name)
        while True:
            self._numbers[stem.casefold()] += 1
            number = self._numbers[stem.casefold()]
            folder = stem if number == 1 else f"{stem}-{number}"
            if folder.casefold() not in self._taken and may_be_written(self._out / folder, name):
                self._taken.add(folder.casefold())
                return folder


def photo_jobs(
    jobs: Iterable[PhotoJob | ShardJob], out: Path | None, left_out: Counter[str] | None = None
) -> Generator[PhotoJob, None, None]:
    """Yield the jobs of photos, with those of shards in their place, in order.

    Photos that are not on the disk are downloaded ahead, in threads. What needs no network is settled: photos whose
    results are there, and what cannot be read.

    Args:
        jobs: The jobs.
        out: Folder of all results.
        left_out: Counts the files of shards that are no photos, by kind.
    """
    with ThreadPoolExecutor(DOWNLOADS, "download") as downloads:
        waiting: deque[Future[PhotoJob]] = deque()
        try:
            for job in jobs:
                if isinstance(job, PhotoJob) and is_address(job.name):
                    waiting.append(downloads.submit(_looked_up, job, out))
                    while len(waiting) > DOWNLOADED:
                        yield waiting.popleft().result()
                    continue
                while waiting:
                    yield waiting.popleft().result()
                if isinstance(job, PhotoJob):
                    yield _looked_up(job, out)
                else:
                    yield from _members(job, out, left_out)
            while waiting:
                yield waiting.popleft().result()
        finally:
            downloads.shutdown(wait=False, cancel_futures=True)


def _looked_up(job: PhotoJob, out: Path | None) -> PhotoJob:
    """Return the job after a look at the photo: its version, and its content if it is not on the disk."""
    if job.folder is not None:
        job.version = _version(job.name)
        if job.previous is not None and job.previous == job.version:
            job.settled = _earlier(out, job.folder)
            return job
    if is_address(job.name):
        try:
            job.photo = NamedBytes(storage.read(job.name), job.name)
        except UpernetError as error:
            job.settled = error
    return job


def _members(job: ShardJob, out: Path | None, left_out: Counter[str] | None) -> Iterator[PhotoJob]:
    found = read_shard(job.name, lambda key: key not in job.done, left_out)
    for member in _one_ahead(found) if is_address(job.name) else found:
        name, key = (f"{shard}/{member.name}".rstrip("/") for shard in (job.name, job.key))
        folder = f"{job.folder}/{member.key}" if job.folder else None
        if isinstance(member.content, NamedBytes):
            yield PhotoJob(member.content, None, job.group, name, key, folder, job.version, job.key)
        elif member.content is None:
            yield PhotoJob(name, _earlier(out, folder or ""), job.group, name, key, folder, job.version, job.key)
        else:
            yield PhotoJob(name, member.content, job.group, name, key, None, job.version, job.key)


def _one_ahead(members: Iterator[Member]) -> Iterator[Member]:
    """Yield the photos of a shard, of which the next one is read in a thread while the caller works."""
    with ThreadPoolExecutor(1, "read") as reader:
        upcoming = reader.submit(next, members, None)
        while (member := upcoming.result()) is not None:
            upcoming = reader.submit(next, members, None)
            yield member


def _earlier(out: Path | None, folder: str) -> Finished:
    return Finished(None if out is None else out / folder, None, earlier=True)


def _version(name: str) -> str:
    try:
        return storage.version_of(name)
    except UpernetError:  # whoever reads it says why it cannot be read
        return ""
