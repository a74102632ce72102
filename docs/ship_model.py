"""Put the result of a run into the package, with the name, description and terms of its bundled recipe in its card.

python docs/ship_model.py everyday runs/everyday    # the weights and the log of a run
python docs/ship_model.py everyday                  # after a change of the recipe: the card alone
"""

from __future__ import annotations

import json
import shutil
import struct
import sys
from pathlib import Path
from typing import Any

from upernet.checkpoints import card_of, shipped_checkpoint
from upernet.checkpoints.finding import SHIPPED
from upernet.checkpoints.formats import NATIVE
from upernet.files import atomic_path
from upernet.recipe import load_recipe

RESULTS = Path(__file__).parent / "results"


def stamp(source: Path, target: Path, values: dict[str, object]) -> None:
    """Copy a native checkpoint with changed keys of its card; the tensors stay as they are, byte for byte."""
    data = source.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header: dict[str, Any] = json.loads(data[8 : 8 + length])
    content = json.loads(header["__metadata__"][NATIVE])
    card: dict[str, Any] = content.get("card") or {}
    restricted = bool(card.get("research_only")) or bool(values.get("research_only"))  # by the initial weights, too
    content["card"] = card | values | {"research_only": restricted}
    header["__metadata__"][NATIVE] = json.dumps(content)
    text = json.dumps(header, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 8)  # tensors are aligned to 8 bytes
    with atomic_path(target) as temporary:
        temporary.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])


def main(name: str, run: str | None = None) -> None:
    """Ship the model `name` from the folder of a run, or give the shipped one a new card."""
    card = card_of(load_recipe(name)).to_dict()
    source = Path(run) / "model.safetensors" if run else shipped_checkpoint(name)
    if source is None:
        raise SystemExit(f"{name}: not shipped; give the folder of its run")
    stamp(source, SHIPPED / f"{name}.safetensors", card)
    if run:
        shutil.copyfile(Path(run) / "log.jsonl", RESULTS / f"{name}.log.jsonl")


if __name__ == "__main__":
    main(*sys.argv[1:])
