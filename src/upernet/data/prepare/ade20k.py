"""ADE20K with the 150 classes of the MIT Scene Parsing Benchmark (Zhou et al., CVPR 2017), for `mask_folder`.

```
DIR/ade20k/origin.txt                                    which release it is from
DIR/ade20k/labels.txt
DIR/ade20k/{training,validation}/images/*.jpg
DIR/ade20k/{training,validation}/annotations/*.png       1..150: a class, 0: none of them
```
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from upernet.data.images import read_image
from upernet.data.prepare import Prepared, Progress
from upernet.data.prepare.archive import Archive, open_archive
from upernet.errors import UpernetError, plain
from upernet.files import atomic_path, write_text
from upernet.taxonomy import load_taxonomy

BENCHMARK, FULL = "MIT Scene Parsing Benchmark", "full ADE20K"
SPLITS = ("training", "validation")
SHORT_SIDE = 512
"""Short side in pixels to which larger photos were reduced when the benchmark was made from the full ADE20K."""

FULL_NUMBERS = (
    *(2978, 312, 2420, 976, 2855, 447, 2131, 165, 3055, 1125, 350, 2377, 1831, 838, 774, 2684, 1610, 1910, 687, 471),
    *(401, 2994, 1735, 2473, 2329, 1276, 2264, 1564, 2178, 913, 57, 2272, 907, 724, 2138, 2985, 1395, 155, 2053, 689),
    *(137, 266, 581, 2380, 491, 627, 2212, 2388, 2423, 943, 2096, 1121, 1788, 2530, 2185, 420, 1948, 1869, 2251, 2531),
    *(2128, 294, 239, 212, 571, 2793, 978, 236, 1240, 181, 629, 2598, 1744, 1374, 591, 2679, 223, 123, 47, 1282, 327),
    *(2821, 1451, 2880, 2828, 480, 77, 2616, 247, 2733, 14, 738, 38, 1936, 1401, 120, 868, 1702, 249, 308, 1969, 2526),
    *(2928, 2337, 1023, 609, 389, 2989, 1930, 2668, 2586, 131, 146, 3016, 2739, 95, 1563, 642, 1708, 103, 1002, 2569),
    *(2704, 2833, 1551, 1981, 29, 187, 1393, 747, 2254, 206, 2262, 1260, 2243, 2932, 2836, 2850, 64, 894, 1858, 3109),
    *(1919, 1583, 318, 2356, 2046, 1098, 530, 954),
)
"""Number of the benchmark's classes 1..150 among the objects of the full ADE20K: the table by which the benchmark was
made (`convertFromADE` in the repository CSAILVision/sceneparsing). Releases of 2016 and 2021 number alike."""
MERGED = {783: 15, 533: 36, 246: 89}
"""Further objects that the same table assigns to one of the classes: double doors, closets, and a kind of booth."""

_BENCHMARK_PHOTO = re.compile(r"(?P<root>(?:.*/)?)images/(?P<split>training|validation)/(?P<stem>\w[\w.-]*)\.jpg")
_FULL_PHOTO = re.compile(r"(?:.*/)?images/(?:ADE/)?(?P<split>training|validation)/(?:[^/]+/)+(?P<stem>\w[\w.-]*)\.jpg")


_NOTE = (
    "Classes and sizes are those of the MIT Scene Parsing Benchmark as far as its published conversion tells, but "
    "releases of the full ADE20K differ from it in photos and labels: scores are not quite comparable."
)


@dataclass(frozen=True)
class _Item:
    """A photo and its label map inside an archive."""

    archive: Archive
    split: str
    stem: str
    photo: str
    mask: str


def prepare_ade20k(data_dir: str | Path, archives: Sequence[str | Path], progress: Progress | None = None) -> Prepared:
    """Write the photos and label maps of `archives` to `data_dir/ade20k`; keep existing files.

    Takes the benchmark (`ADEChallengeData2016.zip`), whose files are copied as they are, or the full ADE20K, whose
    label maps and larger photos are reduced and whose objects are numbered anew as the benchmark's makers did. Each
    file appears whole, so an interrupted run is repeated to go on.

    Args:
        data_dir: Directory of the recipes' data sets; `--data` of the other commands.
        archives: Zip files, or the folders that they were unpacked to.
        progress: Called with the number of photos done and of photos in all.

    Raises:
        UpernetError: No archive is given, an archive is damaged, unsafe or not ADE20K, label maps are missing, the
            folder was prepared from another release, or it cannot be written.
    """
    if not archives:
        raise UpernetError(
            "ade20k: give the archive by --from, for it is not downloaded: either ADEChallengeData2016.zip of the MIT "
            "Scene Parsing Benchmark (sceneparsing.csail.mit.edu), which published scores refer to, or the full ADE20K "
            "(ade20k.csail.mit.edu, after registration)."
        )
    with ExitStack() as stack:
        opened = [stack.enter_context(open_archive(Path(path))) for path in archives]
        origin, items = _find(opened)
        none: dict[str, int] = dict.fromkeys(SPLITS, 0)
        note = _NOTE if origin == FULL else ""
        prepared = Prepared(Path(data_dir) / "ade20k", origin, dict(none), dict(none), note)
        _claim(prepared.folder, origin)
        for done, item in enumerate(items, 1):
            prepared.photos[item.split] += 1
            prepared.written[item.split] += _write(item, prepared.folder, origin)
            if progress:
                progress(done, len(items))
    return prepared


def _find(archives: Sequence[Archive]) -> tuple[str, list[_Item]]:
    """Return the release that the archives are from, and photos with their label maps, sorted by split and name."""
    found: dict[str, dict[tuple[str, str], _Item]] = {BENCHMARK: {}, FULL: {}}
    for archive in archives:
        for name in sorted(archive.sizes):
            if name.startswith("__MACOSX/"):
                continue
            if match := _BENCHMARK_PHOTO.fullmatch(name):
                origin, mask = BENCHMARK, "{root}annotations/{split}/{stem}.png".format(**match.groupdict())
            elif match := _FULL_PHOTO.fullmatch(name):
                origin, mask = FULL, name.removesuffix(".jpg") + "_seg.png"
            else:
                continue
            item = _Item(archive, match["split"], match["stem"], name, mask)
            other = found[origin].setdefault((item.split, item.stem.casefold()), item)  # as some disks see names
            if other is not item:
                where = f"{plain(other.photo, 200)} of {other.archive.path}"
                raise UpernetError(f"{archive.path}: {plain(name, 200)} has the name of {where}; give each photo once.")
    origins = [origin for origin in found if found[origin]]
    paths = " and ".join(str(archive.path) for archive in archives)
    if not origins:
        raise UpernetError(
            f"{paths}: no ADE20K in there; expected images/training/*.jpg with annotations/training/*.png (the "
            "benchmark), or images/ADE/training/*/*/*.jpg with *_seg.png (the full data set)."
        )
    if len(origins) > 1:
        raise UpernetError(f"{paths}: holds both the {BENCHMARK} and the {FULL}; give one of them by --from.")
    items = [found[origins[0]][key] for key in sorted(found[origins[0]])]
    _check(archives, items)
    return origins[0], items


def _check(archives: Sequence[Archive], items: list[_Item]) -> None:
    missing = [item for item in items if item.mask not in item.archive.sizes]
    if missing:
        more = f" ({len(missing)} photos have none)" if len(missing) > 1 else ""
        raise UpernetError(
            f"{missing[0].archive.path}: {plain(missing[0].photo, 200)} has no label map "
            f"{plain(missing[0].mask, 200)}{more}; download or unpack the archive again."
        )
    for archive in archives:
        tables = [name for name in archive.sizes if name.rpartition("/")[2] == "objectInfo150.txt"]
        archive.check(tables + [name for item in items if item.archive is archive for name in (item.photo, item.mask)])
        for name in tables:
            _check_classes(f"{archive.path}: {name}", archive.read(name).decode("utf-8", "replace"))


def _check_classes(where: str, table: str) -> None:
    """Check that the table of the benchmark (Idx, ..., Name; tab-separated) has the classes of the taxonomy."""
    rows = [line.split("\t") for line in table.splitlines()[1:] if line.strip()]
    listed = [(row[0].strip(), row[-1].partition(",")[0].strip()) for row in rows]
    expected = [(str(value), name) for value, name in enumerate(_names()[1:], 1)]
    if listed != expected:
        raise UpernetError(f"{where}: its classes are not those of the taxonomy ade20k150; give the benchmark's own.")


def _names() -> tuple[str, ...]:
    """Return the names of the values of a label map."""
    return "unlabelled", *load_taxonomy("ade20k150").level("object").names


def _claim(folder: Path, origin: str) -> None:
    """Create the folder, or check that it is from the same release, because photos have the same names in both."""
    mark = folder / "origin.txt"
    if mark.is_file() and (earlier := mark.read_text(encoding="utf-8", errors="replace").strip()) != origin:
        raise UpernetError(f"{folder}: was prepared from the {earlier}, not the {origin}; give another folder.")
    write_text(mark, f"{origin}\n")
    write_text(folder / "labels.txt", "".join(f"{value}\t{name}\n" for value, name in enumerate(_names())))


def _write(item: _Item, folder: Path, origin: str) -> bool:
    """Write the files that do not exist yet; return whether there were any."""
    photo = folder / item.split / "images" / f"{item.stem}.jpg"
    mask = folder / item.split / "annotations" / f"{item.stem}.png"
    if origin == BENCHMARK:
        pairs = [(item.photo, photo), (item.mask, mask)]
        missing = [(name, path) for name, path in pairs if not _has_size(path, item.archive.sizes[name])]
        for name, path in missing:
            _write_bytes(path, item.archive.read(name))
        return bool(missing)
    if photo.is_file() and mask.is_file():
        return False
    _convert(item, photo, mask)
    return True


def _convert(item: _Item, photo: Path, mask: Path) -> None:
    """Convert the label map of the full ADE20K to the benchmark's numbers, and both files to the benchmark's size."""
    where = f"{item.archive.path}/{item.photo}"
    content = item.archive.read(item.photo)
    picture = read_image(_named(content, where))
    colors = np.asarray(read_image(_named(item.archive.read(item.mask), f"{item.archive.path}/{item.mask}")))
    if colors.shape[:2] != (picture.height, picture.width):
        raise UpernetError(f"{where}: its label map has another size; download or unpack the archive again.")
    labels = Image.fromarray(_full_table()[colors[..., 0] // 10 * np.int32(256) + colors[..., 1]])
    factor = SHORT_SIDE / min(picture.size)
    size = (round(picture.width * factor), round(picture.height * factor))
    with atomic_path(mask) as temporary:
        (labels.resize(size, Image.Resampling.NEAREST) if factor < 1 else labels).save(temporary)
    if factor < 1:
        with atomic_path(photo) as temporary:
            picture.resize(size, Image.Resampling.BICUBIC).save(temporary, quality=95)
    else:
        _write_bytes(photo, content)


@cache
def _full_table() -> np.ndarray:
    """Return the uint8 table from numbers of objects in the full ADE20K to classes of the benchmark, 0 for none."""
    table = np.zeros(256 * 26, dtype=np.uint8)
    table[list(FULL_NUMBERS)] = np.arange(1, 151)
    table[list(MERGED)] = list(MERGED.values())
    return table


def _named(content: bytes, name: str) -> io.BytesIO:
    """Return bytes as a file whose name appears in errors."""
    file = io.BytesIO(content)
    file.name = name  # type: ignore[attr-defined]
    return file


def _has_size(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def _write_bytes(path: Path, content: bytes) -> None:
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


PREPARE = prepare_ade20k
