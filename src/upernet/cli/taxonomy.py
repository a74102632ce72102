"""`upernet taxonomy`: show, merge and map label sets."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from upernet.cli.options import STDOUT, ForceOption, JsonOption, write_json
from upernet.errors import UpernetError, printable
from upernet.taxonomy import LEVEL_KINDS, LEVELS, list_taxonomies, load_taxonomy
from upernet.taxonomy.mapping import map_taxonomies, merge_taxonomies
from upernet.taxonomy.tables import read_table, write_table

if TYPE_CHECKING:
    from upernet.taxonomy import Taxonomy, TaxonomyMapping

app = typer.Typer(help="Show, merge and map taxonomies: the classes of each level.", no_args_is_help=True)
NAME = "Name of a bundled taxonomy, or path of a .yaml file."
LevelOption = Annotated[
    str | None, typer.Option("--level", metavar="LEVEL", help="Only this level.", show_default="all levels")
]
TableOption = Annotated[
    Path | None,
    typer.Option(
        "--table", metavar="FILE", help="Table (.csv or .yaml) of counterparts that differ from what names tell."
    ),
]
HOWS = {
    "name": "by name",
    "synonym": "by synonym",
    "broader": "to a broader class",
    "table": "by the table",
}


@app.callback()
def _taxonomy() -> None:
    """Show, merge and map taxonomies: the classes of each level."""


@app.command("show")
def show_command(
    name: Annotated[
        str | None, typer.Argument(metavar="[TAXONOMY]", help=NAME, show_default="list the bundled ones")
    ] = None,
    level: LevelOption = None,
    json: JsonOption = None,
) -> None:
    """Show the classes of a taxonomy, or list the bundled taxonomies."""
    if name is None:
        found = [load_taxonomy(each) for each in list_taxonomies()]
        if json is not None:
            write_json([_about(each) for each in found], json)
        for each in found if json != STDOUT else ():
            _print(f"{each.name}: {each.description} {_sizes(each)}")
        return
    taxonomy = load_taxonomy(name)
    levels = list(taxonomy.levels) if level is None else [taxonomy.level(level).name]
    if json is not None:
        content = taxonomy.to_dict()
        write_json(content | {"levels": {each: content["levels"][each] for each in levels}}, json)
    if json == STDOUT:
        return
    _print(f"{taxonomy.name}: {taxonomy.description}")
    for each in levels:
        classes = taxonomy.level(each)
        names = classes.names[classes.background :]
        background = f", and the background {classes.names[0]}" if classes.background else ""
        _print(f"\n{each} ({len(names)} classes{background}):")
        _print(", ".join(names), "  ")
        if owner := LEVEL_KINDS[each].owned_by:
            for group in taxonomy.part_groups:
                parts = ", ".join(classes.names[part] for part in group.parts[1:])
                _print(f"{taxonomy.level(owner).names[group.owner]}: {parts}", "    ")


@app.command("merge")
def merge_command(
    names: Annotated[list[str], typer.Argument(metavar="TAXONOMY...", help=f"Two or more. {NAME}")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="Taxonomy to write, a .yaml file.")],
    table: TableOption = None,
    force: ForceOption = False,
) -> None:
    """Merge taxonomies: the classes of the first, then those of the others that it does not have.

    Classes are the same if their names are equal or synonyms. In a table, the classes are those of the second taxonomy,
    and `to` is the class of the first one, or empty to keep the class apart.
    """
    import yaml

    from upernet.files import write_text

    if len(names) < 2:
        raise UpernetError("merging takes two taxonomies or more; name another one.")
    if table is not None and len(names) > 2:
        raise UpernetError("a table is about two taxonomies; merge them first, and then the result with the others.")
    if out.suffix not in (".yaml", ".yml"):
        raise UpernetError(f"{out}: a taxonomy is a .yaml file; rename it.")
    if out.exists() and not force:
        raise UpernetError(f"{out}: exists already; choose another name, or add --force.")
    wanted = None if table is None else read_table(table)
    merged, *others = (load_taxonomy(name) for name in names)
    for other in others:
        merged = merge_taxonomies(merged, other, out.stem, wanted)
    write_text(out, yaml.safe_dump(merged.to_dict(), sort_keys=False, allow_unicode=True, width=120))
    _print(f"Wrote {out}: {_sizes(merged)}")


@app.command("map")
def map_command(
    source: Annotated[str, typer.Argument(metavar="FROM", help=NAME)],
    target: Annotated[str, typer.Argument(metavar="TO", help=NAME)],
    table: TableOption = None,
    level: LevelOption = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Table to write (.csv or .yaml), to edit and pass with --table."),
    ] = None,
    force: ForceOption = False,
    json: JsonOption = None,
) -> None:
    """Show what the classes of one taxonomy are in another one.

    Classes are found by name, then by synonym, then as a broader class (armchair: chair); a table has precedence.
    """
    if level is not None and level not in LEVELS:
        raise UpernetError(f"--level {level}: give one of {', '.join(LEVELS)}.")
    if out is not None and out.exists() and not force:
        raise UpernetError(f"{out}: exists already; choose another name, or add --force.")
    mapping = map_taxonomies(load_taxonomy(source), load_taxonomy(target), None if table is None else read_table(table))
    if out is not None:
        write_table(mapping, out)
    levels = [each for each in mapping.source.levels if each in mapping.target.levels and level in (None, each)]
    if json is not None:
        write_json(
            {each: [{"class": m.name, "to": m.to, "how": m.how or None} for m in mapping.of(each)] for each in levels},
            json,
        )
    if json != STDOUT:
        _print(f"{mapping.source.name} in {mapping.target.name}:")
        for each in levels:
            _show_level(mapping, each)
        if not levels:
            _print("They have no level in common.")
        if out is not None:
            _print(f"\nWrote {out}; edit it and pass it with --table.")


def _show_level(mapping: TaxonomyMapping, level: str) -> None:
    matches = list(mapping.of(level))[mapping.source.level(level).background :]
    counts = Counter(match.how for match in matches if match.to is not None)
    found = [f"{counts[how]} {text}" for how, text in HOWS.items() if counts[how]]
    total = sum(counts.values())
    _print(f"\n{level}: {total} of {len(matches)} classes" + (f" ({', '.join(found)})" if found else ""))
    renamed = [f"{match.name} -> {match.to}" for match in matches if match.to and match.how != "name"]
    missing = [match.name for match in matches if match.to is None]
    if renamed:
        _print(", ".join(renamed), "  ")
    if missing:
        _print(f"without a counterpart: {', '.join(missing)}", "  ")


def _print(text: str, indent: str = "") -> None:
    """Print text in lines that fit the terminal."""
    import shutil

    from upernet.inference.wording import wrapped

    for line in text.split("\n"):
        print(wrapped(printable(line), shutil.get_terminal_size().columns, indent))


def _sizes(taxonomy: Taxonomy) -> str:
    return (
        f"({', '.join(f'{level.num_classes - level.background} {level.name}s' for level in taxonomy.levels.values())})"
    )


def _about(taxonomy: Taxonomy) -> dict[str, Any]:
    classes = {level.name: level.num_classes - level.background for level in taxonomy.levels.values()}
    return {"name": taxonomy.name, "description": taxonomy.description, "classes": classes}
