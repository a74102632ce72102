"""A proposal: what was found in a folder, the split, and the settings of a recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from upernet.errors import UpernetError
from upernet.scaffold.class_tables import read_class_table
from upernet.scaffold.defaults import Defaults, choose_defaults
from upernet.scaffold.found import Found, FoundPhoto
from upernet.scaffold.label_folders import find_label_folders
from upernet.scaffold.layouts import unmatched_mask
from upernet.scaffold.listing import Progress, list_files
from upernet.scaffold.masks import find_masks
from upernet.scaffold.outlines import find_outlines
from upernet.scaffold.questions import Answers, Ask
from upernet.scaffold.splits import SplitPhoto, SplitPlan, divide, listed_splits

MOST_LEFT_OUT = 0.5
"""Share of the files from which so much is left out that the folder was not understood."""
UNDERSTOOD = (
    "photos and masks in folders of their own (images/ and masks/), masks beside photos (a.jpg and a_mask.png), "
    "annotations of COCO, Labelme or CVAT, or one folder of photos per class"
)


@dataclass(frozen=True)
class Proposal:
    """A recipe to be written.

    Attributes:
        root: The folder with the data.
        found: What is in it.
        splits: Split -> its photos.
        split_how: How they were chosen, for people.
        lists: Splits that need a list of their photos.
        defaults: Settings of the recipe.
        links: Files left out because a link leads to them out of the folder.
        follow_links: Whether such files are used.
    """

    root: Path
    found: Found
    splits: Mapping[str, Sequence[FoundPhoto]]
    split_how: str
    lists: Sequence[str]
    defaults: Defaults
    links: int = 0
    follow_links: bool = False
    words: Mapping[str, str] = field(default_factory=dict[str, str])
    """Split -> word of its folders; empty: there is none."""


def propose(
    folder: str | Path,
    classes: str | Path | None = None,
    level: str | None = None,
    follow_links: bool = False,
    ask: Ask | None = None,
    progress: Progress | None = None,
) -> Proposal:
    """Look at a folder of photos and annotations, and propose a recipe for it; write nothing.

    Args:
        folder: The folder.
        classes: File that lists the classes; None: it is looked for in the folder.
        level: Level that the classes belong to. None: as names of folders say; `object` for masks, `scene` for folders
            of photos.
        follow_links: Whether to follow symbolic links out of the folder.
        ask: Function that asks the user what the files leave open. None: what is likeliest is assumed.
        progress: Called while files are read.

    Raises:
        UpernetError: The folder cannot be used; the message says why, and what to do.
    """
    root = Path(folder)
    listing = list_files(root, follow_links)
    answers = Answers(ask)
    table = read_class_table(Path(classes)) if classes is not None else None
    found = (
        find_masks(listing, table, answers, level, progress)
        or find_outlines(listing, answers, level, progress)
        or find_label_folders(listing, answers, level, progress)
    )
    if found is None:
        if mask := unmatched_mask(listing):
            raise UpernetError(
                f"{root / mask}: is in a folder of masks, but there is no photo of the same name; give masks the names "
                "of their photos."
            )
        raise UpernetError(
            f"{root}: holds {len(listing.images)} images, but no masks or classes; give a folder with {UNDERSTOOD}."
        )
    if len(found.left_out) > MOST_LEFT_OUT * (len(found.left_out) + len(found.photos)):
        first = next(iter(found.left_out.values())).rstrip(".")
        raise UpernetError(
            f"{first} ({len(found.left_out)} files cannot be used, and only {len(found.photos)} photos can); complete "
            "the data."
        )
    splits, how, lists = _split(found, listed_splits(listing, [photo.path for photo in found.photos]), root)
    sizes = [photo.size for photo in found.photos]
    return Proposal(
        root=root,
        found=found,
        splits=splits,
        split_how=how,
        lists=lists,
        defaults=choose_defaults(sizes, len(splits["train"])),
        links=listing.links,
        follow_links=follow_links,
        words=_words(found, splits),
    )


def _split(found: Found, listed: SplitPlan | None, root: Path) -> tuple[dict[str, list[FoundPhoto]], str, list[str]]:
    """Return the photos of each split, how they were chosen, and which splits need a list of their photos."""
    by_path = {photo.path: photo for photo in found.photos}
    by_folder: dict[str, list[FoundPhoto]] = {}
    for split, word in found.splits.items():
        by_folder[split] = [photo for photo in found.photos if photo.split == word]
    if "train" in by_folder and "val" in by_folder:
        incomplete = {_split_word(file, root, found.splits) for file in found.left_out}
        return (
            by_folder,
            "as the folders say",
            [split for split, word in found.splits.items() if word in incomplete or None in incomplete],
        )
    if listed is not None and "train" not in by_folder:
        splits = {split: [by_path[path] for path in paths] for split, paths in listed.photos.items()}
        if "val" in splits:
            return splits, listed.how, list(splits)
        by_folder, how = splits, listed.how
    else:
        how = "as the folders say"
    pool = by_folder.get("train") or list(found.photos)
    videos = found.settings["kind"] != "label_folder"  # there, a class would be on one side
    plan = divide([SplitPhoto(photo.path, photo.classes) for photo in pool], videos)
    drawn = {split: [by_path[path] for path in paths] for split, paths in plan.photos.items()}
    if not by_folder.get("train"):
        return drawn, plan.how, list(drawn)
    rest = {split: photos for split, photos in by_folder.items() if split not in drawn}
    lists = [*drawn, *(rest if listed is not None and not found.splits else ())]
    if found.left_out:
        lists = [*drawn, *rest]
    return drawn | rest, f"{how}; of those in train, {plan.how}", lists


def _split_word(file: Path, root: Path, words: Mapping[str, str]) -> str | None:
    """Return the word of the split that a file is in; None if its path does not say."""
    parts = PurePosixPath(file.relative_to(root).as_posix()).parts[:-1]
    return next((word for word in words.values() for part in parts if word in part), None)


def _words(found: Found, splits: Mapping[str, Sequence[FoundPhoto]]) -> dict[str, str]:
    """Return split -> word of the folders that hold its photos, if there are folders per split."""
    if not found.splits:
        return {}
    return {split: found.splits.get(split, found.splits.get("train", "")) for split in splits}
