"""Put the result of a run into the package, with the name, description, terms and classes of its bundled recipe.

::

    python docs/ship_model.py everyday runs/everyday --data DIR    # the weights and the log of a run
    python docs/ship_model.py everyday                             # the card alone: recipe and scores

Classes of the run that the taxonomy of the recipe lacks are left out, and what remains is calibrated again.
"""

from __future__ import annotations

import argparse
import json
import shutil
import struct
from dataclasses import asdict
from pathlib import Path
from typing import Any

from upernet.checkpoints import (
    card_of,
    find_checkpoint,
    initialize_model,
    load_checkpoint,
    save_checkpoint,
    shipped_checkpoint,
)
from upernet.checkpoints.finding import SHIPPED
from upernet.checkpoints.formats import NATIVE
from upernet.evaluation.calibration import calibrate
from upernet.evaluation.familiarity import fit_familiarity
from upernet.files import atomic_path
from upernet.models import UPerNet
from upernet.recipe import load_recipe
from upernet.taxonomy import load_taxonomy

RESULTS = Path(__file__).parent / "results"


def ship(name: str, run: Path, data: Path) -> None:
    """Ship the model of a run, given as its folder or a checkpoint in it, with matrices in float16."""
    recipe, path = load_recipe(name), find_checkpoint(run)
    trained, card = load_checkpoint(path)
    model = UPerNet(trained.spec.model_copy(update={"auxiliary_channels": None}), load_taxonomy(recipe.taxonomy)).eval()
    for level in model.levels:
        if unknown := set(model.taxonomy.logit_names(level)) - set(trained.taxonomy.logit_names(level)):
            raise SystemExit(f"{path}: was not trained on {', '.join(sorted(unknown))}; train it again.")
    initialize_model(model, path)
    found = calibrate(model, recipe, data)
    if recipe.calibration.familiar:
        fit_familiarity(model, recipe, data)
    values = card_of(recipe).to_dict() | asdict(found)
    values["research_only"] = values.get("research_only", False) or card.research_only
    save_checkpoint(SHIPPED / f"{recipe.name}.safetensors", model, values, half=True)
    shutil.copyfile(path.parent / "log.jsonl", RESULTS / f"{recipe.name}.log.jsonl")


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


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("name")
    parser.add_argument("run", nargs="?", type=Path)
    parser.add_argument("--data", type=Path, help="folder of the data, to calibrate; needed with RUN")
    arguments = parser.parse_args()
    if arguments.run is not None:
        if arguments.data is None:
            parser.error("give --data with RUN")
        ship(arguments.name, arguments.run, arguments.data)
    elif (source := shipped_checkpoint(arguments.name)) is not None:
        card, scores = card_of(load_recipe(arguments.name)), RESULTS / f"{arguments.name}.json"
        if scores.is_file():
            card = card.with_scores(json.loads(scores.read_text(encoding="utf-8")))
        stamp(source, SHIPPED / f"{arguments.name}.safetensors", card.to_dict())
    else:
        parser.error(f"{arguments.name} is not shipped; give the folder of its run")


if __name__ == "__main__":
    main()
