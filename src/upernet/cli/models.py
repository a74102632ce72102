"""The command `upernet models`."""

from __future__ import annotations

from typing import Any

from upernet.cli.options import STDOUT, JsonOption, write_json

COUNTED_AT = (512, 2048)
"""Height and width of the image for the multiply-adds of models without a published size."""


def models(json: JsonOption = None) -> None:
    """List the models with their scores, sizes and weights.

    The columns are the levels, the published mIoU, the parameters, the multiply-adds, and where the weights are.
    """
    from upernet.checkpoints import list_zoo
    from upernet.models import list_models

    rows = [_row(name) for name in list_models()]
    if json is not None:
        write_json(rows, json)
    if json != STDOUT:
        zoo = list_zoo()
        _show(sorted(rows, key=lambda row: zoo.index(row["name"]) if row["name"] in zoo else -1))


def _row(name: str) -> dict[str, Any]:
    import torch

    from upernet.checkpoints import create_model, is_downloaded, shipped_checkpoint, zoo_entry
    from upernet.models.complexity import count
    from upernet.recipe import load_recipe

    entry = zoo_entry(name)
    published = entry.published if entry else None
    with torch.device("meta"):  # shapes only: nothing is computed
        model = create_model(name)
    height, width = published.macs_at if published else COUNTED_AT
    params, macs = count(model, height, width)
    shipped = shipped_checkpoint(name) is not None
    if shipped:
        weights = "shipped"
    elif entry:
        weights = "downloaded" if is_downloaded(entry) else "available"
    else:
        weights = "none"
    return {
        "name": name,
        "levels": list(model.levels),
        "crop": list(published.crop) if published else None,
        "miou_single_scale": published.miou_single_scale if published else None,
        "miou_multi_scale": published.miou_multi_scale if published else None,
        "params": params,
        "macs": macs,
        "macs_at": [height, width],
        "shipped": shipped,
        "weights": weights,
        "licence": entry.licence if entry else None,
        "description": load_recipe(name).description,
    }


def _show(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("model", overflow="fold")
    for title in ("mIoU", "params", "MACs"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("weights", no_wrap=True)
    for row in rows:
        single, multi, params = row["miou_single_scale"], row["miou_multi_scale"], row["params"] / 1e6
        levels = ", ".join(row["levels"]) + (f", crop {row['crop'][0]}" if row["crop"] else "")
        height, width = row["macs_at"]
        table.add_row(
            f"{row['name']}\n[dim]{levels}[/dim]",
            "-" if single is None else f"{single}/{multi}",
            f"{params:.{1 if params < 100 else 0}f} M",
            f"{row['macs'] / 1e9:.0f} G\n[dim]{height}x{width}[/dim]",
            row["weights"],
        )
    console = Console()
    console.print(table)
    console.print(
        "\nmIoU: published, in %, one pass / several scales. MACs: multiply-adds for an image of the size below. "
        "Weights: shipped in this package; downloaded; available by `upernet download NAME`; none: train it.",
        style="dim",
        highlight=False,
    )
