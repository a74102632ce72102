"""The forms in which a parse is returned: JSON, a label map as PNG, everything as a zip archive, or COCO."""

from __future__ import annotations

import base64
import io
import json
import zipfile
from collections.abc import Collection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
from PIL import Image

from upernet.errors import UpernetError
from upernet.inference import LabelMap, Parse
from upernet.inference.label_map import UNSURE
from upernet.inference.saving import RESULT_FILE, confidence_image, label_image, stem_of
from upernet.rle import encode
from upernet.serving.engine import Answer, Timing
from upernet.serving.errors import RefusedError
from upernet.serving.telemetry import logger

Format = Literal["json", "png", "zip", "coco"]
Include = Literal["labels", "confidence", "pixels", "rle", "photo"]

ARCHIVED = "parse"
"""Name of the folder that becomes a zip archive; the name of the photo may be too long for a folder."""
FAST = 1
"""Compression level of zlib: half the time of the default, for a fifth more bytes."""
UNSURE_PIXEL = 65535
BYTES_PER_PIXEL = 2
"""Of an answer with images: a noisy photo of 50 megapixels gives 1.6 with everything that can be included."""


def answer_with(form: Format, include: Collection[Include], level: str | None, parse: Parse, timing: Timing) -> Answer:
    """Encode a parse.

    Args:
        form: The form of the answer.
        include: What the JSON contains beyond `Parse.to_dict`.
        level: The level of a PNG or a COCO data set.
        parse: The parse.
        timing: How long it took.
    """
    if form == "zip":
        return Answer(_archive(parse), "application/zip", f"{stem_of(parse.path or '')}.zip")
    if form == "png":
        return Answer(_png(label_image(parse.label_map(level or ""))), "image/png")
    content = parse.to_coco(level) if form == "coco" else _described(parse, timing, include)
    return Answer(json.dumps(content, ensure_ascii=False, allow_nan=False).encode(), "application/json")


def expected_bytes(form: Format, include: Collection[Include], pixels: int) -> int:
    """Return about how large the answer for a photo becomes."""
    return BYTES_PER_PIXEL * pixels if include or form in ("zip", "png") else 0


def pixels_image(label_map: LabelMap) -> Image.Image:
    """Return labels and confidence in one RGB image, which a browser can read exactly.

    The label is R + 256 G (65535: unsure), and the confidence is B / 255.
    """
    labels = np.where(label_map.labels == UNSURE, UNSURE_PIXEL, label_map.labels).astype(np.uint16)
    confidence = (label_map.confidence * 255 + 0.5).astype(np.uint8)
    return Image.fromarray(np.stack((labels & 255, labels >> 8, confidence), axis=2).astype(np.uint8))


def _described(parse: Parse, timing: Timing, include: Collection[Include]) -> dict[str, Any]:
    described = parse.to_dict() | {
        "familiar": parse.is_familiar,
        "levels": list(parse.levels),
        "seconds": {"queued": round(timing.queued, 4), "network": round(timing.network, 4), "batch": timing.batch},
    }
    if "photo" in include:
        file = io.BytesIO()
        parse.photo.save(file, "JPEG", quality=90)
        described["photo"] = _text(file.getvalue())
    images = {"labels": label_image, "confidence": confidence_image, "pixels": pixels_image}
    described["maps"] = {
        level: {name: _text(_png(draw(label_map))) for name, draw in images.items() if name in include}
        | ({"rle": _run_lengths(label_map)} if "rle" in include else {})
        for level, label_map in parse.maps.items()
    }
    return described


def _run_lengths(label_map: LabelMap) -> list[dict[str, Any]]:
    """Return the mask of each class that occurs, in compressed COCO run lengths, largest first."""
    return [
        {"name": label_map.name(label), "label": label, "segmentation": encode(label_map.labels == label)}
        for label in label_map.counts()
    ]


def _archive(parse: Parse) -> bytes:
    """Return a zip archive with the files of `Parse.save`.

    Raises:
        RefusedError: The temporary folder cannot be written.
    """
    try:
        with TemporaryDirectory(prefix="upernet-") as temporary:
            return _zipped(parse, parse.save(temporary, ARCHIVED))
    except (OSError, UpernetError) as error:
        logger.error("no archive could be written", extra={"fields": {"reason": str(error)}})
        raise RefusedError(
            503, "the temporary folder of the server cannot be written; ask for another format.", retry_after=60
        ) from None


def _zipped(parse: Parse, folder: Path) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for path in sorted(folder.iterdir()):
            if path.name != RESULT_FILE:  # it has the path of the photo relative to this folder
                archive.write(path, path.name)
        archive.writestr(RESULT_FILE, json.dumps(parse.to_dict(), indent=2, allow_nan=False) + "\n")
    return file.getvalue()


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=FAST)
    return file.getvalue()


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")
