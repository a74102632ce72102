"""The command `upernet serve`."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from upernet.cli.options import DeviceOption, ThreadsOption, complete_model
from upernet.cli.termination import terminable


def serve(
    model: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            autocompletion=complete_model,
            help="Name of a model, or a checkpoint, as for `upernet parse`; repeatable. The first is the default of "
            "requests.",
            show_default="everyday",
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Address to listen on; 0.0.0.0: all of this computer.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(metavar="N", min=0, max=65535, help="Port; 0: any that is free.")] = 8000,
    token: Annotated[
        str | None,
        typer.Option(
            metavar="TOKEN",
            envvar="UPERNET_TOKEN",
            show_envvar=False,
            help="Bearer token that clients must send; other users of this computer cannot read it in the variable "
            "UPERNET_TOKEN.",
            show_default="none is needed",
        ),
    ] = None,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ORIGIN",
            help="Site whose pages may call the server, such as https://example.org; repeatable.",
            show_default="none",
        ),
    ] = None,
    batch: Annotated[
        int, typer.Option(metavar="N", min=1, max=256, help="Photos of like size that are parsed together.")
    ] = 4,
    queue: Annotated[
        int,
        typer.Option(metavar="N", min=1, max=100_000, help="Photos that may wait; further ones are answered with 429."),
    ] = 32,
    max_mib: Annotated[
        int, typer.Option(metavar="N", min=1, max=1024, help="Largest size of an image file, in MiB.")
    ] = 32,
    max_megapixels: Annotated[
        float, typer.Option(metavar="N", min=0.01, max=178, help="Largest number of pixels of a photo, in millions.")
    ] = 50,
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.1, help="Longest time from the end of an upload to its answer.")
    ] = 60,
    browser: Annotated[
        bool | None,
        typer.Option("--browser/--no-browser", help="Show the page in a browser.", show_default="on a desktop"),
    ] = None,
    log: Annotated[
        Literal["text", "json"] | None,
        typer.Option(metavar="FORM", help="text or json: one line per request.", show_default="text on a terminal"),
    ] = None,
    device: DeviceOption = None,
    threads: ThreadsOption = None,
) -> None:
    """Serve a page that shows the five levels in a photo, and an HTTP interface for programs.

    The page is at http://localhost:8000/, the description of the interface at /docs. Ctrl-C or SIGTERM ends the server
    after it has answered what it had accepted.
    """
    import os
    import sys

    from upernet.errors import UpernetError

    if token is None and "UPERNET_TOKEN" in os.environ:
        raise UpernetError("UPERNET_TOKEN: is empty; set it to a token, or unset it if none is needed.")
    if token is not None and not (token.isascii() and token.isprintable() and token.strip() == token != ""):
        raise UpernetError("--token: must be printable ASCII without spaces at its ends; choose another one.")
    try:
        from upernet.serving.limits import Limits
        from upernet.serving.run import bind, is_desktop, named
        from upernet.serving.run import serve as run
    except ImportError as error:
        raise UpernetError(f"serving needs {error.name}; run: pip install 'upernet[serve]'.") from None
    from upernet.inference.cluster import ModelChoice
    from upernet.ops import set_threads

    bound = bind(host, port)
    set_threads(threads)
    with terminable():
        loaded = [ModelChoice(name).load(device) for name in model or ["everyday"]]
    limits = Limits(
        queue=queue,
        batch=batch,
        body=max_mib * 2**20,
        held=max(Limits.held, 4 * max_mib * 2**20),
        pixels=round(max_megapixels * 1e6),
        in_memory=max(Limits.in_memory, round(max_megapixels * 1e6)),
        seconds=timeout,
    )
    run(
        bound,
        named(loaded),
        limits,
        token=token,
        origins=allow_origin or (),
        opens_browser=is_desktop() if browser is None else browser,
        log_form=log or ("text" if sys.stderr.isatty() else "json"),
    )
