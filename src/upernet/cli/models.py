"""upernet models"""

from __future__ import annotations

from typing import Annotated, Any

import typer


def models(json: Annotated[bool, typer.Option("--json", help="Print a JSON list.")] = False) -> None:
    """List the models: parameters, multiply-adds for 512 x 2048 pixels, levels, and whether the weights are shipped."""
    from json import dumps

    from upernet.models import list_models

    rows = [_row(name) for name in list_models()]
    if json:
        print(dumps(rows, indent=2))
        return
    for row in rows:
        numbers = f"{row['params'] / 1e6:.1f} M parameters, {row['macs'] / 1e9:.0f} G multiply-adds"
        print(f"{row['name']}: {numbers}, {'weights shipped' if row['shipped'] else 'no weights shipped'}")
        print(f"  {', '.join(row['levels'])}")
        print(f"  {row['description']}")


def _row(name: str) -> dict[str, Any]:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from upernet.checkpoints import shipped_checkpoint
    from upernet.models import create_model
    from upernet.recipe import load_recipe

    with torch.device("meta"), torch.no_grad():  # shapes only: nothing is computed
        model = create_model(name).eval()
        with FlopCounterMode(display=False) as counter:
            model(torch.empty(1, 3, 512, 2048))
    return {
        "name": name,
        "params": sum(p.numel() for key, p in model.named_parameters() if not key.startswith("auxiliary.")),
        "macs": counter.get_total_flops() // 2,
        "levels": list(model.levels),
        "shipped": shipped_checkpoint(name) is not None,
        "description": load_recipe(name).description,
    }
