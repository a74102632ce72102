"""The command `upernet discover`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from upernet.cli.options import STDOUT, JsonOption, QuietOption, write_json

if TYPE_CHECKING:
    from upernet.discovery import Discovery

SHOWN_CLASSES = 5
SHOWN_RELATIONS = 3


def discover(
    parses: Annotated[
        list[Path], typer.Argument(metavar="PARSES", help="Folders with saved parses: the --out of `upernet parse`.")
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the results.")],
    save: Annotated[
        str | None,
        typer.Option(
            metavar="WHAT",
            help="What to save, separated by commas: csv, parquet, graphml, report.",
            show_default="all; parquet where pyarrow is installed",
        ),
    ] = None,
    min_support: Annotated[
        int, typer.Option(metavar="N", min=1, help="Number of photos from which on a relation is reported.")
    ] = 3,
    min_area: Annotated[
        float,
        typer.Option(
            metavar="SHARE", min=0, max=1, help="Share of a photo from which on a class counts as being in it."
        ),
    ] = 0.001,
    examples: Annotated[
        int, typer.Option(metavar="N", min=0, max=100, help="Example photos for each relation in the report.")
    ] = 3,
    resamples: Annotated[
        int, typer.Option(metavar="N", min=100, max=100_000, help="Bootstrap samples of the photos.")
    ] = 1000,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Seed of the bootstrap.")] = 0,
    json: JsonOption = None,
    quiet: QuietOption = False,
) -> None:
    """Find which scenes, objects, parts, materials and textures go together in saved parses.

    Writes relations.csv, relations.graphml, report.html and, where pyarrow is installed, relations.parquet.
    It needs no model. If it was interrupted, or there are new parses, run it again: it continues.

    Exit status: 0 if all parses were counted, 1 if some could not be, 2 if none could be.
    """
    import sys

    from rich.console import Console
    from rich.progress import Progress

    from upernet.discovery import discover as find
    from upernet.discovery.writing import check_what, write
    from upernet.errors import printable

    what = None if save is None else check_what([name for part in save.split(",") if (name := part.strip())])
    console = Console(stderr=True)
    with Progress(transient=True, console=console, disable=quiet or not console.is_terminal) as bar:
        task = bar.add_task("counting", total=None)
        found = find(
            parses[0] if len(parses) == 1 else parses,
            out,
            min_support=min_support,
            min_area=min_area,
            resamples=resamples,
            seed=seed,
            examples=examples,
            on_error=lambda _, error: print(f"upernet: {printable(error)}", file=sys.stderr),
            progress=lambda done: bar.update(task, completed=done, refresh=False),
        )
        bar.update(task, description="writing")
        files = write(found, out, what)
    if json is not None:
        write_json(found.to_dict(), json)
    if json != STDOUT and not quiet:
        _show(found)
        print("Wrote", ", ".join(printable(file) for file in files))
    if found.failures:
        raise typer.Exit(1)


def _show(found: Discovery) -> None:
    """Print for each pair of levels, for the classes in most photos, what covers most of them."""
    import shutil

    from upernet.discovery.relations import LITTLE_KNOWN
    from upernet.errors import printable
    from upernet.inference.wording import percent, quantity, readable, wrapped

    width = shutil.get_terminal_size().columns
    print(f"{quantity(len(found.relations), 'relation')} in {quantity(found.counted, 'photo')}.\n")
    if found.note:
        print(wrapped(printable(found.note), width), end="\n\n")
    if not found.relations:
        least = found.settings["min_support"]
        print(wrapped(f"No relation is in {least:,} photos or more; parse more photos, or lower --min-support.", width))
        return
    for pair in found.pairs:
        print(f"{pair} ({quantity(found.photos[pair], 'photo')})")
        relations = list(found.of(pair))
        known = {relation.a: (relation.photos_a, relation.known_share) for relation in relations}
        for name in sorted(known, key=lambda name: (known[name][1] < LITTLE_KNOWN, -known[name][0], name))[
            :SHOWN_CLASSES
        ]:
            parts = [
                f"{readable(relation.b)} {percent(relation.area_share)} ({relation.area_lift:.1f}x)"
                for relation in relations
                if relation.a == name
            ]
            share = known[name][1]
            warning = f" ({percent(share)} known)" if share < LITTLE_KNOWN else ""
            print(wrapped(f"{readable(name)}{warning}: {', '.join(parts[:SHOWN_RELATIONS])}", width, "  "))
        print()
    print(
        wrapped(
            "Shares of the known area of the first class, and how many times the share of everything that is. Classes "
            "of which less than half is known come last.",
            width,
        )
    )
