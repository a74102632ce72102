"""Build the documentation site: gather its pages, and render them with Zensical.

::

    python docs/build_site.py              # what `make docs` does, in site/
    python docs/build_site.py --out DIR    # somewhere else; the tests do this

The pages in docs/ are also read as plain Markdown on the forge, where their links lead to files of the repository.
Here, these files become part of the site: pages from outside docs/ (the changelog, the credits of the photos) are
copied to the same place below its root, and so are linked files that are no pages (licenses, recipes, results). The
pages of the reference are made from the docstrings and from the help of the commands.
"""

from __future__ import annotations

import argparse
import os
import posixpath
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import import_graph
from typer.main import get_command

import upernet
from upernet.cli.main import app
from upernet.errors import UpernetError

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
CONFIG = "zensical.toml"
OTHER_PAGES = ("CHANGELOG.md", "CONTRIBUTING.md", "examples/CREDITS.md")
"""Pages outside docs/."""
LINK = re.compile(r"(?<=\]\()([^)#\s]+)(?=[)#])")
MERMAID = re.compile(r"^```mermaid\n.*?^```$", re.MULTILINE | re.DOTALL)
"""The import graph: the theme would draw it with a script from another server."""
REFERENCE = {
    "parsing": ("Parse photos", ("upernet.inference", "upernet.decoding", "upernet.exporting", "upernet.discovery")),
    "models": ("Models and checkpoints", ("upernet.checkpoints", "upernet.models")),
    "training": ("Train", ("upernet.training", "upernet.data", "upernet.recipe")),
    "evaluation": ("Evaluate", ("upernet.evaluation",)),
    "taxonomies": ("Taxonomies and errors", ("upernet.taxonomy", "upernet.errors")),
}
"""Page of the reference -> its title and the modules whose public names it documents."""


def gather(source: Path) -> None:
    """Write the pages of the site, and the files that they link to, into the folder `source`."""
    pages = {page.relative_to(DOCS).as_posix(): page for page in sorted(DOCS.rglob("*.md"))}
    pages |= {name: ROOT / name for name in OTHER_PAGES}
    places = {page: name for name, page in pages.items()}
    for name, page in pages.items():
        text = MERMAID.sub(lambda _: import_graph.graph_svg(), page.read_text(encoding="utf-8"))

        def move(link: re.Match[str], page: Path = page, name: str = name) -> str:
            return moved(link[1], page, name, places, source)

        write(source / name, LINK.sub(move, text))
    for file in (*DOCS.rglob("*.jpg"), *DOCS.rglob("*.png"), DOCS / "site.css", DOCS / "iframe-worker.js"):
        copy(file, source / file.relative_to(DOCS))
    for name, (title, modules) in REFERENCE.items():
        write(source / "reference" / f"{name}.md", "\n".join(reference_lines(title, modules)))
    write(source / "reference" / "cli.md", "\n".join(command_lines()))


def moved(link: str, page: Path, name: str, places: dict[Path, str], source: Path) -> str:
    """Return a link of a page as it is in the site, after copying what it leads to.

    Args:
        link: The link, without an anchor.
        page: The file of the page in the repository.
        name: The place of the page in the site.
        places: File of every page -> its place in the site.
        source: Folder that the site is built from.

    Raises:
        UpernetError: The link leads nowhere.
    """
    if "://" in link or link.startswith("mailto:"):
        return link
    target = (page.parent / link).resolve()
    if not target.exists():
        raise UpernetError(f"{page}: the link {link} leads to no file; correct it.")
    place = places.get(target)
    if place is None:
        place = target.relative_to(DOCS if target.is_relative_to(DOCS) else ROOT).as_posix()
        if not target.suffix or target.suffix in (".yaml", ".py", ".jsonl"):
            place += ".txt"  # what browsers show instead of offering to save it
        copy(target, source / place)
    return posixpath.relpath(place, posixpath.dirname(name) or ".")


def reference_lines(title: str, modules: tuple[str, ...]) -> list[str]:
    """Return a page with the docstrings of the public names of some modules."""
    names = [name for name, home in upernet._HOME.items() if home.startswith(modules)]
    lines = [f"# {title}", "", "Public names of `upernet`, from their docstrings.", ""]
    for name in names:
        lines += [f"::: upernet.{name}", ""]
    return lines


def command_lines() -> list[str]:
    """Return a page with the help of all commands."""
    lines = ["# Command line", "", "What `upernet COMMAND --help` prints."]
    for words, command in commands("upernet", get_command(app)):
        context = command.context_class(command, info_name=words, max_content_width=86, terminal_width=86)
        lines += ["", f"## {words}", "", "```text", command.get_help(context), "```"]
    return [*lines, ""]


def commands(words: str, command: Any) -> Iterator[tuple[str, Any]]:
    """Yield the words and the object of each command in a group of commands, and in the groups in it."""
    for name, inner in getattr(command, "commands", {}).items():
        if hasattr(inner, "commands"):
            yield from commands(f"{words} {name}", inner)
        else:
            yield f"{words} {name}", inner


def write(path: Path, text: str) -> None:
    """Write a text file into the folder of the site."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def copy(file: Path, place: Path) -> None:
    """Copy a file into the folder of the site."""
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(file, place)


def build(out: Path) -> None:
    """Render the site into the folder `out`, which is replaced once everything is right.

    Raises:
        UpernetError: The generator is not installed, or a page has a link or an anchor that leads nowhere.
    """
    if find_spec("zensical") is None:
        raise UpernetError("the site needs Zensical: pip install '.[docs]', with Python 3.11 or newer.")
    with tempfile.TemporaryDirectory() as name:
        project = Path(name)
        gather(project / "pages")
        copy(ROOT / CONFIG, project / CONFIG)
        done = subprocess.run(
            [sys.executable, "-m", "zensical", "build", "--strict"],
            cwd=project,
            env=os.environ | {"PYTHONPATH": str(ROOT / "src")},  # where the docstrings are read from
            capture_output=True,
            text=True,
        )
        if done.returncode != 0:
            raise UpernetError(f"the site has errors; correct them in docs/:\n{done.stdout}{done.stderr}")
        shutil.rmtree(out, ignore_errors=True)
        shutil.move(project / "site", out)


def main() -> int:
    """Build the site; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "site")
    options = parser.parse_args()
    try:
        build(options.out)
    except UpernetError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
