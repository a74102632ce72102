"""Parse all photos in examples/ with the bundled model, and write the gallery: docs/gallery.md and its pictures.

::

    python docs/write_gallery.py            # parse the photos again; `make gallery` does the same
    python docs/write_gallery.py --page     # write the page alone, after a change of examples/remarks.yaml

The descriptions of the parses are kept in docs/results/gallery.json. What is right and wrong about each parse is
written by hand in examples/remarks.yaml: name of the photo -> sentences.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import sys
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from upernet.checkpoints import shipped_checkpoint
from upernet.files import atomic_path, write_text

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"
PICTURES = ROOT / "docs" / "images" / "gallery"
RESULT = ROOT / "docs" / "results" / "gallery.json"
PAGE = ROOT / "docs" / "gallery.md"
MODEL = "everyday"
MOST_BYTES = 150_000
"""Largest size of a picture."""
MOST_BYTES_TOGETHER = 3_000_000
WIDTH = 1400
"""Largest side of a picture in pixels, which shrinks until the picture is small enough."""
QUALITY = 82
NO_REMARK = "Not reviewed yet."


def photos() -> list[Path]:
    """Return the example photos in the order of CREDITS.md."""
    order = list(credits_of_photos())
    return sorted(EXAMPLES.glob("*.jpg"), key=lambda path: order.index(path.name))


def credits_of_photos() -> dict[str, tuple[str, str, str]]:
    """Return photo -> what it shows, its author and its license, from CREDITS.md."""
    text = (EXAMPLES / "CREDITS.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(.+?)` \| (.+?) \| (.+?) \| (.+?) \|$", text, re.MULTILINE)
    return {name: (shows, author, license) for name, shows, author, license in rows}


def remarks() -> dict[str, str]:
    """Return photo -> the remark about its parse."""
    return yaml.safe_load((EXAMPLES / "remarks.yaml").read_text(encoding="utf-8")) or {}


def model_hash() -> str:
    """Return the SHA-256 of the bundled weights, which tells a gallery of other weights."""
    path = shipped_checkpoint(MODEL)
    assert path is not None
    return hashlib.sha256(path.read_bytes()).hexdigest()


def small_jpeg(picture: Image.Image, most_bytes: int = MOST_BYTES) -> bytes:
    """Return a picture as JPEG of at most `most_bytes`."""
    side = WIDTH
    while True:
        reduced = picture.convert("RGB")
        reduced.thumbnail((side, side), Image.Resampling.LANCZOS)
        data = io.BytesIO()
        reduced.save(data, "JPEG", quality=QUALITY, optimize=True, progressive=True)
        if data.tell() <= most_bytes:
            return data.getvalue()
        side -= 50


def parse_photos() -> None:
    """Parse the photos; write their contact sheets and descriptions."""
    import upernet

    parser = upernet.load(MODEL)
    described: dict[str, str] = {}
    for path in photos():
        parse = parser(path)
        described[path.name] = parse.describe()
        PICTURES.mkdir(parents=True, exist_ok=True)
        with atomic_path(PICTURES / path.name) as temporary:
            temporary.write_bytes(small_jpeg(parse.sheet()))
    for old in PICTURES.glob("*.jpg"):
        if old.name not in described:
            old.unlink()
    content = {"model": MODEL, "sha256": model_hash(), "photos": described}
    write_text(RESULT, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def page() -> str:
    """Return the page, from the descriptions, the credits and the remarks."""
    result: dict[str, Any] = json.loads(RESULT.read_text(encoding="utf-8"))
    about, said = credits_of_photos(), remarks()
    lines = [
        "# Gallery",
        "",
        "All photos in [examples/](../examples/CREDITS.md), parsed by the bundled model "
        f"[`{MODEL}`](models/{MODEL}.md), failures included; the model has not seen them in training. "
        "`make gallery` writes this page, and `upernet parse examples --out parsed/` the full-size pictures.",
    ]
    for name, description in result["photos"].items():
        shows, author, license = about[name]
        license = license.replace("(text below)", "([text](../examples/CREDITS.md))")
        picture = (PICTURES / name).relative_to(PAGE.parent).as_posix()
        lines += ["", f"## {shows[:1].upper() + shows[1:]}", "", f"![The parse of {name}]({picture})", ""]
        lines += [f"> {line}  " for line in description.splitlines()]
        lines += ["", f"**Right and wrong:** {' '.join((said.get(name) or NO_REMARK).split())}", ""]
        lines += [f"Photo: {author}, {license}; the picture above is under the same terms."]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write the gallery."""
    if "--page" not in sys.argv[1:]:
        parse_photos()
    write_text(PAGE, page())


if __name__ == "__main__":
    main()
