"""The command `upernet doctor`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import typer

from upernet.cli.options import STDOUT, JsonOption, write_json

if TYPE_CHECKING:
    from upernet.doctor import Examination


def doctor(json: JsonOption = None) -> None:
    """Check the installation: versions, devices, kernels, caches, and what is wrong with the command that mends it.

    The exit status is 1 if something is broken.
    """
    from upernet.doctor import examine

    if sys.stderr.isatty():
        print("Running the bundled model; the first time, its kernels are compiled.", file=sys.stderr)
    examination = examine()
    if json is not None:
        write_json(examination.to_dict(), json)
    if json != STDOUT:
        _show(examination)
    if examination.is_broken:
        raise typer.Exit(1)


def _show(examination: Examination) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from upernet.errors import printable

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    for name, value in _rows(examination.facts):
        table.add_row(Text(name), Text(printable(value)))
    console = Console(highlight=False)
    console.print(table)
    console.print()
    for finding in examination.findings:
        console.print(Text(f"{'broken' if finding.broken else 'note'}: {printable(finding.problem)}"))
        console.print(Text(f"    {printable(finding.fix)}"), soft_wrap=True)
    if not examination.is_broken:
        console.print("Nothing is broken.")


def _rows(facts: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield "upernet", f"{facts['upernet']}, Python {facts['python']['version']} on {facts['python']['platform']}"
    yield "packages", ", ".join(f"{name} {version or '(missing)'}" for name, version in facts["packages"].items())
    if "torch" in facts:
        sizes = [f"{name} {_size(size)}" for name, size in facts["torch"]["bytes"].items()]
        yield "torch", f"built for {facts['torch']['build']}; on disk: {', '.join(sizes)}"
        for number, row in enumerate(facts["devices"]):
            memory = f", {_size(row['memory'])}" if row["memory"] else ""
            yield "" if number else "devices", f"{row['device']}{'' if number else ' (default)'}: {row['name']}{memory}"
        yield "CPU features", ", ".join(facts["cpu"]["features"]) or "not known"
        threads = facts["threads"]
        quota = "" if threads["cgroup_quota"] is None else f", cgroup quota {threads['cgroup_quota']:g}"
        yield "threads", f"{threads['used']} on {threads['usable_cores']} usable of {threads['cores']} cores{quota}"
        available = facts["memory"]["available"]
        yield "memory", _size(facts["memory"]["total"]) + (f", {_size(available)} available" if available else "")
    if "run" in facts:
        run = facts["run"]
        height, width = run["size"]
        yield (
            "kernels",
            f"{run['model']} on {height} x {width} pixels: {1000 * run['seconds']:.0f} ms, "
            f"{run['times_as_fast_as_torch']:.1f} times as fast as torch's own",
        )
        for row in (*run["kernels"], {"operator": "dcnv3 (InternImage)", **run["dcnv3"]}):
            yield "", f"{row['operator']}: {row['kernel']} ({row['reason']})"
    for number, row in enumerate(facts.get("caches", ())):
        yield "" if number else "caches", f"{row['content']}: {_size(row['bytes'])} in {row['folder']}"
    for number, (extra, missing) in enumerate(facts["extras"].items()):
        command = f"pip install {' '.join(map(repr, missing))}" if missing else "installed"
        yield "" if number else "extras", f"{extra}: {command}"
    for number, (name, value) in enumerate(facts["environment"].items()):
        yield "" if number else "environment", f"{name}={value}"


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
