"""Running of the server: the port, the browser, and an orderly end."""

from __future__ import annotations

import errno
import itertools
import os
import re
import signal
import socket
import sys
import webbrowser
from collections.abc import Collection, Mapping, Sequence
from threading import Thread
from types import FrameType

import uvicorn

from upernet.errors import UpernetError, printable
from upernet.inference import Parser
from upernet.serving.app import create_app
from upernet.serving.engine import Engine
from upernet.serving.limits import Limits
from upernet.serving.protocol import KEEP_ALIVE, MOST_HEAD, impatient
from upernet.serving.telemetry import LogForm, log, logger, set_up_logging

LOOPBACK = ("127.0.0.1", "localhost", "::1")
WILDCARDS = ("0.0.0.0", "::")
BACKLOG = 512
INTERRUPTED = 130
"""Exit status after a second Ctrl-C, by the convention of shells."""


def bind(host: str, port: int) -> socket.socket:
    """Return a listening socket, so that a port in use is known before models are loaded.

    Clients that connect meanwhile wait.

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
        bound.listen(BACKLOG)
    except OSError as error:
        bound.close()
        raise UpernetError(_why_not_bound(error, host, port)) from None
    return bound


def _why_not_bound(error: OSError, host: str, port: int) -> str:
    if isinstance(error, PermissionError):
        return f"port {port}: may not be used by this user; choose one from 1024 with --port."
    if error.errno == errno.EADDRINUSE:
        return f"port {port}: is used by another program; end that one, or choose another port with --port."
    if error.errno == errno.EADDRNOTAVAIL:
        return f"--host {host}: is not an address of this computer; use 127.0.0.1, or 0.0.0.0 for all."
    return f"{host}, port {port}: cannot be used ({error.strerror}); choose others with --host and --port."


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

    A second signal ends the process at once, with status 130.

    Args:
        bound: The socket that `bind` returned.
        parsers: Name of a model -> its parser; the first is the default.
        limits: What clients may use at most.
        token: The bearer token that clients must send.
        origins: Origins of other sites whose pages may call the server.
        opens_browser: Whether to show the page in a browser.
        log_form: Form of the log on stderr.

    Raises:
        UpernetError: A model does not run.
    """
    set_up_logging(log_form)
    address = url_of(bound)
    host = str(bound.getsockname()[0])
    is_local = host in LOOPBACK
    app = create_app(parsers, limits, token=token, origins=origins, hosts={*LOOPBACK, host} if is_local else None)
    engine: Engine = app.state.engine
    server = _Server(
        uvicorn.Config(
            app,
            http=impatient(limits.upload_seconds + limits.seconds + limits.download_seconds),
            ws="none",
            lifespan="off",  # the engine is closed below, where a further signal interrupts it
            log_config=None,
            access_log=False,
            server_header=False,
            backlog=BACKLOG,
            timeout_keep_alive=KEEP_ALIVE,
            h11_max_incomplete_event_size=MOST_HEAD,
        )
    )
    engine.warmed.add_done_callback(lambda warmed: server.stop() if warmed.exception() else None)
    log("serving", url=address, models=",".join(parsers), pid=os.getpid())
    if not is_local and token is None:
        logger.warning("everybody who reaches this address can use the server; --token or UPERNET_TOKEN protects it")
    if opens_browser:
        Thread(target=_open, args=(address,), daemon=True).start()
    with bound:
        server.run(sockets=[bound])
    if server.force_exit:
        engine.abandon()
        log("interrupted")
        sys.stderr.flush()
        os._exit(INTERRUPTED)  # a network may still run, in a thread that nothing can end
    engine.close()
    if failure := engine.warmed.exception():
        raise _does_not_run(failure) from failure
    log("ended")


def _does_not_run(failure: BaseException) -> UpernetError:
    if isinstance(failure, UpernetError):
        return failure
    reason = f"{type(failure).__name__}: {printable(failure)[:200]}"
    return UpernetError(f"a model does not run ({reason}); try it with upernet parse.")


class _Server(uvicorn.Server):
    """Ends with status 0 after a signal; uvicorn would send it to the process once more."""

    def stop(self) -> None:
        self.should_exit = True

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit:
            self.force_exit = True
        else:
            log("ending: no further photos are taken; again to end at once", signal=signal.Signals(sig).name)
        self.should_exit = True


def url_of(bound: socket.socket) -> str:
    """Return the address of the page."""
    host, port = bound.getsockname()[:2]
    shown = "localhost" if host in (*LOOPBACK, *WILDCARDS) else host
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
