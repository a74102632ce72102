"""The command `upernet`: its sub-commands, and how errors are reported."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import typer

from upernet.cli import data
from upernet.cli.bench import bench
from upernet.cli.convert import convert
from upernet.cli.download import download
from upernet.cli.evaluate import evaluate
from upernet.cli.models import models
from upernet.cli.parse import parse
from upernet.cli.train import train
from upernet.errors import UpernetError

INTERRUPTED = 130
"""Exit status after Ctrl-C, by the convention of shells."""

app = typer.Typer(
    name="upernet",
    help="One photo in; its scene, objects, parts, materials and textures out.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(parse)
app.command()(models)
app.command()(download)
app.command()(train)
app.command()(evaluate)
app.command()(convert)
app.command()(bench)
app.add_typer(data.app, name="data")


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit with status 0 (done), 1 (partly done), 2 (not done) or 130 (interrupted).

    Args:
        arguments: The arguments. Default: those of the process.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # file names may hold what the terminal cannot show
    try:
        app(arguments, prog_name="upernet")
        sys.stdout.flush()
    except UpernetError as error:
        print(f"upernet: {error}", file=sys.stderr)
        sys.exit(2)
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        # The reader of stdout went away (`upernet models | head -1`); Python must not meet the pipe again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print("upernet: the output cannot be written: the disk is full; make room on it.", file=sys.stderr)
        sys.exit(2)
    sys.exit(0)
