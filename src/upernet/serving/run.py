"""Running of the server: the port, the browser, and an orderly end."""

from __future__ import annotations

import itertools
import os
import re
import socket
import sys
import webbrowser
from collections.abc import Collection, Mapping, Sequence
from threading import Timer

import uvicorn

from upernet.errors import UpernetError
from upernet.inference import Parser
from upernet.serving.app import create_app
from upernet.serving.limits import Limits
from upernet.serving.telemetry import LogForm, log, set_up_logging

LOOPBACK = ("127.0.0.1", "localhost", "::1")
MOST_CONNECTIONS = 1000


def bind(host: str, port: int) -> socket.socket:
    """Return a socket that is bound to an address, so that a port in use is known before models are loaded.

    Raises:
        UpernetError: The address cannot be used.
    """
    try:
        (family, kind, protocol, _, address), *_ = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (OSError, UnicodeError):
        raise UpernetError(f"--host {host}: there is no such address; use 127.0.0.1, or 0.0.0.0 for all.") from None
    bound = socket.socket(family, kind, protocol)
    if os.name == "posix":  # elsewhere, it would let two servers share the port
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind(address)
    except OSError as error:
        bound.close()
        if isinstance(error, PermissionError):
            raise UpernetError(
                f"port {port}: may not be used by this user; choose one from 1024 with --port."
            ) from None
        raise UpernetError(
            f"{host}, port {port}: cannot be used ({error.strerror}); choose another port with --port."
        ) from None
    return bound


def named(parsers: Sequence[Parser]) -> dict[str, Parser]:
    """Return parsers by the names of their models, numbered where they are equal or missing."""
    found: dict[str, Parser] = {}
    for parser in parsers:
        name = re.sub(r"[^\w.-]+", "-", parser.card.name) or "model"
        number = next(n for n in itertools.count(1) if (name if n == 1 else f"{name}-{n}") not in found)
        found[name if number == 1 else f"{name}-{number}"] = parser
    return found


def serve(
    bound: socket.socket,
    parsers: Mapping[str, Parser],
    limits: Limits,
    *,
    token: str | None = None,
    origins: Collection[str] = (),
    opens_browser: bool = False,
    log_form: LogForm = "text",
) -> None:
    """Serve until SIGINT or SIGTERM, and answer what was accepted before the end.

    Args:
        bound: The socket that `bind` returned.
        parsers: Name of a model -> its parser; the first is the default.
        limits: What clients may use at most.
        token: The bearer token that clients must send.
        origins: Origins of other sites whose pages may call the server.
        opens_browser: Whether to show the page in a browser.
        log_form: Form of the log on stderr.
    """
    set_up_logging(log_form)
    config = uvicorn.Config(
        create_app(parsers, limits, token=token, origins=origins),
        log_config=None,
        access_log=False,
        server_header=False,
        limit_concurrency=MOST_CONNECTIONS,
        timeout_keep_alive=10,
        h11_max_incomplete_event_size=65536,
        ws="none",
    )
    address = url_of(bound)
    log("serving", url=address, models=",".join(parsers), pid=os.getpid())
    if opens_browser:
        timer = Timer(0.5, _open, [address])
        timer.daemon = True
        timer.start()
    with bound:
        uvicorn.Server(config).run(sockets=[bound])
    log("ended")


def url_of(bound: socket.socket) -> str:
    """Return the address of the page."""
    host, port = bound.getsockname()[:2]
    shown = "localhost" if host in (*LOOPBACK, "0.0.0.0", "::") else host
    return f"http://{f'[{shown}]' if ':' in shown else shown}:{port}/"


def is_desktop() -> bool:
    """Return whether a person can see a browser here: stdout is a terminal, and there is a display."""
    if not sys.stdout.isatty() or os.environ.get("SSH_CONNECTION"):
        return False
    return sys.platform in ("darwin", "win32") or any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY")))


def _open(address: str) -> None:
    try:
        opened = webbrowser.open(address)
    except webbrowser.Error:
        opened = False
    if not opened:
        log(f"no browser was found; open {address} in one")
