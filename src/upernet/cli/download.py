"""The command `upernet download`."""

from __future__ import annotations

from typing import Annotated

import typer


def download(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="Names of models or backbones.", show_default=False)
    ] = None,
    all_files: Annotated[bool, typer.Option("--all", help="Download everything in the zoo.")] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Also hash files that are already here.")] = False,
) -> None:
    """Download published weights and print their paths.

    An interrupted download continues where it stopped. Environment variables: UPERNET_HOME (folder for the files),
    UPERNET_MIRROR (URL of a folder to take them from), UPERNET_OFFLINE=1 (download nothing),
    UPERNET_NO_RESEARCH_WEIGHTS=1 (refuse weights for research or non-commercial use only).
    """
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    from upernet.checkpoints import list_zoo
    from upernet.checkpoints.fetching import fetch
    from upernet.checkpoints.terms import refuse_research_weights
    from upernet.checkpoints.zoo import known_entry
    from upernet.errors import UpernetError

    entries = [known_entry(name) for name in (list_zoo() if all_files else dict.fromkeys(names or ()))]
    if not entries:
        raise UpernetError(f"nothing to download: give names, or --all; the zoo has {', '.join(list_zoo())}.")
    for entry in entries:  # before the first download
        refuse_research_weights(entry.name, entry.research_only)
    console = Console(stderr=True)
    quiet = not console.is_terminal
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    for entry in entries:
        with Progress(*columns, TimeRemainingColumn(), console=console, transient=True, disable=quiet) as bar:
            task = bar.add_task(entry.name, total=None, visible=False)

            def show(done: int, total: int | None) -> None:
                bar.update(task, completed=done, total=total, visible=True)  # noqa: B023 (called before the next iteration)

            path = fetch(entry, progress=show, verify=verify)
        console.print(f"{entry.name}: {entry.license}.", style="dim", highlight=False, markup=False, soft_wrap=True)
        print(path, flush=True)
